"""Speed of several devices relative to one, in training and in generation.

    python -m benchmarks.parallel --devices 2

All is measured in one run: first process 0 works alone, with the batch and with what would be its share of it, and then
all of them together. The crystals are made here and the model is untrained, so that neither data nor a checkpoint is
needed; as large as for MP-20 by default. On a GPU torch.compile takes some two minutes of it, a minute for each size of
batch, which `--no-compile` leaves out.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.runtime.distributed import Processes, launched
from cdvae_lab.sampling.denoising import denoise, initial_frame
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.training.loop import fit

STARTED = time.monotonic()
WARM_UP = 8  # steps: the first ones run as they are, then the graph is captured
BLOCKS = 5


def made(n: int, sites: int) -> Crystals:
    """Create random crystals of four elements, 17 Å^3 an atom, each with another cell."""
    generator = torch.Generator().manual_seed(0)
    strain = torch.eye(3) + 0.1 * torch.randn(n, 3, 3, generator=generator)
    elements = torch.tensor([3, 8, 22, 26])
    return Crystals(
        torch.rand(n, sites, 3, generator=generator),
        elements[torch.randint(4, (n, sites), generator=generator)],
        strain * (17.0 * sites) ** (1 / 3),
    )


def dataset(crystals: Crystals) -> Dataset:
    """Create a data set of these crystals, every third without a label."""
    labels = torch.linspace(-1, 1, len(crystals))
    labels[::3] = torch.nan
    ids = tuple(map(str, range(len(crystals))))
    return Dataset("benchmark", "train", crystals, ids, labels, "label", "eV", "made by the benchmark", "MIT")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a time is that of the work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Bench:
    """State of the benchmark in one of its processes."""

    def __init__(self, options: argparse.Namespace, processes: Processes) -> None:
        self.options, self.processes = options, processes
        fabric = processes.fabric
        self.device = torch.device(options.device) if fabric is None else fabric.device
        self.compile = self.device.type == "cuda" if options.compile is None else options.compile
        crystals = made(options.crystals, options.sites) if options.data is None else Crystals.load_npz(options.data)
        self.data = dataset(crystals.to(dtype=torch.float32))
        self.rows: list[dict] = []
        self.losses: dict[int, torch.Tensor] = {}  # by batch, of the last step of warming up by one process

    def say(self, text: str) -> None:
        if self.processes.first:
            print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)

    def report(self, what: str, devices: int, value: float, alone: float | None = None) -> float:
        """Print crystals per second, and their ratio to those of one device."""
        ratio = None if alone is None else value / alone
        self.rows.append({"what": what, "devices": devices, "crystals_per_second": value, "ratio": ratio})
        beside = "" if ratio is None else f"   {ratio:5.2f} times one"
        self.say(f"{what}, {devices} device{'s' * (devices > 1)}: {value:12.1f} crystals/s{beside}")
        return value

    def training(self, batch: int, together: bool, ready: Callable[[], object] = lambda: None) -> float:
        """Measure training: crystals per second of one process or of all.

        Args:
            ready: called between warming up and measuring.
        """
        if self.compile:
            torch._dynamo.reset()  # code for this size of batch is faster than code for any size
        o = self.options
        settings = {"hidden_dim": o.width, "num_neighbors": 0}
        settings |= {} if o.blocks is None else {"encoder_blocks": o.blocks, "decoder_blocks": o.blocks}
        model = CDVAE.for_dataset(self.data, **settings).to(self.device)
        fabric = self.processes.fabric if together else None
        steps = fit(model, self.data, steps=10**6, batch_size=batch, compile=self.compile, fabric=fabric)
        for _ in range(WARM_UP - 1):
            next(steps)
        losses = next(steps).losses.cpu()
        ready()
        if together and batch in self.losses:
            off = float((losses / self.losses[batch] - 1).abs().max())
            self.say(f"  after {WARM_UP} steps the terms of the loss are those of one device to {off:.1e}")
        elif not together:
            self.losses[batch] = losses
        times, each = [], 2
        for block in range(BLOCKS + 1):
            begun = time.perf_counter()
            for _ in range(each):
                next(steps)
            synchronize(self.device)
            passed = (time.perf_counter() - begun) / each
            if block:
                times.append(passed)
                continue
            each = max(2, math.ceil(o.seconds / BLOCKS / passed))  # the first block determines how many steps to take
            if together:
                each = self.processes.total(each if self.processes.first else 0)[0]
        step = statistics.median(times)
        spread = f"{min(times) * 1e3:.2f} to {max(times) * 1e3:.2f}"
        self.say(f"  batch {batch}: {step * 1e3:.2f} ms a step ({spread} in {BLOCKS} blocks of {each})")
        steps.close()  # type: ignore[attr-defined]
        del model, steps
        gc.collect()
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            self.say(f"  peak memory {peak:.1f} GiB")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return batch / step

    def scaling(self, batch: int) -> None:
        """Measure training by one process, with the batch and with its share of the batch, and by all processes."""
        size, meet = self.processes.size, self.processes.total
        share = batch // size
        self.say(f"training with batches of {batch}, {'compiled' if self.compile else 'not compiled'}")
        whole = part = math.nan
        if self.processes.first:
            whole = self.report(f"training, batch {batch}", 1, self.training(batch, together=False, ready=meet))
            if size > 1:
                part = self.report(f"training, batch {share}", 1, self.training(share, together=False))
        else:
            if self.compile:
                self.training_once(share)  # each process compiles for its own device
            meet()
        meet()
        if size > 1:
            what = f"training, batch {batch} of {share} each"
            both = self.report(what, size, self.training(batch, together=True, ready=meet), whole)
            self.say(f"  and {both / part:.2f} times one device with batches of {share}")
            self.rows[-1]["ratio_to_share"] = both / part

    def training_once(self, batch: int) -> None:
        """Take some steps in this process alone, so that they are compiled."""
        seconds, self.options.seconds = self.options.seconds, 0.0
        self.training(batch, together=False)
        self.options.seconds = seconds

    def generation(self) -> None:
        """Measure generation: crystals per second, each process with its own batches, as `cdvae-lab generate` does."""
        o, size = self.options, self.processes.size
        settings = {} if o.blocks is None else {"encoder_blocks": o.blocks, "decoder_blocks": o.blocks}
        model = CDVAE.for_dataset(self.data, hidden_dim=o.width, num_neighbors=0, **settings)
        model = model.to(self.device).eval().requires_grad_(False)
        batch = o.generation_batch
        self.say(f"generation, {o.generation_steps} calls of the network, {batch} crystals at a time")

        def generate(batches: range, calls: int) -> torch.Tensor:
            schedule = Schedule.ancestral(model.config, calls)
            positions = []
            for which in batches:
                numbers = torch.arange(which * batch, (which + 1) * batch, device=self.device)
                z = torch.randn(batch, model.config.latent_dim, generator=torch.Generator().manual_seed(which))
                # An untrained model would generate crystals of any size.
                atoms = torch.full((batch,), o.sites, device=self.device)
                frame = initial_frame(model, z.to(self.device), numbers, 0, schedule, num_atoms=atoms)
                positions.append(last(denoise(model, frame=frame, compile=False)).crystals.frac_coords)
            return torch.stack(positions).cpu()

        generate(range(1), 8)
        self.processes.total()
        total, rate, expected = size * o.generation_rounds, 0.0, None
        if self.processes.first:
            begun = time.perf_counter()
            expected = generate(range(total), o.generation_steps)
            rate = total * batch / (time.perf_counter() - begun)
        self.processes.total()
        if self.processes.first:
            self.report("generation", 1, rate)
        if size == 1:
            return
        begun = time.perf_counter()
        mine = generate(range(total)[self.processes.rank :: size], o.generation_steps)
        self.processes.total()
        self.report("generation", size, total * batch / (time.perf_counter() - begun), rate or math.nan)
        found = torch.stack(self.processes.gather(mine), 1).flatten(0, 1)
        if expected is not None:
            near = ((found - expected + 0.5).remainder(1) - 0.5).abs().amax((2, 3)) < 1e-4
            self.say(f"  {near.float().mean():.2%} of the crystals are those of one device to 1e-4 of the cell")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="*", default=[1024], help="in training, all in all (default 1024)")
    parser.add_argument("--width", type=int, default=256, help="of the networks (default %(default)s)")
    parser.add_argument("--blocks", type=int, help="of each network (default: the model's)")
    parser.add_argument("--sites", type=int, default=20, help="atoms of a crystal (default %(default)s)")
    parser.add_argument("--crystals", type=int, default=8192, help="in the data set (default %(default)s)")
    parser.add_argument("--data", type=Path, help="train on the crystals of this .npz file instead")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)")
    parser.add_argument("--seconds", type=float, default=3.0, help="each measurement of training takes")
    parser.add_argument("--generation-batch", type=int, default=1024)
    parser.add_argument("--generation-steps", type=int, default=50, help="calls; 0 leaves generation out")
    parser.add_argument("--generation-rounds", type=int, default=1, help="batches of each process")
    parser.add_argument("--enough", type=float, default=120.0, help="seconds after which nothing new is begun")
    parser.add_argument("--give-up", type=float, default=400.0, help="seconds after which it says where it hangs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(options.give_up, exit=True)
    with launched(torch.device(options.device), options.devices, 1) as processes:
        bench = Bench(options, processes)
        name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one process each"
        bench.say(f"{processes.size} x {name}, torch {torch.__version__}, {len(bench.data):,} crystals")
        parts: list[Callable[[], None]] = [lambda batch=batch: bench.scaling(batch) for batch in options.batch]
        if options.generation_steps:
            parts.insert(0, bench.generation)
        for part in parts:
            if processes.any(time.monotonic() - STARTED > options.enough):
                bench.say("enough: the rest is left out")
                break
            part()
            if options.json and processes.first:
                options.json.write_text(
                    json.dumps({"machine": name, "torch": torch.__version__, "rows": bench.rows}), encoding="utf-8"
                )
    bench.say("done")


if __name__ == "__main__":
    main()
