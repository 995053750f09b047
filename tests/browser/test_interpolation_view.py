"""A path between two uploaded files in JupyterLab. Pictures of it are kept in out/browser/."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Structure

from tests.browser.harness import ROOT, Browser, LabPage, LabServer, colors, difference

MAKE = """
from cdvae_lab.widgets import InterpolationView
view = InterpolationView('perov_5', n=7)
view
"""
PICTURES = ROOT / "out" / "browser"
CRYSTALS = ".cdvae-interpolation > div:nth-child(3) canvas"


def says(page: LabPage, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('.cdvae-interpolation')?.innerText.includes({word!r})", timeout)


def press(page: LabPage, name: str) -> None:
    page.page.locator(".cdvae-interpolation button", has_text=name).first.click()


def upload(page: LabPage, letter: str, file: Path) -> None:
    with page.page.expect_file_chooser() as chooser:
        page.page.locator(f".cdvae-end-{letter} button.widget-upload").click()
    chooser.value.set_files(file)


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("path.ipynb", MAKE))
    page.run_all()
    says(page, "Reconstructed: atoms are off by")
    page.wait_idle()
    return page


def test_no_text_of_a_field_is_cut(page: LabPage) -> None:
    assert page.cut(".cdvae-interpolation") == []


def test_two_uploaded_files_and_the_way_between(page: LabPage, tmp_path: Path) -> None:
    examples = ROOT / "assets" / "examples"
    big = Structure.from_file(examples / "KTaO3.cif")
    big.make_supercell(2)
    big.to(filename=str(tmp_path / "big.cif"))
    (tmp_path / "mine.cif").write_text((examples / "SrTiO3.cif").read_text())
    upload(page, "a", tmp_path / "mine.cif")
    page.wait("() => document.querySelector('.cdvae-end-a').innerText.includes('mine.cif')")
    # Too large for the model: the primitive cell is offered, and taken.
    upload(page, "b", tmp_path / "big.cif")
    page.wait("() => document.querySelector('.cdvae-end-b').innerText.includes('40 atoms, more than the 5')")
    # The bundled models that take it are found in the background.
    page.wait("() => document.querySelector('.cdvae-end-b').innerText.includes('perov_5')", 60)
    page.shot(".cdvae-interpolation", PICTURES / "path_refused.png")
    page.page.locator(".cdvae-end-b button", has_text="take the primitive cell").click()
    page.wait(
        """() => ['a', 'b'].every(x =>
           document.querySelector(`.cdvae-end-${x}`).innerText.includes('Reconstructed: atoms are off by'))""",
        30,
    )
    press(page, "Run")
    says(page, "decoding 7 stops")
    says(page, "finished")
    says(page, "Jumps")
    formulas = page.js("() => [...document.querySelectorAll('[role=option] b')].map(e => e.textContent)")
    assert [formulas[0], formulas[-1], len(formulas)] == ["SrTiO3", "KTaO3", 7]
    assert "is mine.cif" in page.kernel("print(view.code)")


def test_the_slider_and_the_film_show_a_stop(page: LabPage) -> None:
    together = page.shot(CRYSTALS)
    assert colors(together) > 50
    page.page.locator("[role=option]").nth(3).click()
    page.sleep(1.5)
    alone = page.shot(CRYSTALS)
    assert difference(together, alone) > 0.01
    assert page.kernel("print(view.state.stop, view.controls.slider.value, view.view.choice)").split() == [
        "3",
        "3",
        "3",
    ]
    page.page.keyboard.press("ArrowRight")
    page.sleep(1.5)
    assert page.kernel("print(view.state.stop)").strip() == "4"
    press(page, "choose this stop")
    page.sleep(0.5)
    assert "stop 4 of 6" in page.kernel("print(view.selection.pick.name)")


def test_light_and_dark(page: LabPage) -> None:
    for dark in (False, True):
        page.dark(dark)
        page.sleep(2.5)
        page.page.set_viewport_size({"width": 1500, "height": 1900})
        page.sleep(1.5)
        page.shot(".cdvae-interpolation", PICTURES / f"path_{'dark' if dark else 'light'}.png")
        page.page.set_viewport_size({"width": 1300, "height": 1000})
    page.dark(False)


def test_closing_gives_everything_back(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    for _ in range(3):
        page.kernel("extra = InterpolationView(view.model); view.children += (extra,)")
        page.wait("() => document.querySelectorAll('.cdvae-interpolation .gl-canvas').length >= 6", 30)
        page.kernel("view.children = view.children[:-1]\nextra.close()")
        page.wait("() => document.querySelectorAll('.cdvae-interpolation').length === 1", 30)
    page.sleep(1)
    assert page.gl()["contexts"] <= contexts + 2
    assert int(page.kernel(threads)) <= before


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
