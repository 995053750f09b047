"""Training throughput, time per denoising step, memory, pictures, maps and import time on this machine, as a table.

The crystals are made here, so that the benchmark needs neither data nor checkpoint: perovskites of 5 atoms, and
supercells of diamond with 24. Every figure is a median; beside it stands the reference implementation's on the same
kind of machine, where it was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import cdvae_lab as lab
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.explore.latent_map import load_map
from cdvae_lab.render import picture

# txie-93/cdvae on two CPU cores and on an H200: milliseconds per denoising step, and training crystals per second
# (batches of 512, loading included: 129 ms and 98 ms a batch).
REFERENCE = {
    "cpu": {(5, 1): 12.0, (5, 16): 95.0, (5, 128): 903.0, (24, 1): 33.0, (24, 16): 549.0, "training": 60.0},
    "cuda": {(5, 1): 19.3, (5, 256): 27.3, (5, 1024): 68.8, "training": 512 / 0.227},
}
SIZES = {"cpu": [(5, 1), (5, 16), (5, 128), (24, 1), (24, 16)], "cuda": [(5, 1), (5, 256), (5, 1024)]}

# Atoms in a cell, and crystals: the same number of atoms in all.
LARGE = [(20, 10), (50, 4), (100, 2), (200, 1)]


def perovskites(n: int) -> Crystals:
    """Create cubic ABX3 cells of random size and elements, a little distorted."""
    generator = torch.Generator().manual_seed(0)
    ideal = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    frac_coords = (ideal + 0.02 * torch.randn(n, 5, 3, generator=generator)) % 1
    metals = torch.randint(19, 58, (n, 2), generator=generator)
    numbers = torch.cat([metals, torch.full((n, 3), 8)], 1)
    lengths = 3.6 + 1.2 * torch.rand(n, 1, 1, generator=generator)
    return Crystals(frac_coords, numbers, lengths * torch.eye(3))


def diamonds(n: int) -> Crystals:
    """Create supercells of diamond, three cubic cells in a row, 24 atoms, a little distorted."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.tensor([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cell = torch.cat([corner, corner + 0.25])
    stretched = torch.cat([(cell + torch.tensor([shift, 0.0, 0.0])) / torch.tensor([3.0, 1, 1]) for shift in range(3)])
    frac_coords = (stretched + 0.01 * torch.randn(n, 24, 3, generator=generator)) % 1
    lattice = 3.567 * torch.diag(torch.tensor([3.0, 1, 1]))
    return Crystals(frac_coords, torch.full((n, 24), 6), lattice.expand(n, 3, 3).clone())


def large_cells(atoms: int, n: int) -> Crystals:
    """Random atoms in nearly cubic cells of 18 Å^3 for each, about the mean of inorganic crystals."""
    generator = torch.Generator().manual_seed(0)
    length = (18.0 * atoms) ** (1 / 3)
    lattice = length * torch.eye(3) + 0.3 * torch.randn(n, 3, 3, generator=generator)
    numbers = torch.randint(3, 40, (n, atoms), generator=generator)
    return Crystals(torch.rand(n, atoms, 3, generator=generator), numbers, lattice)


def dataset(crystals: Crystals) -> Dataset:
    """Create a data set of the crystals of this benchmark."""
    ids = tuple(map(str, range(len(crystals))))
    labels = torch.linspace(-1, 1, len(crystals))
    return Dataset("benchmark", "train", crystals, ids, labels, "label", "eV", "made by the benchmark", "MIT")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a time is that of the work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(advance: Callable[[], object], device: torch.device, warm_up: int, blocks: int, each: int) -> float:
    """Measure the median time of a call over blocks of calls, each of which ends with waiting for the device."""
    for _ in range(warm_up):
        advance()
    times = []
    for _ in range(blocks):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(each):
            advance()
        synchronize(device)
        times.append((time.perf_counter() - start) / each * 1e3)
    return statistics.median(times)


def training(device: torch.device, compile: bool) -> tuple[float, float]:
    """Measure training: crystals per second at batch 512 and milliseconds a step, batches and noise included."""
    data = dataset(perovskites(4096))
    model = lab.CDVAE.for_dataset(data).to(device)
    on_gpu = device.type == "cuda"
    warm_up, blocks, each = (20, 7, 100) if on_gpu else (2, 5, 2)
    steps = lab.fit(model, data, steps=warm_up + blocks * each + 1, batch_size=512, compile=compile)
    step = milliseconds(lambda: next(steps), device, warm_up, blocks, each)
    return 512 / step * 1e3, step


def denoising(device: torch.device, atoms: int, batch: int, compile: bool) -> float:
    """Measure the milliseconds of a denoising step, everything included."""
    crystals = perovskites(batch) if atoms == 5 else diamonds(batch)
    model = lab.CDVAE.for_dataset(dataset(crystals)).to(device).eval().requires_grad_(False)
    warm_up, blocks, each = (10, 7, 100) if device.type == "cuda" else (3, 7, 10 if batch > 16 else 40)
    frames: Iterator = lab.reconstruct(model, crystals, steps=warm_up + blocks * each + 2, compile=compile)
    # An untrained model could draw another number of atoms: only frames with the right one are measured.
    start = next(frames)
    sized = crystals.replace(atomic_numbers=torch.full_like(crystals.atomic_numbers, 6)).to(device)
    frames = lab.denoise(model, frame=dataclasses.replace(start, crystals=sized), compile=compile)
    return milliseconds(lambda: next(frames), device, warm_up, blocks, each)


def call_of_large_cells(device: torch.device, atoms: int, n: int) -> float:
    """Milliseconds per call of the decoder with all neighbors within the cutoff, without compiling."""
    crystals = large_cells(atoms, n)
    model = lab.CDVAE.for_dataset(dataset(crystals), num_neighbors=0).to(device).eval().requires_grad_(False)
    crystals = crystals.to(device)
    images = periodic_images(crystals.lattice, model.config.cutoff)
    z, sigma = torch.zeros(n, model.config.latent_dim, device=device), torch.ones(n, device=device)
    return milliseconds(lambda: model.predict_noise(crystals, z, sigma, images), device, 2, 5, 1)


def import_ratio() -> tuple[float, float, float]:
    """Measure the seconds to import torch alone, cdvae_lab alone, and torch with all that a model needs."""
    codes = ["import torch", "import cdvae_lab", "import cdvae_lab; cdvae_lab.load, cdvae_lab.denoise"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(Path.cwd())}
    medians = []
    for code in codes:
        program = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        runs = [
            float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                                 env=environment).stdout)
            for _ in range(5)
        ]  # fmt: skip
        medians.append(statistics.median(runs))
    return medians[0], medians[1], medians[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--compile", action="store_true", help="compile with torch.compile (the default on a GPU, for both)"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    compile_variants = [False, True] if device.type == "cuda" or options.compile else [False]
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{name}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    reference = REFERENCE[options.device]
    rows = []

    def report(what: str, value: float, unit: str, theirs: float | None, ratio: float | None) -> None:
        rows.append({"what": what, "value": value, "unit": unit, "reference": theirs, "ratio": ratio})
        beside = f"reference {theirs:8.1f}   {ratio:6.1f} times better" if theirs and ratio else ""
        print(f"  {what:<52}{value:10.2f} {unit:<12}{beside}", flush=True)

    torch_only, light, whole = import_ratio()
    report("import torch", torch_only, "s", None, None)
    report("import cdvae_lab", light, "s", None, None)
    report("import cdvae_lab and what a model needs", whole, "s", None, None)
    report("the same / import torch", whole / torch_only, "", None, None)
    for compile in compile_variants:
        note = ", compiled" if compile else ""
        rate, step = training(device, compile)
        report(f"training, 512 perovskites a step{note}", step, "ms/step", None, None)
        report(f"training throughput{note}", rate, "crystals/s", reference["training"], rate / reference["training"])
    for (atoms, batch), compile in itertools.product(SIZES[options.device], compile_variants):
        step = denoising(device, atoms, batch, compile)
        theirs = reference[atoms, batch]
        note = ", compiled" if compile else ""
        report(f"denoising step, {batch} crystals of {atoms} atoms{note}", step, "ms/step", theirs, theirs / step)
    first = None
    for atoms, n in LARGE:
        call = call_of_large_cells(device, atoms, n)
        first = first or call
        what = f"call, {n} crystal{'s' * (n > 1)} of {atoms} atoms, without limit on neighbors"
        report(what, call, "ms", None, None)
        report(f"the same / {LARGE[0][1]} of {LARGE[0][0]}", call / first, "", None, None)
    crystal = perovskites(1)
    report("picture of a crystal", milliseconds(lambda: picture(crystal), device, 1, 5, 1), "ms", None, None)
    report("open a bundled map", milliseconds(lambda: load_map("perov_5"), device, 1, 5, 1), "ms", None, None)
    if device.type == "cuda":
        report("peak GPU memory", torch.cuda.max_memory_allocated() / 2**20, "MiB", None, None)
    report("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB", None, None)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": name, "torch": torch.__version__, "rows": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
