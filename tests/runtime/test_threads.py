"""Settings of threads and precision apply within a block only, and to its thread only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cdvae_lab.runtime.threads import fast_matmul, one_thread, threads_kept

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("cuda")  # a name; no GPU is needed


@pytest.fixture
def precision() -> Iterator[None]:
    """Restore full precision before and after the test."""
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")


def run_in_two_threads(code: str) -> list[str]:
    """Run code in a new process in which torch has two threads, for this process has one."""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    )  # fmt: skip
    return found.stdout.split()


def test_threads_started_within_the_block_keep_their_setting() -> None:
    code = """
import threading, torch
from cdvae_lab.runtime.threads import one_thread

inside, leave, found = threading.Event(), threading.Event(), []

def run():
    with one_thread(True):
        found.append(torch.get_num_threads())
        inside.set()
        leave.wait()
    found.append(torch.get_num_threads())

def start_meanwhile():
    found.append(torch.get_num_threads())
    leave.set()
    running.join()
    found.append(torch.get_num_threads())

running = threading.Thread(target=run)
running.start()
inside.wait()
other = threading.Thread(target=start_meanwhile)
other.start()
other.join()
last = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
last.start()
last.join()
print(*found, torch.get_num_threads())
"""
    assert run_in_two_threads(code) == ["1", "2", "2", "2", "2", "2"]


def test_blocks_nest_and_end_with_an_error() -> None:
    code = """
import torch
from cdvae_lab.runtime.threads import one_thread

with one_thread(True):
    with one_thread(True):
        pass
    inner = torch.get_num_threads()
try:
    with one_thread(True):
        raise KeyError
except KeyError:
    pass
with one_thread(False):
    print(inner, torch.get_num_threads())
"""
    assert run_in_two_threads(code) == ["1", "2"]


def test_results_equal_those_of_set_num_threads() -> None:
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    expected = x @ x  # conftest: one thread
    with one_thread(True):
        assert torch.equal(x @ x, expected)


@pytest.mark.usefixtures("precision")
def test_another_library_s_setting_ends_with_the_block() -> None:
    code = """
import torch
from cdvae_lab.runtime import threads

with threads.threads_kept():
    threads._openmp().omp_set_num_threads(1)
    inside = torch.get_num_threads()
print(inside, torch.get_num_threads())
"""
    assert run_in_two_threads(code) == ["1", "2"]
    with pytest.raises(KeyError), threads_kept():
        raise KeyError


def test_the_last_of_overlapping_blocks_restores_the_precision() -> None:
    first, second = fast_matmul(GPU), fast_matmul(GPU)
    first.__enter__()
    assert torch.get_float32_matmul_precision() == "high"
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "high"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("precision")
def test_the_precision_is_the_users_again_after_an_error_and_untouched_on_a_cpu() -> None:
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(KeyError), fast_matmul(GPU):
        raise KeyError
    assert torch.get_float32_matmul_precision() == "medium"
    with fast_matmul(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "medium"
