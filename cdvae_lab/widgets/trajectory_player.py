"""A denoising run in three dimensions: live while it is computed, and moved through afterwards."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets

from cdvae_lab import render
from cdvae_lab.cdvae import CDVAE
from cdvae_lab.crystals import Crystals
from cdvae_lab.denoising import DenoisingFrame, Schedule, denoise
from cdvae_lab.errors import SettingError
from cdvae_lab.trajectory import Trajectory, every
from cdvae_lab.widgets.panel import Panel, field, row
from cdvae_lab.widgets.strips import Course, Strips
from cdvae_lab.widgets.viewer import CrystalView

MOST_FRAMES = 1000  # that are kept of a run; of longer ones every second, third, ...
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
        **settings: Any,
    ) -> None:
        if model is None and trajectory is None:
            raise SettingError('a TrajectoryPlayer needs a model to run, such as "perov_5", or a trajectory to show')
        super().__init__(model)
        self._sampler, self._settings = sampler, settings
        self._frames: list[DenoisingFrame] = []
        self._course: Course | None = None
        self._thin = 1
        self._due = 0.0  # when strips and words are drawn again
        self._worker = self._runner(self._show_new, self._ended, fps=15)
        self.view = CrystalView(height=height)
        self._make_controls(n, seed)
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
        """A new run with the settings of the fields above the picture."""
        model, n, seed = self._the_model(), self._n.value, self._seed.value
        sampler, settings = self._chosen_sampler()
        frames = denoise(model, n, seed=seed, sampler=sampler, **settings)
        first = next(frames)
        self._thin = -(-first.num_steps // MOST_FRAMES)
        told = "".join(f", {k}={v!r}" for k, v in settings.items())
        told += (
            "" if sampler == "ancestral" else f", sampler={sampler!r}" if isinstance(sampler, str) else ", sampler=..."
        )
        self._code = [
            self._model_line(),
            f"frames = list({self._thinned(f'lab.denoise(model, n={n}, seed={seed}{told})')})",
        ]
        self._begin([], every(itertools.chain([first], frames), self._thin), first.num_steps, wait)

    def stop(self) -> None:
        """End the run after the step that it is in; its frames stay, and `go_on` continues."""
        self._worker.stop()

    def go_on(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have gone."""
        last = self.frame and self._frames[-1]
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

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = ("cif", "extxyz", "gif")) -> list[Path]:
        """Write what is shown: "cif" of this frame, "extxyz" and "gif" of the whole run; returns the files.

        With all crystals shown, CIFs of all are written, and the run of the first.

        Raises:
            SettingError: for another kind.
            LabError: if a file cannot be written.
        """
        folder = Path(self._folder.value if folder is None else folder)
        which, choice, step = self.view.choice or 0, self.view.choice, self.frame.step
        files: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                crystals = self._placed(self.frame.crystals)
                numbers = range(len(crystals)) if choice is None else [choice]
                chosen = crystals if choice is None else crystals[choice]
                files += chosen.write_cif(folder, [f"step_{step:04d}_crystal_{k}" for k in numbers])
            elif kind == "extxyz":
                files.append(self.trajectory.write_extxyz(folder / f"run_crystal_{which}.xyz", which))
            elif kind == "gif":
                thin = [*self._frames[:: max(1, len(self._frames) // 100)], self._frames[-1]]
                captions = [f"step {f.step} of {f.num_steps}, sigma {f.sigma:.2g} Å" for f in thin]
                placed = [self._placed(f.crystals) for f in thin]
                path = folder / f"run_crystal_{which}.gif"
                files.append(render.gif(placed, path, which=which, captions=captions))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are cif, extxyz, gif")
        return files

    # --- the run ----------------------------------------------------------------------------------------

    def _begin(self, kept: list[DenoisingFrame], frames: Iterator[DenoisingFrame], steps: int, wait: bool) -> None:
        self._stop_first()
        self._frames = list(kept)
        self._course = self._course.until(len(kept)) if self._course is not None and kept else None
        if not kept:
            self._slider.value = 0
            self.view.show_all([])
            self._crystal.options = [("all", -1), *((f"number {k}", k) for k in range(self._n.value))]
        else:
            self.view.show_all(kept, index=len(kept) - 1)
            self._slider.value = len(kept) - 1
        self._play.playing = False
        # Room for the whole run at once: a slider whose end moves is drawn anew each time.
        self._slider.max = self._play.max = -(-steps // self._thin)
        recorded = self._recorded(frames)
        if wait:
            self._worker.run_blocking(recorded)
        else:
            self._worker.start(recorded, _PACES[self._pace.value])
        self._refresh()

    def _recorded(self, frames: Iterator[DenoisingFrame]) -> Iterator[DenoisingFrame]:
        for frame in frames:
            self._frames.append(frame)
            yield frame

    def _show_new(self, newest: DenoisingFrame | None = None) -> None:
        """Bring the views up to what the worker has recorded, and follow it unless somebody looks elsewhere."""
        shown = 0 if self._course is None else len(self._course.distance)
        new = self._frames[shown:]
        if not new:
            return
        following = self._slider.value == max(shown - 1, 0)
        course = Course.of(new, self._frames[shown - 1] if shown else None)
        self._course = course if self._course is None else self._course.then(course)
        self.view.add(new)
        if following:
            self._slider.value = shown + len(new) - 1
        # Strips and words three times a second: they cost the browser more than the crystals do.
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 0.33
            self._draw_strips()
            self._tell()

    def _ended(self) -> None:
        self._show_new()
        self._slider.max = self._play.max = max(0, len(self._frames) - 1)
        if self._frames and self._frames[-1].finished:
            self.view.put_origin(self._frames[-1].crystals)  # now it is known where the origin is best
        self._refresh()

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

    def _placed(self, crystals: Crystals) -> Crystals:
        last = self._frames[-1]
        return render.at_atom(crystals, like=last.crystals) if last.finished else crystals

    # --- the looks --------------------------------------------------------------------------------------

    def _make_controls(self, n: int, seed: int) -> None:
        W = ipywidgets
        samplers = [(name, name) for name in ("ancestral", "probability_flow", "langevin")]
        given = [] if isinstance(self._sampler, str) else [(self._sampler.name + " (given)", self._sampler)]
        self._n = field(W.BoundedIntText, "crystals", "105px", value=n, min=1, max=64)
        self._seed = field(W.BoundedIntText, "seed", "110px", value=seed, min=0, max=2**31 - 1)
        self._sampler_field = field(W.Dropdown, "sampler", "190px", options=[*given, *samplers], value=self._sampler)
        self._pace = field(W.Dropdown, "", "150px", options=list(_PACES), value="50 steps/s")
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
            )
        ]
        self._strips = Strips()
        self._links = [
            W.jslink((self._play, "value"), (self._slider, "value")),
            W.jsdlink((self._slider, "value"), (self.view.stage, "at")),
            W.jslink((self._slider, "value"), (self._strips, "at")),
            W.jslink((self._play, "playing"), (self._strips, "playing")),
        ]
        self._crystal.observe(lambda change: self._choose(None if change["new"] == -1 else change["new"]), "value")
        self._speed.observe(lambda change: setattr(self._play, "interval", change["new"]), "value")
        self._scores.observe(lambda change: setattr(self.view, "scores", change["new"]), "value")

    def _rows(self) -> list[ipywidgets.Widget]:
        run = row(
            self._run_button, self._stop_button, self._go_button, self._n, self._seed, self._sampler_field, self._pace
        )
        film = ipywidgets.HBox([self._play, self._slider, self._speed], layout={"align_items": "center"})
        more = row(self._crystal, self._scores, self._branch_button, self._branch_seed)
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
        self._draw_code()
        self._draw_strips()
        self._tell()

    def _tell(self) -> None:
        if self._worker.error is not None:
            kept = f"The {len(self._frames)} frames of the run are kept." if self._frames else ""
            self._complain(self._worker.error, self._worker.traceback, kept)
        elif self._frames:
            last = self._frames[-1]
            state = "running" if self.running else "finished" if last.finished else "stopped"
            self._say(f"{state}: step {last.step} of {last.num_steps}, seed {last.seed}")
        else:
            self._say("starting" if self.running else "press Run")

    def _export_here(self, kind: str) -> None:
        self._written(self.export(kinds=[kind]))

    def _picture(self) -> Crystals | None:
        if not self._frames:
            return None
        placed = self._placed(self.frame.crystals)
        return placed if self.view.choice is None else placed[self.view.choice]
