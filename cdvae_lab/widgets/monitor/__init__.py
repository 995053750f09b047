"""The training monitor."""

from __future__ import annotations
