"""Several crystals side by side, and a figure that is closed while drawn. Pictures are kept in out/browser/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cdvae_lab as lab
from cdvae_lab.io import convert
from tests.browser.harness import ROOT, Browser, LabPage, LabServer

MAKE = """
import ipywidgets
import torch
from pymatgen.core import Lattice, Structure
import cdvae_lab as lab
from cdvae_lab.io import convert
from cdvae_lab import figures
from cdvae_lab.widgets import CrystalView
from cdvae_lab.widgets.parts.plot import Plot
places = [[0, 0, 0], [.5, .5, .5], [.5, .5, 0], [.5, 0, .5], [0, .5, .5]]
green = Structure(Lattice.cubic(3.905), ['Sr', 'Ti', 'O', 'O', 'O'], places)
violet = Structure(Lattice.cubic(5.6), ['Cs', 'La', 'S', 'S', 'S'], places)
both = convert.from_structures([green, violet])
view = CrystalView(both, height=320)
box = ipywidgets.VBox([view])
box
"""
STAGE = ".cdvae-stage canvas"


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("view.ipynb", MAKE))
    page.run_all()
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 60)
    page.wait_idle()
    page.sleep(1)
    return page


def crystals(page: LabPage, name: str) -> np.ndarray:
    """The stage without its legend and the corner by which it is made larger."""
    picture = page.shot(STAGE, ROOT / "out" / "browser" / name)
    picture[-30:, :330] = picture[-20:, -20:] = picture[2, 2]
    return picture


def of_color(picture: np.ndarray, kind: str) -> np.ndarray:
    """Which pixels are strontium's green, or caesium's violet."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (green > red + 40) & (green > blue + 40) if kind == "green" else (blue > green + 40) & (red > green + 15)


def middle(picture: np.ndarray, kind: str) -> tuple[float, float]:
    """Of a color, as shares of the picture's width and height."""
    rows, columns = np.nonzero(of_color(picture, kind))
    assert len(rows) > 300
    return float(columns.mean() / picture.shape[1]), float(rows.mean() / picture.shape[0])


def test_the_first_crystal_is_at_the_left(page: LabPage) -> None:
    picture = crystals(page, "view_two.png")
    half = picture.shape[1] // 2
    left, right = picture[:, :half], picture[:, half:]
    assert of_color(left, "green").sum() > 1000 > 20 * of_color(right, "green").sum()
    assert of_color(right, "violet").sum() > 1000 > 20 * of_color(left, "violet").sum()


def test_rows_go_from_top_to_bottom(page: LabPage) -> None:
    page.kernel("square = CrystalView(both, height=700); square.layout.width = '300px'; box.children = [square]")
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)
    page.sleep(1.5)
    picture = crystals(page, "view_rows.png")
    assert middle(picture, "green")[1] < 0.45
    assert middle(picture, "violet")[1] > 0.55
    page.kernel("square.close(); view = CrystalView(both, height=320); box.children = [view]")
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)


def test_several_crystals_leave_room_for_the_legend(page: LabPage) -> None:
    page.kernel("nine = CrystalView(lab.Crystals.cat([both[1]] * 9), height=300)")
    page.kernel("nine.layout.width = '500px'; box.children = [nine]")
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)
    page.sleep(1.5)
    picture = page.shot(STAGE, ROOT / "out" / "browser" / "view_nine.png")
    rows, _ = np.nonzero(of_color(picture, "violet"))
    legend, stage = (
        page.js("(selector) => document.querySelector(selector).getBoundingClientRect().toJSON()", selector)
        for selector in (".cdvae-stage .cdvae-legend", STAGE)
    )
    assert len(rows) > 1000
    assert 0 < legend["height"] < 30
    balls = rows[rows < legend["top"] - stage["top"] - 1]  # the legend has a dot of this color
    assert len(rows) - len(balls) < 200
    assert balls.min() >= 2
    page.kernel("nine.close(); view = CrystalView(both, height=320); box.children = [view]")
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)


@pytest.mark.parametrize("height", [300, 340])
def test_a_cube_is_seen_whole_and_as_pictures_show_it(page: LabPage, height: int) -> None:
    page.kernel(f"view.close(); view = CrystalView(both[0], height={height}); box.children = [view]")
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)
    page.sleep(1.5)
    picture = crystals(page, f"view_{height}.png")
    rows, columns = np.nonzero(np.abs(picture - picture[2, 2]).max(-1) > 24)
    assert rows.min() >= 3
    assert rows.max() < picture.shape[0] - 3
    assert columns.min() >= 3
    assert rows.max() - rows.min() > 0.75 * picture.shape[0]  # and as large as it can be
    # From in front and above: the atom at the origin is the nearest at the bottom left, as in a picture.
    drawn = np.asarray(lab.render.picture(convert.read(ROOT / "assets/examples/SrTiO3.cif"), size=400, legend=False))
    for one in (picture, drawn.astype(int)):
        where = np.nonzero(of_color(one, "green"))
        lowest = where[1][where[0] > where[0].max() - 8].mean()
        assert lowest < (where[1].min() + where[1].max()) / 2


def test_a_film_in_a_file_has_the_first_at_the_left(browser: Browser, tmp_path: Path) -> None:
    model = lab.load("perov_5")
    examples = [convert.read(lab.asset_path(f"examples/{name}.cif")) for name in ("SrTiO3", "KTaO3")]
    z = lab.encode(model, lab.Crystals.cat(examples))
    frames = list(lab.denoise(model, z=z, seed=0, steps=60))
    page = browser.open_file(lab.pages.write_html(frames, tmp_path / "run.html"))
    page.wait("() => !asked")
    both = page.shot("#scene")
    half = both.shape[1] // 2
    page.page.locator("#crystal").select_option("0")
    page.wait("() => !asked")
    # The same colors, as shares of what is drawn, are in the left half and in the picture of the first alone.
    alone = _shares(page.shot("#scene"))
    page.page.close()
    assert np.abs(_shares(both[:, :half]) - alone).sum() < 0.5 * np.abs(_shares(both[:, half:]) - alone).sum()


def _shares(picture: np.ndarray) -> np.ndarray:
    drawn = picture[np.abs(picture - picture[0, 0]).max(-1) > 24] // 32
    return np.bincount(drawn @ [64, 8, 1], minlength=512) / len(drawn)


def test_a_closed_figure_says_nothing_more(page: LabPage) -> None:
    page.kernel("plot = Plot(lambda theme: figures.along_path([1.0, 2.0], 'x', theme=theme)); box.children = [plot]")
    page.wait("() => document.querySelector('.cdvae-figure .js-plotly-plot .main-svg')", 30)
    page.sleep(1)
    page.js("() => { window.kept = document.querySelector('.cdvae-figure .js-plotly-plot'); }")
    handlers = page.js("() => ['plotly_relayout', 'plotly_restyle'].filter(name => kept._ev?.listeners(name).length)")
    assert handlers
    page.js("() => { window.listeners = kept._ev.listeners('plotly_relayout'); }")
    page.kernel("plot.close(); box.children = []")
    page.sleep(1)
    page.js("() => { for (const one of listeners) one({'xaxis.range[0]': 0, 'xaxis.range[1]': 1}); }")
    page.sleep(0.5)
    assert page.errors == []


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
