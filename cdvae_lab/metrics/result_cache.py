"""What was computed of a crystal, kept in the user's cache by a hash of the crystal: nothing is computed twice.

One SQLite file, so that an interrupted evaluation goes on where it was and two may run at the same time. Values are
float64 arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cdvae_lab.crystals.batch import Crystals

# A query takes at most this many keys.
_KEYS = 500


def users_folder() -> Path:
    """The folder for caches that the operating system gives this user."""
    import pooch

    return Path(pooch.os_cache("cdvae_lab")) / "evaluation"


def keys(crystals: Crystals) -> list[bytes]:
    """A hash of each crystal's numbers, as they are."""
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
    """The key of several crystals and settings together."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


class ResultCache:
    """Arrays by kind and key, in `<folder>/results.sqlite`.

    A file that is damaged is set aside, and one that cannot be written is done without; both say so in a warning, as
    only time is lost.
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
                self._warn(f"is damaged ({error}); it is set aside as {aside.name} and begun anew")
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
        """The arrays that there are, by key."""
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
        """Keep arrays of float64 by key."""
        if self.broken:
            return
        rows = [(kind, key, np.asarray(value, dtype=np.float64).tobytes()) for key, value in results.items()]
        try:
            with closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)


def computed(
    cache: ResultCache,
    kind: str,
    wanted: Sequence[bytes],
    task: Callable[[list[int]], Any],
    *,
    jobs: int,
    chunk: int,
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield (rows, their arrays) until every row of `wanted` has one: from the cache at once, the others as they come.

    Args:
        kind: of the results, with the version of what computes them.
        wanted: a key for each row; equal keys are computed once.
        task: what computes some rows, as `joblib.delayed(function)(...)`, which returns an array for each.
        jobs: processes (-1: all cores); `joblib.parallel_config` chooses another backend.
        chunk: rows that a task takes.
    """
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(wanted):
        rows.setdefault(key, []).append(row)
    there = cache.get(kind, list(rows))
    if there:
        known = [(row, value) for key, value in there.items() for row in rows[key]]
        yield [row for row, _ in known], [value for _, value in known]
    missing = [same[0] for key, same in rows.items() if key not in there]
    parts = [missing[start : start + chunk] for start in range(0, len(missing), chunk)]
    for part, values in zip(parts, run_parallel([task(part) for part in parts], jobs), strict=True):
        cache.put(kind, {wanted[row]: value for row, value in zip(part, values, strict=True)})
        all_rows = [(row, value) for first, value in zip(part, values, strict=True) for row in rows[wanted[first]]]
        yield [row for row, _ in all_rows], [value for _, value in all_rows]


def run_parallel(tasks: Sequence[Any], jobs: int) -> Iterator[Any]:
    """The results of joblib's tasks in order, as they come; on the backend that `joblib.parallel_config` has set."""
    from joblib import Parallel
    from joblib.parallel import get_active_backend

    if len(tasks) <= 1:
        jobs = 1  # starting processes takes longer than the work
    backend = cast("Any", get_active_backend()[0])
    if backend.supports_return_generator:
        yield from cast("Iterator[Any]", Parallel(n_jobs=jobs, return_as="generator")(tasks))
        return
    together = 4 * max(1, backend.effective_n_jobs(jobs))
    for start in range(0, len(tasks), together):
        yield from cast("list[Any]", Parallel(n_jobs=jobs)(tasks[start : start + together]))
