"""The page of a run, opened from a file as a colleague would. Pictures of it are kept in out/browser/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.core import Composition

import cdvae_lab as lab
from tests.browser.harness import ROOT, Browser, LabPage, colors, difference


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = lab.denoise(lab.load("perov_5"), n=4, seed=3)
    return lab.pages.write_html(frames, tmp_path_factory.mktemp("film") / "run.html")


@pytest.fixture
def page(film: Path, browser: Browser) -> Iterator[LabPage]:
    page = browser.open_file(film)
    yield page
    assert page.errors == []
    assert page.outside == []
    page.page.close()


def step(page: LabPage) -> int:
    page.wait("() => !asked")
    return int(page.js("() => document.getElementById('say').textContent.match(/step (\\d+)/)[1]"))


def settled(page: LabPage):
    page.wait("() => !asked")
    return page.shot("#scene")


def test_it_shows_the_last_frame_and_scrubbing_another(page: LabPage) -> None:
    last = settled(page)
    assert colors(last) > 500
    assert step(page) == 200
    page.page.keyboard.press("Home")
    first = settled(page)
    assert step(page) == 0
    assert difference(first, last) > 0.03
    page.page.locator("#slider").fill("200")
    assert difference(settled(page), last) == 0
    box = page.page.locator("#noise").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert 95 <= step(page) <= 105


def test_species_and_cell_are_those_of_the_frame(page: LabPage) -> None:
    frames = list(lab.denoise(lab.load("perov_5"), n=4, seed=3))
    for k in (0, 70, 200):
        page.js("(k) => go(k)", k)
        settled(page)
        symbols = {s.symbol for one in frames[k].crystals.to_structures() for s in one.composition}
        assert set(page.js("() => [...document.querySelectorAll('#legend span')].map(e => e.textContent)")) == symbols
        formula = "(c) => formula(CELL.atoms(frames[at], c, data.cells[c]))"
        for c, structure in enumerate(frames[k].crystals.to_structures()):
            said = page.js(formula, c).translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789"))
            assert Composition(said).fractional_composition == structure.composition.fractional_composition
            lengths = page.js("(c) => [0, 3, 6].map(i => Math.hypot(...data.cells[c].slice(i, i + 3)))", c)
            assert lengths == pytest.approx(structure.lattice.abc, abs=1e-3)


def test_keys_buttons_and_playing(page: LabPage) -> None:
    for key, at in (("Home", 0), ("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10), ("End", 200)):
        page.page.keyboard.press(key)
        assert step(page) == at
    page.page.locator("#back").click()
    assert step(page) == 199
    page.page.locator("#next").click()
    page.page.keyboard.press("Home")
    page.page.locator("#speed").select_option("80")
    page.page.locator("#play").click()
    page.wait("() => at > 20", 20)
    page.page.locator("#play").click()
    at = step(page)
    page.sleep(0.3)
    assert at <= step(page) <= at + 1
    page.page.locator("#scene").click()  # away from the button, whose own key space is
    page.page.keyboard.press("Home")
    page.page.keyboard.press(" ")
    page.wait("() => at === 200 && !playing", 30)


def test_one_crystal_alone_and_turned(page: LabPage) -> None:
    all_of_them = settled(page)
    page.page.locator("#crystal").select_option("1")
    alone = settled(page)
    assert difference(all_of_them, alone) > 0.05
    box = page.page.locator("#scene").bounding_box()
    page.page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 380, box["y"] + 140, steps=4)
    page.page.mouse.up()
    assert difference(alone, settled(page)) > 0.02


def test_light_and_dark(film: Path, browser: Browser) -> None:
    for dark in (False, True):
        page = browser.open_file(film, dark)
        page.sleep(0.3)
        whole = page.shot("body", ROOT / "out" / "browser" / f"film_{'dark' if dark else 'light'}.png")
        assert bool(whole[2, 2].max() < 60) is dark
        words = page.shot("#say")
        assert abs(words - words[0, 0]).max() > 150  # they can be read
        assert page.errors == []
        page.page.close()
