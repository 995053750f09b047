"""Reconstruction of the ends of a path, in the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.explore.interpolation import PATHS, LatentPath, decode_path
from cdvae_lab.io import assets
from cdvae_lab.metrics import reconstruction
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.familiarity import models_that_keep
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.widgets.interpolation.path_end import PathEnd
from cdvae_lab.widgets.parts import files


@dataclass(frozen=True)
class EndsChecked:
    """Reconstructions of the ends, and models for those that this one does not take.

    Attributes:
        decoded: the reconstruction of an end and its distance (None: no match), by letter.
        models: bundled models that take an end, by letter.
        known_by: other bundled models that keep the composition of an end that does not match, by letter.
    """

    decoded: dict[str, tuple[Crystals, float | None]]
    models: dict[str, list[str]]
    known_by: dict[str, list[str]] = field(default_factory=dict)


def check_ends(model: CDVAE, ends: Sequence[PathEnd], seed: int, schedule: Schedule) -> Iterator[Any]:
    """Reconstruct the usable ends, and find models for the others.

    Yields `EndsChecked` when something is known, and other things between, so that it can be stopped.

    Args:
        seed: of the noise.
        schedule: of the decoder.
    """
    models: dict[str, list[str]] = {}
    for end in ends:
        if end.error is not None and end.structure is not None and end.primitive_size:
            models[end.letter] = []
            for name in assets.models():
                models[end.letter] += filter(None, [files.taken_by(name, end.structure)])
                yield end
    yield EndsChecked({}, models)
    usable = [end for end in ends if end.crystal is not None]
    if not usable:
        return
    crystals = Crystals.cat([end.crystal for end in usable if end.crystal is not None])
    with torch.no_grad():
        z = model.encode(crystals).mu
    # As the ends of a path: both with the noise of crystal 0.
    path = LatentPath(z, torch.linspace(0, 1, len(z)).to(z), crystals, PATHS[0])
    frame = None
    for frame in decode_path(model, path, seed=seed, sampler=schedule):
        yield frame
    assert frame is not None
    found = frame.crystals.to("cpu")
    decoded: dict[str, tuple[Crystals, float | None]] = {}
    for k, rms in reconstruction.match(crystals.to("cpu"), found, jobs=1):
        decoded[usable[k].letter] = (found[k].trim(), rms)
    yield EndsChecked(decoded, models)
    lost = {end.letter: end.crystal for end in usable if end.crystal is not None and decoded[end.letter][1] is None}
    if lost:
        yield EndsChecked(decoded, models, {letter: models_that_keep(one, model) for letter, one in lost.items()})
