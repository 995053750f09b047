"""All widgets on one page, in JupyterLab and under Voila. Pictures of every tab are kept in out/browser/."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.harness import (
    ROOT,
    Browser,
    ClassicServer,
    LabPage,
    LabServer,
    Page,
    VoilaServer,
    colors,
    difference,
)

MAKE = """
import cdvae_lab as lab
app = lab.app()
app
"""
APP = ".cdvae-app"
PICTURES = ROOT / "out" / "browser"
PANELS = {
    "Denoise": ".cdvae-player",
    "Latent map": ".cdvae-map",
    "Interpolate": ".cdvae-interpolation",
    "Optimize": ".cdvae-optimizer",
    "Train": ".cdvae-monitor",
}
# The pixels of the crystal of the map that has most room around it.
LONELIEST = """() => {
  const plot = document.querySelector('.cdvae-map .js-plotly-plot'), full = plot._fullLayout;
  const box = plot.getBoundingClientRect(), crystals = plot._fullData.find(t => t.name === 'crystals');
  const X = Array.from(crystals.x), Y = Array.from(crystals.y);
  let best = null;
  for (let i = 0; i < X.length; i += 5) {
    const x = full.xaxis.l2p(X[i]), y = full.yaxis.l2p(Y[i]);
    if (x < 20 || y < 20 || x > full.xaxis._length - 20 || y > full.yaxis._length - 20) continue;
    let room = Infinity;
    for (let j = 0; j < X.length; j++)
      if (j !== i) room = Math.min(room, (X[j] - X[i]) ** 2 + (Y[j] - Y[i]) ** 2);
    if (!best || room > best.room) best = {room, x, y};
  }
  return [box.left + full.xaxis._offset + best.x, box.top + full.yaxis._offset + best.y];
}"""


def says(page: Page, where: str, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('{where}')?.innerText.includes({word!r})", timeout)


def text(page: Page, where: str) -> str:
    return page.js("(where) => document.querySelector(where).innerText", where)


def press(page: Page, where: str, name: str) -> None:
    page.wait(
        f"() => [...document.querySelectorAll('{where} button:enabled')].some(b => b.innerText.trim() === {name!r})", 20
    )
    page.page.get_by_role("button", name=name, exact=True).and_(page.page.locator(f"{where} button")).first.click()


def opened(page: Page, title: str, timeout: float = 60) -> None:
    """Open a tab and wait until its widget is there."""
    page.page.locator(f"{APP} [role=tab]", has_text=title).first.click()
    page.page.locator(f"{APP} {PANELS[title]}").wait_for(state="visible", timeout=1000 * timeout)


def chosen(page: Page) -> str:
    """Where the chosen crystal is from."""
    return text(page, ".cdvae-selection").partition("from: ")[2].partition("\n")[0].strip()


def walk_through(page: Page) -> None:
    """Use every tab, with the mouse alone."""
    # A run, its frames while it is computed, and a crystal of it.
    assert "No crystal is chosen yet" in text(page, ".cdvae-selection")
    page.gl_reset()
    press(page, ".cdvae-player", "Run")
    page.wait("() => __gl.frames > 2", 30)
    says(page, ".cdvae-player", "running: step")
    page.sleep(1)
    press(page, ".cdvae-player", "Stop")
    says(page, ".cdvae-player", "stopped: step")
    assert colors(page.shot(".cdvae-player .cdvae-stage canvas")) > 50
    page.page.locator('.cdvae-player .widget-dropdown:has(label:text-is("show")) select').select_option("number 0")
    press(page, ".cdvae-player", "Select this crystal")
    says(page, ".cdvae-selection", "crystal 0 of seed 0")

    # A click on the map is another choice.
    opened(page, "Latent map")
    page.wait("() => document.querySelector('.cdvae-map .js-plotly-plot .gl-canvas')", 30)
    page.sleep(1)
    page.page.locator(".cdvae-map .js-plotly-plot").scroll_into_view_if_needed()
    x, y = page.js(LONELIEST)
    page.page.mouse.move(x - 3, y - 3)
    page.page.mouse.move(x, y, steps=3)
    page.sleep(0.3)
    page.page.mouse.click(x, y)
    page.wait("() => /from: .*decoded\\)/.test(document.querySelector('.cdvae-selection').innerText)", 40)
    from_map = chosen(page)

    # Which reaches the others.
    press(page, ".cdvae-selection", "path from it")
    page.page.locator(f"{APP} .cdvae-interpolation").wait_for(state="visible", timeout=60_000)
    says(page, ".cdvae-end-a", "econstructed", 40)  # "Reconstructed" or "Not reconstructed"
    press(page, ".cdvae-interpolation", "Run")
    says(page, ".cdvae-interpolation", "finished", 60)
    press(page, ".cdvae-selection", "optimize it")
    page.page.locator(f"{APP} .cdvae-optimizer").wait_for(state="visible", timeout=60_000)
    start = page.page.locator('.cdvae-optimizer .widget-dropdown:has(label:text-is("start from")) select')
    assert from_map in start.evaluate("one => one.selectedOptions[0].text.replaceAll('\\u00a0', ' ')")
    press(page, ".cdvae-optimizer", "Run")
    says(page, ".cdvae-optimizer", "running: step")
    says(page, ".cdvae-optimizer", "decodings: 3", 120)  # a trail to see on the map and in the pictures
    press(page, ".cdvae-optimizer", "Stop")
    says(page, ".cdvae-optimizer", "stopped: step")

    # Their paths are on the one map.
    press(page, ".cdvae-selection", "show on the map")
    page.page.locator(f"{APP} .cdvae-map").wait_for(state="visible")
    names = page.js("() => document.querySelector('.cdvae-map .js-plotly-plot').data.map(t => t.name)")
    assert {"path", "the search"} <= set(names)

    # Back to an earlier pick, and to a tab that is as it was left.
    history = page.page.locator(".cdvae-selection .widget-dropdown select")
    history.select_option(index=1)
    page.wait("() => /from: .*seed 0/.test(document.querySelector('.cdvae-selection').innerText)", 20)
    opened(page, "Train")
    says(page, ".cdvae-monitor", "press Run")
    press(page, ".cdvae-selection", "denoise from its z")
    page.page.locator(f"{APP} .cdvae-player").wait_for(state="visible")
    assert "selected: " in text(page, ".cdvae-player")
    assert colors(page.shot(".cdvae-player .cdvae-stage canvas")) > 50
    press(page, ".cdvae-player", "Run")
    says(page, ".cdvae-player", "running: step")
    says(page, ".cdvae-player", "finished: step")


def photograph(page: Page, name: str) -> None:
    page.page.set_viewport_size({"width": 1300, "height": 1900})  # a picture ends where the window does
    for title in PANELS:
        opened(page, title)
        page.sleep(2)
        page.shot(APP, PICTURES / f"app_{name}_{title.split()[-1].lower()}.png")
    page.page.set_viewport_size({"width": 1300, "height": 1000})


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("app.ipynb", MAKE))
    page.run_all()
    says(page, ".cdvae-player", "press Run")
    page.wait_idle()
    return page


@pytest.fixture(scope="module", params=["light", "dark"])
def alone(request, browser: Browser, tmp_path_factory) -> Iterator[tuple[Page, str]]:
    """The page of `make app`."""
    folder: Path = tmp_path_factory.mktemp("voila")
    with VoilaServer(folder, request.param) as server:
        page = browser.open_app(server)
        says(page, ".cdvae-player", "press Run", 90)
        yield page, request.param
        page.page.close()


def test_from_tab_to_tab_in_jupyterlab(page: LabPage) -> None:
    walk_through(page)
    assert page.gl()["contexts"] < 12
    code = page.kernel("print(app.code)")
    compile(code, "the app's code", "exec")
    for call in ("lab.denoise", "lab.interpolate", "lab.optimize"):
        assert call in code


def test_light_and_dark(page: LabPage) -> None:
    for dark in (False, True):
        page.dark(dark)
        photograph(page, "dark" if dark else "light")
    page.dark(False)
    assert page.gl()["contexts"] < 12


def test_after_a_reload_everything_is_as_it_was(page: LabPage) -> None:
    opened(page, "Denoise")
    before = chosen(page)
    page.save()
    page.reload()
    says(page, ".cdvae-player", "finished: step", 60)
    assert chosen(page) == before
    page.wait("() => document.querySelector('.cdvae-player .cdvae-stage[data-frame]')", 30)
    assert colors(page.shot(".cdvae-player .cdvae-stage canvas")) > 50
    for title in list(PANELS)[1:]:
        opened(page, title)
    says(page, ".cdvae-optimizer", "stopped: step")
    assert page.gl()["contexts"] < 12


def test_closing_gives_everything_back(page: LabPage) -> None:
    page.kernel("import threading; app.close()")
    page.wait(f"() => !document.querySelector('{APP} canvas')", 20)
    page.wait("() => __gl.contexts.every(r => !r.deref() || r.deref().isContextLost())", 20)
    assert "runner" not in page.kernel("print([t.name for t in threading.enumerate()])")


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []


def test_under_voila(alone: tuple[Page, str]) -> None:
    page, theme = alone
    assert page.js("() => document.body.dataset.jpThemeLight") == ("true" if theme == "light" else "false")
    if theme == "light":
        walk_through(page)
    photograph(page, f"voila_{theme}")
    assert page.gl()["contexts"] < 12
    assert page.errors == []
    assert page.outside == []


def test_a_reload_under_voila_ends_the_old_kernel(browser: Browser, tmp_path: Path) -> None:
    """The request to end it was refused (403) for want of a cookie."""
    with VoilaServer(tmp_path) as server:
        page = browser.open_app(server)
        says(page, ".cdvae-player", "press Run", 120)
        [old] = server.kernels()
        page.page.reload(wait_until="domcontentloaded", timeout=120_000)
        says(page, ".cdvae-player", "press Run", 120)
        end = time.monotonic() + 20
        while old in server.kernels() and time.monotonic() < end:
            page.sleep(0.5)
        assert old not in server.kernels()
        assert len(server.kernels()) == 1
        assert page.errors == []
        page.page.close()


@pytest.fixture(scope="module")
def classic_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClassicServer]:
    with ClassicServer(tmp_path_factory.mktemp("classic")) as server:
        yield server


def test_the_quickstart_in_notebook_7(classic_server: ClassicServer, browser: Browser) -> None:
    folder = classic_server.root / "notebooks"
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "notebooks" / "00_quickstart.ipynb", folder)
    shutil.copytree(ROOT / "assets" / "pictures", classic_server.root / "assets" / "pictures", dirs_exist_ok=True)
    page = browser.open_classic(classic_server, "notebooks/00_quickstart.ipynb")
    page.run_all()
    page.wait("() => document.querySelector('.cdvae-player .cdvae-stage[data-frame]')", 120)
    page.wait_idle(180)
    assert not page.js("() => document.querySelector('.jp-RenderedText[data-mime-type*=stderr] .ansi-red-fg')")
    assert (classic_server.root / "out" / "summary.txt").is_file()  # the last cell has run
    stage = ".cdvae-player .cdvae-stage canvas"
    page.page.locator(".cdvae-player").scroll_into_view_if_needed()
    page.page.locator(".cdvae-player").focus()
    pictures = []
    for key, frame in (("End", 200), ("Home", 0)):  # from the end nothing branches
        page.page.keyboard.press(key)
        page.wait(f"() => document.querySelector('.cdvae-stage').dataset.frame === '{frame}'")
        page.sleep(0.5)
        pictures.append(page.shot(stage))
    assert min(map(colors, pictures)) > 50
    assert difference(*pictures) > 0.01
    press(page, ".cdvae-player", "Branch from this frame")
    says(page, ".cdvae-player", "finished: step 200 of 200, seed 1")
    page.shot(".cdvae-player", PICTURES / "notebook_7.png")
    assert page.errors == []
    assert page.outside == []
    page.page.close()
