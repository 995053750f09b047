"""Read and write .npz files in the tensor layout of the CDVAE paper's code.

Arrays of the file, for C crystals with A atoms in total:

    frac_coords  (A, 3)  fractional coordinates, all crystals' atoms one after another
    atom_types   (A,)    atomic numbers, 1-based
    num_atoms    (C,)    atoms of each crystal
    lengths      (C, 3)  of the cell, Å
    angles       (C, 3)  alpha, beta, gamma in degrees

Each may have a first axis of length 1, as the reference writes it. From its `eval_gen.pt`:

    data = torch.load("eval_gen.pt", map_location="cpu")
    np.savez("crystals.npz", **{k: data[k][0].numpy() for k in
             ("frac_coords", "atom_types", "num_atoms", "lengths", "angles")})
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError
from cdvae_lab.io.storage import atomic_path

# Shape of each array after its first axis.
FIELDS = {"frac_coords": (3,), "atom_types": (), "num_atoms": (), "lengths": (3,), "angles": (3,)}


def save(crystals: Crystals, path: str | Path) -> Path:
    """Write crystals in the layout above, as float64, and return the path; the file has no orientations.

    Raises:
        LabError: if the file cannot be written.
    """
    crystals = crystals.to("cpu", torch.float64)
    lengths, angles = lat.to_parameters(crystals.lattice)
    arrays: dict[str, Any] = {
        "frac_coords": crystals.frac_coords[crystals.mask],
        "atom_types": crystals.atomic_numbers[crystals.mask],
        "num_atoms": crystals.num_atoms,
        "lengths": lengths,
        "angles": angles,
    }
    with atomic_path(path, "the crystals") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in arrays.items()}, allow_pickle=False)
    return Path(path)


def load(path: str | Path) -> Crystals:
    """Read crystals from a file in the layout above, neither checked nor reduced, with cells in standard orientation.

    A crystal without atoms, or with lengths and angles of no cell, is kept; evaluation finds it invalid.

    Raises:
        CrystalError: names the file, the array that is missing or of a wrong shape, and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise CrystalError(f"{path}: no such file; check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            given = {name: file[name] for name in file.files if name in FIELDS}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise CrystalError(f"{path}: cannot be read as .npz of plain numbers ({error}); write it again") from error
    if missing := [name for name in FIELDS if name not in given]:
        raise CrystalError(f"{path}: has no array {', '.join(missing)}; it needs {', '.join(FIELDS)}")
    arrays = {}
    for name, tail in FIELDS.items():
        array = given[name]
        if array.ndim == len(tail) + 2:
            if len(array) != 1:
                raise CrystalError(
                    f"{path}: {name} holds {len(array)} evaluations, in shape {array.shape}; write one of them: "
                    f"{name}[0]"
                )
            array = array[0]
        if array.ndim != len(tail) + 1 or array.shape[1:] != tail or array.dtype.kind not in "iuf":
            wanted = ", ".join(("atoms" if name in ("frac_coords", "atom_types") else "crystals", *map(str, tail)))
            raise CrystalError(f"{path}: {name} is {array.dtype} of shape {array.shape}; it must be ({wanted}) numbers")
        arrays[name] = array
    counts = arrays["num_atoms"].astype(np.int64)
    numbers = arrays["atom_types"].astype(np.int64)
    if len({len(arrays[n]) for n in ("num_atoms", "lengths", "angles")}) > 1 or not len(counts):
        shapes = ", ".join(f"{n} {arrays[n].shape}" for n in ("num_atoms", "lengths", "angles"))
        raise CrystalError(f"{path}: needs one entry a crystal, and a crystal at least; has {shapes}")
    if (counts < 0).any() or not counts.sum() == len(numbers) == len(arrays["frac_coords"]):
        raise CrystalError(
            f"{path}: num_atoms adds up to {counts.sum()}, but there are {len(numbers)} atom_types and "
            f"{len(arrays['frac_coords'])} frac_coords; write all of one run"
        )
    if (numbers < 1).any():
        raise CrystalError(f"{path}: atom_types holds {numbers.min()}; they are atomic numbers, from 1")
    return _padded(counts, numbers, arrays)


def _padded(counts: np.ndarray, numbers: np.ndarray, arrays: dict[str, np.ndarray]) -> Crystals:
    sites = np.arange(max(counts.max(), 1))
    mask = torch.from_numpy(sites[None] < counts[:, None])
    frac_coords = torch.zeros(*mask.shape, 3, dtype=torch.float64)
    frac_coords[mask] = torch.from_numpy(arrays["frac_coords"].astype(np.float64))
    atomic_numbers = torch.zeros(mask.shape, dtype=torch.long)
    atomic_numbers[mask] = torch.from_numpy(numbers)
    lengths, angles = (torch.from_numpy(arrays[n].astype(np.float64)) for n in ("lengths", "angles"))
    lengths = lengths.masked_fill(lengths <= 0, torch.nan)  # no cell; the formula would invert it
    return Crystals(frac_coords, atomic_numbers, lat.from_parameters(lengths, angles))
