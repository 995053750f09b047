"""Figures in notebooks."""

from __future__ import annotations

from plotly.graph_objects import Figure, Scatter

from cdvae_lab.figures import THEMES
from cdvae_lab.widgets.parts.plot import Plot


def test_the_state_of_a_figure_is_the_figure_as_it_is_now() -> None:
    # plotly opens a figure's comm without its traces, and a reloaded page gets the figure as it was made.
    opened = []
    values = [1, 2]

    def draw(theme: str) -> Figure:
        return Figure([Scatter(x=[0, 1], y=values)] * len(opened or [0]), {"title": f"{theme} {values[-1]}"})

    plot = Plot(draw)
    state = plot.figure.get_state()
    assert [trace["y"] for trace in state["_widget_data"]] == [[1, 2]]
    opened[:], values[:] = [0, 0, 0], [3, 4]
    plot.redraw()
    state = plot.figure.get_state()
    assert [trace["y"] for trace in state["_widget_data"]] == [[3, 4]] * 3
    assert state["_widget_layout"]["title"] == {"text": "light 4"}
    plot.close()


def test_the_buttons_above_a_figure_hide_nothing() -> None:
    plot = Plot(lambda theme: Figure([Scatter(x=[0], y=[1])]))
    for dark in (False, True):
        plot.page.dark = dark
        buttons = plot.figure.layout.modebar
        assert buttons.bgcolor == "rgba(0,0,0,0)"  # plotly's own is half black on a transparent figure
        assert buttons.activecolor == THEMES["dark" if dark else "light"].ink
    plot.close()


def test_a_figure_is_sent_whole_when_its_comm_is_opened(monkeypatch) -> None:
    import comm

    sent = []

    class Recorded(comm.DummyComm):
        def publish_msg(self, msg_type, data=None, **more) -> None:
            sent.append((msg_type, data))

    monkeypatch.setattr(comm, "create_comm", Recorded)
    plot = Plot(lambda theme: Figure([Scatter(x=[0], y=[1], name="only")]))
    [first] = [data for kind, data in sent if kind == "comm_open" and "_widget_data" in data["state"]]
    assert [trace["name"] for trace in first["state"]["_widget_data"]] == ["only"]
    plot.close()
