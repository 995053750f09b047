"""Collect the tests of one or two GPUs only on machines that have them."""

from __future__ import annotations

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
collect_ignore = [] if torch.cuda.device_count() > 1 else ["test_two_gpus.py"]
