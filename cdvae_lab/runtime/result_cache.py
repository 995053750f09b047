"""Cache of results by a hash of the crystal, in one SQLite file in the user's cache folder.

An interrupted evaluation continues where it stopped, and two may run at the same time. Values are float64 arrays.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals

# A query takes at most this many keys.
_KEYS = 500


def users_folder() -> Path:
    """Return the folder for caches that the operating system gives this user."""
    import pooch

    return Path(pooch.os_cache("cdvae_lab")) / "evaluation"


def keys(crystals: Crystals) -> list[bytes]:
    """Hash the exact atomic numbers, coordinates and lattice of each crystal."""
    crystals = crystals.to("cpu", torch.float64)
    counts = crystals.num_atoms.tolist()
    found = []
    for i, n in enumerate(counts):
        digest = hashlib.sha256(f"{n}\0".encode())
        for tensor in (crystals.atomic_numbers[i, :n], crystals.frac_coords[i, :n], crystals.lattice[i]):
            digest.update(tensor.contiguous().numpy().tobytes())
        found.append(digest.digest())
    return found


def combined(*parts: bytes) -> bytes:
    """Combine the keys of several crystals and settings into one."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


class ResultCache:
    """Cache of arrays by kind and key, in `<folder>/results.sqlite`.

    A damaged file is renamed and a new one started; without a writable file nothing is kept. Both give a warning and no
    error, since only time is lost.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.path = (users_folder() if folder is None else Path(folder)) / "results.sqlite"
        self.broken = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except (sqlite3.DatabaseError, OSError) as error:
            aside = self.path.with_suffix(".damaged")
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._warn(f"is damaged ({error}); it is renamed to {aside.name} and a new one started")
                self.path.replace(aside)
                self._create()
            else:
                self._give_up(error)

    def _create(self) -> None:
        with closing(self._open()) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS results (kind TEXT, key BLOB, value BLOB, PRIMARY KEY (kind, key))"
            )

    def _open(self) -> sqlite3.Connection:
        # Another evaluation may be writing; it holds the file for milliseconds.
        return sqlite3.connect(self.path, timeout=60)

    def _warn(self, text: str) -> None:
        warnings.warn(f"the cache of evaluations {self.path} {text}", stacklevel=4)

    def _give_up(self, error: Exception) -> None:
        self.broken = True
        self._warn(f"cannot be used ({error}); results are not kept, free some space or pass cache=<another folder>")

    def get(self, kind: str, wanted: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the arrays that are known, by key."""
        found: dict[bytes, np.ndarray] = {}
        if self.broken:
            return found
        try:
            with closing(self._open()) as database:
                for start in range(0, len(wanted), _KEYS):
                    part = wanted[start : start + _KEYS]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, value FROM results WHERE kind = ? AND key IN ({marks})"
                    found |= {key: np.frombuffer(value) for key, value in database.execute(query, (kind, *part))}
        except sqlite3.Error as error:
            self._give_up(error)
        return found

    def put(self, kind: str, results: Mapping[bytes, np.ndarray]) -> None:
        """Store arrays of float64 by key."""
        if self.broken:
            return
        rows = [(kind, key, np.asarray(value, dtype=np.float64).tobytes()) for key, value in results.items()]
        try:
            with closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)
