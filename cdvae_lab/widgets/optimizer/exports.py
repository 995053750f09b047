"""The results of a search as files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.saved_steps import save_steps
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Search
from cdvae_lab.widgets.parts.writing import Writing, check_kinds

KINDS = ("cif", "csv", "steps")


def write_search(
    model: CDVAE, search: Search, index: int, unit: str, folder: Path, kinds: Sequence[str]
) -> Iterator[Writing]:
    """Check what is to be written of a search, and return a generator that writes it: the progress after each kind.

    Args:
        index: of the kept step whose crystals are written.
        unit: of the property.
        folder: created if necessary.
        kinds: of `KINDS`.

    Raises:
        SettingError: for another kind, or if nothing is decoded for the step whose crystals are to be written.
        CrystalError: from the generator, if a crystal cannot be exported.
        LabError: from the generator, if a file cannot be written.
    """
    check_kinds(kinds, KINDS)
    place = search.at(index)
    if "cif" in kinds and place is None:
        raise SettingError("nothing is decoded yet at this step; decode it first")
    decoded = None if place is None else search.decoded[place]
    return _write(model, search, decoded, unit, folder, kinds)


def _write(
    model: CDVAE, search: Search, decoded: Decoded | None, unit: str, folder: Path, kinds: Sequence[str]
) -> Iterator[Writing]:
    progress = Writing(0, len(kinds))
    yield progress
    for kind in kinds:
        if kind == "cif":
            assert decoded is not None
            names = [f"step_{decoded.step:04d}_crystal_{k}" for k in range(len(decoded.crystals))]
            written = decoded.crystals.write_cif(folder, names)
        elif kind == "csv":
            written = [_write_csv(search.rows(unit), folder / "search.csv")]
        else:
            written = [save_steps(search.steps, folder / "search.safetensors", model)]
        progress = replace(progress, step=progress.step + 1, files=(*progress.files, *written))
        yield progress


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write a table without pandas, whose import keeps the whole kernel from answering for up to a second."""
    with atomic_path(path, "the table") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path
