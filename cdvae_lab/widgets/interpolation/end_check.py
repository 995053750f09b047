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


class EndsCheck:
    """Checks both ends; the result for an end is kept when only the other one changes.

    Args:
        model: that has to represent them.
        schedule: of the decoder.
    """

    def __init__(self, model: CDVAE, schedule: Schedule) -> None:
        self._model, self._schedule = model, schedule
        self._others: dict[str, tuple[PathEnd, list[str]]] = {}  # other models for an end, by its letter

    def run(self, ends: Sequence[PathEnd], seed: int) -> Iterator[Any]:
        """Reconstruct the usable ends, and find models for the others; for a worker thread.

        Yields `EndsChecked` when something is known, and other things between, so that it can be stopped.

        Args:
            seed: of the noise.
        """
        models: dict[str, list[str]] = {}
        for end in ends:
            if end.error is not None and end.structure is not None and end.primitive_size:
                names = self._known(end)
                if names is None:
                    names = list[str]()
                    for name in assets.models():
                        names += filter(None, [files.taken_by(name, end.structure)])
                        yield end
                    self._others[end.letter] = end, names
                models[end.letter] = names
        yield EndsChecked({}, models)
        usable = [(end, end.crystal) for end in ends if end.crystal is not None]
        if not usable:
            return
        crystals = Crystals.cat([crystal for _, crystal in usable])
        with torch.no_grad():
            z = self._model.encode(crystals).mu
        # As the ends of a path: both with the noise of crystal 0.
        path = LatentPath(z, torch.linspace(0, 1, len(z)).to(z), crystals, PATHS[0])
        frame = None
        for frame in decode_path(self._model, path, seed=seed, sampler=self._schedule):
            yield frame
        assert frame is not None
        found = frame.crystals.to("cpu")
        decoded: dict[str, tuple[Crystals, float | None]] = {}
        for k, rms in reconstruction.match(crystals.to("cpu"), found, jobs=1):
            decoded[usable[k][0].letter] = (found[k].trim(), rms)
        yield EndsChecked(decoded, models)
        known_by: dict[str, list[str]] = {}
        for end, crystal in usable:
            if decoded[end.letter][1] is None:
                names = self._known(end)
                if names is None:
                    names = models_that_keep(crystal, self._model)
                    self._others[end.letter] = end, names
                known_by[end.letter] = names
        if known_by:
            yield EndsChecked(decoded, models, known_by)

    def _known(self, end: PathEnd) -> list[str] | None:
        """The other models for an end, if they have been looked for: all have to be loaded for it."""
        of, names = self._others.get(end.letter, (None, None))
        return names if of is end else None
