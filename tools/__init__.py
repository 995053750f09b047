"""Release tools: score tables, pictures. What a release needs and users do not."""

from __future__ import annotations
