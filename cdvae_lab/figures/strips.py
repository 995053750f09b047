"""Figure of a denoising run: strips over its steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from cdvae_lab.crystals.limits import MIN_DISTANCE
from cdvae_lab.figures.style import THEMES, Theme, dress
from cdvae_lab.metrics.course import Course, course
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Names of the traces, top to bottom.
SIGMA, DISTANCE, CHANGED, VALID = "noise level", "closest distance", "atoms that changed species", "structure valid"
CURRENT = "now"  # name of the shape that marks the current step


def trajectory_strips(
    run: Trajectory | Course | Iterable[DenoisingFrame],
    crystal: int = 0,
    current: int | None = None,
    theme: Theme = "light",
    height: int = 360,
) -> Figure:
    """Plot noise level, closest distance, changed species and structure validity of a crystal over a denoising run.

    Args:
        run: a recording, the frames of one, or what `course` made of them.
        crystal: its place in the batch; of a `Course` it is known already.
        current: the step to mark; the shape is named `CURRENT`, so that a player moves it without a new figure.
        height: pixels.

    Raises:
        SettingError: without frames, or with no crystal of that number.
    """
    from plotly.graph_objects import Bar, Heatmap, Scatter
    from plotly.subplots import make_subplots

    along = run if isinstance(run, Course) else course(run, crystal)
    palette = THEMES[theme]
    figure = make_subplots(
        4, 1, shared_xaxes=True, vertical_spacing=0.045, row_heights=[0.32, 0.32, 0.26, 0.1],
    )  # fmt: skip
    x, valid = along.steps.numpy(), along.structure_valid.numpy()
    said = np.where(valid, "structure valid", "structure not valid")[None]
    blue, orange, green = palette.series[0], palette.series[1], palette.series[2]
    figure.add_trace(
        Scatter(
            x=x, y=along.sigmas.numpy(), name=SIGMA, mode="lines", line={"color": blue, "width": 2},
            hovertemplate="step %{x}: σ = %{y:.3g} Å<extra></extra>",
        ), row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        Scatter(
            x=x, y=along.closest_distance.numpy(), name=DISTANCE, mode="lines", line={"color": green, "width": 2},
            hovertemplate="step %{x}: closest atoms %{y:.3g} Å apart<extra></extra>",
        ), row=2, col=1,
    )  # fmt: skip
    figure.add_hline(
        MIN_DISTANCE, row=2, col=1, line={"color": palette.muted, "dash": "dash", "width": 1},  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    figure.add_trace(
        Bar(
            x=x, y=along.changed_species.numpy(), name=CHANGED, marker={"color": orange, "line": {"width": 0}},
            hovertemplate="step %{x}: %{y} of " + f"{along.num_atoms} atoms changed species<extra></extra>",
        ), row=3, col=1,
    )  # fmt: skip
    figure.add_trace(
        Heatmap(
            x=x, y=[""], z=valid[None].astype(int), zmin=0, zmax=1, showscale=False, name=VALID,
            colorscale=[[0, palette.grid], [1, blue]], text=said,
            hovertemplate="step %{x}: %{text}<extra></extra>",
        ), row=4, col=1,
    )  # fmt: skip
    if current is not None:
        figure.add_shape(
            name=CURRENT, type="line", xref="x", yref="paper", x0=current, x1=current, y0=0, y1=1,
            line={"color": palette.ink, "width": 1.5},
        )  # fmt: skip
    dress(figure, theme, height)
    figure.update_yaxes(type="log", dtick=1, exponentformat="none", title={"text": "σ (Å)"}, row=1, col=1)
    figure.update_yaxes(rangemode="tozero", title={"text": "closest<br>atoms (Å)"}, row=2, col=1)
    figure.update_yaxes(range=[0, along.num_atoms], title={"text": "changed<br>species"}, row=3, col=1)
    figure.update_yaxes(
        title={"text": "structure<br>valid"}, showgrid=False, showticklabels=False, ticks="", row=4, col=1
    )
    first, last = int(x[0]), int(x[-1])
    figure.update_xaxes(range=[first - 0.5, max(last, first + 1) + 0.5], showgrid=False)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=4, col=1)
    figure.update_layout(showlegend=False, bargap=0, hovermode="closest", uirevision="strips", margin={"t": 16})
    return figure
