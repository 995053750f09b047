"""Crystals that a user brings: uploaded files, paths, or what `convert.read` takes beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.io import assets, convert
from cdvae_lab.io.parsing import parse, read_file
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load

if TYPE_CHECKING:
    from pymatgen.core import Structure

ACCEPTED = ".cif,.vasp,.poscar,.xyz,.extxyz"


@dataclass(frozen=True)
class Upload:
    """A file as the browser sent it."""

    name: str
    text: str

    @classmethod
    def of(cls, value: Any) -> list[Upload]:
        """The files in a `FileUpload`'s value."""
        # Broken bytes become a broken file, which is then reported by its name.
        return [cls(one["name"], bytes(one["content"]).decode(errors="replace")) for one in value]


def upload_button(text: str, taken: Callable[[list[Upload]], Any], multiple: bool = False) -> ipywidgets.FileUpload:
    """Create a button that uploads files from the user's machine, also the same one again.

    Args:
        taken: called with the uploaded files.
    """
    button = ipywidgets.FileUpload(accept=ACCEPTED, multiple=multiple, description=text, layout={"width": "auto"})

    def uploaded(change: Any) -> None:
        uploads = Upload.of(button.value)
        if uploads:
            button.value = ()
            taken(uploads)

    button.observe(uploaded, "value")
    return button


def is_path(source: Any) -> TypeGuard[str | Path]:
    """True for the path of a file; False for the text of one, and for anything else."""
    return isinstance(source, str | Path) and "\n" not in str(source)


def named_structures(source: Any) -> list[tuple[Structure, str]]:
    """Every structure in a source, with a name for people. Raises CrystalError, naming the file."""
    if isinstance(source, Upload):
        return parse(source.text, source.name)
    if is_path(source):
        return [(s, name.replace(str(source), Path(source).name)) for s, name in read_file(Path(source).expanduser())]
    crystals = convert.read(source)
    return [(s, f"crystal {i}" if len(crystals) > 1 else "crystal") for i, s in enumerate(crystals.to_structures())]


def for_model(model: CDVAE, structure: Structure, name: str, primitive: bool = False) -> Crystals:
    """One structure as the model takes it. Raises CrystalError as `encodable.read_encodable` does."""
    seen = frozenset(model.elements.nonzero()[:, 0].tolist())
    return convert.from_structures(
        [structure],
        names=[name],
        max_atoms=model.config.max_atoms,
        elements=seen,
        primitive=primitive,
        dtype=model.lattice_mean.dtype,
    ).to(model.device)


def taken_by(name: str, structure: Structure) -> str:
    """The name of a bundled model if it can encode a structure, with a note if it needs the primitive cell; else empty.

    It loads the model, which takes a moment.
    """
    model = load(name)
    for primitive in (False, True):
        try:
            for_model(model, structure, name, primitive)
        except CrystalError:
            continue
        return f"{name} (its primitive cell)" if primitive else name
    return ""


def examples() -> dict[str, Path]:
    """The crystals that come with the package, by name."""
    return {Path(name).stem: assets.asset_path(name) for name in assets.names("examples/*.cif")}
