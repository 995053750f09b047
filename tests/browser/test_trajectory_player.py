"""The player in JupyterLab, as somebody would use it. Pictures of it are kept in out/browser/."""

from __future__ import annotations

import pytest

from tests.browser.harness import ROOT, Browser, LabPage, LabServer, colours, difference

MAKE = """
from cdvae_lab.widgets import CrystalView, TrajectoryPlayer
player = TrajectoryPlayer('perov_5', n=4, steps=600)
player
"""


def says(page: LabPage, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('.cdvae-player')?.innerText.includes('{word}')", timeout)


def press(page: LabPage, name: str) -> None:
    page.page.locator(".cdvae-player button", has_text=name).first.click()


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("player.ipynb", MAKE))
    page.run_all()
    says(page, "press Run")
    page.wait_idle()
    return page


def test_run_stop_go_on_scrub(page: LabPage) -> None:
    # Run: frames come while it is computed.
    page.gl_reset()
    press(page, "Run")
    # How many a second depends on the machine; that it is more than one picture does not. 600 steps leave time to stop.
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
    press(page, "Go on")
    says(page, "finished: step 600 of 600")
    assert page.kernel("print(len(player.frames), player.index)").split() == ["601", "600"]

    # What is drawn in place is what a fresh view of the same frame draws, and another frame looks different.
    page.sleep(1)
    last = page.shot(".cdvae-player canvas")
    assert colours(last) > 50
    page.kernel("player.index = 20")
    page.sleep(1)
    early = page.shot(".cdvae-player canvas", ROOT / "out" / "browser" / "player_early.png")
    kinds = "print(sorted(player.frames[{}].crystals.atomic_numbers.unique().tolist()))"
    assert page.kernel(kinds.format(20)) != page.kernel(kinds.format(600))
    assert difference(last, early) > 0.01
    page.kernel("player.view.show_all(player.frames, origin=player.frames[-1].crystals, index=20)")
    page.sleep(1)
    assert difference(early, page.shot(".cdvae-player canvas")) < 0.002


def test_scrubbing_does_not_need_the_kernel(page: LabPage) -> None:
    page.kernel("player.index = 0")
    page.sleep(0.5)
    before = page.shot(".cdvae-player canvas")
    page.kernel("import time; time.sleep(8)", wait=False)
    page.page.locator(".cdvae-player").focus()
    page.page.keyboard.press("End")
    page.sleep(1)
    assert difference(before, page.shot(".cdvae-player canvas")) > 0.01
    page.page.keyboard.press("Home")
    page.sleep(1)
    assert difference(before, page.shot(".cdvae-player canvas")) < 0.002
    page.gl_reset()
    page.page.keyboard.press(" ")
    page.wait("() => __gl.frames > 2", 30)
    page.page.keyboard.press(" ")
    page.wait_idle()


def test_an_error_is_shown_and_the_frames_are_kept(page: LabPage) -> None:
    page.kernel("player._folder.value = '/proc/no/such/place'")
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
    page.sleep(1)
    before = page.shot(".cdvae-player canvas")
    page.save()
    page.reload()
    page.wait("() => document.querySelector('.cdvae-player canvas')", 30)
    page.sleep(2)
    after = page.shot(".cdvae-player canvas")
    assert colours(after) > 50
    assert difference(before, after) < 0.01


def test_twenty_views_leave_nothing_behind(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    page.kernel("import cdvae_lab as lab; crystal = lab.read(lab.assets.path('examples/SrTiO3.cif'))")
    for _ in range(20):
        page.kernel("extra = CrystalView(crystal, height=100)\nplayer.children += (extra,)")
        page.wait("() => document.querySelectorAll('.cdvae-player canvas').length === 3", 10)
        page.kernel("player.children = player.children[:-1]\nextra.close()")
        page.wait("() => document.querySelectorAll('.cdvae-player canvas').length === 2", 10)
    page.sleep(1)
    # Now and then one is still waiting for the browser to collect it; twenty that leaked would be twenty more.
    assert page.gl()["contexts"] <= contexts + 3
    assert int(page.kernel(threads)) <= before


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
