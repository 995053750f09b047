"""The slider's place in a search."""

from __future__ import annotations

from cdvae_lab.widgets.optimizer.state import OptimizerState


class Cursor:
    """The number of the kept step that is shown: the newest while a search runs, until the user goes to another one.

    Args:
        state: whose `index` it is, and whose `crystal` is the one that is shown.
    """

    def __init__(self, state: OptimizerState) -> None:
        self._state = state
        self._following = True  # whether the newest step is shown
        self._moving = False  # whether the slider is moved from here

    def restart(self, crystals: int) -> None:
        """Go to the first step and the first crystal of another search.

        Args:
            crystals: number of its crystals.
        """
        self._following = True
        self._state.limit("crystal", 0)
        self._state.limit("crystal", crystals - 1)
        self._move(0)

    def expect(self, last: int) -> None:
        """Follow a run, and let the slider reach its last step.

        Args:
            last: number of that step among those that will be kept.
        """
        self._following = True
        self._state.limit("index", max(1, last))

    def grown(self, kept: int) -> None:
        """Go to the newest of the kept steps, unless the user looks at another one."""
        if self._following:
            self._move(kept - 1)

    def ended(self, kept: int) -> None:
        """Let the slider reach no more than the kept steps."""
        self._state.limit("index", kept - 1)

    def moved(self, kept: int) -> bool:
        """Take a change of the state's `index` as the wish of the user; False if it was moved from here."""
        if self._moving:
            return False
        self._following = self._state.index >= kept - 1
        return True

    def _move(self, index: int) -> None:
        self._moving = True
        if index > self._state.limits.get("index", 0):
            self._state.limit("index", index)
        self._state.index = index
        self._moving = False
