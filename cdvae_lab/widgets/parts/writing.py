"""Progress of writing files in the background."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cdvae_lab.errors import SettingError


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


def check_kinds(kinds: Iterable[str], known: Iterable[str]) -> None:
    """Raise SettingError for a kind of file that a view does not write.

    Args:
        known: the kinds that it writes.
    """
    for kind in kinds:
        if kind not in known:
            raise SettingError(f"export: no kind {kind!r}; there are {', '.join(known)}")
