"""Validation of the averaged weights: losses, and reconstructions of a few crystals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.metrics.reconstruction import reconstruction
from cdvae_lab.sampling.reconstruction import reconstruct
from cdvae_lab.training.loop import TrainingStep
from cdvae_lab.training.validation import validation_losses
from cdvae_lab.widgets.monitor.record import Validation


@dataclass(frozen=True)
class Validator:
    """What is computed at a step with the moving average of the weights.

    Attributes:
        dataset: crystals that the losses are computed on.
        originals: crystals that are encoded and decoded again.
        decode_steps: of the decoder's sampler.
    """

    dataset: Dataset
    originals: Crystals
    decode_steps: int

    def __call__(self, step: TrainingStep) -> Iterator[tuple[dict[str, float], Validation] | None]:
        """Yield None after every step of the decoder, and at the end the losses by name and the reconstructions."""
        model = step.averaged()
        losses = validation_losses(model, self.dataset)
        frame = None
        for frame in reconstruct(model, self.originals, steps=self.decode_steps, allow_unseen=True):  # noqa: B007
            yield None
        assert frame is not None
        rms = reconstruction(self.originals, frame.crystals, jobs=1).rms
        yield losses, Validation(step.step, frame.crystals.to("cpu"), rms)
