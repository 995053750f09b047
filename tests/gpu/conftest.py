"""Without a GPU, or a second one, what needs it is not collected, and so not counted as passed or skipped."""

from __future__ import annotations

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
collect_ignore = [] if torch.cuda.device_count() > 1 else ["test_two_gpus.py"]
