"""The selected crystals, shared by several views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import traitlets
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.widgets.base.replay_code import ReplayCode

MAX_PICKS = 50  # that are remembered


@dataclass(frozen=True)
class Pick:
    """A crystal that was chosen, found or made.

    Attributes:
        name: for people: a formula and where it is from.
        crystal: exactly one.
        z: the latent that it was decoded from or encoded to; None if it has not been encoded.
        encoded: it was encoded to `z`, and not decoded from it.
        code: an expression of Python that gives the crystal; empty if there is none.
        replay: code that runs alone and binds `crystal` and, if the pick has one, `z`; None if there is none.
    """

    name: str
    crystal: Crystals
    z: Float[Tensor, "1 latent"] | None = None
    code: str = ""
    replay: ReplayCode | None = None
    encoded: bool = False

    def binding(self, name: str) -> ReplayCode:
        """Code that binds the crystal to a name, and its latent, if there is one, to `z`.

        Without replay code, it takes the crystal from `code`, or else from `selection`.
        """
        if self.replay is not None:
            last = () if name == "crystal" else (f"{name} = crystal",)
            return ReplayCode(body=last, before=(self.replay,)) if last else ReplayCode(before=(self.replay,))
        if self.z is None and self.code:
            return ReplayCode(body=(f"{name} = {self.code}",))
        # Nothing but the selection itself holds a latent that was made by hand.
        lines = [f"# `selection` is the view's, and {self.name} is chosen in it"]
        lines += [f"{name} = {self.code or 'selection.pick.crystal'}"]
        lines += ["z = selection.pick.z"] if self.z is not None else []
        return ReplayCode(body=tuple(lines))


class Selection(traitlets.HasTraits):
    """The chosen crystals: call `choose` to choose one, and observe `pick` for changes.

    Attributes:
        pick: the newest; None before the first.
        history: all that are remembered, oldest first; the same crystal chosen again moves to the end.
    """

    pick: Any = traitlets.Instance(Pick, allow_none=True, default_value=None)
    history: Any = traitlets.Tuple(default_value=())

    def choose(self, pick: Pick) -> None:
        """Select a crystal for all views."""
        self.history = (*(one for one in self.history if one is not pick), pick)[-MAX_PICKS:]
        self.pick = pick
