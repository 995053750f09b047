"""What is watched and steered: widgets for notebooks, each over the generators that scripts use too."""

from __future__ import annotations
