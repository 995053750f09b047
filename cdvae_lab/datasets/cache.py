"""Parse many CIF texts in several processes, and cache the crystals as safetensors."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CheckpointError, CrystalError, LabError
from cdvae_lab.io import canonical, parsing, storage

# Format version of the cache files.
VERSION = 1
# Fewer texts than this are parsed in this process: starting others would take longer.
PARALLEL_FROM = 500
# Texts per task of a process.
CHUNK = 100


@dataclass(frozen=True)
class LeftOut:
    """A row or file that was excluded from a data set, and the reason."""

    where: str
    reason: str


def users_cache() -> Path:
    """Return the user's cache folder for cdvae_lab, as the operating system defines it."""
    import pooch

    return Path(pooch.os_cache("cdvae_lab"))


def read_texts(
    texts: Sequence[str], places: Sequence[str], folder: Path, *, jobs: int | None = None, progress: bool = True
) -> tuple[Crystals | None, Int[np.ndarray, " crystals"], tuple[LeftOut, ...]]:
    """Parse CIF texts: (crystals or None if there are none, indices of the texts that they come from, texts left out).

    The cache file is named by a hash of the texts, their places and the version of the converter, so that it is never
    out of date. If it cannot be written, for example because the disk is full, the function still returns the crystals
    and gives a warning that names the file and the remedy; the next call then parses again.

    Args:
        texts: CIF texts with one crystal each.
        places: row or file name of each text, for `LeftOut`.
        folder: folder of the cache.
        jobs: number of processes that parse; None for all cores.
        progress: show a progress bar.
    """
    digest = hashlib.sha256(f"converter {canonical.VERSION}, cache {VERSION}\0".encode())
    for text, place in zip(texts, places, strict=True):
        digest.update(f"{place}\0{text}\0".encode())
    path = folder / f"{digest.hexdigest()[:40]}.safetensors"
    if path.is_file():
        try:
            return _load(path)
        except (CheckpointError, KeyError, TypeError) as error:
            warnings.warn(f"the cached crystals are damaged and will be parsed again: {error}", stacklevel=2)
    results = _parse_all(texts, places, jobs, progress)
    kept = np.array([i for i, r in enumerate(results) if isinstance(r, canonical.Canonical)], dtype=np.int64)
    left_out = tuple(LeftOut(places[i], r) for i, r in enumerate(results) if isinstance(r, str))
    if len(kept) == 0:
        return None, kept, left_out
    crystals = canonical.from_canonical([r for r in results if isinstance(r, canonical.Canonical)])
    try:
        _save(path, crystals, kept, left_out)
    except LabError as error:
        warnings.warn(f"the parsed crystals are not cached and will be parsed again next time: {error}", stacklevel=2)
    return crystals, kept, left_out


def _save(path: Path, crystals: Crystals, kept: np.ndarray, left_out: tuple[LeftOut, ...]) -> None:
    tensors = {
        "frac_coords": crystals.frac_coords,
        "atomic_numbers": crystals.atomic_numbers,
        "lattice": crystals.lattice,
        "kept": torch.from_numpy(kept),
    }
    storage.write_tensors(
        path, "crystals", VERSION, tensors, {"left_out": [[left.where, left.reason] for left in left_out]}
    )


def _load(path: Path) -> tuple[Crystals, np.ndarray, tuple[LeftOut, ...]]:
    _, tensors, metadata = storage.read_tensors(path, {"crystals": [VERSION]})
    kept = tensors.pop("kept").numpy()
    return Crystals(**tensors), kept, tuple(LeftOut(where, reason) for where, reason in metadata["left_out"])


def _parse(texts: Sequence[str], places: Sequence[str]) -> list[canonical.Canonical | str]:
    """Parse each text into a canonical crystal, or into the reason why it is left out."""
    results: list[canonical.Canonical | str] = []
    with warnings.catch_warnings():
        # pymatgen warns of rounded coordinates in every other file; broken texts are reported as left out.
        warnings.simplefilter("ignore")
        for text, place in zip(texts, places, strict=True):
            try:
                found = parsing.parse(text, place, "cif")
                if len(found) > 1:
                    raise CrystalError(
                        f"{place}: contains {len(found)} crystals; put each into a row or file of its own"
                    )
                results.append(canonical.canonical(found[0][0], place))
            except CrystalError as error:
                results.append(str(error).removeprefix(f"{place}: "))
    return results


def _parse_all(
    texts: Sequence[str], places: Sequence[str], jobs: int | None, progress: bool
) -> list[canonical.Canonical | str]:
    """Parse all texts, in several processes if there are many."""
    from joblib import Parallel, cpu_count, delayed
    from tqdm.auto import tqdm

    jobs = 1 if len(texts) < PARALLEL_FROM else jobs or cpu_count()
    chunks = [slice(start, start + CHUNK) for start in range(0, len(texts), CHUNK)]
    parts: Any = Parallel(n_jobs=jobs, return_as="generator")(delayed(_parse)(texts[c], places[c]) for c in chunks)
    results: list[canonical.Canonical | str] = []
    with tqdm(total=len(texts), desc="reading crystals", unit="crystal", disable=not progress) as bar:
        for part in parts:
            results += part
            bar.update(len(part))
    return results
