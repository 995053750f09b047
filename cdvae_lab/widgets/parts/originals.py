"""Original crystals of a map's points, from the public data file if it is on this machine."""

from __future__ import annotations

from pathlib import Path

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import posterior_of

SAME = 0.1  # largest distance of a crystal's latent after rounding; those of two different crystals are some 6 apart


class Originals:
    """Finds the crystals of a map in the data file; nothing is downloaded.

    Args:
        model: that the map was made with; a crystal is known by its latent.
        map: whose crystals.
        folder: as for `datasets.load`.
    """

    def __init__(self, model: CDVAE, map: LatentMap, folder: str | Path | None) -> None:
        self._model, self._map, self._folder = model, map, folder
        self._found: dict[int, tuple[Crystals, int] | None] = {}

    @property
    def file(self) -> bool:
        """True if the data file is on this machine."""
        data = self._map.metadata.get("data", {})
        if data.get("name") not in datasets.PUBLIC:
            return False
        return bool(datasets.files_there(data["name"], data["split"], folder=self._folder))

    @property
    def there(self) -> bool:
        """True once a crystal has been found."""
        return any(self._found.values())

    def get(self, index: int) -> Crystals | None:
        """Find the crystal of that number; None without the file."""
        if index not in self._found:
            self._found[index] = self._look(index)
        found = self._found[index]
        return None if found is None else found[0]

    def code(self, index: int) -> str:
        """The expression that gives it, once it has been found."""
        found = self._found[index]
        assert found is not None
        arguments = ", ".join(map(repr, self._arguments(index)))
        where = "" if self._folder is None else f", folder={str(self._folder)!r}"
        return f"lab.datasets.find_crystals({arguments}{where})[{found[1]}]"

    def _arguments(self, index: int) -> tuple[str, str, str, str]:
        data = self._map.metadata["data"]
        return data["name"], data["split"], self._map.ids[index], self._map.formulas[index]

    def _look(self, index: int) -> tuple[Crystals, int] | None:
        if not self.file:
            return None
        candidates = datasets.find_crystals(*self._arguments(index), folder=self._folder)
        if candidates is None:
            return None
        z = posterior_of(self._model, candidates).mu.cpu()
        apart = (z - self._map.latents[index].float())[:, self._map.informative].norm(dim=-1)
        nearest = int(apart.argmin())
        return (candidates[nearest].trim(), nearest) if float(apart[nearest]) < SAME else None
