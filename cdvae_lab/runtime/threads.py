"""CPU threads and the precision of matrix products, changed for a block of code only.

`torch.set_num_threads` writes a default of the whole process: every thread that starts before it is set back keeps the
lower number permanently. The libraries under torch, OpenMP and MKL, each have a setting of the calling thread alone,
which is the one used here. The precision of matrix products has no such setting, so blocks that overlap are counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

_precision_lock = threading.Lock()
_precision_blocks = 0
_precision_before = "highest"


@contextlib.contextmanager
def one_thread(alone: bool) -> Iterator[None]:
    """Compute on one CPU thread within the block, if `alone`; other threads of the process are not affected.

    The operations of a few small crystals are too short to be shared: a second thread gains nothing on an idle machine,
    and on a busy one (a browser beside the kernel, say) waiting for it was seen to make them ten times slower. Where
    torch was built without OpenMP, the number of threads stays as it is.
    """
    if not alone or (library := _openmp()) is None:
        yield
        return
    before = torch.get_num_threads()  # this also makes torch set up the thread, which would undo what follows
    library.omp_set_num_threads(1)
    mkl_before = library.MKL_Set_Num_Threads_Local(1) if hasattr(library, "MKL_Set_Num_Threads_Local") else None
    try:
        yield
    finally:
        library.omp_set_num_threads(before)
        if mkl_before is not None:
            library.MKL_Set_Num_Threads_Local(mkl_before)


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Set the calling thread's number of CPU threads back after the block, in which another library may change it.

    numba, which UMAP computes with, sets it at its first parallel loop. Sums that torch computes afterwards would have
    another rounding than before.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before and (library := _openmp()) is not None:
            library.omp_set_num_threads(before)


@contextlib.contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in TF32 within the block, on GPUs that have it; nothing changes on a CPU.

    The precision belongs to the whole process: of blocks that overlap, the last to end sets it back.
    """
    global _precision_blocks, _precision_before
    if device.type != "cuda":
        yield
        return
    with _precision_lock:
        if _precision_blocks == 0:
            _precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
        _precision_blocks += 1
    try:
        yield
    finally:
        with _precision_lock:
            _precision_blocks -= 1
            if _precision_blocks == 0:
                torch.set_float32_matmul_precision(_precision_before)


@cache
def _openmp() -> ctypes.CDLL | None:
    """Load the library in which torch finds OpenMP and MKL; return None for a torch without OpenMP."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "libiomp5md.dll"):
        if (folder / name).is_file():
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(folder / name))
                if hasattr(library, "omp_set_num_threads"):
                    return library
    return None
