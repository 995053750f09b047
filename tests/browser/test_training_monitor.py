"""The training monitor in JupyterLab. Pictures are kept in out/browser/."""

from __future__ import annotations

import pytest

from tests.browser.harness import ROOT, Browser, LabPage, LabServer, difference

MAKE = """
import cdvae_lab as lab
import torch
torch.set_num_threads(1)
monitor = lab.TrainingMonitor(steps=5000, validate_every=40, decode_steps=30)
monitor
"""
PANEL = ".cdvae-panel"
CURVES = f"{PANEL} .main-svg"


def says(page: LabPage, word: str, timeout: float = 90) -> None:
    page.wait(f"() => document.querySelector('{PANEL}')?.innerText.includes({word!r})", timeout)


def press(page: LabPage, name: str) -> None:
    page.page.locator(f"{PANEL} button", has_text=name).first.click()


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("monitor.ipynb", MAKE))
    page.run_all()
    says(page, "press Run", 120)
    page.wait_idle(120)
    return page


# Width of the sentence beside that of its box, and its contrast against the page (WCAG; 4.5 is asked of text).
SENTENCE = """() => {
  const one = [...document.querySelectorAll('.cdvae-panel b')].find(b => b.innerText.includes('to begin'));
  const box = one.parentElement, page = one.closest('.jp-Notebook') ?? document.body;
  const light = (css) => { const [r, g, b] = css.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const [low, high] = [light(getComputedStyle(one).color), light(getComputedStyle(page).backgroundColor)].sort();
  return {cut: box.scrollWidth > box.clientWidth, contrast: (high + 0.05) / (low + 0.05)};
}"""


@pytest.mark.parametrize("width", [1440, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_before_the_first_step_a_sentence_says_how_to_begin(page: LabPage, dark: bool, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 1000})
    page.dark(dark)
    page.sleep(1)
    says(page, "press Run, or Space, to begin")
    assert page.page.locator(CURVES).count() == 0  # no empty axes
    sentence = page.js(SENTENCE)
    assert not sentence["cut"]
    assert sentence["contrast"] > 4.5
    page.shot(PANEL, ROOT / "out" / "browser" / f"monitor_empty_{'dark' if dark else 'light'}_{width}.png")
    page.dark(False)
    page.page.set_viewport_size({"width": 1300, "height": 1000})


def test_it_trains_live_stops_and_goes_on(page: LabPage) -> None:
    press(page, "Run")
    says(page, "running: step")
    early = page.shot(CURVES)
    assert page.kernel("print(6 * 7)").strip() == "42"  # other cells are alive
    page.gl_reset()
    says(page, "their reconstructions at step 40")
    assert difference(early, page.shot(CURVES)) > 0.002  # the curves move
    page.wait("() => __gl.frames > 0", 30)  # and so do the crystals
    press(page, "Stop")
    says(page, "stopped: step")
    stopped = int(page.kernel("print(monitor.step.step)"))
    assert 40 <= stopped < 5000
    page.sleep(0.5)
    assert int(page.kernel("print(monitor.step.step)")) == stopped
    page.sleep(1)
    for dark in (False, True):
        page.dark(dark)
        page.sleep(1)
        page.shot(PANEL, ROOT / "out" / "browser" / f"monitor_{'dark' if dark else 'light'}.png")
    page.dark(False)
    press(page, "Resume")
    page.wait_idle()
    says(page, f"step {stopped // 40 * 40 + 40}")
    steps = page.kernel("print([row['step'] for row in monitor.records if 'lr' in row][:50] == list(range(1, 51)))")
    assert steps.strip() == "True"  # none was lost
    page.page.locator(PANEL).focus()
    page.page.keyboard.press(" ")
    says(page, "stopped: step")


def test_a_state_is_saved_and_an_error_is_shown(page: LabPage) -> None:
    press(page, "Save state")
    says(page, "written: out/training.safetensors")
    page.kernel("with torch.no_grad(): next(monitor.step.model.parameters()).fill_(float('inf'))")
    press(page, "Resume")
    says(page, "NonFiniteLossError")
    says(page, "are kept")
    press(page, "Load state and resume")
    says(page, "running: step")
    press(page, "Stop")
    says(page, "stopped: step")


def test_it_gives_everything_back(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    press(page, "Resume")
    says(page, "running: step")
    press(page, "Stop")
    says(page, "stopped: step")
    page.sleep(1)  # what plotly still has to say of its last drawing
    page.kernel("monitor.close()")
    page.wait(f"() => !document.querySelector('{PANEL}')", 10)
    page.sleep(1)
    assert int(page.kernel(threads)) <= before
    assert page.gl()["contexts"] < contexts


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
