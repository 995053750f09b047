"""A run of the denoiser as files: crystals, a trajectory, an animation, a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cdvae_lab import pages, render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.sampling.denoising import DenoisingFrame
from cdvae_lab.sampling.trajectory import Trajectory
from cdvae_lab.widgets.parts.writing import Writing

KINDS = ("cif", "extxyz", "gif", "html")
_GIF_FRAMES = 100


def write_run(
    frames: Sequence[DenoisingFrame],
    trajectory: Callable[[], Trajectory],
    shown: Sequence[int],
    crystals_of: Callable[[int], Crystals],
    choice: int | None,
    folder: Path,
    kinds: Sequence[str],
) -> Iterator[Writing]:
    """Write a run; yields the progress after each kind, and after each picture of the animation.

    Args:
        frames: of the run.
        trajectory: gives the same, to save.
        shown: number of the frame that is shown, and number of the frames that are drawn.
        crystals_of: gives the crystals of a frame, placed as they are drawn.
        choice: number of the crystal that is shown alone; None for all. Then CIFs of all are written, the page holds
            all, and the other files are of the first.
        folder: created if necessary.
        kinds: of `KINDS`.

    Raises:
        LabError: if a file cannot be written.
    """
    at, drawn = shown
    which = choice or 0
    thin = [*range(0, drawn - 1, max(1, drawn // _GIF_FRAMES)), drawn - 1]
    total = len(kinds) + (len(thin) if "gif" in kinds else 0)
    files: tuple[Path, ...] = ()
    done = 0
    yield Writing(done, total)
    for kind in kinds:
        if kind == "cif":
            crystals = crystals_of(at)
            numbers = range(len(crystals)) if choice is None else [choice]
            chosen = crystals if choice is None else crystals[choice]
            files += tuple(chosen.write_cif(folder, [f"step_{frames[at].step:04d}_crystal_{k}" for k in numbers]))
        elif kind == "extxyz":
            files += (trajectory().write_extxyz(folder / f"run_crystal_{which}.xyz", which),)
        elif kind == "gif":
            pictures = []
            for k in thin:
                caption = f"step {frames[k].step} of {frames[k].num_steps}, sigma {frames[k].sigma:.2g} Å"
                pictures.append(render.picture(crystals_of(k), which, size=320, caption=caption, steady=False))
                done += 1
                yield Writing(done, total, files)
            files += (render.gif(pictures, folder / f"run_crystal_{which}.gif"),)
        else:
            name = "run.html" if choice is None else f"run_crystal_{choice}.html"
            files += (pages.write_html(frames, folder / name, which=choice),)
        done += 1
        yield Writing(done, total, files)
