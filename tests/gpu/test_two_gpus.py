"""Two GPUs of one host take the steps of one, through NCCL within a CUDA graph."""

from __future__ import annotations

from pathlib import Path

from tests.runtime.test_distributed import assert_two_take_the_steps_of_one


def test_two_gpus_take_the_steps_of_one(tmp_path: Path) -> None:
    assert_two_take_the_steps_of_one(tmp_path, "cuda")
