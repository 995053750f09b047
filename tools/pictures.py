"""Animation of the README: `python -m tools.pictures` writes it to assets/pictures/, for light and dark pages."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cdvae_lab as lab
from cdvae_lab.pages.animation import steady

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "pictures"
# All of the run that can be seen: fewer where there is only noise or hardly anything moves, and a while for the result.
STEPS = [*range(0, 60, 6), *range(60, 150, 2), *range(150, 200, 5), *[200] * 24]


def main() -> None:
    frames = list(lab.denoise(lab.load("perov_5"), n=4, seed=11))
    shown = steady(frames)
    for theme, name in (("light", "denoising.gif"), ("dark", "denoising_dark.gif")):
        sheets = []
        for k in STEPS:
            words = [f"step {k} of 200, noise {frames[k].sigma:.2g} Å", *[" "] * 3]
            sheets.append(lab.render.grid(shown[k], 4, captions=words, size=220, theme=theme, labels=False))
        lab.render.gif(sheets, FOLDER / name, fps=12)


def photograph(figure: Figure, path: Path) -> None:
    """Render a plotly figure as a PNG with chromium, since plotly itself would download a browser."""
    from tests.browser.harness import Browser

    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page = Path(folder) / "figure.html"
        figure.write_html(page, include_plotlyjs=True, default_width="980px", config={"displayModeBar": False})
        shown = browser.open_file(page)
        shown.wait("() => document.querySelector('.js-plotly-plot .main-svg .xtick')")
        shown.shot(".js-plotly-plot", path)


if __name__ == "__main__":
    main()
