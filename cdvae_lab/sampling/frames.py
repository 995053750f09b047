"""Frames of a generator: their common base class, and adaptors that show progress, thin them out or keep the last.

A frame is the whole state of a run. Adaptors map an iterator to an iterator, so they nest, and the generators do not
depend on them:

    for frame in progress(every(denoise(model, n=8), 10)):
        ...
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.io import convert

AnyFrame = TypeVar("AnyFrame", bound=Any)  # anything with .step and .num_steps


class Frame:
    """Base class of the frames of all samplers and searches, which are frozen dataclasses with these attributes.

    Attributes:
        step: steps so far; 0 is the start.
        num_steps: steps of the whole run.
        numbers: the numbers of the crystals, which determine their noise together with the seed.
    """

    numbers: Int[Tensor, " crystals"]

    @property
    def finished(self) -> bool:
        """True for the last frame of a run."""
        frame: Any = self
        return frame.step >= frame.num_steps

    def select(self: AnyFrame, which: Sequence[int] | slice | Tensor) -> AnyFrame:
        """Return the frame of some of the crystals. They keep their numbers, and so their noise, when it is resumed."""
        frame: Any = self
        rows = torch.arange(len(frame.numbers), device=frame.numbers.device)
        rows = rows[which if isinstance(which, slice | Tensor) else torch.as_tensor(which)]
        values = {field.name: getattr(frame, field.name) for field in dataclasses.fields(frame)}
        chosen = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor | Crystals)}
        return dataclasses.replace(frame, **chosen)

    def __repr__(self) -> str:
        frame: Any = self
        count, detail = len(frame.numbers), _detail(frame)
        return (
            f"<{type(frame).__name__}: step {frame.step:,} of {frame.num_steps:,}, {count:,} "
            f"crystal{'s' * (count != 1)}{', ' * bool(detail)}{detail}>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Represent the frame as a line of text and, for a notebook, a picture of its first crystals."""
        shown: dict[str, Any] = {"text/plain": repr(self)}
        crystals = getattr(self, "crystals", None)
        if crystals is not None and bool((usable := convert.is_usable(crystals)).any()):
            from cdvae_lab.render import grid, png_bytes

            shown["image/png"] = png_bytes(grid(crystals[usable][:SHOWN].to("cpu")))
        return shown


SHOWN = 12  # crystals of a frame, at most, that a notebook draws for it


def _detail(frame: Any) -> str:
    """Loss or noise level of a frame, as text. Reading the value of a tensor waits for the device."""
    loss, sigma = getattr(frame, "loss", None), getattr(frame, "sigma", None)
    if loss is not None:
        return f"loss {loss:.3f}"
    return "" if sigma is None else f"sigma {sigma:.3g} Å"


def refuse_contradictions(frame: str, carried: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse settings that differ from those that a frame carries; equal ones pass, and so does None.

    Args:
        frame: what carries them, for the message: "frame", "step", "state".
        carried: the settings of the run that is resumed.
        given: those of the call.

    Raises:
        SettingError: naming every setting that differs.
    """
    differing = [name for name, value in given.items() if value is not None and not _equal(value, carried[name])]
    if differing:
        text = ", ".join(f"{name} ({_short(carried[name])} there, {_short(given[name])} here)" for name in differing)
        raise SettingError(
            f"the {frame} carries its own settings, and these differ: {text}; leave them out to resume the run, or "
            f"start a new one from the {frame}'s z"
        )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.to(b), b)
    return bool(a == b)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return repr(value) if isinstance(value, str | int | float | tuple | list) else str(value)


def progress(frames: Iterable[AnyFrame], runs: int = 1, file: io.TextIOBase | None = None) -> Iterator[AnyFrame]:
    """Show steps, rate and time left while frames pass through: a bar in a notebook, a line in a terminal.

    Args:
        frames: anything with `step` and `num_steps`, from any generator of the lab.
        runs: how many runs of equal length follow one another, as when a large job is done in batches.
        file: where the line is written, `sys.stderr` by default.
    """
    from tqdm.auto import tqdm

    bar, done, before = None, 0, 0
    file = cast(io.TextIOBase, sys.stderr) if file is None else file
    # A file keeps every state of the line, so there it changes rarely.
    interval = 0.5 if "ipykernel" in sys.modules or file.isatty() else 10.0
    try:
        for frame in frames:
            if bar is None:
                before = max(frame.step - 1, 0)  # a resumed run has done these already
                bar = tqdm(
                    total=runs * frame.num_steps,
                    initial=before,
                    file=file,
                    unit="step",
                    mininterval=interval,
                    dynamic_ncols=True,
                )
            elif frame.step < before:
                done, before = done + frame.num_steps, 0
            if bar.update(done + frame.step - bar.n) or done + frame.step == bar.total:
                # Looking at a tensor waits for the device: only when the line is drawn anyhow.
                bar.set_postfix_str(_detail(frame), refresh=done + frame.step == bar.total)
            before = frame.step
            yield frame
    finally:
        if bar is not None:
            bar.close()


def every(frames: Iterable[AnyFrame], n: int) -> Iterator[AnyFrame]:
    """Keep the frames whose step is a multiple of n, and always the first and the last.

    Raises:
        SettingError: if n is less than 1.

    Examples:
        >>> import cdvae_lab as lab
        >>> [frame.step for frame in lab.every(lab.denoise("perov_5", n=1, steps=10), 4)]
        [0, 4, 8, 10]
    """
    if n < 1:
        raise SettingError(f"every: n is {n}; give 1 or more")
    return _every(frames, n)


def _every(frames: Iterable[AnyFrame], n: int) -> Iterator[AnyFrame]:
    first, left_out = True, None
    for frame in frames:
        if first or frame.step % n == 0:
            first, left_out = False, None
            yield frame
        else:
            left_out = frame
    if left_out is not None:
        yield left_out


def last(frames: Iterable[AnyFrame]) -> AnyFrame:
    """Run a generator to its end and return the last frame.

    Raises:
        SettingError: if there is no frame at all.
    """
    frame = None
    for frame in frames:  # noqa: B007
        pass
    if frame is None:
        raise SettingError("last: there were no frames")
    return frame
