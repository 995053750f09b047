"""One end of a path: its crystal as the model takes it, or the reason why the model does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.io import assets
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.parts import files

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Pairs of examples that the bundled models reconstruct: only then are both ends of a path meaningful. (None of
# the other carbon examples is reconstructed: graphite, lonsdaleite and bct-C4 are unlike the crystals of Carbon-24.)
_DEFAULTS = {"perov_5": ("SrTiO3", "BaTiO3"), "mp_20": ("NaCl", "ZnS"), "carbon_24": ("diamond", "bct_C4")}


class PathEnd:
    """The crystal at one end of a path.

    Args:
        model: that has to encode it.
        letter: "a" or "b".

    Attributes:
        crystal: as the model takes it; None without one.
        error: the reason why the last choice cannot be used; None if it can.
        name: of the choice, for people.
        size: atoms in the cell that was read.
        primitive_size: atoms in its primitive cell; 0 without a crystal, or for a disordered one.
        primitive: the primitive cell was taken.
    """

    def __init__(self, model: CDVAE, letter: str) -> None:
        self._model, self.letter = model, letter
        self.crystal: Crystals | None = None
        self.error: CrystalError | None = None
        self.name = ""
        self.size = self.primitive_size = 0
        self.primitive = False
        self.structure: Structure | None = None
        self._source = ""  # a Python expression for the crystal that was read; empty if there is none
        self._pick: Pick | None = None

    def read(self, source: Any, primitive: bool = False) -> None:
        """Take a crystal.

        Args:
            source: name of an example, a file, an `Upload`, a `Pick`, or what `convert.read` takes.
            primitive: take its primitive cell.

        Raises:
            CrystalError: naming this end, if it cannot be read, is not one crystal, or is none that the model takes;
                `error` is the same.
        """
        self.structure, self.crystal, self.error = None, None, None
        self.size = self.primitive_size = 0
        self.primitive = primitive
        self._pick = source if isinstance(source, Pick) else None
        source = source if self._pick is None else self._pick.crystal
        is_path = isinstance(source, str | Path) and "\n" not in str(source)
        self._source = repr(str(source)) if is_path else ""
        if is_path and str(source) in files.examples():
            self._source = f"lab.asset_path('examples/{source}.cif')"
            source = files.examples()[str(source)]
        try:
            found = files.named_structures(source)
            if len(found) != 1:
                raise CrystalError(f"holds {len(found)} crystals, but a path needs one at each end; choose one")
            [(self.structure, self.name)] = found
        except CrystalError as error:
            self.name = str(source) if is_path else "crystal"
            self._refuse(error)
        self.name = self.name if self._pick is None else self._pick.name
        self._use()

    def take_primitive(self) -> None:
        """Replace the crystal by its primitive cell. Raises CrystalError if the model does not take that either."""
        if self.structure is None:
            raise CrystalError(f"end {self.letter}: there is no crystal yet whose primitive cell could be taken")
        self.set_primitive(True)

    def set_primitive(self, primitive: bool) -> None:
        """Take the primitive cell, or the cell that was read. Raises CrystalError if the model does not take it."""
        self.primitive = primitive
        self._use()

    @property
    def code(self) -> str:
        """An expression of Python for the crystal; the letter if `replay` binds it to that name."""
        if not self._source:
            return self.letter
        return f"lab.read({self._source}, primitive=True)" if self.primitive else self._source

    @property
    def replay(self) -> ReplayCode:
        """The code that has to run before `code` can be evaluated."""
        letter = self.letter
        if self._source:
            return ReplayCode()
        given = ReplayCode(body=(f"# `{letter}` is {self.name}",))
        if self._pick is not None and (self._pick.replay is not None or self._pick.code):
            given = self._pick.binding(letter)
        return given.then(f"{letter} = lab.read({letter}, primitive=True)") if self.primitive else given

    def _use(self) -> None:
        if self.structure is not None:
            self.size = len(self.structure)
            # A model takes no disordered crystal, and neither its primitive cell.
            ordered = self.structure.is_ordered
            self.primitive_size = len(self.structure.get_primitive_structure()) if ordered else 0
            self.error, self.crystal = None, None
            try:
                self.crystal = files.for_model(self._model, self.structure, self.name, self.primitive)
            except CrystalError as error:
                self._refuse(error)
        if self.error is not None:
            raise self.error

    def _refuse(self, error: CrystalError) -> None:
        self.error = CrystalError(f"end {self.letter}: {error}")


def default_ends(model: CDVAE) -> list[str]:
    """Names of two examples that a model takes and, if it is a bundled one, reconstructs; fewer if it takes fewer."""
    name = model.metadata.get("data", {}).get("name", "")
    candidates = [*_DEFAULTS.get(name, ()), *(one for pair in _DEFAULTS.values() for one in pair), *files.examples()]
    usable: list[str] = []
    for candidate in dict.fromkeys(candidates):
        [(structure, _), *_] = files.named_structures(assets.asset_path(f"examples/{candidate}.cif"))
        try:
            files.for_model(model, structure, candidate)
        except CrystalError:  # this model is for other crystals
            continue
        usable.append(candidate)
        if len(usable) == 2:
            break
    return usable
