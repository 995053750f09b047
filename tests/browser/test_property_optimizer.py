"""The optimizer in JupyterLab with the mouse and the keyboard. Pictures are kept in out/browser/."""

from __future__ import annotations

import pytest

from tests.browser.harness import ROOT, Browser, LabPage, LabServer, difference

MAKE = """
import cdvae_lab as lab
model = lab.load('perov_5')
search = lab.PropertyOptimizer(model, steps=900, prior_weight=0.0, decode_every=300, decode_steps=40)
search
"""
PANEL = ".cdvae-panel"
CHART = f"{PANEL} .main-svg"  # of plotly; the first is the course


def says(page: LabPage, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('{PANEL}')?.innerText.includes({word!r})", timeout)


def press(page: LabPage, name: str) -> None:
    page.page.locator(f"{PANEL} button", has_text=name).first.click()


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("search.ipynb", MAKE))
    page.run_all()
    says(page, "press Run")
    page.wait_idle()
    return page


def test_before_the_first_run_words_stand_where_results_will_be(page: LabPage) -> None:
    says(page, "On its way the search decodes crystals")
    assert page.js(f"() => document.querySelector('{PANEL} .widget-hslider').offsetParent === null")
    assert page.js(f"() => document.querySelector('{PANEL}').offsetHeight") < 800
    assert "Run begins a search" in page.js(f"() => document.querySelector('{CHART}').parentElement.textContent")


def test_run_stop_resume_and_undo(page: LabPage) -> None:
    page.kernel("search.state.pace = '40 steps/s'")  # slow enough to be looked at on a busy machine
    press(page, "Run")
    says(page, "running: step")
    says(page, "length of z", 30)
    page.sleep(0.5)
    early = page.shot(CHART)
    assert page.kernel("print(6 * 7)").strip() == "42"  # other cells are alive
    for _ in range(20):  # the course moves, at the pace of a busy machine too
        page.sleep(0.5)
        if difference(early, page.shot(CHART)) > 0.002:
            break
    else:
        pytest.fail("the course stands still while the search runs")
    press(page, "Stop")
    says(page, "stopped: step")
    stopped = int(page.kernel("print(len(search.steps))"))
    assert 1 < stopped < 901
    page.sleep(0.3)
    assert int(page.kernel("print(len(search.steps))")) == stopped
    page.kernel("search.state.pace = 'as fast as it goes'")
    press(page, "Resume from here")
    says(page, "finished: step 900 of 900")
    says(page, "Outside the data")
    assert page.kernel("print(len(search.steps), search.index)").split() == ["901", "900"]
    page.sleep(1)
    for dark in (False, True):
        page.dark(dark)
        page.sleep(1)
        page.shot(PANEL, ROOT / "out" / "browser" / f"optimizer_{'dark' if dark else 'light'}.png")
    page.dark(False)

    # Back to an earlier step; what came after it is forgotten, and comes again the same.
    last = page.kernel("print(search.steps[-1].z.sum().item())")
    code = page.kernel("print(search.replay_code)")
    page.kernel("search.index = 60")
    says(page, "60 of 900")
    press(page, "Resume from here")
    # JupyterLab handles buttons beside the cells, so the next cell may come first, and the panel may still speak of the
    # run before.
    for _ in range(100):
        if page.kernel("print(search.replay_code)") != code:
            break
        page.sleep(0.1)
    page.kernel("search.wait()")
    says(page, "finished: step 900 of 900")
    assert page.kernel("print(search.steps[-1].z.sum().item())") == last


def test_keys_and_the_film(page: LabPage) -> None:
    page.page.locator(PANEL).focus()
    page.page.keyboard.press("Home")
    says(page, "0 of 900")
    page.page.keyboard.press("Shift+ArrowRight")
    says(page, "10 of 900")
    page.page.locator(f"{PANEL} [role=option]").last.click()
    says(page, "900 of 900")
    page.kernel("search.index = 0")
    page.page.locator(PANEL).focus()
    page.kernel("search.state.prior_weight = 0.1")
    page.kernel("search.state.pace = '40 steps/s'")
    press(page, "Restart from here")
    says(page, "running: step")
    page.page.locator(PANEL).focus()
    page.page.keyboard.press(" ")
    says(page, "stopped: step")
    page.kernel("search.state.pace = 'as fast as it goes'")
    page.page.keyboard.press(" ")
    says(page, "finished: step 900 of 900")


def test_a_predictor_and_an_error_of_it(page: LabPage) -> None:
    page.kernel("search.predictor = lambda crystals: crystals.lattice.det() / 100 - 1")
    press(page, "Run")
    page.kernel("search.wait()")
    says(page, "finished: step 900 of 900")
    says(page, "independent predictor")
    page.kernel("search.predictor = lambda crystals: 1 / 0")
    press(page, "Run")
    says(page, "ZeroDivisionError")
    says(page, "are kept")
    page.kernel("search.predictor = None")
    press(page, "CSV")
    says(page, "search.csv", 20)
    assert page.kernel("print(6 * 7)").strip() == "42"
    page.kernel("search.state.folder = '/proc/no/such/place'")
    press(page, "CSV")
    says(page, "cannot write", 10)


def test_elements_that_the_model_never_saw_are_named_beside_the_field(page: LabPage) -> None:
    page.kernel("""
from cdvae_lab.widgets import Pick
search.selection.choose(Pick('diamond', lab.read(lab.asset_path('examples/diamond.cif'), primitive=True)))""")
    says(page, "the model has never seen C")
    assert page.page.locator(f"{PANEL} button", has_text="Run").first.is_disabled()
    page.kernel("search.state.start = 'SrTiO3'")
    page.wait(f"() => !document.querySelector('{PANEL}').innerText.includes('has never seen')")


def test_no_text_of_a_field_is_cut(page: LabPage) -> None:
    page.kernel("search.state.target = 'value'")
    page.wait(f"() => document.querySelector('{PANEL}').innerText.includes('to reach')")
    for start in ("SrTiO3", "file", "prior"):
        page.kernel(f"search.state.start = {start!r}")
        page.sleep(0.5)
        assert page.cut(PANEL) == []
    page.kernel("search.state.update(dict(start='SrTiO3', target='min'))")


def test_nothing_is_drawn_over_the_notes_of_the_course(page: LabPage) -> None:
    """On the bands: the vertical line went through them at the end of a search."""
    page.kernel("search.index = len(search.steps) - 5")
    page.sleep(1)
    boxes = """kind => [...document.querySelector('.cdvae-panel .js-plotly-plot').querySelectorAll(kind)]
        .map(e => e.getBoundingClientRect()).map(({left, right, top, bottom}) => [left, right, top, bottom])"""
    notes = page.js(boxes, ".annotation-text")
    drawn = page.js(boxes, ".shapelayer path, .scatterlayer path, .legendtext")
    assert len(notes) == 2
    assert len(drawn) > 4
    for left, right, top, bottom in notes:
        over = [box for box in drawn if box[0] < right and left < box[1] and box[2] < bottom and top < box[3]]
        assert over == []


def test_the_list_of_targets_can_be_read(page: LabPage) -> None:
    page.kernel("other = lab.PropertyOptimizer('mp_20'); search.children += (other,)")
    page.wait(f"() => document.querySelector('{PANEL} {PANEL} select')", 60)
    width = """() => [...document.querySelectorAll('.cdvae-panel .cdvae-panel select')]
        .find(s => s.innerText.replaceAll('\\u00a0', ' ').includes('minimize'))
        .getBoundingClientRect().width"""
    assert page.js(width) > 120
    page.kernel("search.children = search.children[:-1]; other.close()")
    page.wait(f"() => !document.querySelector('{PANEL} {PANEL}')", 20)


def test_it_gives_everything_back(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    page.kernel("search.run()", wait=False)
    page.sleep(0.5)
    page.kernel("search.close()")
    page.wait(f"() => !document.querySelector('{PANEL}')", 10)
    page.sleep(1)
    assert int(page.kernel(threads)) <= before
    assert page.gl()["contexts"] < contexts


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
