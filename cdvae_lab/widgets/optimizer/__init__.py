"""The property optimizer."""

from __future__ import annotations
