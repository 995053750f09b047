"""Both ends of a path: chosen, read in the background, and shown in the fields of a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.explore.interpolation import ENDS
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.background_task import BackgroundTask, waits
from cdvae_lab.widgets.interpolation.path_end import PathEnd, read_end
from cdvae_lab.widgets.interpolation.state import InterpolationState


class PathEnds:
    """Reads the ends that are chosen; the state's fields follow what was read.

    Args:
        model: that has to encode them.
        state: of the view.
        new_task: makes the task in which an end is read, given a word for it.
        changed: called with the letter of an end that has been read.

    Attributes:
        by_letter: the ends as they were read last.
    """

    def __init__(
        self,
        model: CDVAE,
        state: InterpolationState,
        new_task: Callable[[str], BackgroundTask[PathEnd]],
        changed: Callable[[str], None],
    ) -> None:
        self._model, self._state, self._changed = model, state, changed
        self.by_letter = {letter: PathEnd(letter) for letter in ENDS}
        self._wanted: dict[str, Any] = dict.fromkeys(ENDS)  # sources of the ends, also while they are being read
        self._readers = {letter: new_task(f"reading end {letter}") for letter in ENDS}
        self._quiet = False  # whether the state is being updated to match an end
        self._then: Callable[[], None] | None = None

    @property
    def being_read(self) -> bool:
        """True while an end is being read."""
        return any(one.running for one in self._readers.values())

    @property
    def ready(self) -> bool:
        """True if both ends are read and have a crystal."""
        return not self.being_read and all(end.crystal is not None for end in self.by_letter.values())

    def crystals(self) -> list[Crystals]:
        """Wait until both ends are read, and return their crystals. Raises CrystalError if one cannot be used."""
        for one in self._readers.values():
            one.run.wait()
        found = []
        for letter, end in self.by_letter.items():
            if end.crystal is None:
                raise end.error or CrystalError(f"end {letter}: choose a crystal first")
            found.append(end.crystal)
        return found

    def read(self, letter: str, source: Any, wait: bool | None, primitive: bool = False) -> None:
        """Read an end.

        Args:
            letter: "a" or "b".
            source: as for `PathEnd`.
            wait: return when it is read, and raise its error; None: in a script.
            primitive: take the primitive cell.

        Raises:
            CrystalError: if it cannot be used.
            SettingError: for another letter.
        """
        _check(letter)
        waiting = waits(wait)

        def take(end: PathEnd) -> None:
            self.by_letter[letter] = end
            self._follow(letter)
            self._changed(letter)
            if self._then is not None and not self.being_read:
                then, self._then = self._then, None
                then()
            if waiting and end.error is not None:
                raise end.error

        self._wanted[letter], self._then = source, None
        self._readers[letter].start(lambda: [read_end(self._model, letter, source, primitive)], take, waiting)

    def read_primitive(self, letter: str, wait: bool | None) -> None:
        """Read the primitive cell of an end; `wait` and errors are those of `read`."""
        _check(letter)
        if self.by_letter[letter].structure is None:
            raise CrystalError(f"end {letter}: there is no crystal yet whose primitive cell could be taken")
        self.read(letter, self._wanted[letter], wait, primitive=True)

    def when_read(self, act: Callable[[], None]) -> None:
        """Do something as soon as no end is being read any more; another choice and `stop` forget it."""
        self._then = act

    def stop(self) -> list[str]:
        """Read no further, and leave the ends as they were; returns the letters of those that were being read."""
        stopped = [letter for letter, reader in self._readers.items() if reader.running]
        for letter in stopped:
            self._readers[letter].cancel()
            self._follow(letter)
        self._then = None
        return stopped

    def source_set(self, letter: str) -> None:
        """Read an end whose field of the state, `a` or `b`, was set."""
        source = getattr(self._state, letter)
        if source and not self._quiet:
            self._read_field(letter, source)

    def primitive_set(self, letter: str) -> None:
        """Read an end again after a change of the state's `primitive_a` or `primitive_b`."""
        if self._wanted[letter] is not None and not self._quiet:
            self._read_field(letter, self._wanted[letter])

    def _read_field(self, letter: str, source: Any) -> None:
        self.read(letter, source, None, getattr(self._state, f"primitive_{letter}"))

    def _follow(self, letter: str) -> None:
        """Bring the fields of the state back to the end that is there."""
        end = self.by_letter[letter]
        self._wanted[letter] = end.source
        self._quiet = True
        try:
            self._state.update({letter: end.path, f"primitive_{letter}": end.primitive})
        finally:
            self._quiet = False


def _check(letter: str) -> None:
    if letter not in ENDS:
        raise SettingError(f"an end is 'a' or 'b', not {letter!r}")
