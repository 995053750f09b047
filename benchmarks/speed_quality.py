"""Speed and quality of samplers: the time each takes to reconstruct the same crystals, match rate and RMSE.

    python -m benchmarks.speed_quality MODEL --data NAME --folder F --split val --limit 1000 --device cuda --out FOLDER
    python -m benchmarks.speed_quality --score FOLDER

The first command decodes with every setting and times it, into FOLDER/times.json and a file of crystals for each. It
needs no pymatgen, so it runs on a machine with a GPU and little else; settings that are measured already are skipped.
The second command matches the crystals with the true ones, prints a table and writes FOLDER/speed_quality.json and
FOLDER/speed_quality.html; with --pictures also light and dark pictures as PNG.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.sampler_flags import run, sampler_parser
from cdvae_lab.cli import arguments
from cdvae_lab.cli.generate import coefficients
from cdvae_lab.cli.reconstruct import device_name
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io import npz
from cdvae_lab.io.reconstructions import read_store, write_store
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.runtime.cuda_graphs import WARM_UP
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import NAMED
from cdvae_lab.training.checks import check_fits

SETTINGS = (
    *(f"renoising_{steps}" for steps in (25, 50, 100, 200)),
    *(f"ancestral_{steps}" for steps in (25, 50, 100, 200)),
    *(f"probability_flow_{steps}" for steps in (50, 100)),
    *(f"langevin_{steps}" for steps in (1, 2, 10)),
    "paper",
)
SETTLED = WARM_UP + 1  # calls after which a CUDA graph is captured


def setting(name: str) -> tuple[str, dict[str, Any]]:
    """Parse a name, such as "ancestral_50", "langevin_10" (steps per level), "ancestral_50_argmax", "preview".

    Raises:
        SettingError: for another name.
    """
    short = name.removesuffix("_argmax")
    types = {} if short == name else {"types": "argmax"}
    if short in NAMED:
        sampler, settings = NAMED[short]
        return sampler, settings | types
    sampler, _, number = short.rpartition("_")
    if not sampler or not number.isdecimal():
        raise SettingError(f"no setting {name!r}; give ancestral_50, langevin_10_argmax or {', '.join(NAMED)}")
    return sampler, {"steps_per_level" if sampler == "langevin" else "steps": int(number)} | types


def read_truth(options: argparse.Namespace, model: CDVAE) -> tuple[Crystals, list[str], str]:
    """Read the crystals to reconstruct, with their ids and a description."""
    if options.data.endswith(".npz"):
        crystals = npz.load(options.data)[: options.limit].trim()
        return crystals.to("cpu", torch.float32), [str(i) for i in range(len(crystals))], Path(options.data).stem
    dataset = arguments.read_data(options, options.data)
    check_fits(model, dataset)
    return dataset.crystals, list(dataset.ids), f"{dataset.name} ({dataset.split})"


def clock(device: torch.device) -> float:
    """Return the time in seconds once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def decode(
    model: CDVAE, crystals: Crystals, schedule: Schedule, first: int, compile: bool
) -> tuple[Crystals, float, float]:
    """Decode a batch, and return its crystals, the seconds without the start, and the measured seconds.

    The first calls of a run compile and capture a graph. The seconds without the start are extrapolated from the time
    of the later calls.
    """
    started = settled = clock(model.device)
    frame = None
    for frame in reconstruct(model, crystals, sampler=schedule, first_number=first, allow_unseen=True, compile=compile):
        if frame.step == SETTLED:
            settled = clock(model.device)
    ended = clock(model.device)
    assert frame is not None
    calls = len(schedule)
    return frame.crystals.to("cpu"), (ended - settled) * calls / (calls - SETTLED), ended - started


def measure(options: argparse.Namespace) -> None:
    """Decode with every setting that is not measured yet."""
    model = load(options.model, arguments.device(options))
    truth, ids, data = read_truth(options, model)
    batches = [range(i, min(i + options.batch_size, len(truth))) for i in range(0, len(truth), options.batch_size)]
    about = {"model": fingerprint(model), "data": data, "crystals": len(truth), "batch_size": options.batch_size}
    about |= {"compile": bool(options.compile), "device": device_name(model.device), "torch": str(torch.__version__)}
    path = options.out / "times.json"
    times = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"about": about, "settings": {}}
    if other := [name for name, value in about.items() if times["about"].get(name) != value]:
        raise SettingError(f"{path}: holds times with another {', '.join(other)}; choose another --out")
    wanted = {name: setting(name) for name in options.settings}
    schedules = {name: choose_schedule(model, sampler, **settings) for name, (sampler, settings) in wanted.items()}
    if short := [name for name, schedule in schedules.items() if len(schedule) <= 2 * SETTLED]:
        raise SettingError(f"{', '.join(short)}: too few calls to be timed; take more than {2 * SETTLED}")
    warm = False
    for name, schedule in schedules.items():
        store = options.out / f"{name}.safetensors"
        if name in times["settings"] and store.is_file():
            continue
        if not warm:
            for rows in (batches[0], batches[-1]):
                given = {"sampler": schedule, "allow_unseen": True, "compile": bool(options.compile)}
                frames = reconstruct(model, truth[rows].trim(), **given)
                for _ in itertools.islice(frames, SETTLED + 4):
                    pass
            warm = True
        parts, steady, whole = [], 0.0, 0.0
        for rows in batches:
            part, *seconds = decode(model, truth[rows].trim(), schedule, rows[0], bool(options.compile))
            parts.append(part)
            steady, whole = steady + seconds[0], whole + seconds[1]
        header = {"model": about["model"], "data": data, "ids": ids, "sampler": coefficients(schedule), "seed": 0}
        header |= {"sampled": False, "seconds": round(whole, 3), "device": about["device"]}
        write_store(store, truth, Crystals.cat(parts), header)
        sampler, settings = wanted[name]
        per_1000 = 1000 / len(truth)
        times["settings"][name] = {
            "sampler": sampler,
            "settings": settings,
            "calls": len(schedule),
            "seconds": steady * per_1000,
            "seconds_with_start": whole * per_1000,
        }
        write_json(path, times)
        sys.stdout.write(f"{name}: {len(schedule):,} calls, {steady * per_1000:.3g} s per 1,000 crystals\n")
        sys.stdout.flush()


def score(folder: Path, jobs: int) -> dict[str, Any]:
    """Match the decoded crystals with the true ones; settings that are scored already are skipped."""
    from cdvae_lab.metrics.reconstruction import reconstruction

    if not (folder / "times.json").is_file():
        raise SettingError(f"{folder / 'times.json'}: there is no such file; decode into this folder first, with --out")
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    path = folder / "speed_quality.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    rows: list[dict[str, Any]] = []
    for name, timed in times["settings"].items():
        row = {"setting": name, "device": times["about"]["device"]} | timed
        # Equal times mean the same run, so that its crystals are those that were scored.
        row = next((old for old in before if row.items() <= old.items()), row)
        if "match_rate" not in row:
            truth, predicted, _ = read_store(folder / f"{name}.safetensors")
            scored = reconstruction(truth, predicted, jobs=jobs)
            rate, n = scored.structure.match_rate, len(truth)
            rms = torch.tensor([value for value in scored.rms if value is not None], dtype=torch.float64)
            error = float(rms.std()) / len(rms) ** 0.5 if len(rms) > 1 else None
            sites = max(truth.num_sites, predicted.num_sites)
            types = [side.pad(sites).atomic_numbers.sort(1).values for side in (truth, predicted)]
            row |= {
                "match_rate": rate,
                "match_rate_error": (rate * (1 - rate) / n) ** 0.5,
                "rmse": scored.structure.rmse if len(rms) else None,
                "rmse_error": error,
                "match_rate_paper": scored.paper.match_rate,
                "same_composition": float((types[0] == types[1]).all(1).double().mean()),
            }
        rows.append(row)
        write_json(path, {"about": times["about"], "rows": rows})
    return {"about": times["about"], "rows": rows}


def table(measured: Mapping[str, Any]) -> str:
    """Format the rows as a Markdown table."""
    from cdvae_lab.figures.speed_quality import name_of

    device = measured["about"]["device"]
    lines = [
        f"| setting | network calls | seconds per 1,000 crystals, {device} | with the start | match rate | RMSE "
        "| match rate, the paper's criterion | same composition |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        words = row["setting"].replace("_argmax", ", types argmax").replace("_", " ")
        name = f"**{name_of(row)}**: {words}" if name_of(row) else words
        rmse = "none matched" if row["rmse"] is None else f"{row['rmse']:.4f}"
        rmse += "" if row["rmse_error"] is None else f" ± {row['rmse_error']:.4f}"
        lines.append(
            f"| {name} | {row['calls']:,} | {row['seconds']:.3g} | {row['seconds_with_start']:.3g} "
            f"| {100 * row['match_rate']:.2f} ± {100 * row['match_rate_error']:.2f} % | {rmse} "
            f"| {100 * row['match_rate_paper']:.2f} % | {100 * row['same_composition']:.2f} % |"
        )
    return "\n".join(lines)


def draw(measured: Mapping[str, Any], folder: Path, pictures: bool) -> None:
    """Write the figure as a page, and as pictures for light and dark pages."""
    from cdvae_lab.figures import speed_quality

    speed_quality(measured).write_html(folder / "speed_quality.html", include_plotlyjs=True)
    if pictures:
        from tools.pictures import photograph

        for theme in ("light", "dark"):
            photograph(speed_quality(measured, theme), folder / f"speed_quality_{theme}.png")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def work(options: argparse.Namespace) -> None:
    """Decode and time, or score a folder.

    Raises:
        SettingError: without a model, data or a folder.
    """
    if options.score is not None:
        measured = score(options.score, options.jobs)
        sys.stdout.write(table(measured) + "\n")
        draw(measured, options.score, options.pictures)
    elif None in (options.model, options.data, options.out):
        raise SettingError("give MODEL, --data and --out, or --score FOLDER")
    else:
        measure(options)


def main(argv: Sequence[str] | None = None) -> int:
    parser = sampler_parser("speed_quality", __doc__, 1024, "for times.json and the decoded crystals")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="NAME", help=(
        f"sampler and number, with _argmax for the most likely element at every site (default {' '.join(SETTINGS)})"
    ))  # fmt: skip
    parser.add_argument("--pictures", action="store_true", help="with --score: also PNG, which takes chromium")
    return run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
