"""Progress of writing files in the background."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Writing:
    """State of an export after a piece of it.

    Attributes:
        step: pieces that are done.
        num_steps: number of pieces.
        files: written so far.
    """

    step: int
    num_steps: int
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        where = f" to {self.files[0].parent}" if self.files else ""
        names = ", ".join(path.name for path in self.files[:3]) + (", ..." if len(self.files) > 3 else "")
        return f"{len(self.files)} files{where}: {names}" if self.files else "no file"
