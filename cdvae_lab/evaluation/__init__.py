"""Report cards: the measures of `metrics`, put together for a task."""

from __future__ import annotations
