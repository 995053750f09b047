"""The interpolation view."""

from __future__ import annotations
