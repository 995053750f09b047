"""Crystals of a map written as CIFs in the background: the data's own, or what the model decodes from their latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.widgets.base.runner import Runner
from cdvae_lab.widgets.parts.originals import Originals

DECODED_AT_ONCE = 16


class CifWriter:
    """One export at a time.

    Args:
        runner: makes the `Runner`, as `Panel._runner` does.
        map: whose crystals.
        originals: where the data's own may be.
        decode: gives the frames of decoding the crystals of these numbers.
        moved: called with the number of files so far.
        ended: called after each export.

    Attributes:
        files: written by the last export.
        count: of the files that it was to write.
    """

    def __init__(
        self,
        runner: Callable[[Callable[[Any], None], Callable[[], None]], Runner],
        map: LatentMap,
        originals: Originals,
        decode: Callable[[list[int]], Iterator[DenoisingFrame]],
        moved: Callable[[int], None],
        ended: Callable[[], None],
    ) -> None:
        self._map, self._originals, self._decode = map, originals, decode
        self.files: list[Path] = []
        self.count = 0
        self.runner = runner(moved, ended)

    @property
    def running(self) -> bool:
        return self.runner.running

    def start(self, folder: Path, rows: list[int], wait: bool = False) -> None:
        """Write the crystals of these numbers.

        Args:
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: if an export is going on.
        """
        work = self._write(folder, rows)
        if wait:
            self.runner.run_blocking(work)
        else:
            self.runner.start(work)

    def result(self) -> str:
        """In words, what the last export has come to."""
        return f"{len(self.files)} of {self.count} CIFs are written"

    def _write(self, folder: Path, rows: list[int]) -> Iterator[int]:
        self.files, self.count = [], len(rows)
        for first in range(0, len(rows), DECODED_AT_ONCE):
            part = rows[first : first + DECODED_AT_ONCE]
            found = {i: one for i in part if (one := self._originals.get(i)) is not None}
            missing = [i for i in part if i not in found]
            if missing:
                made: list[Crystals] = []
                for frame in self._decode(missing):
                    made = [frame.crystals]
                    yield len(self.files)  # so that Stop lands between two steps
                found |= {i: made[0][n].trim() for n, i in enumerate(missing)}
            for i in part:
                kind = "_decoded" if i in missing else ""
                self.files += found[i].write_cif(folder, [f"{self._map.formulas[i]}_{self._map.ids[i]}{kind}"])
            yield len(self.files)
