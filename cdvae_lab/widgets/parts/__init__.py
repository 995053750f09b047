"""Parts that views share: the 3D view, plots, strips, files."""

from __future__ import annotations
