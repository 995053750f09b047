"""Release tools: score tables, pictures, tutorials, metadata. They are not part of the package."""

from __future__ import annotations
