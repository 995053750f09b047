"""Training as a generator: `fit(...)` yields a `TrainingStep` after every optimizer step."""

from __future__ import annotations
