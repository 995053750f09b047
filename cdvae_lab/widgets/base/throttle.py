"""A limit on how often something is done, such as drawing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Throttle:
    """Limits how often something is done.

    Args:
        interval: seconds between two beginnings, at least.
        share: of the time that it may take, at most.
    """

    def __init__(self, interval: float | int, share: float | int = 0.25) -> None:
        self._interval, self._share, self._due = interval, share, 0.0

    @property
    def wait(self) -> float:
        """Seconds until it may be done again."""
        return max(0.0, self._due - time.monotonic())

    def __call__(self, act: Callable[[], Any], now: bool = False) -> None:
        """Do it if it is time to, or in any case."""
        if now or not self.wait:
            started = time.monotonic()
            try:
                act()
            finally:
                took = time.monotonic() - started
                self._due = started + max(self._interval, took / self._share)
