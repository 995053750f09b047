"""The user's own crystals on the map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.errors import CrystalError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.parts import files


@dataclass
class OwnCrystals:
    """Crystals read so far, with the code that reads them again.

    Args:
        model: that has to encode them.
    """

    model: CDVAE
    _names: list[str] = field(default_factory=list)
    _crystals: list[Crystals] = field(default_factory=list)
    _sources: list[str] = field(default_factory=list)  # expressions of Python
    _given: list[str] = field(default_factory=list)  # comments on names that the expressions need

    def __len__(self) -> int:
        return len(self._crystals)

    def read(self, source: Any) -> None:
        """Read all crystals of one source.

        Raises:
            CrystalError: naming the file, the problem and the remedy; then none of them is kept.
        """
        found = [(name, files.for_model(self.model, one, name)) for one, name in files.named_structures(source)]
        if not found:
            raise CrystalError("holds no crystal; choose another file")
        if isinstance(source, files.Upload):
            expression = repr(source.text)
        elif isinstance(source, str | Path):
            expression = repr(str(source))
        else:
            expression = f"given_{len(self._given)}"
            self._given.append(f"# `{expression}` is {found[0][0]} as it was given to the view")
        self._sources.append(expression)
        self._names += [name for name, _ in found]
        self._crystals += [crystal for _, crystal in found]

    def clear(self) -> None:
        """Forget all crystals."""
        for one in (self._names, self._crystals, self._sources, self._given):
            one.clear()

    @property
    def crystals(self) -> Crystals:
        """All crystals, on the CPU."""
        return Crystals.cat([crystal.to("cpu") for crystal in self._crystals])

    @property
    def texts(self) -> list[str]:
        """Formula and source of each crystal."""
        return [f"{f} ({name})" for f, name in zip(reduced_formulas(self.crystals), self._names, strict=True)]

    def code(self, setup: dict[str, str]) -> ReplayCode:
        """Code that binds `made` to the crystals and `z` to their latents.

        Args:
            setup: that binds `model`.
        """
        read = f"made = lab.read([{', '.join(self._sources)}])"
        return ReplayCode(setup=setup, body=(*self._given, read, "z = lab.encode(model, made)"))
