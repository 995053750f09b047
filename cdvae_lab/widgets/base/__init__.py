"""What every view is made of: running, selecting, and the code that repeats what was done."""

from __future__ import annotations
