"""Comparison of samplers on the same crystals: how many encode back to their z, match rate and RMSE.

    python -m benchmarks.sampler_comparison MODEL --data NAME --split val --limit 600 --device cuda --out FOLDER
    python -m benchmarks.sampler_comparison --score FOLDER --rows 200
    python -m benchmarks.sampler_comparison --figure TABLE.csv --out FOLDER

The first command decodes the crystals from their posterior mean with every setting of a plan, into a file of crystals
each. It needs no pymatgen, so that it runs where the GPU is; settings that are already there are skipped. The second
matches the decoded crystals with the true ones, prints a table and writes FOLDER/samplers.csv. The third draws such a
table, as light and dark pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.sampler_flags import run, sampler_parser
from benchmarks.speed_quality import clock, read_truth
from cdvae_lab.cli import arguments
from cdvae_lab.cli.generate import coefficients
from cdvae_lab.cli.reconstruct import device_name
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io.reconstructions import read_store, write_store
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.latents import latents_of
from cdvae_lab.models.noise import dense_levels, geometric_levels
from cdvae_lab.sampling.decoding import decode
from cdvae_lab.sampling.frames import last
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import TYPES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from cdvae_lab.figures.style import Theme

RHO = 7.0  # Karras et al. 2022, eq. 5
LEVELS = ("geometric", "dense", "rho")
NEAR = 0.1  # RMS in (volume / atom)^(1/3) below which a match is certainly the same arrangement
DISTANCES = (1, 2, 4)  # standard deviations of the posterior
# Series of the figure: name, sampler, levels, symbol and number of the color.
SERIES = (
    ("renoising, dense levels", "renoising", "dense", "circle", 2),
    ("renoising", "renoising", "geometric", "square", 0),
    ("Langevin", "Langevin", "geometric", "diamond", 1),
    ("ancestral", "ancestral", "geometric", "triangle-up", 3),
)


@dataclass(frozen=True)
class Setting:
    """Sampler of a plan, with its settings.

    Attributes:
        calls: of the network in an attempt.
        share: of the next level's noise that is newly drawn: 0 is ancestral sampling, 1 renoising; None is annealed
            Langevin dynamics.
        levels: how the noise levels are spaced: "geometric", "dense" between 1 and 0.1 Å, or "rho" (Karras et al.).
        types: "assigned" or "argmax", as of every sampler.
        max_attempts, refine_steps: as of `decode`.

    Raises:
        SettingError: for a setting out of range.
    """

    calls: int
    share: float | None = 1.0
    levels: str = "geometric"
    types: str = "assigned"
    max_attempts: int = 1
    refine_steps: int = 0

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share <= 1:
            raise SettingError(f"share is from 0 to 1, or null for Langevin dynamics, not {self.share}")
        if self.levels not in LEVELS or self.types not in TYPES:
            raise SettingError(
                f"levels is one of {', '.join(LEVELS)} and types one of {', '.join(TYPES)}, not {self.levels!r} and "
                f"{self.types!r}"
            )
        if self.share is None and self.levels != "geometric":
            raise SettingError("Langevin dynamics has geometric levels; leave levels out")

    @property
    def sampler(self) -> str:
        """Name of the sampler."""
        named = {None: "Langevin", 0: "ancestral", 1: "renoising"}
        return named.get(self.share, f"renoising in part, {self.share}")

    @property
    def file(self) -> str:
        """Name of the file with the decoded crystals."""
        return "_".join(f"{key}={value}" for key, value in asdict(self).items()) + ".safetensors"

    def schedule(self, config: CDVAEConfig) -> Schedule:
        """Make the schedule for a model's noise levels.

        Raises:
            SettingError: for a number of calls that the sampler cannot have.
        """
        if self.share is None:
            per_level, rest = divmod(self.calls - 1, config.num_levels)
            if rest or not per_level:
                raise SettingError(
                    f"Langevin dynamics takes a multiple of {config.num_levels} calls, and one: not {self.calls}"
                )
            made = Schedule.langevin(config, per_level)
        else:
            made = partial_renoising(noise_levels(config, self.calls, self.levels), self.share)
        return replace(made, keep_composition=self.types == "assigned")


def default_plan() -> list[Setting]:
    """Return the settings of the tables in docs/results/samplers.md."""
    calls = (25, 50, 100, 200, 500)
    plan = [Setting(n, share) for n in calls for share in (0.0, 1.0)]
    return plan + [Setting(n, 1.0, "dense") for n in calls] + [Setting(n, None) for n in (51, 101, 201, 501)]


def read_plan(path: Path) -> list[Setting]:
    """Read a plan: a JSON list of objects with the fields of `Setting`.

    Raises:
        SettingError: for a file that is none; names the entry.
    """
    known = {field.name for field in fields(Setting)}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as JSON ({error}); give a list of settings") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SettingError(f'{path}: is no list of objects such as {{"calls": 200, "share": 1}}')
    for number, entry in enumerate(entries, 1):
        if set(entry) - known or not isinstance(entry.get("calls"), int):
            raise SettingError(f"{path}, entry {number}: needs calls and may have {', '.join(sorted(known))}: {entry}")
    return [Setting(**entry) for entry in entries]


def noise_levels(config: CDVAEConfig, n: int, spacing: str) -> Float[Tensor, " n"]:
    """Return n decreasing noise levels from a model's largest to its smallest, Å (float64).

    Raises:
        SettingError: for too few levels.
    """
    if n < 2:
        raise SettingError(f"noise levels need at least 2 calls, not {n}")
    high, low = config.sigma_max, config.sigma_min
    if spacing == "geometric":
        return geometric_levels(high, low, n)
    if spacing == "rho":
        ends = high ** (1 / RHO), low ** (1 / RHO)
        return torch.linspace(*ends, n, dtype=torch.float64) ** RHO
    return dense_levels(high, low, n)


def partial_renoising(sigma: Float[Tensor, " steps"], share: float) -> Schedule:
    """Create the schedule that draws a share of the next level's noise again at every step and keeps the rest.

    With c the share, r = sigma_(i+1) / sigma_i and x0 = x + sigma_i^2 score, a step is
    x <- x0 + sqrt(1 - c) r^2 (x - x0) + sigma_(i+1) sqrt(1 - (1 - c) r^2) eps,
    so that c = 0 is ancestral sampling and c = 1 `Schedule.renoising`. The last step adds no noise.
    """
    now, following = sigma[:-1], sigma[1:]
    drift = now**2 - (1 - share) ** 0.5 * following**2
    diffusion = following * (1 - (1 - share) * (following / now) ** 2).sqrt()
    end = sigma[-1:]
    return Schedule("partial renoising", sigma, torch.cat([drift, end**2]), torch.cat([diffusion, 0 * end]))


def measure(options: argparse.Namespace) -> None:
    """Decode with every setting of the plan that is not in the folder yet."""
    plan = default_plan() if options.plan is None else read_plan(options.plan)
    model = load(options.model, arguments.device(options))
    schedules = [setting.schedule(model.config) for setting in plan]
    truth, ids, data = read_truth(options, model)
    z = torch.cat([latents_of(model, part, allow_unseen=True) for part in _parts(truth, options.batch_size)])
    about = {
        "name": Path(options.model).stem,
        "model": fingerprint(model),
        "data": data,
        "ids": ids,
        "device": device_name(model.device),
    }
    for setting, schedule in zip(plan, schedules, strict=True):
        path = options.out / setting.file
        if path.is_file():
            before = read_store(path)[2]
            if other := [name for name, value in about.items() if before.get(name) != value]:
                raise SettingError(f"{path}: was decoded with another {', '.join(other)}; choose another --out")
            continue
        found = _decoded(model, z, setting, schedule, options)
        write_store(path, truth, found.pop("crystals"), about | found | {"setting": asdict(setting)})
        near = sum(distance < 2 for distance in found["distance"]) / len(truth)
        sys.stdout.write(f"{setting.sampler}, {setting.calls} calls: {100 * near:.1f} % below a distance of 2\n")
        sys.stdout.flush()


def _parts(crystals: Crystals, size: int) -> Iterator[Crystals]:
    for part in torch.arange(len(crystals)).split(size):
        yield crystals[part].trim()


def _decoded(
    model: CDVAE, z: Tensor, setting: Setting, schedule: Schedule, options: argparse.Namespace
) -> dict[str, Any]:
    """Decode once, and return the crystals and the seconds."""
    started = clock(model.device)
    state = last(decode(
        model, z, sampler=schedule, max_attempts=setting.max_attempts, refine_steps=setting.refine_steps,
        batch_size=options.batch_size, compile=bool(options.compile),
    ))  # fmt: skip
    return {
        "crystals": state.crystals.to("cpu"),
        "distance": [round(value, 4) for value in state.distance.tolist()],
        "attempts": state.attempts.tolist(),
        "seconds": round(clock(model.device) - started, 3),
        "sampler": coefficients(schedule),
        "made": time.strftime("%Y-%m-%d"),
    }


def score(folder: Path, rows: int | None, jobs: int) -> list[dict[str, Any]]:
    """Match the decoded crystals with the true ones, and write FOLDER/samplers.csv.

    Raises:
        SettingError: without decoded crystals.
    """
    paths = sorted(folder.glob("calls=*.safetensors"))
    if not paths:
        raise SettingError(f"{folder}: holds no decoded crystals; decode into this folder first, with --out")
    scored = [_scored(path, rows, jobs) for path in paths]
    scored.sort(key=lambda row: (row["max_attempts"], row["calls"] // 10, row["sampler"], row["levels"]))
    with atomic_path(folder / "samplers.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(scored[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(scored)
    return scored


def _scored(path: Path, rows: int | None, jobs: int) -> dict[str, Any]:
    """Score one file: latent distances and compositions of all crystals, match rate and RMSE of the first `rows`."""
    from cdvae_lab.metrics.reconstruction import reconstruction

    truth, predicted, about = read_store(path)
    setting = Setting(**about["setting"])
    distance = torch.tensor(about["distance"], dtype=torch.float64)
    sites = max(truth.num_sites, predicted.num_sites)
    types = [side.pad(sites).atomic_numbers.sort(1).values for side in (truth, predicted)]
    found = reconstruction(truth[:rows], predicted[:rows], jobs=jobs)
    rms = torch.tensor([value for value in found.rms if value is not None], dtype=torch.float64)
    n, rate = found.structure.crystals, found.structure.match_rate
    row: dict[str, Any] = {"model": about["name"], "data": about["data"], "crystals": len(truth)}
    row |= {"sampler": setting.sampler} | asdict(setting)
    row |= {"mean_attempts": sum(about["attempts"]) / len(truth)}
    row |= {"seconds_per_1000": 1000 * about["seconds"] / len(truth)}
    row |= {f"distance_below_{limit}": float((distance < limit).double().mean()) for limit in DISTANCES}
    row |= {
        "composition_exact": float((types[0] == types[1]).all(1).double().mean()),
        "compared": n,
        "match_rate": rate,
        "match_rate_error": (rate * (1 - rate) / n) ** 0.5,
        "rmse": float(rms.mean()) if len(rms) else None,
        "rmse_error": float(rms.std()) / len(rms) ** 0.5 if len(rms) > 1 else None,
        "rms_below_0.1": int((rms < NEAR).sum()) / n,
        "device": about["device"],
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format scores as a Markdown table."""
    lines = [
        "| calls | sampler | attempts | latent distance below 2 / 4, % | match rate, % | RMSE | RMS below 0.1, % "
        "| composition exact, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["sampler"] + ("" if row["levels"] == "geometric" else f", {row['levels']}")
        name += ", argmax" * (row["types"] == "argmax") + f", refined {row['refine_steps']}" * bool(row["refine_steps"])
        near = " / ".join(f"{100 * row[f'distance_below_{limit}']:.0f}" for limit in (2, 4))
        rmse = "none matched" if row["rmse"] is None else f"{row['rmse']:.3f}"
        lines.append(
            f"| {row['calls']} | {name} | {row['mean_attempts']:.3g} | {near} "
            f"| {100 * row['match_rate']:.1f} ± {100 * row['match_rate_error']:.1f} | {rmse} "
            f"| {100 * row['rms_below_0.1']:.1f} | {100 * row['composition_exact']:.1f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, str]], theme: Theme = "light") -> Figure:
    """Draw the share of crystals at a latent distance below 2 over the calls; bars are one standard error.

    Args:
        rows: of a table that `score` wrote, as csv reads them; those of one attempt with assigned elements are drawn,
            with a panel for each model and data set that has two or more rows of every sampler.
        theme: "light" or "dark".

    Raises:
        SettingError: if there is no such panel.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    from cdvae_lab.figures.style import THEMES, dress

    shown = [row for row in rows if row["types"] == "assigned" and row["max_attempts"] == "1"]
    panels: dict[tuple[str, str], list[dict[int, Mapping[str, str]]]] = {}
    for model, data in dict.fromkeys((row["model"], row["data"]) for row in shown):
        # The first of several rows of the same calls.
        series = [
            {
                int(row["calls"]): row
                for row in reversed(shown)
                if (row["model"], row["data"], row["sampler"], row["levels"]) == (model, data, sampler, levels)
            }
            for _, sampler, levels, *_ in SERIES
        ]
        if min(map(len, series)) > 1:
            panels[model, data] = series
    if not panels:
        raise SettingError("the table has no data set with two or more rows of every sampler that is drawn")
    figure = make_subplots(
        1, len(panels), subplot_titles=[data for _, data in panels], horizontal_spacing=0.05, shared_yaxes=True
    )
    palette = THEMES[theme]
    for column, series in enumerate(panels.values(), 1):
        for (name, _, _, symbol, color), mine in zip(SERIES, series, strict=True):
            calls = sorted(mine)
            shares = [float(mine[n]["distance_below_2"]) for n in calls]
            errors = [100 * (p * (1 - p) / int(mine[n]["crystals"])) ** 0.5 for p, n in zip(shares, calls, strict=True)]
            figure.add_trace(
                Scatter(
                    x=calls, y=[100 * p for p in shares], name=name,
                    mode="lines+markers", legendgroup=name, showlegend=column == 1,
                    error_y={"array": errors, "thickness": 1, "width": 3},
                    line={"color": palette.series[color], "width": 2}, marker={"symbol": symbol, "size": 9},
                ), 1, column,
            )  # fmt: skip
    dress(figure, theme, 420)
    ticks = [25, 50, 100, 200, 500]
    figure.update_xaxes(
        type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks], title={"text": "network calls"}
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title={"text": "latent distance below 2 (% of crystals)"}, col=1)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1.12, "yanchor": "bottom"}, margin={"t": 90, "b": 60})
    return figure


def work(options: argparse.Namespace) -> None:
    """Decode with every setting, score a folder, or draw a table.

    Raises:
        SettingError: without a model, data or a folder.
    """
    if options.score is not None:
        sys.stdout.write(table(score(options.score, options.rows, options.jobs)) + "\n")
    elif options.figure is not None and options.out is not None:
        picture(options.figure, options.out)
    elif None in (options.model, options.data, options.out):
        raise SettingError("give MODEL, --data and --out; or --score FOLDER; or --figure TABLE and --out")
    else:
        measure(options)


def main(argv: Sequence[str] | None = None) -> int:
    parser = sampler_parser("sampler_comparison", __doc__, 256, "for the decoded crystals, or the pictures")
    parser.add_argument("--plan", type=Path, metavar="FILE", help=(
        'JSON list of settings such as {"calls": 200, "share": 0.3, "levels": "dense"} (default: the documented table)'
    ))  # fmt: skip
    parser.add_argument("--rows", type=int, metavar="N", help="with --score: match the first N crystals (default: all)")
    parser.add_argument("--figure", type=Path, metavar="TABLE", help="only draw a table, which takes chromium")
    return run(parser, argv, work)


def picture(path: Path, folder: Path) -> None:
    """Draw a table as samplers_light.png and samplers_dark.png."""
    from tools.pictures import photograph

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for theme, figure in {"light": draw(rows), "dark": draw(rows, "dark")}.items():
        photograph(figure, folder / f"samplers_{theme}.png")


if __name__ == "__main__":
    sys.exit(main())
