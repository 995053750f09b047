"""Run many small tasks in several processes, with a cache of what was computed before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from cdvae_lab.runtime.result_cache import ResultCache


def computed(
    cache: ResultCache,
    kind: str,
    wanted: Sequence[bytes],
    task: Callable[[list[int]], Any],
    *,
    jobs: int,
    chunk: int,
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield (rows, their arrays) until every row of `wanted` has one: first those in the cache, then the computed ones.

    Args:
        kind: of the results, with the version of what computes them.
        wanted: a key for each row; equal keys are computed once.
        task: makes the job that computes some rows, as `joblib.delayed(function)(...)`; it returns an array for each.
        jobs: processes (-1: all cores); `joblib.parallel_config` chooses another backend.
        chunk: rows of one job.
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
    """Run joblib's tasks and yield their results in order, on the backend that `joblib.parallel_config` has set."""
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
