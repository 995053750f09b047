"""Tasks of `evaluate`. Importing them does not import torch."""

from __future__ import annotations

from typing import Literal

Task = Literal["generation", "reconstruction", "optimization", "validity"]
TASKS: tuple[Task, ...] = ("generation", "reconstruction", "optimization", "validity")
