"""One end of a path: its crystal as the model takes it, or the reason why the model does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class PathEnd:
    """The crystal at one end of a path; `read_end` reads it.

    Attributes:
        letter: "a" or "b".
        source: what was chosen: the name of an example, a file, an `Upload`, a `Pick`, or what `convert.read` takes;
            None before anything is.
        primitive: the primitive cell was taken.
        crystal: as the model takes it; None without one.
        error: the reason why the choice cannot be used; None if it can.
        name: of the choice, for people.
        size: atoms in the cell that was read.
        primitive_size: atoms in its primitive cell; 0 without a crystal, or for a disordered one.
        structure: the crystal as it was read; None without one.
    """

    letter: str
    source: Any = None
    primitive: bool = False
    crystal: Crystals | None = None
    error: CrystalError | None = None
    name: str = ""
    size: int = 0
    primitive_size: int = 0
    structure: Structure | None = None

    @property
    def path(self) -> str:
        """The source as a field shows it: the name of an example or the path of a file; empty for any other."""
        return str(self.source) if files.is_path(self.source) else ""

    @property
    def code(self) -> str:
        """An expression of Python for the crystal; the letter if `replay` binds it to that name."""
        if not self.path:
            return self.letter
        source = f"lab.asset_path('examples/{self.path}.cif')" if self.path in files.examples() else repr(self.path)
        return f"lab.read({source}, primitive=True)" if self.primitive else source

    @property
    def replay(self) -> ReplayCode:
        """The code that has to run before `code` can be evaluated."""
        letter, source = self.letter, self.source
        if self.path:
            return ReplayCode()
        given = ReplayCode(body=(f"# `{letter}` is {self.name}",))
        if isinstance(source, Pick) and (source.replay is not None or source.code):
            given = source.binding(letter)
        return given.then(f"{letter} = lab.read({letter}, primitive=True)") if self.primitive else given


def read_end(model: CDVAE, letter: str, source: Any, primitive: bool = False) -> PathEnd:
    """Read one end of a path. What cannot be used is an end with an `error`, which names the letter.

    Args:
        model: that has to encode it.
        letter, source, primitive: as for `PathEnd`.
    """
    end = PathEnd(letter, source, primitive)
    what = files.examples().get(end.path, source.crystal if isinstance(source, Pick) else source)
    try:
        found = files.named_structures(what)
        if len(found) != 1:
            raise CrystalError(f"holds {len(found)} crystals, but a path needs one at each end; choose one")
    except CrystalError as error:
        return replace(end, name=end.path or "crystal", error=_of_end(letter, error))
    [(structure, name)] = found
    name = source.name if isinstance(source, Pick) else name
    # A model takes no disordered crystal, and neither its primitive cell.
    primitive_size = len(structure.get_primitive_structure()) if structure.is_ordered else 0
    end = replace(end, structure=structure, name=name, size=len(structure), primitive_size=primitive_size)
    try:
        return replace(end, crystal=files.for_model(model, structure, name, primitive))
    except CrystalError as error:
        return replace(end, error=_of_end(letter, error))


def _of_end(letter: str, error: CrystalError) -> CrystalError:
    return CrystalError(f"end {letter}: {error}")


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
