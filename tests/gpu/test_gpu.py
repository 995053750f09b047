"""Same noise as on a CPU, runs that resume bit for bit, CUDA graphs that change nothing, and no waiting in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product: deterministic cuBLAS

import cdvae_lab as lab
from benchmarks.__main__ import dataset, diamonds, perovskites
from cdvae_lab.models import noise
from cdvae_lab.models.noise import Stream

GPU = torch.device("cuda")
SMALL = {"hidden_dim": 32, "latent_dim": 16, "encoder_blocks": 2, "decoder_blocks": 2, "head_dim": 32, "num_radial": 8}


@pytest.fixture
def data() -> lab.Dataset:
    """Perovskites and diamond, of two sizes."""
    return dataset(lab.Crystals.cat([perovskites(96), diamonds(32)]))


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch's deterministic mode."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("compiled", [False, True])
def test_noise_is_the_same_to_the_bit(compiled: bool) -> None:
    noise.prepare(GPU)
    crystals = torch.arange(1000)
    for draw, stream in ((noise.normal, Stream.POSITION), (noise.uniform, Stream.TYPE)):
        on_gpu = torch.compile(draw, dynamic=False) if compiled else draw
        for step in (0, 4999):
            ours = on_gpu(7, stream, crystals.to(GPU), torch.tensor(step, device=GPU), (5, 3))
            assert torch.equal(ours.cpu(), draw(7, stream, crystals, step, (5, 3)))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("strength", [0.0, 0.1], ids=["plain", "regularized"])
def test_a_resumed_run_is_the_uninterrupted_one(data: lab.Dataset, tmp_path: Path, strength: float) -> None:
    settings = {"weight_decay": strength, "strain": strength / 5, "rattle": strength / 2}

    def run(path: Path, until: int) -> lab.TrainingStep:
        start = lab.CDVAE.for_dataset(data, **SMALL, decoder_dropout=strength)
        for step in lab.fit(start, data, steps=24, batch_size=32, warm_up=5, compile=False, device=GPU, **settings):
            if step.step == until:
                step.save(path)
                return step
        raise AssertionError("the run ended too early")

    whole = run(tmp_path / "whole.safetensors", 24)
    run(tmp_path / "half.safetensors", 12)
    for step in lab.fit(tmp_path / "half.safetensors", data, compile=False, device=GPU):
        resumed = step
    assert torch.equal(whole.losses, resumed.losses)
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(whole.averaged().parameters(), resumed.averaged().parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("compile", [False, True])
def test_sampling_agrees_with_the_cpu(data: lab.Dataset, compile: bool) -> None:
    model = lab.CDVAE.for_dataset(data, **SMALL).eval().requires_grad_(False).double()
    z = noise.normal(0, Stream.LATENT, torch.arange(8), 0, (16,), torch.float64)
    *_, on_cpu = lab.denoise(model, z=z, steps=12)
    *_, on_gpu = lab.denoise(model.to(GPU), z=z, steps=12, compile=compile)
    assert torch.equal(on_cpu.crystals.atomic_numbers, on_gpu.crystals.atomic_numbers.cpu())
    difference = on_cpu.crystals.frac_coords - on_gpu.crystals.frac_coords.cpu()
    assert (difference - difference.round()).abs().max() < 1e-8


def test_frames_stay_as_they_were(data: lab.Dataset) -> None:
    model = lab.CDVAE.for_dataset(data, **SMALL).to(GPU).eval().requires_grad_(False)
    frames, copies = [], []
    for frame in lab.denoise(model, n=8, steps=12):
        frames.append(frame)
        copies.append(frame.crystals.frac_coords.clone())
    for frame, copy in zip(frames, copies, strict=True):
        assert torch.equal(frame.crystals.frac_coords, copy)
    assert not torch.equal(frames[5].crystals.frac_coords, frames[6].crystals.frac_coords)


def test_nothing_waits_for_the_device(data: lab.Dataset) -> None:
    small = dataset(perovskites(256))
    model = lab.CDVAE.for_dataset(small, **SMALL).to(GPU)
    training = lab.fit(model, small, steps=200, batch_size=64, compile=False)
    for _ in range(18):  # past capture; the guard reads every 16 steps
        next(training)
    frames = lab.denoise(lab.CDVAE.for_dataset(small, **SMALL).to(GPU).requires_grad_(False), n=8)
    for _ in range(8):
        next(frames)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            next(training)
        for _ in range(20):
            next(frames)
    finally:
        torch.cuda.set_sync_debug_mode("default")
