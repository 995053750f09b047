"""Files of true and decoded crystals, which are decoded on one machine and compared on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError
from cdvae_lab.io.storage import read_tensors, write_tensors

FORMAT_VERSION = 1
FIELDS = ("frac_coords", "atomic_numbers", "lattice")


def write_store(path: Path, truth: Crystals, predicted: Crystals, about: dict[str, Any]) -> None:
    """Write true and decoded crystals for `read_store`. Raises LabError if the file cannot be written."""
    tensors = {f"truth.{name}": getattr(truth, name) for name in FIELDS}
    tensors |= {f"predicted.{name}": getattr(predicted, name) for name in FIELDS}
    write_tensors(path, "reconstruction", FORMAT_VERSION, tensors, about)


def read_store(path: Path) -> tuple[Crystals, Crystals, dict[str, Any]]:
    """Read the true crystals, those decoded so far (in order), and the settings.

    Raises:
        CheckpointError: if the file is missing, truncated or something else.
    """
    _, tensors, about = read_tensors(path, {"reconstruction": [FORMAT_VERSION]})
    try:
        truth, predicted = (Crystals(*(tensors[f"{side}.{n}"] for n in FIELDS)) for side in ("truth", "predicted"))
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks a part of a reconstruction ({error}); decode again") from error
    return truth, predicted, about
