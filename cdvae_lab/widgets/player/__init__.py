"""The trajectory player."""

from __future__ import annotations
