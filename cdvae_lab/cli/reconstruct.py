"""`cdvae-lab reconstruct`: encode, decode, and compare; decoding and scoring may happen on different machines."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdvae_lab import datasets
from cdvae_lab.cli import arguments
from cdvae_lab.cli.generate import batch_size, coefficients
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, same_atoms
from cdvae_lab.errors import SettingError
from cdvae_lab.io.reconstructions import FIELDS, read_store, write_store
from cdvae_lab.metrics.reconstruction import ReconstructionScore
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.encodable import read_encodable
from cdvae_lab.models.latents import latents_of
from cdvae_lab.runtime.distributed import Processes
from cdvae_lab.sampling.calibration import SURE, UNLIKELY, calibration_of
from cdvae_lab.sampling.decoding import Decoded
from cdvae_lab.sampling.decoding import decode as decode_again
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.frames import progress
from cdvae_lab.sampling.reconstruction import reconstruct as decode_frames
from cdvae_lab.sampling.refinement import latent_distance
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import RESTART_SIGMAS
from cdvae_lab.training.checks import check_fits


def run(args: argparse.Namespace) -> int:
    """Run `cdvae-lab reconstruct` with parsed flags and return the exit code."""
    if args.score is not None:
        if args.model is not None or args.decode_only is not None:
            raise SettingError("--score: compares stored crystals; give no MODEL, SOURCE or --decode-only with it")
        return score(args.score, args.out or args.score.with_suffix(".csv"), args.jobs, args.json)
    if args.max_attempts < 1 or args.refine < 0:
        raise SettingError(
            f"--max-attempts must be at least 1 and --refine at least 0, not {args.max_attempts} and {args.refine}"
        )
    if args.restart_sigmas is not None and (args.max_attempts < 2 or not min(args.restart_sigmas) > 0):
        raise SettingError("--restart-sigmas takes noise levels above 0 Å, and needs --max-attempts of at least 2")
    if args.reject_above is not None and not args.reject_above >= 0:
        raise SettingError(f"--reject-above must be at least 0, not {args.reject_above}")
    if args.model is None or not args.source:
        raise SettingError("give a MODEL and at least one SOURCE, or --score FILE")
    out = args.out or Path("reconstruction.csv")
    store = args.decode_only or args.save_crystals or out.with_suffix(".safetensors")
    with arguments.processes(args) as processes:
        decode(args, store, processes)
    return score(store, out, args.jobs, args.json) if processes.first and not args.decode_only else 0


def decode(args: argparse.Namespace, store: Path, processes: Processes) -> None:
    """Encode and decode, batch by batch; crystals that `store` holds are not decoded again."""
    model = load(args.model, arguments.device(args, processes))
    schedule = arguments.schedule(args, model)
    truth, ids, data = read_crystals(args, model, processes)
    about = {"model": fingerprint(model), "data": data, "ids": ids, "sampler": coefficients(schedule)}
    about |= {"seed": args.seed, "sampled": args.sampled}
    if checks(args):
        about |= {"max_attempts": args.max_attempts, "tolerance": args.tolerance}
    if args.restart_sigmas is not None:
        about |= {"restart_sigmas": [f"{sigma:g}" for sigma in args.restart_sigmas]}  # JSON has no infinity
    if args.refine:
        about |= {"refine": args.refine}
    if args.reject_above is not None:
        about |= {"reject_above": args.reject_above}
    parts: list[Crystals] = []
    distances: list[float | None] = []
    seconds = 0.0
    if store.is_file():
        _, before, there = read_store(store)
        if other := [name for name, value in about.items() if there.get(name) != value]:
            raise SettingError(f"{store}: holds crystals decoded with another {', '.join(other)}; choose another file")
        parts, seconds = [before], there["seconds"]
        distances = latent_distances(there, len(before))
    done = sum(map(len, parts))
    size = batch_size(len(truth) - done, args.batch_size, processes.size)
    # In every round each process decodes a batch; at the end some may have none left.
    rounds = [
        [range(len(truth))[start + rank * size :][:size] for rank in range(processes.size)]
        for start in range(done, len(truth), size * processes.size)
    ]
    steps = _with_retries if checks(args) else _frames
    frames = steps(model, args, schedule, truth, [batches[processes.rank] for batches in rounds])
    if processes.first:
        frames = progress(frames, runs=len(rounds))
    started = time.monotonic()
    for batches in rounds:
        frame = next(f for f in frames if f.finished) if batches[processes.rank] else None
        decoded = truth[:0] if frame is None else frame.crystals.to("cpu")
        parts.append(_of_all(decoded, batches, model.config.max_atoms, processes))
        distances += _distances(model, frame, batches, processes)
        if not processes.first:
            continue
        predicted = Crystals.cat(parts)
        parts = [predicted]
        seconds_so_far = round(seconds + time.monotonic() - started, 2)
        about |= {"seconds": seconds_so_far, "device": device_name(model.device), "latent_distance": distances}
        write_store(store, truth, predicted, about)


def checks(args: argparse.Namespace) -> bool:
    """True if decoded crystals are encoded again, to be compared with their z."""
    return args.max_attempts > 1 or args.refine > 0 or args.reject_above is not None


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _of_all(mine: Crystals, batches: list[range], sites: int, processes: Processes) -> Crystals:
    """Gather the crystals that every process decoded of its batch, in order."""
    if processes.size == 1:
        return mine
    padded = mine.pad(sites)
    return Crystals(*(_gathered(getattr(padded, name), batches, processes) for name in FIELDS)).trim()


def _distances(
    model: CDVAE, frame: DenoisingFrame | Decoded | None, batches: list[range], processes: Processes
) -> list[float | None]:
    """Gather the latent distances of the crystals that every process decoded, in order; None for infinite ones."""
    if frame is None:
        mine = torch.zeros(0, dtype=model.lattice_mean.dtype)
    elif isinstance(frame, Decoded):
        mine = frame.distance.cpu()
    else:
        mine = latent_distance(model, frame.crystals, frame.z).cpu()
    found = _gathered(mine, batches, processes).tolist()
    return [value if math.isfinite(value) else None for value in found]


def _gathered(mine: Tensor, batches: list[range], processes: Processes) -> Tensor:
    """Gather the rows that every process has of its batch, in order; rows are padded to be sent."""
    if processes.size == 1:
        return mine
    of_all = processes.gather(torch.cat([mine, mine.new_zeros(len(batches[0]) - len(mine), *mine.shape[1:])]))
    return torch.cat([rows[: len(batch)] for rows, batch in zip(of_all, batches, strict=True)])


def read_crystals(args: argparse.Namespace, model: CDVAE, processes: Processes) -> tuple[Crystals, list[str], str]:
    """Read the crystals that `args.source` names, with their ids and a description."""
    source = args.source[0]
    if len(args.source) == 1 and (
        source in (*datasets.PUBLIC, datasets.SYNTHETIC)
        or Path(source).is_dir()
        or source.endswith((".csv", ".csv.gz"))
    ):
        dataset = arguments.read_data(args, source, processes=processes)
        check_fits(model, dataset)
        if processes.first:
            print(dataset.summary(), file=sys.stderr)
        return dataset.crystals, list(dataset.ids), f"{dataset.name} ({dataset.split})"
    parts = [read_encodable(model, path).to("cpu") for path in args.source]
    ids = [
        Path(path).name + (f" {i}" if len(part) > 1 else "")
        for path, part in zip(args.source, parts, strict=True)
        for i in range(len(part))
    ]
    return Crystals.cat(parts), ids, "files"


def _frames(
    model: CDVAE, args: argparse.Namespace, schedule: Schedule, truth: Crystals, batches: list[range]
) -> Iterator[DenoisingFrame]:
    for batch in filter(None, batches):
        yield from decode_frames(
            model,
            truth[batch.start : batch.stop].trim(),
            sampled=args.sampled,
            seed=args.seed,
            sampler=schedule,
            first_number=batch.start,
            allow_unseen=True,
            compile=bool(args.compile),
        )


def _with_retries(
    model: CDVAE, args: argparse.Namespace, schedule: Schedule, truth: Crystals, batches: list[range]
) -> Iterator[Decoded]:
    for batch in filter(None, batches):
        crystals = truth[batch.start : batch.stop].trim()
        drawn = {"sampled": args.sampled, "seed": args.seed, "first_number": batch.start}
        for state in decode_again(
            model,
            latents_of(model, crystals, allow_unseen=True, **drawn),
            max_attempts=args.max_attempts,
            tolerance=args.tolerance,
            restart_sigmas=args.restart_sigmas or RESTART_SIGMAS,
            refine_steps=args.refine,
            seed=args.seed,
            sampler=schedule,
            first_number=batch.start,
            batch_size=args.batch_size,
            compile=bool(args.compile),
        ):
            if state.finished and args.reject_above is not None:
                # Without positions a crystal is invalid, and matches nothing.
                there = (state.distance <= args.reject_above)[:, None, None]
                frac_coords = torch.where(there, state.crystals.frac_coords, torch.nan)
                state = replace(state, crystals=state.crystals.replace(frac_coords=frac_coords))
            yield state


def score(store: Path, out: Path, jobs: int, as_json: bool = False) -> int:
    """Compare every decoded crystal, writing a line of the table for each as it comes; then the summary."""
    from tqdm.auto import tqdm

    from cdvae_lab.metrics import reconstruction as metric
    from cdvae_lab.metrics.validity import composition_validity, structure_validity

    truth, predicted, about = read_store(store)
    if missing := len(truth) - len(predicted):
        print(f"{store}: {missing:,} crystals are not decoded yet; comparing the others", file=sys.stderr)
    truth = truth[: len(predicted)]
    columns = [
        about["ids"],
        reduced_formulas(truth),
        reduced_formulas(predicted),
        structure_validity(predicted).tolist(),
        composition_validity(predicted).tolist(),
    ]
    distances = latent_distances(about, len(predicted))
    expected = probabilities(truth, predicted, distances, about)
    rms: list[float | None] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([
            "id", "formula", "decoded", "structure_valid", "composition_valid", "matched", "rms", "latent_distance",
            "match_probability",
        ])  # fmt: skip
        matches = metric.match(truth, predicted, jobs=jobs)
        for i, value in tqdm(matches, total=len(predicted), unit="crystal", desc="comparing", dynamic_ncols=True):
            found = ["" if one is None else f"{one:.5f}" for one in (value, distances[i], expected[i])]
            table.writerow([*(c[i] for c in columns), value is not None, *found])
            file.flush()
            rms.append(value)
    announce(about["ids"][: len(expected)], expected)
    scored = metric.score(truth, predicted, rms)
    if as_json:
        settings = {name: about[name] for name in about if name not in ("ids", "latent_distance")}
        print(json.dumps({"settings": settings, **summary(scored)}, indent=2))
        return 0
    z, sampler = "sampled z" if about["sampled"] else "posterior mean", about["sampler"]
    attempts = f"at most {about['max_attempts']} attempts, " if "max_attempts" in about else ""
    attempts += f"those above {about['reject_above']:g} rejected, " if "reject_above" in about else ""
    attempts += f"refined by {about['refine']} steps, " if "refine" in about else ""
    print(
        f"{about['data']}: {len(predicted):,} crystals from the {z}, {sampler['name']} sampler, {sampler['calls']:,} "
        f"calls, {attempts}decoded in {about['seconds']:,.1f} s on {about['device']}"
    )
    print(scored.table())
    return 0


def probabilities(
    truth: Crystals, predicted: Crystals, distances: Sequence[float | None], about: dict[str, Any]
) -> list[float | None]:
    """Estimate from the latent distances how likely each crystal matches; None where the model has no curve for it."""
    curve = calibration_of(about["model"], refined=about.get("refine", 0) > 0)
    if curve is None or about["sampled"]:
        return [None] * len(predicted)
    known = torch.tensor([math.inf if value is None else value for value in distances])
    kept = same_atoms(truth.atomic_numbers, predicted.atomic_numbers)  # another composition never matches
    return (curve(known) * kept).tolist()


def latent_distances(about: dict[str, Any], n: int) -> list[float | None]:
    """Read the latent distances of n stored crystals; None for infinite ones, and in files of 0.1, which have none."""
    return about.get("latent_distance", [None] * n)


def announce(ids: Sequence[str], expected: Sequence[float | None]) -> None:
    """Say which crystals the model itself does not expect to come back, and of which it is not sure."""
    for text, least, below in (
        ("far from what the model knows, so that a match is unlikely", 0.0, UNLIKELY),
        ("a match is uncertain", UNLIKELY, SURE),
    ):
        found = [one for one, value in zip(ids, expected, strict=True) if value is not None and least <= value < below]
        if found:
            few = ", ".join(found[:5]) + (f" and {len(found) - 5:,} more" if len(found) > 5 else "")
            print(f"{text} (match_probability below {below:g}): {few}", file=sys.stderr)


def summary(scored: ReconstructionScore) -> dict[str, dict[str, Any]]:
    """Return the scores by both criteria as a JSON object; without matches there is no RMSE."""
    rows = {"structure": scored.structure, "paper": scored.paper}
    return {
        name: {
            "crystals": one.crystals,
            "matched": one.matched,
            "match_rate": one.matched / one.crystals,
            "rmse": one.rmse if one.matched else None,
            "ceiling": one.ceiling,
        }
        for name, one in rows.items()
    }
