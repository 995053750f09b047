"""Base of all views: background runs, the shared selection, state, and replay code."""

from __future__ import annotations
