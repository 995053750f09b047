"""What several widgets look at together: the crystal that was chosen last, and those chosen before it."""

from __future__ import annotations

from dataclasses import dataclass

import traitlets
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals

MOST = 50  # picks that are remembered


@dataclass(frozen=True)
class Pick:
    """One crystal that somebody chose, found or made.

    Attributes:
        name: for people: a formula with where it is from.
        crystal: exactly one.
        z: the latent that it was decoded from or encoded to; None where it has not been encoded.
        code: an expression of Python that gives the crystal, for `code` of the widgets; empty if there is none.
    """

    name: str
    crystal: Crystals
    z: Float[Tensor, "1 latent"] | None = None
    code: str = ""


class Selection(traitlets.HasTraits):
    """Shared by widgets: who chooses calls `choose`, who wants to know observes `pick`.

    Attributes:
        pick: the newest; None before the first.
        history: all that are remembered, oldest first; the same crystal chosen again moves to the end.
    """

    pick = traitlets.Instance(Pick, allow_none=True, default_value=None)
    history = traitlets.Tuple(default_value=())

    def choose(self, pick: Pick) -> None:
        """Make a crystal the one that all widgets look at."""
        self.history = (*(one for one in self.history if one is not pick), pick)[-MOST:]
        self.pick = pick
