"""Files bundled with the package: checkpoints, example crystals, pictures.

A wheel carries them inside the package; in a checkout they lie in the repository's `assets/`.
"""

from __future__ import annotations

from pathlib import Path

from cdvae_lab.errors import SettingError

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "_assets", _PACKAGE.parent / "assets")


def folder() -> Path:
    """Return the folder of bundled files; raise `SettingError` if this copy of the package has none."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise SettingError(
        f"this copy of cdvae_lab has no bundled files (looked for {' and '.join(map(str, _PLACES))}); "
        "reinstall the package, or give the path of a file of your own"
    )


def names(pattern: str = "**/*") -> list[str]:
    """List the bundled files that match a glob pattern, sorted, with "/" between folders."""
    root = folder()
    return sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())


def models() -> list[str]:
    """List the names of the bundled models, sorted; `load` takes a name or a path."""
    stems = [name.removesuffix(".safetensors") for name in names("*.safetensors")]
    return [stem for stem in stems if not stem.endswith(("_map", "_property"))]


def asset_path(name: str) -> Path:
    """Return the path of the bundled file or folder `name`, for example "examples/SrTiO3.cif".

    Raises:
        SettingError: if nothing of that name is bundled; the message lists the bundled files.
    """
    root = folder()
    found = (root / name).resolve()
    if not found.is_relative_to(root) or not found.exists():
        for ending, kind in (("_map", "latent map"), ("_property", "property model"), ("", "model")):
            if name.endswith(f"{ending}.safetensors"):
                there = [n.removesuffix(f"{ending}.safetensors") for n in names(f"*{ending}.safetensors")]
                there = there if ending else models()
                raise SettingError(
                    f"no {kind} {name.removesuffix(f'{ending}.safetensors')!r} is bundled; there are "
                    f"{', '.join(there) or 'none'}, or give the path of a .safetensors file"
                )
        raise SettingError(f"no file {name!r} comes with cdvae_lab; there are: {', '.join(names()) or 'none'}")
    return found
