"""Generated crystals on one page: `index.html`, which needs nothing else and no network, and `summary.txt`."""

from __future__ import annotations

import base64
import html
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
from cdvae_lab.metrics.validity import composition_validity, invalid_reasons, structure_validity
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory

MOST_PICTURES = 60  # on the page
MOST_ROWS = 16  # of the summary: one screen
FILM_FRAMES = 48


@dataclass(frozen=True)
class Facts:
    """What the report says of one crystal.

    Attributes:
        formula: reduced, as `cdvae_lab.crystals.formulas` spells it.
        lengths, angles: Å and degrees.
        density: g/cm^3.
        distance, pair: the smallest distance between two atoms, Å, and their elements.
        structure_valid, composition_valid: by the tests of `metrics.validity`.
        reason: what is wrong, if anything.
        cif: its text; empty if the crystal cannot be written.
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
    """What there is to say of each crystal."""
    from pymatgen.io.cif import CifWriter

    crystals = crystals.to("cpu", torch.float64)
    usable = convert.is_usable(crystals)
    structures = iter(convert.to_structures(crystals[usable]) if usable.any() else [])
    lengths, angles = lat.to_parameters(crystals.lattice)
    names, densities = reduced_formulas(crystals), density(crystals).tolist()
    checks = structure_validity(crystals).tolist(), composition_validity(crystals).tolist(), invalid_reasons(crystals)
    found = []
    for i, numbers in enumerate(crystals.atomic_numbers.tolist()):
        numbers = [number for number in numbers if number]
        symbols = [symbol_of(number) for number in numbers]
        distance, pair, cif = float("nan"), "", ""
        if usable[i]:
            structure = next(structures)
            cif = str(CifWriter(structure))
            distance, pair = min(lengths[i].tolist()), f"{symbols[0]}–{symbols[0]}"  # of a single atom: its images
            if len(structure) > 1:
                between = torch.from_numpy(structure.distance_matrix).fill_diagonal_(torch.inf)
                a, b = divmod(int(between.argmin()), len(structure))
                distance, pair = float(between[a, b]), f"{symbols[a]}–{symbols[b]}"
        found.append(
            Facts(
                names[i],
                tuple(lengths[i].tolist()),
                tuple(angles[i].tolist()),
                densities[i],
                distance,
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
        folder: made where there is none.
        model: that made them.
        run: the last frame; with a whole trajectory the page also shows how one crystal came about.
        which: that crystal's number.
        seconds: how long it took, where known.
        name: of the model, in the title; by default that of its data.

    Raises:
        LabError: if a file cannot be written.
        IndexError: if there is no crystal `which`.
    """
    frame = run[-1] if isinstance(run, Trajectory) else run
    crystals = frame.crystals.to("cpu")
    found = facts(crystals)
    name = name or f"a CDVAE trained on {model.metadata.get('data', {}).get('name', 'crystals')}"
    film = _film(run, which) if isinstance(run, Trajectory) else ""
    page = _page(name, crystals, found, _made(model, frame, seconds), film)
    with atomic_path(Path(folder) / "index.html", "the report") as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic_path(Path(folder) / "summary.txt", "the summary") as temporary:
        temporary.write_text(summary(name, found, _made(model, frame, seconds)), encoding="utf-8")
    return Path(folder) / "index.html"


def _made(model: CDVAE, frame: DenoisingFrame, seconds: float | int | None) -> list[tuple[str, str]]:
    """How the crystals were made, as (name, text)."""
    about = model.metadata
    data = about.get("data", {})
    rows = [("sampler", f"{frame.schedule.name.replace('_', ' ')}, {frame.num_steps:,} calls of the network")]
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
    """One screen of text."""
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


def _film(trajectory: Trajectory, which: int) -> str:
    """One crystal from noise, as animations for light and dark."""
    film = trajectory.crystal(which)
    film = render.at_atom(film, like=film[-1])
    chosen = torch.linspace(0, len(trajectory) - 1, min(FILM_FRAMES, len(trajectory))).round().long().tolist()
    chosen += [chosen[-1]] * 14  # the end stands a while
    captions = [f"call {int(trajectory.steps[i])}, noise {float(trajectory.sigmas[i]):.2f} Å" for i in chosen]
    pictures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for theme in ("light", "dark"):
            path = Path(scratch) / f"{theme}.gif"
            render.gif([film[i] for i in chosen], path, captions=captions, size=340, theme=theme, fps=9)
            pictures[theme] = _uri(path.read_bytes(), "image/gif")
    high, low = float(trajectory.sigmas[0]), float(trajectory.sigmas[-1])
    return (
        f'<section class="film"><picture><source srcset="{pictures["dark"]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{pictures["light"]}" width="340" height="340" alt="Atoms moving from noise to a crystal"></picture>'
        f"<div><h2>How one came about</h2><p>Crystal {which}, from the first call of the network to the last. Its "
        "atoms start anywhere in the cell; every call says where they should rather be and which elements they are, "
        f"while the noise falls from {high:g} to {low:g} Å.</p></div></section>"
    )


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _card(crystals: Crystals, number: int, one: Facts) -> str:
    png = _uri(
        render.png_bytes(crystals, number, size=400, theme="transparent", legend=False, labels=True), "image/png"
    )
    lengths = " · ".join(f"{x:.3f}" for x in one.lengths)
    angles = " · ".join(f"{x:.1f}" for x in one.angles)
    checks = "".join(
        f'<li class="{"good" if ok else "bad"}">{"✓" if ok else "✗"} {label}</li>'
        for ok, label in ((one.structure_valid, "structure"), (one.composition_valid, "composition"))
    )
    reason = f'<p class="reason">{html.escape(one.reason)}</p>' if one.reason else ""
    download = (
        f'<a download="{number:04d}_{one.formula}.cif" href="{_uri(one.cif.encode(), "chemical/x-cif")}">CIF</a>'
        if one.cif
        else ""
    )
    return (
        f'<article><img src="{png}" width="200" height="200" alt="{one.formula}"><header>'
        f"<h3>{to_html(one.formula)}</h3>"
        f"<span>{number}</span></header><dl><dt>a · b · c</dt><dd>{lengths} Å</dd><dt>α · β · γ</dt><dd>{angles}°</dd>"
        f"<dt>density</dt><dd>{one.density:.2f} g/cm³</dd><dt>closest</dt><dd>{one.pair} {one.distance:.2f} Å</dd></dl>"
        f"<footer><ul>{checks}</ul>{download}</footer>{reason}</article>"
    )


def _page(name: str, crystals: Crystals, found: list[Facts], made: list[tuple[str, str]], film: str) -> str:
    crystals = render.at_atom(crystals)
    cards = [_card(crystals, i, one) for i, one in enumerate(found[:MOST_PICTURES])]
    more = f"<p>Pictures of the first {MOST_PICTURES} of them.</p>" if len(found) > MOST_PICTURES else ""
    totals = "".join(f"<li><b>{value}</b> {label}</li>" for value, label in _totals(found))
    rows = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(text)}</dd>" for key, text in made)
    title = html.escape(f"{len(found)} crystals from {name}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<main><h1>{title}</h1><ul class="totals">{totals}</ul>{film}<h2>The crystals</h2>{more}'
        f'<div class="cards">{"".join(cards)}</div><p class="note">Structure: all atoms at least 0.5 Å apart, in a '
        "cell of at least 0.1 Å³. Composition: oxidation states exist that are neutral and follow the "
        "electronegativities (SMACT). Neither says that a crystal is stable.</p>"
        f'<h2>How they were made</h2><dl class="made">{rows}</dl></main></body></html>\n'
    )


# Blue and orange are told apart by all eyes; a sign and a word say the same.
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--card:#f6f7f9;--line:#dfe3e8;--text:#0f172a;--muted:#566174;
--good:#0062a3;--bad:#b34700}
@media(prefers-color-scheme:dark){:root{--page:#11141c;--card:#191d27;--line:#2b3140;--text:#edf1f7;--muted:#9aa7ba;
--good:#6cbcf5;--bad:#ffa04d}}
*{box-sizing:border-box;margin:0}
body{background:var(--page);color:var(--text);font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:28px;line-height:1.2;font-weight:650;letter-spacing:-.01em}
h2{font-size:18px;font-weight:650;margin:40px 0 14px}
ul{list-style:none;padding:0}
.totals{display:flex;flex-wrap:wrap;gap:6px 32px;margin-top:14px;color:var(--muted)}
.totals b{color:var(--text);font-size:20px;font-weight:650;margin-right:2px}
.film{display:flex;flex-wrap:wrap;gap:12px 32px;align-items:center;margin-top:28px}
.film img{display:block;border:1px solid var(--line);border-radius:12px}
.film div{flex:1 1 280px;max-width:460px}.film h2{margin:0 0 8px}.film p{color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px}
article{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;break-inside:avoid;
display:flex;flex-direction:column}
article>img{margin:0 auto 6px;max-width:100%}
article header,article footer{display:flex;justify-content:space-between;align-items:baseline;gap:12px}
h3{font-size:18px;font-weight:650}sub{font-size:.68em;line-height:0}
article header span{color:var(--muted);font-size:13px}
dl{display:grid;grid-template-columns:auto 1fr;gap:2px 12px;margin:6px 0 8px;font-size:13px}
dt{color:var(--muted);white-space:nowrap}
article dd{text-align:right;font-variant-numeric:tabular-nums}
footer{margin-top:auto;border-top:1px solid var(--line);padding-top:8px;font-size:13px}
footer ul{display:flex;flex-wrap:wrap;gap:0 12px}
.good{color:var(--good)}.bad{color:var(--bad)}
a{color:var(--good);font-weight:600;text-underline-offset:2px}
.reason,.note{color:var(--muted);font-size:13px;margin-top:8px}
.note{max-width:760px;margin-top:14px}
.made{font-size:14px;gap:4px 20px}
"""
