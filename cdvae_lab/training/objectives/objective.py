"""Protocol of a training objective: a model, its data, its loss terms and their weights.

The training loop does not depend on the kind of model. It draws a batch, computes the objective's terms and minimizes
their weighted sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.models.checkpoints import Trainable


@runtime_checkable
class Objective(Protocol):
    """Training objective of one kind of model. Creating it checks that model and data fit together; it changes nothing.

    Attributes:
        model: the model to train.
        terms: names of the loss terms.
        weights: weight of each term in the loss that is minimized.
        sizes: padded number of atoms of every item; batches hold items of similar size.
    """

    @property
    def model(self) -> Trainable: ...

    @property
    def terms(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> Mapping[str, float]: ...

    @property
    def sizes(self) -> Int[Tensor, " items"]: ...

    def prepare(self) -> None:
        """Put the model into the state in which it is trained, and the data on the model's device."""
        ...

    def images_for(self, sites: int) -> int:
        """Count the periodic images that the batches of this padded size need."""
        ...

    def losses(
        self, index: Int[Tensor, " batch"], mine: slice, step: Int[Tensor, ""], sites: int, most_images: int, seed: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute every term, unweighted, for a share of a batch, without waiting for the device.

        Args:
            mine: the share. Shares are of equal size, and the mean of a term over them is the term of the batch.
        """
        ...
