"""The player in JupyterLab with the mouse and the keyboard. Pictures are kept in out/browser/."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.feel import SCRUB, while_computing
from tests.browser.harness import ROOT, Browser, LabPage, LabServer, colors, difference

MAKE = """
from cdvae_lab.widgets import CrystalView, TrajectoryPlayer
player = TrajectoryPlayer('perov_5', n=4, steps=600)
player
"""
STAGE = ".cdvae-stage canvas"


def says(page: LabPage, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('.cdvae-player')?.innerText.includes('{word}')", timeout)


def press(page: LabPage, name: str) -> None:
    page.page.locator(".cdvae-player button", has_text=name).first.click()


def dropdown(page: LabPage, label: str):
    return page.page.locator(f'.cdvae-player .widget-dropdown:has(label:text-is("{label}")) select')


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("player.ipynb", MAKE))
    page.run_all()
    says(page, "press Run")
    page.wait_idle()
    return page


def at(page: LabPage, frame: int) -> None:
    """Wait until this frame is on the screen."""
    page.wait(f"() => document.querySelector('.cdvae-stage').dataset.frame === '{frame}'", 20)
    page.js("() => new Promise(so => requestAnimationFrame(() => requestAnimationFrame(() => so(1))))")


def catch_up(page: LabPage) -> None:
    """Wait until the kernel has the frame that is on the screen, and both stay there."""
    for _ in range(60):
        page.wait_idle()
        shown = page.js("() => document.querySelector('.cdvae-stage').dataset.frame")
        if page.kernel("print(player.index)").strip() == shown:
            return
        page.sleep(0.5)
    pytest.fail(f"the kernel does not follow: the screen shows frame {shown}")


def test_run_and_stop_feel_alive(page: LabPage) -> None:
    # On two quiet cores more than ten frames a second. Whatever else the machine is doing slows drawing, so what
    # drawing alone reaches at the same time is the measure there, and a burst may spoil two tries.
    tries = []
    while len(tries) < 3:
        first, rate, stop = while_computing(page, seconds=3)
        alone, _ = page.js(SCRUB, 2)
        tries.append((first, rate, stop, alone))
        if first < 1 and rate >= min(10, 0.5 * alone) and stop < 0.7:
            return
    pytest.fail(f"first frame s, frames/s, Stop shown s, frames/s of drawing alone: {tries}")


def test_run_stop_resume_scrub(page: LabPage) -> None:
    # Run: frames come while it is computed. 600 steps leave time to stop.
    page.gl_reset()
    press(page, "Run")
    page.wait("() => __gl.frames > 2", 30)
    says(page, "running: step")
    assert page.kernel("print(6 * 7)").strip() == "42"  # other cells are alive
    # Stop lands between two steps, and nothing comes after it.
    press(page, "Stop")
    says(page, "stopped: step")
    stopped = int(page.kernel("print(len(player.frames))"))
    assert 1 < stopped < 601
    page.sleep(0.3)
    assert int(page.kernel("print(len(player.frames))")) == stopped
    press(page, "Resume")
    says(page, "finished: step 600 of 600")
    assert page.kernel("print(len(player.frames), player.index)").split() == ["601", "600"]

    # What is drawn in place is what a fresh view of the same frame draws, and another frame looks different.
    at(page, 600)
    last = page.shot(STAGE)
    assert colors(last) > 50
    page.kernel("player.index = 20")
    at(page, 20)
    early = page.shot(STAGE, ROOT / "out" / "browser" / "player_early.png")
    # Only atoms move: the composition of this model is settled from the first step on.
    page.kernel("then, now = (player.frames[i].crystals.frac_coords for i in (20, 600))")
    assert float(page.kernel("print(float((then - now).abs().max()))")) > 0.05
    assert difference(last, early) > 0.01
    page.kernel("player.view.show_all(player.view.frames, index=20)")
    page.sleep(1)
    assert difference(early, page.shot(STAGE)) < 0.002


def test_scrubbing_does_not_need_the_kernel(page: LabPage) -> None:
    page.kernel("player.index = 0")
    at(page, 0)
    before = page.shot(STAGE)
    page.kernel("import time; time.sleep(12)", wait=False)
    page.page.locator(".cdvae-player").focus()
    page.page.keyboard.press("End")
    at(page, 600)
    assert difference(before, page.shot(STAGE)) > 0.01
    page.page.keyboard.press("Home")
    at(page, 0)
    assert difference(before, page.shot(STAGE)) < 0.002
    for key, frame in (("ArrowRight", 1), ("Shift+ArrowRight", 11), ("ArrowLeft", 10)):
        page.page.keyboard.press(key)
        at(page, frame)
    page.page.locator(".cdvae-player button", has_text="▸").click()
    at(page, 11)
    page.page.locator(".cdvae-player button", has_text="◂").click()
    at(page, 10)
    page.page.locator(".cdvae-player .noUi-handle").last.focus()  # the slider's own keys do not count as well
    page.page.keyboard.press("ArrowRight")
    at(page, 11)
    page.sleep(0.2)
    at(page, 11)
    page.gl_reset()
    page.page.keyboard.press(" ")
    page.wait("() => __gl.frames > 2", 30)
    page.page.keyboard.press(" ")
    # The kernel slept while all this was shown, and hears of it one value after another: until it knows the last, a
    # frame that it sets itself is overtaken by an older one on its way.
    catch_up(page)


def test_an_atom_under_the_pointer_says_what_it_is(page: LabPage) -> None:
    page.kernel("player.index = 300")
    at(page, 300)
    symbols = page.kernel(
        "print(*sorted({s.symbol for c in player.frame.crystals.to_structures() for s in c.composition}))"
    )
    box = page.page.locator(STAGE).bounding_box()
    found = set()
    for x in range(0, int(box["width"]), 12):
        page.page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
        found |= set(
            page.js("""() => [...document.querySelectorAll('.cdvae-stage .ui-resizable > div')]
            .filter(e => e.style.display === 'block' && e.textContent).map(e => e.textContent)""")
        )
    assert found
    assert found <= set(symbols.split())
    assert page.js("() => [...document.querySelectorAll('.cdvae-stage button')].every(b => !b.offsetWidth)")


def test_a_selected_crystal_is_where_a_run_starts(page: LabPage) -> None:
    button = page.page.locator(".cdvae-player button", has_text="Select this crystal")
    assert button.is_disabled()
    dropdown(page, "show").select_option("number 2")
    page.wait(
        "() => [...document.querySelectorAll('.cdvae-player button:enabled')].some(b => /Select/.test(b.innerText))"
    )
    button.click()
    says(page, "selected: ")
    assert page.kernel("print(bool((player.selection.pick.z == player.frame.z[2:3]).all()))").strip() == "True"
    dropdown(page, "from").select_option(index=1)
    press(page, "Run")
    says(page, "running: step")
    press(page, "Stop")
    says(page, "stopped")
    assert page.kernel("print(bool((player.frame.z == player.selection.pick.z).all()))").strip() == "True"
    dropdown(page, "from").select_option(index=0)
    press(page, "Run")
    says(page, "finished: step 600 of 600")


def test_the_page_of_the_run_opens_from_its_file(page: LabPage, browser: Browser, lab_server: LabServer) -> None:
    page.kernel(f"player.state.folder = {str(lab_server.root / 'film')!r}")
    page.sleep(0.3)
    dropdown(page, "show").select_option("all")
    press(page, "HTML")
    says(page, "written: ", 20)
    film = browser.open_file(Path(lab_server.root / "film" / "run.html"))
    film.wait("() => !asked")
    assert colors(film.shot("#scene")) > 500
    assert film.errors == film.outside == []
    film.page.close()


def test_an_error_is_shown_and_the_frames_are_kept(page: LabPage) -> None:
    page.kernel("player.state.folder = '/proc/no/such/place'")
    page.sleep(0.3)
    press(page, "CIF")
    says(page, "Error", 10)
    assert page.kernel("print(len(player.frames))").strip() == "601"


def test_after_a_reload_the_frame_is_there_again(page: LabPage) -> None:
    for dark in (False, True):
        page.dark(dark)
        name = "dark" if dark else "light"
        page.shot(".cdvae-player", ROOT / "out" / "browser" / f"player_{name}.png")
    page.dark(False)
    page.kernel("player.index = 150")
    at(page, 150)
    before = page.shot(STAGE)
    page.save()
    page.reload()
    page.wait("() => document.querySelector('.cdvae-stage[data-frame]')", 30)
    at(page, 150)
    page.sleep(1)
    after = page.shot(STAGE)
    assert colors(after) > 50
    assert difference(before, after) < 0.01


def test_twenty_players_leave_nothing_behind(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    inside = "() => document.querySelectorAll('.cdvae-player .cdvae-player canvas').length === {}"
    for _ in range(20):
        page.kernel("extra = TrajectoryPlayer(player.model, n=1, steps=9, height=100)")
        page.kernel("player.children += (extra,)\nextra.run()\nextra.wait(0.2)")
        page.wait(inside.format(2), 20)
        page.kernel("player.children = player.children[:-1]\nextra.close()")
        page.wait(inside.format(0), 20)
    page.wait(f"() => __gl.contexts.filter(r => r.deref() && !r.deref().isContextLost()).length <= {contexts}", 10)
    assert int(page.kernel(threads)) <= before


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
