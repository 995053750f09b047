"""Figures in JupyterLab that are edited while the browser makes their view."""

from __future__ import annotations

import pytest
from playwright.sync_api import TimeoutError as PageTimeout

from tests.browser.harness import Browser, LabPage, LabServer

MAKE = """
import ipywidgets
from plotly.graph_objects import Figure, Scatter
from IPython.display import display
from cdvae_lab.widgets.parts.plot import Plot

class Steps:
    "A figure whose number of traces changes with each edit."
    def __init__(self):
        self.count = 0
        self.plot = Plot(self.draw)
    def draw(self, theme):
        traces = [Scatter(x=[0, 1], y=[i, self.count], name=f'trace {i}') for i in range(1 + self.count % 4)]
        return Figure(traces, {'title': f'edit {self.count}', 'height': 200})
    def edit(self, times):
        for _ in range(times):
            self.count += 1
            self.plot.redraw()

box = ipywidgets.VBox()
display(box)
"""
FIGURES = """() => [...document.querySelectorAll('.js-plotly-plot')].map(p => [p.layout?.title?.text,
    ...(p.data || []).map(t => t.name + ':' + t.y[1])].join(' '))"""


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("figures.ipynb", MAKE))
    page.run_all()
    page.wait_idle()
    return page


def drawn(page: LabPage, count: int, figures: int = 1, timeout: float = 20) -> None:
    """Wait until all figures show this edit."""
    traces = " ".join(f"trace {i}:{count}" for i in range(1 + count % 4))
    wanted = [f"edit {count} {traces}"] * figures
    try:
        page.wait(f"() => JSON.stringify(({FIGURES})()) === JSON.stringify({wanted!r})", timeout)
    except PageTimeout:
        pytest.fail(f"expected {wanted}, but the page shows {page.js(FIGURES)}; errors: {page.errors}")


@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_a_figure_that_is_edited_in_the_cell_that_shows_it_shows_the_last_edit(page: LabPage, times: int) -> None:
    page.kernel(f"one = Steps(); one.edit(1); box.children = [one.plot]; one.edit({times})")
    drawn(page, 1 + times)
    page.kernel("one.edit(1)")
    drawn(page, 2 + times)
    assert page.errors == []
    page.kernel("box.children = (); one.plot.close()")


@pytest.mark.parametrize("pause", [0.01, 0.05, 0.2])
def test_a_figure_that_is_edited_while_its_view_is_made_shows_the_last_edit(page: LabPage, pause: float) -> None:
    page.kernel("one = Steps(); box.children = [one.plot]")
    for _ in range(20):
        page.kernel("one.edit(1)")
        page.sleep(pause)
    drawn(page, 20)
    assert page.errors == []
    page.kernel("box.children = (); one.plot.close()")


@pytest.mark.parametrize("slowness", [1, 4, 12])
def test_a_slow_page_that_loads_plotly_while_the_figure_is_edited_shows_the_last_edit(
    page: LabPage, slowness: int
) -> None:
    page.save()
    page.reload()  # plotly is not loaded
    processor = page.page.context.new_cdp_session(page.page)
    processor.send("Emulation.setCPUThrottlingRate", {"rate": slowness})
    page.kernel("one = Steps(); one.edit(1); box.children = [one.plot]; one.edit(2)")
    page.kernel("one.edit(1)")
    page.kernel("one.edit(1)")
    drawn(page, 5, timeout=90)
    processor.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    processor.detach()
    page.kernel("one.edit(1)")
    drawn(page, 6)
    assert page.errors == []
    page.kernel("box.children = (); one.plot.close()")


def test_a_busy_kernel_shows_the_last_edit_when_it_is_idle(page: LabPage) -> None:
    page.kernel(
        "import time\none = Steps(); box.children = [one.plot]\nfor _ in range(6): one.edit(1); time.sleep(0.3)"
    )
    drawn(page, 6)
    assert page.errors == []
    page.kernel("box.children = (); one.plot.close()")


def test_a_second_view_and_a_reloaded_page_show_the_newest_figure(page: LabPage) -> None:
    page.kernel("one = Steps(); box.children = [one.plot]")
    drawn(page, 0)
    page.kernel("one.edit(2)")
    drawn(page, 2)
    page.kernel("box.children = [one.plot, ipywidgets.Box([one.plot])]")
    drawn(page, 2, figures=2)
    page.kernel("one.edit(1)")
    drawn(page, 3, figures=2)
    page.kernel("box.children = [one.plot]")
    drawn(page, 3)
    page.kernel("one.edit(2)")
    drawn(page, 5)
    assert page.errors == []
    page.save()
    page.reload()
    drawn(page, 5, timeout=60)
    page.kernel("one.edit(1)")
    drawn(page, 6)


def test_a_widget_that_starts_late_still_hears_the_kernel(page: LabPage) -> None:
    """anywidget drops all messages to a widget that was not ready in time, here in a millisecond."""
    page.save()
    page.reload()  # plotly is not loaded
    limit = "AbortSignal.timeout = () => window.limit.call(AbortSignal, 1)"
    page.js(f"() => {{ window.limit = AbortSignal.timeout; {limit} }}")
    page.kernel(
        "from cdvae_lab.widgets.parts.filmstrip import Film\n"
        "film = Film(items=[]); one = Steps(); one.edit(1); box.children = [one.plot, film]; one.edit(2)"
    )
    page.kernel("one.edit(1)")
    drawn(page, 4)
    page.kernel("one.edit(1); film.items = [{'image': '', 'title': 'late', 'lines': [], 'warn': False}]")
    drawn(page, 5)
    page.wait("() => document.querySelector('[role=listbox]')?.innerText.includes('late')", 20)
    assert page.errors != []  # anywidget has dropped messages
    page.js("() => { AbortSignal.timeout = window.limit }")
    page.errors.clear()
    page.kernel("box.children = (); one.plot.close(); film.close()")
