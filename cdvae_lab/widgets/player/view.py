"""A denoising run in three dimensions: live while it is computed, and moved through afterwards."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from cdvae_lab import pages, render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE, encode
from cdvae_lab.render import FilmOrigin
from cdvae_lab.runtime.cuda_graphs import one_thread
from cdvae_lab.sampling.denoising import DenoisingFrame, Schedule, denoise
from cdvae_lab.sampling.trajectory import Trajectory, every
from cdvae_lab.widgets.base import words
from cdvae_lab.widgets.base.panel import Panel
from cdvae_lab.widgets.base.replay_code import Legs, Sampler
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.parts.strips import Course
from cdvae_lab.widgets.player.controls import PACES, PlayerLooks

MOST_FRAMES = 1000  # that are kept of a run; of longer ones every second, third, ...
KINDS = ("cif", "extxyz", "gif", "html")
_FPS = 12  # frames that are sent, a second; what software WebGL can draw beside the computation
_REST = 0.4  # s between two drawings of slider, strips and words: they cost the browser more than the crystals do


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
        super().__init__(model, selection)
        self._sampler, self._settings = sampler, settings
        self._frames: list[DenoisingFrame] = []
        self._origins: list[FilmOrigin] = []  # of the frames that the view has
        self._course: Course | None = None  # of those that the strips have
        self._thin = 1
        self._legs = Legs("frames")
        self._due = 0.0  # when slider, strips and words are drawn again
        self._marked = 0  # where the slider was put last; elsewhere is where somebody looks
        self._worker = self._runner(self._show_new, self._ended, fps=_FPS)
        self._looks = PlayerLooks(self, n, seed, height)
        self.view = self._looks.view
        self._show(*self._looks.rows())
        self._when_picked(lambda pick: self._looks.name_start())
        Course.warm_up()
        self.add_class("cdvae-player")
        if self.model is not None:
            denoise(self.model, n, seed=seed, sampler=sampler, **settings)  # refuses now what it would refuse later
        if trajectory is not None:
            self._show_record(trajectory)
        self._looks.refresh()

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
        return self._frames[min(self.index, len(self._frames) - 1)]

    @property
    def index(self) -> int:
        """Number of the frame that is shown."""
        return self._looks.slider.value

    @index.setter
    def index(self, value: int) -> None:
        self._looks.slider.value = value

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
        model, n, seed = self._the_model, self._looks.n.value, self._looks.seed.value
        self._say("starting")
        sampler = Sampler(model, *self._chosen_sampler())
        z, code = self._chosen_start()
        start: dict[str, Any] = {"n": n} if z is None else {"z": z.repeat(n, 1)}
        begin = f"n={n}" if z is None else f"z=z.repeat({n}, 1)"
        frames = denoise(model, **start, seed=seed, sampler=sampler.schedule)
        first = next(frames)
        self._stop_first()
        self._thin = -(-first.num_steps // MOST_FRAMES)
        self._legs = Legs("frames", [self._model_line(), *sampler.lines, *code])
        call = f"lab.denoise(model, {begin}, seed={seed}{sampler.told})"
        self._begin(0, call, itertools.chain([first], frames), first.num_steps, wait)

    def stop(self) -> None:
        """End the run after the step that it is in; its frames stay, and `go_on` continues."""
        self._worker.stop()
        self._looks.tell()

    def go_on(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have gone."""
        self._stop_first()
        last = self.frame and self._frames[-1]
        frames = denoise(self._the_model, frame=last)
        self._say("starting")
        self._begin(len(self._frames), "lab.denoise(model, frame=frames[-1])", frames, last.num_steps, wait)

    def branch(self, seed: int | None = None, wait: bool = False) -> None:
        """Let the run take another course from the frame that is shown; what came after it is dropped.

        Args:
            seed: of the new course; by default one more than the last.
            wait: return at the end.
        """
        self._stop_first()
        frame, index = self.frame, self._at
        seed = self._frames[-1].seed + 1 if seed is None else seed
        frames = denoise(self._the_model, frame=frame, seed=seed)
        self._looks.branch_seed.value = seed + 1
        call = f"lab.denoise(model, frame=frames[-1], seed={seed})"
        self._begin(index + 1, call, frames, frame.num_steps, wait)

    def select(self, which: int | None = None) -> Pick:
        """Make a crystal of the frame that is shown, with its z, the one that all widgets of the selection look at.

        Args:
            which: its number; by default the one that is shown alone.

        Raises:
            SettingError: if there is no frame yet, or several are shown and none is named.
        """
        frame, index = self.frame, self._at
        which = self.view.choice if which is None else which
        if which is None:
            if len(frame.crystals) > 1:
                raise SettingError("several crystals are shown; choose one under 'show', or say select(0)")
            which = 0
        crystal = self._placed(index)[which]
        name = f"{words.formula(crystal)}, crystal {which} of seed {frame.seed} at step {frame.step}"
        pick = Pick(name, crystal, frame.z[which : which + 1], f"frames[{index}].crystals[{which}]")
        self.selection.choose(pick)
        self._say(f"selected: {name}")
        return pick

    def start_from_selection(self) -> None:
        """Let the next run start from the z of the selected crystal, as "from" above the picture says."""
        self._looks.start.value = True

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
        folder = Path(self._looks.folder.value if folder is None else folder)
        which, choice, step = self.view.choice or 0, self.view.choice, self.frame.step
        files: list[Path] = []
        for kind in kinds:
            if kind == "cif":
                crystals = self._placed(self._at)
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
                files.append(pages.write_html(self._frames, folder / name, which=choice))
            else:
                raise SettingError(f"export: no kind {kind!r}; there are {', '.join(KINDS)}")
        return files

    # --- the run ----------------------------------------------------------------------------------------

    @property
    def _at(self) -> int:
        """Number of the frame that is shown, which there is: the slider has room for the whole run."""
        return min(self.index, len(self._frames) - 1)

    def _begin(self, kept: int, call: str, frames: Iterator[DenoisingFrame], steps: int, wait: bool) -> None:
        """Another leg of the run, after so many of its frames; `call` is what gives the leg's."""
        self._legs.add(call if self._thin == 1 else f"lab.every({call}, {self._thin})", kept)
        self._frames, self._origins = self._frames[:kept], self._origins[:kept]
        self._course = self._course.until(kept) if self._course is not None and kept else None
        if not kept:
            self._looks.offer_crystals(self._looks.n.value)
        self._marked = max(kept - 1, 0)
        self.view.show_all([self._shown(k) for k in range(kept)], index=self._marked)
        self._looks.halt()
        self._looks.make_room(-(-steps // self._thin))
        frames = every(frames, self._thin)
        if wait:
            self._worker.run_blocking(self._recorded(frames, beside=False))
        else:
            self._due = 0.0
            self._worker.start(self._recorded(frames, beside=True), PACES[self._looks.pace.value])
        self._looks.refresh()

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
        before = self._origins[-1] if self._origins else None
        self._origins += FilmOrigin.along(self._frames[sent:end], before)
        follow = self.index == self._marked or self.index >= sent - 1
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
            self.index = self._marked = end - 1
        self._looks.draw_strips()
        self._looks.tell()

    def _ended(self) -> None:
        self._looks.switch_buttons()  # before anything that could fail
        self._due = 0.0
        self._show_new()
        self._looks.make_room(max(0, len(self._frames) - 1))
        self._looks.refresh()

    def _lines(self) -> list[str]:
        whole = self.running or not self._frames or self._frames[-1].finished
        return self._legs.lines(len(self._frames), whole)

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
        self._legs.before = [self._model_line()] if self.model is not None else []
        self._legs.add(source, size=len(self._frames))
        self._looks.offer_crystals(len(record.z))
        self._ended()

    @property
    def _the_model(self) -> CDVAE:
        if self.model is None:
            raise SettingError('there is no model here: TrajectoryPlayer(model="perov_5", trajectory=...) can run one')
        return self.model

    def _chosen_sampler(self) -> tuple[str | Schedule, dict[str, Any]]:
        given = self._looks.sampler.value
        return given, self._settings if given == self._sampler else {}

    def _chosen_start(self) -> tuple[Tensor | None, list[str]]:
        """The z that the run starts from, None for the prior, and the lines of code that give it."""
        if not self._looks.start.value:
            return None, []
        pick = cast("Pick | None", self.selection.pick)
        model = self._the_model
        if pick is None:
            raise SettingError("no crystal is selected to start from; select one, or start from the prior")
        if pick.z is None:
            crystal = pick.code or "selection.pick.crystal"
            return encode(model, pick.crystal), [f"z = lab.encode(model, {crystal})  # of {pick.name}"]
        return pick.z, [f"z = selection.pick.z  # `selection` is the player's, with {pick.name}"]

    def _picture(self) -> Crystals | None:
        if not self._frames:
            return None
        placed = self._placed(self._at)
        return placed if self.view.choice is None else placed[self.view.choice]
