"""A property minimized, maximized or brought to a value, step by step in latent space, with what is really there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.explore.optimization import LatentStep, optimize
from cdvae_lab.explore.saved_steps import load_steps, save_steps
from cdvae_lab.io import convert
from cdvae_lab.io.storage import atomic_path
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import denoise
from cdvae_lab.sampling.frames import every
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.legs import arguments
from cdvae_lab.widgets.base.panel import Panel
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.latent_map.figure import chosen_map
from cdvae_lab.widgets.optimizer.controls import PACES, OptimizerLooks
from cdvae_lab.widgets.optimizer.latent_search import Decoded, Predictor, Region, Search
from cdvae_lab.widgets.optimizer.search_start import SearchStart

KINDS = ("cif", "csv", "steps")


class PropertyOptimizer(Panel):
    """Moves latents to where the model predicts another property, and shows what crystals they are.

    The predictor is easily fooled by the very search that follows its gradient. So every so many steps the latents
    are decoded, and the property of the crystals is predicted: by `predictor`, if there is one, and by the model
    itself, which is not independent.

    Space runs and stops, arrows step (with shift ten at a time), Home and End. Every button is also a method: `run`,
    `stop`, `go_on`, `start_anew`, `back`, `decode`, `choose`, `export`. With `wait=True` a script waits for the end and
    gets errors raised; in a notebook errors appear in the panel, with the steps that there are.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        start: as `optimize` takes it: crystals, a file, latents, or a number of crystals from the prior; by default the
            selection's crystal, if something is chosen, or else an example.
        map: a LatentMap or its file, for the trail and for where the training crystals are; or a widget with
            `set_path`; by default the bundled map of this model, if there is one.
        predictor: takes Crystals and returns a value for each, in the property's unit; best not this model.
        selection: shared with other widgets.
        seed: of the prior's latents and of the decoder's noise.
        target, steps, lr, prior_weight: as in `optimize`; a pull of 0.01 and 400 steps of 0.02 by default.
        decode_every: steps.
        decode_steps: of the decoder's sampler; few are quick, 200 are what `denoise` takes.

    Raises:
        SettingError: for settings out of range.
        CrystalError: for crystals that the model cannot take.
        LabError: if a file cannot be read.
    """

    def __init__(
        self,
        model: CDVAE | str | Path = "perov_5",
        start: Any = None,
        *,
        map: Any = None,
        predictor: Predictor | None = None,
        selection: Selection | None = None,
        seed: int = 0,
        target: str | float | int = "min",
        steps: int = 400,
        lr: float = 2e-2,
        prior_weight: float | int = 0.01,
        decode_every: int = 50,
        decode_steps: int = 100,
    ) -> None:
        super().__init__(model, selection)
        if decode_every < 1:
            raise SettingError(f"decode_every must be at least 1 step, not {decode_every}")
        self.predictor = predictor
        self._seed, self._decode_steps = seed, decode_steps
        self._view_of_map = map if hasattr(map, "set_path") else None
        self.map = chosen_map(self._the_model, map)
        self.region = Region.of(self.map)
        data = self._the_model.metadata.get("data", {})
        self.property_name = data.get("property") or (self.map.label_name if self.map else "") or "property"
        self.property_unit = data.get("property_unit") or (self.map.label_unit if self.map else "")
        self._search, self._earlier = Search(), list[Search]()
        self._due = 0.0
        self._worker = self._runner(self._show_new, self._ended, fps=12)
        options = {"target": target, "steps": steps, "lr": lr, "prior_weight": prior_weight}
        optimize(self._the_model, 1, seed=seed, **options)  # refuses now what it would refuse later
        next(denoise(self._the_model, 1, steps=decode_steps))
        self._start = SearchStart(self, self._the_model, start)
        optimize(self._the_model, self._start.source()[0])
        self._looks = OptimizerLooks(self, options, decode_every)
        self._when_picked(self._start.offer)
        self._show(*self._looks.rows())
        self._looks.refresh()

    # --- what can be done, by buttons and from code ---------------------------------------------------

    @property
    def steps(self) -> tuple[LatentStep, ...]:
        """The steps of the search that are kept, in order."""
        return tuple(self._search.steps)

    @property
    def decoded(self) -> tuple[Decoded, ...]:
        """What was decoded on the way, in order."""
        return tuple(self._search.decoded)

    @property
    def step(self) -> LatentStep:
        """The step that is shown. Raises SettingError if there is none yet."""
        if not self._search.steps:
            raise SettingError("there is no step yet; press Run, or call run()")
        return self._search.steps[self.index]

    @property
    def index(self) -> int:
        """Number of the step that is shown, among those that are kept."""
        return min(self._looks.slider.value, max(0, len(self._search.steps) - 1))

    @index.setter
    def index(self, value: int) -> None:
        self._looks.slider.value = value

    @property
    def crystal(self) -> int:
        """Number of the crystal that is shown."""
        return self._looks.crystal.value

    @crystal.setter
    def crystal(self, value: int) -> None:
        self._looks.crystal.value = value

    def run(self, wait: bool = False, **settings: Any) -> None:
        """A new search with the settings of the fields.

        Args:
            wait: return at the end.
            settings: target, steps, lr or prior_weight, to be put into the fields first.
        """
        self._stop_first()
        self._looks.set_options(settings)
        source, code = self._start.source()
        options = self._looks.options()
        items = optimize(self._the_model, source, seed=self._seed, **options)
        tail = f", seed={self._seed}" if isinstance(source, int) and self._seed else ""
        self._new_search(items, f"lab.optimize(model, {code}{arguments(options)}{tail})", options["steps"], wait)

    def stop(self) -> None:
        """End the search after the step that it is in; its steps stay, and `go_on` continues."""
        self._worker.stop()

    def go_on(self, index: int | None = None, wait: bool = False) -> None:
        """Continue exactly as the search would have gone; from an earlier step, what came after it is forgotten.

        A search that had reached its last step gets as many steps more as the field says.

        Args:
            index: of the kept step to go on from; by default the one that is shown.
            wait: return at the end.
        """
        self._stop_first()
        index = self.index if index is None else range(len(self._search.steps))[index]
        step = self.step and self._search.steps[index]
        more = step.step + self._looks.options()["steps"] if step.finished else None
        items = optimize(self._the_model, step=step, steps=more)
        self._search.cut(index + 1)
        self._looks.follow()
        call = f"lab.optimize(model, step=steps[-1]{f', steps={more}' if more else ''})"
        self._search.legs.add(self._thinned(call), index + 1)
        self._begin(items, wait)

    def start_anew(self, wait: bool = False, **settings: Any) -> None:
        """A new search from the latents that are shown, with the target and the settings of the fields, as in `run`."""
        self._stop_first()
        self._looks.set_options(settings)
        z, index = self.step.z, self.index
        options = self._looks.options()
        items = optimize(self._the_model, z, **options)
        before = [*self._search.lines(), f"z = steps[{index}].z"]
        self._new_search(items, f"lab.optimize(model, z{arguments(options)})", options["steps"], wait, before)

    def back(self) -> None:
        """Return to the search before this one."""
        self._stop_first()
        if not self._earlier:
            raise SettingError("there was no search before this one")
        self._search = self._earlier.pop()
        self._looks.new_search()
        self._looks.refresh()

    def decode(self, wait: bool = False) -> None:
        """Decode the step that is shown."""
        self._stop_first()
        self._work(self._decoding(self.step), wait)

    def choose(self) -> Pick:
        """Make the crystal that is shown the selection's, for other widgets."""
        place = self._search.at(self.index) if self._search.steps else None
        if place is None:
            raise SettingError("nothing is decoded yet; press Run, or decode this step")
        one, k = self._search.decoded[place], self.crystal
        index = self._search.index(one.step)
        call = f"lab.denoise(model, z=steps[{index}].z, seed={self._seed}, steps={self._decode_steps})"
        code = f"lab.last({call}).crystals[{k}]"
        pick = Pick(
            f"{words.formula(one.crystals[k])}, step {one.step} of a search",
            one.crystals[k],
            self._search.steps[index].z[k][None],
            code,
        )
        self.selection.choose(pick)
        return pick

    def start_from_selection(self) -> None:
        """Let the next search start from the selection's crystal, as "start from" says."""
        pick: Any = self.selection.pick
        self._start.offer(pick)
        self._start.kind.value = "selection"

    def table(self) -> Any:
        """A pandas table: a row for every kept step and crystal."""
        return self._search.table(self.property_unit)

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = KINDS) -> list[Path]:
        """Write what was found; returns the files.

        Args:
            kinds: "cif", of all decoded crystals of the shown step; "csv", the `table`; "steps", to go on from
                (`load`, or `lab.load_steps`).

        Raises:
            SettingError: for another kind, or without a search.
            LabError: if a file cannot be written.
        """
        self.step  # noqa: B018 - complains if there is none
        folder = Path(self._looks.folder.value if folder is None else folder)
        files: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                place = self._search.at(self.index)
                if place is None:
                    raise SettingError("nothing is decoded yet at this step; decode it first")
                one = self._search.decoded[place]
                names = [f"step_{one.step:04d}_crystal_{k}" for k in range(len(one.crystals))]
                files += one.crystals.write_cif(folder, names)
            elif kind == "csv":
                with atomic_path(folder / "search.csv", "the table") as temporary:
                    temporary.write_text(self.table().to_csv(index=False))
                files.append(folder / "search.csv")
            elif kind == "steps":
                files.append(save_steps(self._search.steps, folder / "search.safetensors", self._the_model))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are {', '.join(KINDS)}")
        return files

    def load(self, path: str | Path) -> None:
        """Show a search that was exported as "steps", and go on from any of its steps."""
        self._stop_first()
        steps = load_steps(path, self._the_model)
        self._keep_earlier()
        call = f"lab.load_steps({str(path)!r}, model)"
        self._search = Search(Search.thinning(steps[-1].num_steps, len(steps[-1].z)), steps)
        self._search.legs.before = [self._model_line()]
        self._search.legs.add(call, size=len(steps))
        self._looks.new_search()
        self._looks.refresh()

    # --- the search -------------------------------------------------------------------------------------

    def _thinned(self, call: str) -> str:
        return call if self._search.thin == 1 else f"lab.every({call}, {self._search.thin})"

    def _keep_earlier(self) -> None:
        if self._search.steps:
            self._earlier = [*self._earlier, self._search][-5:]

    def _new_search(
        self, items: Iterator[LatentStep], call: str, steps: int, wait: bool, before: list[str] | None = None
    ) -> None:
        first = next(items)
        self._keep_earlier()
        self._search = Search(Search.thinning(steps, len(first.z)))
        self._search.legs.before = before or [self._model_line(), *self._start.lines()]
        self._search.legs.add(self._thinned(call))
        self._looks.new_search(len(first.z))
        self._begin(itertools.chain([first], items), wait)

    def _begin(self, items: Iterator[LatentStep], wait: bool) -> None:
        self._work(self._searched(every(items, self._search.thin)), wait)

    def _work(self, items: Iterator[Any], wait: bool) -> None:
        if wait:
            self._looks.refresh()
            self._worker.run_blocking(items)
        else:
            self._worker.start(items, PACES[self._looks.pace.value])
            self._looks.refresh()

    def _searched(self, items: Iterator[LatentStep]) -> Iterator[LatentStep]:
        """In the worker: keep every step, and decode where it is time to."""
        search, often = self._search, self._looks.decode_every.value
        last = max((one.step // often for one in search.decoded), default=-1)
        for step in items:
            search.steps.append(step)
            yield step
            if step.step // often > last or step.finished:
                last = step.step // often
                yield from self._decoding(step)

    def _decoding(self, step: LatentStep) -> Iterator[LatentStep]:
        """In the worker: decode a step and let everyone say what it is worth."""
        model, search = self._the_model, self._search
        frame = None
        for frame in denoise(model, z=step.z, seed=self._seed, steps=self._decode_steps):  # noqa: B007
            yield step  # so that Stop does not wait for the whole
        assert frame is not None
        crystals = frame.crystals
        # Far outside the data a cell can come out flat: then there is nothing to say of it.
        usable = convert.is_usable(crystals)
        own = torch.full((len(crystals),), torch.nan)
        independent = None if self.predictor is None else own.clone()
        if bool(usable.any()):
            with torch.no_grad():
                own[usable.cpu()] = model.predict_property(model.encode(crystals[usable]).mu).cpu().float()
            if independent is not None and self.predictor is not None:
                values = torch.as_tensor(self.predictor(crystals[usable])).detach().cpu().float()
                if values.shape != (int(usable.sum()),):
                    raise SettingError(
                        f"predictor: returned {tuple(values.shape)} for {int(usable.sum())} crystals; it must give one "
                        "value for each"
                    )
                independent[usable.cpu()] = values
        search.add(Decoded(step.step, crystals.to("cpu"), own, independent))
        yield step

    def _show_new(self, newest: LatentStep | None = None) -> None:
        # Figures keep up with 20 a second, but cost the browser; more than four nobody can read.
        if time.monotonic() >= self._due:
            started = time.monotonic()
            self._looks.draw()
            self._due = started + max(0.25, 4 * (time.monotonic() - started))  # a quarter of the time at most

    def _ended(self) -> None:
        self._looks.refresh()

    def _lines(self) -> list[str]:
        search, lines = self._search, self._search.lines(self.running)
        if search.decoded:
            wanted = sorted({one.step for one in search.decoded})
            call = f"lab.last(lab.denoise(model, z=s.z, seed={self._seed}, steps={self._decode_steps})).crystals"
            lines.append(f"decoded = {{s.step: {call} for s in steps if s.step in {wanted}}}")
        return lines

    def _picture(self) -> Crystals | None:
        return self._looks.view.current() if self._search.decoded else None
