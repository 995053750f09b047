"""What was done in a map view: the code that repeats it, and the crystals that were picked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.base.selection import Pick, Selection


class Record:
    """Notes actions as lines of Python, and makes the crystals that they show the pick of a selection.

    Args:
        setup: statements that the lines need, which bind `model` and `known`.
        selection: that gets the picks.
        changed: called after every action.

    Attributes:
        code: all that was done, in order.
        picking: a crystal is being chosen here. One that was chosen here can be chosen again in another view.
    """

    def __init__(self, setup: Mapping[str, str], selection: Selection, changed: Callable[[], None]) -> None:
        self.code = ReplayCode(setup=setup)
        self._selection, self._changed = selection, changed
        self.picking = False

    def alone(self, *lines: str, imports: Sequence[str] = ()) -> ReplayCode:
        """Lines as code that runs without what was done before."""
        return ReplayCode(tuple(imports), self.code.setup, lines)

    def add(self, *lines: str, imports: Sequence[str] = ()) -> None:
        """Note an action; the same twice in a row only once."""
        if self.code.body[-len(lines) :] != lines:
            self.code = self.code.then(*lines, imports=imports)
        self._changed()

    def pick(
        self,
        name: str,
        crystal: Crystals,
        z: Float[Tensor, "1 latent"] | None,
        code: str,
        replay: ReplayCode | None,
        encoded: bool = False,
    ) -> None:
        """Choose a crystal for all views; arguments are those of `Pick`."""
        self.picking = True
        try:
            self._selection.choose(Pick(name, crystal.to("cpu"), z, code, replay, encoded))
        finally:
            self.picking = False
