"""The README's film, made again: `python -m tests.pictures` writes it to assets/pictures/, for light and dark pages."""

from __future__ import annotations

from pathlib import Path

import cdvae_lab as lab
from cdvae_lab.render.film import steady

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


if __name__ == "__main__":
    main()
