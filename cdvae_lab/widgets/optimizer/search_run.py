"""The run of a search in the background, with the decodings on its way; and the searches before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep, optimize
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.frames import every
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.replay_code import ReplayCode, arguments
from cdvae_lab.widgets.optimizer.cursor import Cursor
from cdvae_lab.widgets.optimizer.decoding import Decoder
from cdvae_lab.widgets.optimizer.latent_search import Search
from cdvae_lab.widgets.optimizer.search_start import Start
from cdvae_lab.widgets.optimizer.state import PACES, OptimizerState

_REMEMBERED = 5  # searches before this one


class SearchRun:
    """Runs one search at a time, decodes the steps that are due, and remembers the searches before.

    Args:
        model: of the searches.
        model_code: the statement that makes it.
        state: with the pace, the interval of the decodings, and the steps by which a finished search is extended.
        decoder: of its steps.
        cursor: goes to the first step of a new search, and gets the number of its steps.
        new_run: makes a run of the view.

    Attributes:
        search: the one that is shown; empty before the first.
        recorded_run: of its steps.
        decoding: of a single step.
    """

    def __init__(
        self,
        model: CDVAE,
        model_code: str,
        state: OptimizerState,
        decoder: Decoder,
        cursor: Cursor,
        new_run: Callable[..., RecordedRun[Any]],
    ) -> None:
        self._model, self._state, self._decoder, self._cursor = model, state, decoder, cursor
        self._setup = ReplayCode(setup={"model": model_code})
        self._earlier: list[Search] = []
        self.search = Search(setup=self._setup)
        self.recorded_run = new_run(name="steps", fps=4, share=0.25)
        self.decoding = new_run(max_frames=1)

    @property
    def earlier(self) -> int:
        """Number of searches before this one."""
        return len(self._earlier)

    def begin(self, start: Start, settings: Mapping[str, Any], seed: int, wait: bool) -> None:
        """Begin a new search; the one before is remembered.

        Args:
            start: of the search.
            settings: of `optimize`.
            seed: of latents from the prior.
            wait: return at the end, and raise what goes wrong.
        """
        setup = ReplayCode(setup=self._setup.setup, before=(start.before,))
        search = Search(setup=setup, thin=Search.thinning(settings["steps"], start.crystals))
        tail = f", seed={seed}" if isinstance(start.source, int) and seed else ""
        call = search.thinned(f"lab.optimize(model, {start.code}{arguments(settings)}{tail})")

        def items() -> Iterator[LatentStep]:  # in the worker thread: latents from the prior take a while
            yield from every(optimize(self._model, start.source, seed=seed, **settings), search.thin)

        self._remember()
        self._put(search, start.crystals)
        self._cursor.expect(search.kept(settings["steps"]))
        self.recorded_run.start(self._decoded(items(), search), call, thin=1, pace=PACES[self._state.pace], wait=wait)

    def resume(self, index: int, wait: bool) -> None:
        """Continue the search from a kept step; the steps after it are removed.

        From its last step it is extended by as many steps as the state says. `wait` is as for `begin`.
        """
        search = self.search
        step = search.steps[index]
        more = step.step + self._state.steps if step.finished else None
        items = optimize(self._model, step=step, steps=more)
        search.forget_after(index)
        call = search.thinned(f"lab.optimize(model, step=steps[-1]{f', steps={more}' if more else ''})")
        self._cursor.expect(search.kept(step.num_steps if more is None else more))
        decoded = self._decoded(every(items, search.thin), search)
        self.recorded_run.resume(decoded, call, keep=index + 1, pace=PACES[self._state.pace], wait=wait)

    def load(self, steps: list[LatentStep], call: str) -> None:
        """Show the steps of a file; the search before is remembered.

        Args:
            call: the expression that reads them.
        """
        search = Search(setup=self._setup, thin=Search.thinning(steps[-1].num_steps, len(steps[-1].z)))
        search.steps.extend(steps)
        search.recording.segments.add(call)
        self._remember()
        self._show(search)

    def back(self) -> None:
        """Return to the search before this one. Raises SettingError if there was none."""
        if not self._earlier:
            raise SettingError("there was no search before this one")
        self._show(self._earlier.pop())

    def decode(self, step: LatentStep, wait: bool) -> None:
        """Decode a kept step; `wait` as for `begin`."""
        self.decoding.start(self._decoder.decode(step, self.search), wait=wait)

    def _remember(self) -> None:
        if self.search.steps:
            self._earlier = [*self._earlier, self.search][-_REMEMBERED:]

    def _put(self, search: Search, crystals: int) -> None:
        self.search = search
        self._cursor.restart(crystals)

    def _show(self, search: Search) -> None:
        """Put a search in place that has been run already, with its last step."""
        self._put(search, len(search.steps[0].z))
        self.recorded_run.recording = search.recording
        self._cursor.ended(len(search.steps))
        self._cursor.grown(len(search.steps))

    def _decoded(self, items: Iterator[LatentStep], search: Search) -> Iterator[LatentStep]:
        """Take the steps in the worker thread, and decode one when it is due."""
        search.recording = self.recorded_run.recording
        often = self._state.decode_every
        last = max((one.step // often for one in search.decoded), default=-1)
        for step in items:
            yield step
            if step.step // often > last or step.finished:
                last = step.step // often
                yield from self._decoder.decode(step, search)
