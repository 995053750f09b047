"""The networks, and what they predict."""

from __future__ import annotations
