"""Report of generated crystals: one page, `index.html`, and one screen of text, `summary.txt`."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

import cdvae_lab
from cdvae_lab import render
from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import symbol_of
from cdvae_lab.crystals.formulas import density, reduced_formulas, to_html
from cdvae_lab.io import convert
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.metrics.distances import closest_distance, closest_pair
from cdvae_lab.metrics.validity import composition_validity, invalid_reasons, structure_validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.pages.shell import Markup, data_uri, definitions, element, page, write_page
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory

MOST_PICTURES = 60  # on the page
MOST_ROWS = 16  # of the summary: one screen
FILM_FRAMES = 48


@dataclass(frozen=True)
class Facts:
    """Facts about one crystal that the report shows.

    Attributes:
        formula: reduced, as `cdvae_lab.crystals.formulas` writes it.
        lengths, angles: Å and degrees.
        density: g/cm^3.
        distance, pair: closest distance between two atoms, an atom and its own periodic images included, Å, and their
            elements; NaN and empty for an impossible cell.
        structure_valid, composition_valid: the two tests of `metrics.validity`.
        reason: why the crystal is invalid; None for a valid one.
        cif: text of its CIF file; empty if the crystal cannot be written.
    """

    formula: str
    lengths: tuple[float, ...]
    angles: tuple[float, ...]
    density: float
    distance: float
    pair: str
    structure_valid: bool
    composition_valid: bool
    reason: str | None
    cif: str


def facts(crystals: Crystals) -> list[Facts]:
    """Compute the facts about each crystal."""
    from pymatgen.io.cif import CifWriter

    crystals = crystals.to("cpu", torch.float64)
    usable = convert.is_usable(crystals)
    structures = iter(convert.to_structures(crystals[usable]) if usable.any() else [])
    lengths, angles = lat.to_parameters(crystals.lattice)
    names, densities = reduced_formulas(crystals), density(crystals).tolist()
    distances = closest_distance(crystals).tolist()
    checks = structure_validity(crystals).tolist(), composition_validity(crystals).tolist(), invalid_reasons(crystals)
    found = []
    for i, numbers in enumerate(crystals.atomic_numbers.tolist()):
        numbers = [number for number in numbers if number]
        symbols = [symbol_of(number) for number in numbers]
        cif, pair = "", ""
        if not math.isnan(distances[i]):
            first, second = closest_pair(crystals[i])
            pair = f"{symbols[first]}–{symbols[second]}"
        if usable[i]:
            cif = str(CifWriter(next(structures)))
        found.append(
            Facts(
                names[i],
                tuple(lengths[i].tolist()),
                tuple(angles[i].tolist()),
                densities[i],
                distances[i],
                pair,
                checks[0][i],
                checks[1][i],
                checks[2][i],
                cif,
            )
        )
    return found


def write_report(
    folder: str | Path,
    model: CDVAE,
    run: DenoisingFrame | Trajectory,
    *,
    which: int = 0,
    seconds: float | int | None = None,
    name: str | None = None,
) -> Path:
    """Write `index.html` and `summary.txt` on the crystals at the end of a run; returns the page's path.

    Args:
        folder: created if it does not exist.
        model: the model that made the crystals.
        run: the last frame, or a whole trajectory: then the page also has an animation of one crystal.
        which: number of that crystal.
        seconds: time that the run took.
        name: name of the model in the title; by default that of its data.

    Raises:
        LabError: if a file cannot be written.
        IndexError: if there is no crystal `which`.
    """
    frame = run[-1] if isinstance(run, Trajectory) else run
    crystals = frame.crystals.to("cpu")
    found = facts(crystals)
    name = name or f"a CDVAE trained on {model.metadata.get('data', {}).get('name', 'crystals')}"
    film = _film(run, which) if isinstance(run, Trajectory) else None
    text = _page(name, crystals, found, _made(model, frame, seconds), film)
    write_page(Path(folder) / "index.html", text, "the report")
    with atomic_path(Path(folder) / "summary.txt", "the summary") as temporary:
        temporary.write_text(summary(name, found, _made(model, frame, seconds)), encoding="utf-8")
    return Path(folder) / "index.html"


def _made(model: CDVAE, frame: DenoisingFrame, seconds: float | int | None) -> list[tuple[str, str]]:
    """List how the crystals were made, as pairs of a name and a text."""
    about = model.metadata
    data = about.get("data", {})
    rows = [("sampler", f"{frame.schedule.name.replace('_', ' ')}, {frame.num_steps:,} network calls")]
    if not frame.finished:
        rows.append(("stopped", f"after {frame.step:,} of them, at a noise of {frame.sigma:.3g} Å"))
    rows.append(("seed", str(frame.seed)))
    if seconds is not None:
        rows.append(("time", f"{seconds:.1f} s on {frame.z.device.type}"))
    if data:
        rows.append(
            ("trained on", f"{data['name']} ({data['split']}), {data['crystals']:,} crystals: {data['source']}")
        )
        rows.append(("license", f"of the data: {data['license']}"))
    if "steps" in about:
        rows.append(("training", f"{about['steps']:,} steps in {about.get('seconds', 0):,.0f} s"))
    rows += [("score", score) for score in about.get("scores", [])]
    return [*rows, ("made with", f"cdvae_lab {cdvae_lab.__version__}")]


def summary(name: str, found: list[Facts], made: list[tuple[str, str]]) -> str:
    """Format the summary, one screen of text."""
    lines = [f"{len(found)} crystals from {name}", ""]
    lines.append(
        f"{'':>4} {'formula':<14} {'a, b, c / Å':^20} {'angles / °':^17} {'g/cm³':>6} {'closest / Å':>15}  "
        f"{'structure':<9}  composition"
    )
    for i, one in enumerate(found[:MOST_ROWS]):
        cell = " ".join(f"{x:6.2f}" for x in one.lengths)
        angles = " ".join(f"{x:5.1f}" for x in one.angles)
        closest = f"{one.pair} {one.distance:.2f}"
        checks = ("valid" if ok else "not valid" for ok in (one.structure_valid, one.composition_valid))
        structure, composition = checks
        lines.append(
            f"{i:>4} {one.formula:<14} {cell} {angles} {one.density:>6.2f} {closest:>15}  {structure:<9}  {composition}"
        )
    if len(found) > MOST_ROWS:
        lines.append(f"     and {len(found) - MOST_ROWS} more in index.html")
    lines += ["", "   ".join(f"{value} {label}" for value, label in _totals(found)), ""]
    width = max(len(key) for key, _ in made)
    lines += [f"{key:<{width}}  {text if len(text) <= 100 else text[:99] + '…'}" for key, text in made]
    return "\n".join(lines) + "\n"


def _totals(found: list[Facts]) -> list[tuple[str, str]]:
    structure, composition = (sum(getattr(f, k) for f in found) for k in ("structure_valid", "composition_valid"))
    return [
        (str(len({f.formula for f in found})), "different formulas"),
        (f"{structure / len(found):.0%}", "structure valid"),
        (f"{composition / len(found):.0%}", "composition valid"),
    ]


def _film(trajectory: Trajectory, which: int) -> Markup:
    """Animation of one crystal from noise, for light and dark."""
    film = trajectory.crystal(which)
    film = render.at_atom(film, like=film[-1])
    chosen = torch.linspace(0, len(trajectory) - 1, min(FILM_FRAMES, len(trajectory))).round().long().tolist()
    chosen += [chosen[-1]] * 14  # the last frame is shown longer
    captions = [f"call {int(trajectory.steps[i])}, noise {float(trajectory.sigmas[i]):.2f} Å" for i in chosen]
    pictures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for theme in ("light", "dark"):
            path = Path(scratch) / f"{theme}.gif"
            render.gif([film[i] for i in chosen], path, captions=captions, size=340, theme=theme, fps=9)
            pictures[theme] = data_uri(path.read_bytes(), "image/gif")
    high, low = float(trajectory.sigmas[0]), float(trajectory.sigmas[-1])
    return element(
        "section",
        element(
            "picture",
            element("source", srcset=pictures["dark"], media="(prefers-color-scheme: dark)"),
            element("img", src=pictures["light"], width=340, height=340, alt="Atoms moving from noise to a crystal"),
        ),
        element(
            "div",
            element("h2", "How one of them formed"),
            element(
                "p",
                f"Crystal {which}, from the first network call to the last. Its atoms start anywhere in the cell. "
                "Every call predicts where they belong and which elements they are, while the noise level falls from "
                f"{high:g} to {low:g} Å.",
            ),
        ),
        class_="film",
    )


def _card(crystals: Crystals, number: int, one: Facts) -> Markup:
    picture = render.png_bytes(crystals, number, size=400, theme="transparent", legend=False, labels=True)
    formula = Markup(to_html(one.formula))
    checks = [
        element("li", f"{'✓' if ok else '✗'} {label}", class_="good" if ok else "bad")
        for ok, label in ((one.structure_valid, "structure"), (one.composition_valid, "composition"))
    ]
    name = f"{number:04d}_{one.formula}.cif"
    download = (
        element("a", "CIF", download=name, href=data_uri(one.cif.encode(), "chemical/x-cif")) if one.cif else None
    )
    rows = [
        ("a · b · c", " · ".join(f"{x:.3f}" for x in one.lengths) + " Å"),
        ("α · β · γ", " · ".join(f"{x:.1f}" for x in one.angles) + "°"),
        ("density", f"{one.density:.2f} g/cm³"),
        ("closest", f"{one.pair} {one.distance:.2f} Å"),
    ]
    return element(
        "article",
        element("img", src=data_uri(picture, "image/png"), width=200, height=200, alt=one.formula),
        element("header", element("h3", formula), element("span", number)),
        definitions(rows),
        element("footer", element("ul", checks), download),
        element("p", one.reason, class_="reason") if one.reason else None,
    )


def _page(name: str, crystals: Crystals, found: list[Facts], made: list[tuple[str, str]], film: Markup | None) -> str:
    crystals = render.at_atom(crystals)
    cards = [_card(crystals, i, one) for i, one in enumerate(found[:MOST_PICTURES])]
    more = element("p", f"Pictures of the first {MOST_PICTURES} of them.") if len(found) > MOST_PICTURES else None
    title = f"{len(found)} crystals from {name}"
    return page(
        title,
        element("h1", title),
        element("ul", [element("li", element("b", n), " ", label) for n, label in _totals(found)], class_="totals"),
        film,
        element("h2", "The crystals"),
        more,
        element("div", cards, class_="cards"),
        element(
            "p",
            "Structure: distinct atoms at least 0.5 Å apart, in a cell of at least 0.1 Å³. Composition: oxidation "
            "states exist that are neutral and follow the electronegativities (SMACT). Closest: the smallest distance "
            "between two atoms, an atom and its own periodic images included. A valid crystal need not be "
            "stable.",
            class_="note",
        ),
        element("h2", "How they were made"),
        definitions(made, class_="made"),
    )
