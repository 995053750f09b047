"""`cdvae-lab generate`: crystals from the prior, batch by batch, into files."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cdvae_lab.cli import arguments
from cdvae_lab.cli.flags.generate import SUFFIX
from cdvae_lab.errors import SettingError
from cdvae_lab.io import convert, writing
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.metrics.validity import structure_validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.given_formula import GivenFormula
from cdvae_lab.models.latent_prior import LatentPrior
from cdvae_lab.models.latents import draw
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.sampling.decoding import Decoded, decode
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.frames import progress
from cdvae_lab.sampling.schedules import KEPT, Schedule


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab generate` with parsed flags and return the exit code."""
    if args.n < 1:
        raise SettingError(f"-n must be at least 1, not {args.n}")
    if args.max_attempts < 1:
        raise SettingError(f"--max-attempts must be at least 1, not {args.max_attempts}")
    with arguments.processes(args) as processes:
        return _generate(args, processes)


def _generate(args: argparse.Namespace, processes: Processes) -> int:
    model = load(args.model, arguments.device(args, processes))
    schedule = arguments.schedule(args, model)
    prior, drawn_from = arguments.prior(args, model)
    if args.temperature is not None and args.formula is not None:
        raise SettingError(
            "--temperature: applies to drawn compositions, and --formula draws none; give one of the two"
        )
    if args.temperature is not None:
        prior = _learned(prior, "--temperature", args.model).at_temperature(args.temperature)
        drawn_from = f"{drawn_from} at temperature {args.temperature:g}"
    if args.formula is not None:
        prior = _learned(prior, "--formula", args.model).given(args.formula)
        drawn_from = f"{drawn_from} given {args.formula}"
    claim = {"model": fingerprint(model), "seed": args.seed, "sampler": coefficients(schedule)}
    if args.max_attempts > 1:
        args.tolerance = typical_distance(model, prior) + 1 if args.tolerance is None else args.tolerance
        claim |= {"max_attempts": args.max_attempts, "tolerance": args.tolerance}
    if processes.first:
        claim_folder(args.out, claim | {"prior": drawn_from})
    names = [f"crystal_{number:05d}" for number in range(args.n)]
    if args.format == "npz":
        there = _in_batches(args.out)
        missing = [number for number in range(args.n) if number not in there]
    else:
        missing = [i for i, name in enumerate(names) if not (args.out / (name + SUFFIX[args.format])).is_file()]
    runs = list(consecutive(missing, batch_size(len(missing), args.batch_size, processes.size)))
    runs = runs[processes.rank :: processes.size]
    processes.total()  # no process writes before all have listed the missing crystals
    written = valid = 0
    frames = (_with_retries if args.max_attempts > 1 else _frames)(model, args, schedule, prior, runs)
    if processes.first:
        frames = progress(frames, runs=len(runs))
    for numbers, crystals in zip(runs, (f.crystals.to("cpu") for f in frames if f.finished), strict=True):
        if args.format == "npz":
            crystals.save_npz(args.out / f"crystals_{numbers[0]:05d}_{numbers[-1]:05d}.npz")
            written += len(crystals)
            valid += int(structure_validity(crystals).sum())
            continue
        usable = convert.is_usable(crystals)
        chosen = [names[number] for number, it_is in zip(numbers, usable.tolist(), strict=True) if it_is]
        if not chosen:
            continue
        crystals = crystals[usable]
        if args.format == "extxyz":
            for i, name in enumerate(chosen):
                crystals[i].write_extxyz(args.out / f"{name}.xyz")
        else:
            writing.write(crystals, args.out, args.format, chosen)
        written += len(chosen)
        valid += int(structure_validity(crystals).sum())
    written, valid = processes.total(written, valid)
    if not processes.first:
        return 0
    print(f"{args.out}: {args.n - len(missing):,} crystals existed, {written:,} are new", file=sys.stderr)
    if missing:
        print(f"of the new ones {valid:,} have all atoms at least 0.5 Å apart", file=sys.stderr)
    if written < len(missing):
        print(f"{len(missing) - written:,} had no finite cell or positions and were left out", file=sys.stderr)
    return 0


def _learned(prior: LatentPrior, flag: str, model: str) -> DiffusionPrior:
    """Return the prior if it is a learned one, which a flag needs. Raises SettingError otherwise."""
    if not isinstance(prior, DiffusionPrior):
        raise SettingError(f"{flag}: needs a learned prior, but {model} has none or --prior normal was given")
    return prior


def _in_batches(folder: Path) -> set[int]:
    """Read the numbers of the crystals in a folder's .npz files from the file names."""
    ranges = (path.stem.split("_")[1:] for path in folder.glob("crystals_*_*.npz"))
    return {number for first, last in ranges for number in range(int(first), int(last) + 1)}


def coefficients(schedule: Schedule) -> dict[str, Any]:
    """Convert a schedule to a JSON object."""
    numbers = {name: getattr(schedule, name).tolist() for name in ("sigma", "drift", "diffusion")}
    # Only flags that are set are written: folders of earlier versions have none of them.
    kept = {name: True for name in KEPT if getattr(schedule, name)}
    return {"name": schedule.name, "calls": len(schedule)} | numbers | kept


def batch_size(crystals: int, most: int, processes: int) -> int:
    """Choose the size of a batch: at most `most`, and such that several processes have equally many batches."""
    if processes == 1 or crystals == 0:
        return most
    rounds = math.ceil(crystals / (most * processes))
    return math.ceil(crystals / (rounds * processes))


def consecutive(numbers: list[int], most: int) -> Iterator[range]:
    """Cut ascending numbers into runs without gaps, of at most `most` each."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1 or end - start == most:
            yield range(numbers[start], numbers[end - 1] + 1)
            start = end


def _frames(
    model: CDVAE, args: argparse.Namespace, schedule: Schedule, prior: LatentPrior, runs: list[range]
) -> Iterator[DenoisingFrame]:
    settings: dict[str, Any] = {"seed": args.seed, "sampler": schedule, "prior": prior, "compile": bool(args.compile)}
    for run in runs:
        yield from denoise(model, n=len(run), first_number=run[0], **settings)


def _with_retries(
    model: CDVAE, args: argparse.Namespace, schedule: Schedule, prior: LatentPrior, runs: list[range]
) -> Iterator[Decoded]:
    settings: dict[str, Any] = {
        "max_attempts": args.max_attempts,
        "tolerance": args.tolerance,
        "batch_size": args.batch_size,
    }
    settings |= {"seed": args.seed, "sampler": schedule, "compile": bool(args.compile)}
    for run in runs:
        z, atoms = draw(prior, args.seed, torch.tensor(run, device=model.device))
        yield from decode(model, z.to(model.lattice_mean.dtype), first_number=run[0], atomic_numbers=atoms, **settings)


def typical_distance(model: CDVAE, prior: LatentPrior) -> float:
    """Compute the typical latent distance of a crystal from a z drawn from its posterior, in standard deviations.

    A learned prior may draw from narrower posteriors.
    """
    if isinstance(prior, GivenFormula):
        prior = prior.prior
    share = prior.config.posterior_share if isinstance(prior, DiffusionPrior) else 1.0
    return share * model.config.latent_dim**0.5


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run into its folder, or refuse to mix its crystals with those of other settings.

    Raises:
        SettingError: naming the settings that differ.
    """
    path = folder / "settings.json"
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if other := [name for name, value in settings.items() if there.get(name) != value]:
            raise SettingError(f"{folder}: holds crystals made with another {', '.join(other)}; choose another --out")
        return
    with atomic_path(path, "the settings") as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
