"""A denoising run in three dimensions: live while it is computed, and moved through afterwards."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ipywidgets
from torch import Tensor

from cdvae_lab import render
from cdvae_lab.cdvae import CDVAE, encode
from cdvae_lab.compiled import one_thread
from cdvae_lab.crystals import Crystals
from cdvae_lab.denoising import DenoisingFrame, Schedule, denoise
from cdvae_lab.errors import SettingError
from cdvae_lab.render import FilmOrigin
from cdvae_lab.trajectory import Trajectory, every
from cdvae_lab.widgets.panel import Panel, field, row
from cdvae_lab.widgets.selection import Pick, Selection
from cdvae_lab.widgets.strips import Course, StepButtons, Strips
from cdvae_lab.widgets.viewer import CrystalView

MOST_FRAMES = 1000  # that are kept of a run; of longer ones every second, third, ...
KINDS = ("cif", "extxyz", "gif", "html")
_FPS = 12  # frames that are sent, a second; what software WebGL can draw beside the computation
_REST = 0.4  # s between two drawings of slider, strips and words: they cost the browser more than the crystals do
_SPEEDS = {"½ ×": 160, "1 ×": 80, "2 ×": 40, "4 ×": 20}  # ms a frame
_PACES = {"25 steps/s": 25, "50 steps/s": 50, "as fast as it goes": None}


class TrajectoryPlayer(Panel):
    """Runs a model's denoising, shows it as it goes, and plays it again.

    Keys, once the player is clicked: space plays and pauses, arrows step (with shift ten at a time), Home and End.
    Every button is also a method: `run`, `stop`, `go_on`, `branch`, `export`. With `run(wait=True)` a script waits
    for the end and gets errors raised; in a notebook errors appear in the player, with the frames that there are.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path; None if there is only something to look at.
        trajectory: a recording to begin with: a Trajectory, or its file.
        n: number of crystals.
        seed: of everything random.
        sampler: as in `denoise`.
        height: of the picture, pixels.
        selection: what several widgets look at; a crystal chosen here is put there, and a run can start from the z of
            the one that is chosen there.
        settings: of the sampler, as in `denoise`.

    Raises:
        SettingError: without model and trajectory, or for settings out of range.
        LabError: if a file cannot be read.
    """

    def __init__(
        self,
        model: CDVAE | str | Path | None = None,
        trajectory: Trajectory | str | Path | None = None,
        *,
        n: int = 4,
        seed: int = 0,
        sampler: str | Schedule = "ancestral",
        height: int = 400,
        selection: Selection | None = None,
        **settings: Any,
    ) -> None:
        if model is None and trajectory is None:
            raise SettingError('a TrajectoryPlayer needs a model to run, such as "perov_5", or a trajectory to show')
        super().__init__(model)
        self._sampler, self._settings = sampler, settings
        self.selection = Selection() if selection is None else selection
        self._frames: list[DenoisingFrame] = []
        self._origins: list[FilmOrigin] = []  # of the frames that the view has
        self._course: Course | None = None  # of those that the strips have
        self._thin = 1
        self._due = 0.0  # when slider, strips and words are drawn again
        self._marked = 0  # where the slider was put last; elsewhere is where somebody looks
        self._worker = self._runner(self._show_new, self._ended, fps=_FPS)
        self._make_controls(n, seed)
        self.view = CrystalView(height=height, slider=self._slider)
        self._show(*self._rows())
        Course.warm_up()
        self.add_class("cdvae-player")
        if self.model is not None:
            denoise(self.model, n, seed=seed, sampler=sampler, **settings)  # refuses now what it would refuse later
        if trajectory is not None:
            self._show_record(trajectory)
        self._refresh()

    # --- what can be done, by buttons and from code ---------------------------------------------------

    @property
    def frames(self) -> tuple[DenoisingFrame, ...]:
        """The frames of the run so far, in order."""
        return tuple(self._frames)

    @property
    def frame(self) -> DenoisingFrame:
        """The frame that is shown. Raises SettingError if there is none yet."""
        if not self._frames:
            raise SettingError("there is no frame yet; press Run, or call run()")
        return self._frames[min(self._slider.value, len(self._frames) - 1)]

    @property
    def index(self) -> int:
        """Number of the frame that is shown."""
        return self._slider.value

    @index.setter
    def index(self, value: int) -> None:
        self._slider.value = value

    @property
    def trajectory(self) -> Trajectory:
        """The run so far as a Trajectory, to save, or to go on from; after a branch with the seed of the branch."""
        last = self.frame and self._frames[-1]
        return Trajectory.of(replace(frame, seed=last.seed, z=last.z) for frame in self._frames)

    def run(self, wait: bool = False) -> None:
        """A new run with the settings of the fields above the picture.

        Raises:
            SettingError: for settings out of range, or without a selected crystal where the run is to start from it.
            CrystalError: if the selected crystal has no z and the model cannot encode it.
        """
        model, n, seed = self._the_model(), self._n.value, self._seed.value
        self._say("starting")
        sampler, settings = self._chosen_sampler()
        z, code = self._chosen_start()
        start, begin = ({"n": n}, f"n={n}") if z is None else ({"z": z.repeat(n, 1)}, f"z=z.repeat({n}, 1)")
        frames = denoise(model, **start, seed=seed, sampler=sampler, **settings)
        first = next(frames)
        self._thin = -(-first.num_steps // MOST_FRAMES)
        told = "".join(f", {k}={v!r}" for k, v in settings.items())
        told += (
            "" if sampler == "ancestral" else f", sampler={sampler!r}" if isinstance(sampler, str) else ", sampler=..."
        )
        self._code = [
            self._model_line(),
            *code,
            f"frames = list({self._thinned(f'lab.denoise(model, {begin}, seed={seed}{told})')})",
        ]
        self._begin([], every(itertools.chain([first], frames), self._thin), first.num_steps, wait)

    def stop(self) -> None:
        """End the run after the step that it is in; its frames stay, and `go_on` continues."""
        self._worker.stop()
        self._tell()

    def go_on(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have gone."""
        last = self.frame and self._frames[-1]
        self._say("starting")
        frames = denoise(self._the_model(), frame=last)
        self._code.append(f"frames += {self._thinned('lab.denoise(model, frame=frames[-1])')}")
        self._begin(self._frames, every(frames, self._thin), last.num_steps, wait)

    def branch(self, seed: int | None = None, wait: bool = False) -> None:
        """Let the run take another course from the frame that is shown; what came after it is dropped.

        Args:
            seed: of the new course; by default one more than the last.
            wait: return at the end.
        """
        self._stop_first()
        frame, index = self.frame, self.index
        seed = self._frames[-1].seed + 1 if seed is None else seed
        frames = denoise(self._the_model(), frame=frame, seed=seed)
        again = self._thinned(f"lab.denoise(model, frame=frames[{index}], seed={seed})")
        self._code.append(f"frames = frames[:{index + 1}] + list({again})")
        self._branch_seed.value = seed + 1
        self._begin(self._frames[: index + 1], every(frames, self._thin), frame.num_steps, wait)

    def select(self, which: int | None = None) -> Pick:
        """Make a crystal of the frame that is shown, with its z, the one that all widgets of the selection look at.

        Args:
            which: its number; by default the one that is shown alone.

        Raises:
            SettingError: if there is no frame yet, or several are shown and none is named.
        """
        frame, index = self.frame, min(self.index, len(self._frames) - 1)
        which = self.view.choice if which is None else which
        if which is None:
            if len(frame.crystals) > 1:
                raise SettingError("several crystals are shown; choose one under 'show', or say select(0)")
            which = 0
        crystal = self._placed(index)[which]
        formula = crystal.to_structures()[0].composition.reduced_formula
        name = f"{formula}, crystal {which} of seed {frame.seed} at step {frame.step}"
        pick = Pick(name, crystal, frame.z[which : which + 1], f"frames[{index}].crystals[{which}]")
        self.selection.choose(pick)
        self._say(f"selected: {name}")
        return pick

    def start_from_selection(self) -> None:
        """Let the next run start from the z of the selected crystal, as "from" above the picture says."""
        self._start.value = True

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = KINDS) -> list[Path]:
        """Write what is shown; returns the files.

        With all crystals shown, CIFs of all are written, the page holds all, and the other films are of the first.

        Args:
            folder: made where there is none.
            kinds: "cif" of this frame; of the whole run "extxyz", "gif", and "html", a page that needs nothing else.

        Raises:
            SettingError: for another kind.
            LabError: if a file cannot be written.
        """
        folder = Path(self._folder.value if folder is None else folder)
        which, choice, step = self.view.choice or 0, self.view.choice, self.frame.step
        files: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                crystals = self._placed(min(self.index, len(self._frames) - 1))
                numbers = range(len(crystals)) if choice is None else [choice]
                chosen = crystals if choice is None else crystals[choice]
                files += chosen.write_cif(folder, [f"step_{step:04d}_crystal_{k}" for k in numbers])
            elif kind == "extxyz":
                files.append(self.trajectory.write_extxyz(folder / f"run_crystal_{which}.xyz", which))
            elif kind == "gif":
                shown = len(self._origins)
                thin = [*range(0, shown - 1, max(1, shown // 100)), shown - 1]
                captions = [
                    f"step {f.step} of {f.num_steps}, sigma {f.sigma:.2g} Å"
                    for f in map(self._frames.__getitem__, thin)
                ]
                path = folder / f"run_crystal_{which}.gif"
                files.append(render.gif([self._placed(k) for k in thin], path, which=which, captions=captions))
            elif kind == "html":
                name = "run.html" if choice is None else f"run_crystal_{choice}.html"
                files.append(render.write_html(self._frames, folder / name, which=choice))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are {', '.join(KINDS)}")
        return files

    # --- the run ----------------------------------------------------------------------------------------

    def _begin(self, kept: list[DenoisingFrame], frames: Iterator[DenoisingFrame], steps: int, wait: bool) -> None:
        self._stop_first()
        self._frames, self._origins = list(kept), self._origins[: len(kept)]
        self._course = self._course.until(len(kept)) if self._course is not None and kept else None
        if not kept:
            self._crystal.options = [("all", -1), *((f"number {k}", k) for k in range(self._n.value))]
        self._marked = max(len(kept) - 1, 0)
        self.view.show_all([self._shown(k) for k in range(len(kept))], index=self._marked)
        self._play.playing = False
        # Room for the whole run at once: a slider whose end moves is drawn anew each time.
        self._slider.max = self._play.max = -(-steps // self._thin)
        if wait:
            self._worker.run_blocking(self._recorded(frames, beside=False))
        else:
            self._due = 0.0
            self._worker.start(self._recorded(frames, beside=True), _PACES[self._pace.value])
        self._refresh()

    def _recorded(self, frames: Iterator[DenoisingFrame], beside: bool) -> Iterator[DenoisingFrame]:
        """Keep the frames; beside a kernel and a browser that want to live, on one thread of the processor."""
        while True:
            with one_thread(beside):
                frame = next(frames, None)
            if frame is None:
                return
            self._frames.append(frame)
            yield frame

    def _show_new(self, newest: DenoisingFrame | None = None) -> None:
        """Bring the view up to what the worker has recorded, and follow it unless somebody looks elsewhere."""
        sent, end = len(self._origins), len(self._frames)  # the worker may record another meanwhile
        for frame in self._frames[sent:end]:
            before = self._origins[-1] if self._origins else None
            crystals = frame.crystals
            self._origins.append(
                FilmOrigin.of(crystals) if before is None else before.then(crystals, last=frame.finished)
            )
        follow = self._slider.value == self._marked or self._slider.value >= sent - 1
        if end > sent:
            self.view.add([self._shown(k) for k in range(sent, end)], follow=follow)
        if time.monotonic() >= self._due:
            self._draw_all(follow)
            self._due = time.monotonic() + _REST

    def _draw_all(self, follow: bool) -> None:
        """Slider, strips and words, up to the frames that the view has."""
        known, end = 0 if self._course is None else len(self._course.distance), len(self._origins)
        if end > known:
            with one_thread(True):
                new = Course.of(self._frames[known:end], self._frames[known - 1] if known else None)
            self._course = new if self._course is None else self._course.then(new)
        if follow and end:
            self._slider.value = self._marked = end - 1
        self._draw_strips()
        self._tell()

    def _ended(self) -> None:
        self._due = 0.0
        self._show_new()
        self._slider.max = self._play.max = max(0, len(self._frames) - 1)
        self._refresh()

    def _shown(self, index: int) -> DenoisingFrame:
        """A frame as the view shows it."""
        return replace(self._frames[index], crystals=self._placed(index))

    def _placed(self, index: int) -> Crystals:
        return self._origins[index].move(self._frames[index].crystals)

    def _show_record(self, trajectory: Trajectory | str | Path) -> None:
        path = None if isinstance(trajectory, Trajectory) else trajectory
        record = trajectory if isinstance(trajectory, Trajectory) else Trajectory.load(trajectory)
        self._frames = list(record)
        source = "trajectory" if path is None else f"lab.Trajectory.load({str(path)!r})"
        self._code = [*([self._model_line()] if self.model is not None else []), f"frames = list({source})"]
        self._crystal.options = [("all", -1), *((f"number {k}", k) for k in range(len(record.z)))]
        self._ended()

    def _stop_first(self) -> None:
        if self.running:
            self._worker.stop()
            self._worker.wait()

    def _the_model(self) -> CDVAE:
        if self.model is None:
            raise SettingError('there is no model here: TrajectoryPlayer(model="perov_5", trajectory=...) can run one')
        return self.model

    def _chosen_sampler(self) -> tuple[str | Schedule, dict[str, Any]]:
        given = self._sampler_field.value
        return given, self._settings if given == self._sampler else {}

    def _thinned(self, call: str) -> str:
        return call if self._thin == 1 else f"lab.every({call}, {self._thin})"

    def _chosen_start(self) -> tuple[Tensor | None, list[str]]:
        """The z that the run starts from, None for the prior, and the lines of code that give it."""
        if not self._start.value:
            return None, []
        pick = cast("Pick | None", self.selection.pick)
        model = self._the_model()
        if pick is None:
            raise SettingError("no crystal is selected to start from; select one, or start from the prior")
        if pick.z is None:
            crystal = pick.code or "selection.pick.crystal"
            return encode(model, pick.crystal), [f"z = lab.encode(model, {crystal})  # of {pick.name}"]
        return pick.z, [f"z = selection.pick.z  # `selection` is the player's, with {pick.name}"]

    def _name_start(self) -> None:
        pick = cast("Pick | None", self.selection.pick)
        value = self._start.value
        name = "the selected crystal's z" if pick is None else f"z of {pick.name.split(',')[0]}"
        self._start.options = [("the prior", False), (name, True)]
        self._start.value = value

    # --- the looks --------------------------------------------------------------------------------------

    def _make_controls(self, n: int, seed: int) -> None:
        W = ipywidgets
        samplers = [(name, name) for name in ("ancestral", "probability_flow", "langevin")]
        given = [] if isinstance(self._sampler, str) else [(self._sampler.name + " (given)", self._sampler)]
        self._n = field(W.BoundedIntText, "crystals", "105px", value=n, min=1, max=64)
        self._seed = field(W.BoundedIntText, "seed", "100px", value=seed, min=0, max=2**31 - 1)
        self._sampler_field = field(W.Dropdown, "sampler", "175px", options=[*given, *samplers], value=self._sampler)
        self._pace = field(W.Dropdown, "", "125px", options=list(_PACES), value="25 steps/s")
        self._start = field(W.Dropdown, "from", "170px", options=[("the prior", False)], value=False)
        self._name_start()
        self._run_button = self._button("Run", "a new run", self.run, "primary")
        self._stop_button = self._button("Stop", "after the step that is being computed", self.stop)
        self._go_button = self._button("Go on", "from the last frame", self.go_on)
        self._play = W.Play(interval=80, max=0, show_repeat=True, layout={"width": "auto"})
        self._slider = W.IntSlider(
            max=0, description="frame", style={"description_width": "auto"}, layout={"flex": "1"}
        )
        self._speed = field(W.Dropdown, "", "70px", options=list(_SPEEDS.items()), value=80)
        self._crystal = field(W.Dropdown, "show", "140px", options=[("all", -1)])
        self._scores = W.ToggleButton(
            description="score arrows", tooltip="where the model thinks that each atom belongs"
        )
        self._scores.layout.width = "auto"
        self._branch_seed = field(W.BoundedIntText, "with seed", "150px", value=seed + 1, min=0, max=2**31 - 1)
        self._branch_button = self._button(
            "Branch from this frame", "another course from here on", lambda: self.branch(self._branch_seed.value)
        )
        self._folder = field(W.Text, "into folder", "220px", value="out")
        self._exports = [
            self._button(text, tip, lambda kind=kind: self._export_here(kind))
            for text, kind, tip in (
                ("CIF", "cif", "this frame"),
                ("extended XYZ", "extxyz", "the whole run"),
                ("GIF", "gif", "the whole run, as a film"),
                ("HTML", "html", "the whole run in 3D, as one page that needs no notebook and no network"),
            )
        ]
        self._select_button = self._button(
            "Select this crystal", "with its z, for the other widgets and for a new run", self.select
        )
        self._strips = Strips(slider=self._slider, play=self._play)
        self._steps = StepButtons(slider=self._slider, play=self._play)
        self._links = [W.jslink((self._play, "value"), (self._slider, "value"))]
        self.selection.observe(self._picked, "pick")
        self._crystal.observe(lambda change: self._choose(None if change["new"] == -1 else change["new"]), "value")
        self._speed.observe(lambda change: setattr(self._play, "interval", change["new"]), "value")
        self._scores.observe(lambda change: setattr(self.view, "scores", change["new"]), "value")

    def _rows(self) -> list[ipywidgets.Widget]:
        run = row(
            self._run_button,
            self._stop_button,
            self._go_button,
            self._n,
            self._start,
            self._seed,
            self._sampler_field,
            self._pace,
        )
        film = ipywidgets.HBox([self._play, self._steps, self._slider, self._speed], layout={"align_items": "center"})
        more = row(self._crystal, self._select_button, self._scores, self._branch_button, self._branch_seed)
        keep = row(*self._exports, self._folder, self._code_button)
        return [
            *([run] if self.model else []),
            self.view,
            film,
            self._strips,
            more,
            keep,
        ]

    def _choose(self, which: int | None) -> None:
        self.view.choice = which
        self._draw_strips()
        self._refresh_select()

    def _draw_strips(self) -> None:
        if self._course is None:
            self._strips.data = {}
            return
        shown = len(self._course.distance)
        length = max(shown, self._slider.max + 1)
        self._strips.data = self._course.data(self._frames[:shown], self.view.choice, length)

    def _refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        idle, some = not self.running, bool(self._frames)
        more = some and not self._frames[-1].finished
        self._run_button.disabled = not (idle and self.model)
        self._stop_button.disabled = idle
        self._go_button.disabled = not (idle and more and self.model)
        self._branch_button.disabled = not (some and self.model)
        for one in self._exports:
            one.disabled = not some
        self._refresh_select()
        self._draw_code()
        self._draw_strips()
        self._tell()

    def _refresh_select(self) -> None:
        alone = bool(self._frames) and (self.view.choice is not None or len(self._frames[0].crystals) == 1)
        self._select_button.disabled = not alone
        self._select_button.tooltip = (
            "with its z, for the other widgets and for a new run" if alone else "first choose one crystal under 'show'"
        )

    def _picked(self, change: Any) -> None:
        self._name_start()

    def close(self) -> None:
        if self._open:
            self.selection.unobserve(self._picked, "pick")
        super().close()

    def _tell(self) -> None:
        if self._worker.error is not None:
            kept = f"The {len(self._frames)} frames of the run are kept." if self._frames else ""
            self._complain(self._worker.error, self._worker.traceback, kept)
        elif self._frames:
            last = self._frames[-1]
            state = "finished" if last.finished else "stopped"
            if self.running:
                state = "stopping" if self._worker.stopping else "running"
            self._say(f"{state}: step {last.step} of {last.num_steps}, seed {last.seed}")
        else:
            self._say("starting" if self.running else "press Run")

    def _export_here(self, kind: str) -> None:
        self._written(self.export(kinds=[kind]))

    def _picture(self) -> Crystals | None:
        if not self._frames:
            return None
        placed = self._placed(min(self.index, len(self._frames) - 1))
        return placed if self.view.choice is None else placed[self.view.choice]
