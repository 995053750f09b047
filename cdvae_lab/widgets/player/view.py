"""A denoising run in three dimensions: live while it is computed, and moved through afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import DEFAULT
from cdvae_lab.sampling.trajectory import Trajectory
from cdvae_lab.widgets.base import captions
from cdvae_lab.widgets.base.recorded_run import in_event_loop
from cdvae_lab.widgets.base.recording import Recording
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.throttle import Throttle
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.parts.writing import check_kinds
from cdvae_lab.widgets.player.before_run import example_for
from cdvae_lab.widgets.player.controls import PlayerControls
from cdvae_lab.widgets.player.display import RunDisplay
from cdvae_lab.widgets.player.exports import KINDS, write_run
from cdvae_lab.widgets.player.next_run import NextRun
from cdvae_lab.widgets.player.run_strips import RunStrips
from cdvae_lab.widgets.player.state import PACES, PlayerState

MAX_FRAMES = 1000  # that are kept of a run; of a longer one every second, third, ... step
_SLOW = 0.4  # s between two drawings of the text


class TrajectoryPlayer(View):
    """Runs a model's denoising, shows it live, and plays it again.

    Keys, once the player is clicked: space plays and pauses, arrows step (with shift ten at a time), Home and End.
    Every button is also a method: `run`, `stop`, `resume`, `branch`, `select`, `export`; every field is a trait of
    `state`. With `run(wait=True)` a script waits for the end and gets errors raised; in a notebook errors appear in the
    player, and the frames so far are kept.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path; None to show a recording only.
        trajectory: a recording to begin with: a Trajectory, or its file.
        n: number of crystals.
        seed: of everything random.
        sampler: as in `denoise`.
        height: of the picture, pixels.
        selection: shared with other views; a crystal selected here is put there, and a run can start from the z of the
            crystal that was selected last.
        settings: of the sampler, as in `denoise`.

    Raises:
        SettingError: without model and trajectory, or for settings out of range.
        LabError: if a file cannot be read.
    """

    state: PlayerState

    def __init__(
        self,
        model: CDVAE | WithCode[CDVAE] | str | Path | None = None,
        trajectory: Trajectory | str | Path | None = None,
        *,
        n: int = 4,
        seed: int = 0,
        sampler: str | Schedule = DEFAULT,
        height: int = 400,
        selection: Selection | None = None,
        **settings: Any,
    ) -> None:
        if model is None and trajectory is None:
            raise SettingError('a TrajectoryPlayer needs a model to run, such as "perov_5", or a trajectory to show')
        super().__init__(model, PlayerState(n=n, seed=seed, branch_seed=seed + 1), selection)
        self._next = NextRun(self.state, self.model, sampler, settings, self.selection)
        self._setup: ReplayCode = ReplayCode()  # of the first segment
        self._slow_text = Throttle(_SLOW)
        self.recorded_run = self.new_run(
            lambda new: self._shown.add(new), self._show_run, max_frames=MAX_FRAMES, alone=True
        )
        self._export = self.new_run(show=self._show_export, max_frames=1)
        self.controls = PlayerControls(self.state, self, self.model is not None, height)
        self.view = self.controls.view
        strips = RunStrips(self.controls.strips, self.new_run, self.show_error)
        self._shown = RunDisplay(self.state, self.controls, self.recorded_run, strips)
        self._example = self.new_task("")
        self.show_rows(self.controls.rows(), self.controls)
        self.listen(self.state, "crystal", lambda change: self._choose_crystal())
        self.listen(self.state, "scores", lambda change: setattr(self.view, "scores", change["new"]))
        self.when_picked(lambda pick: self._next.name_start())
        self.add_class("cdvae-player")
        if trajectory is not None:
            self._show_recording(trajectory)
        elif in_event_loop():  # a script shows nothing
            self._example.start(lambda: [example_for(self._next.model)], self._take_example, wait=False)
        self._refresh()

    # --- what can be done, by buttons and from code -----------------------------------------------------

    @property
    def frames(self) -> tuple[DenoisingFrame, ...]:
        """The frames of the run so far, in order."""
        return tuple(self.recorded_run.frames)

    @property
    def frame(self) -> DenoisingFrame:
        """The frame that is shown. Raises SettingError if there is none yet."""
        if not self.recorded_run.frames:
            raise SettingError("there is no frame yet; press Run, or call run()")
        return self.recorded_run.frames[self._at]

    @property
    def index(self) -> int:
        """Number of the frame that is shown."""
        return self.state.index

    @index.setter
    def index(self, value: int) -> None:
        self.state.index = value

    @property
    def trajectory(self) -> Trajectory:
        """Recorded run as a Trajectory, to save or to resume from; after a branch with the seed of the branch."""
        return _trajectory(self.frames, self._last())

    @property
    def replay_code(self) -> ReplayCode:
        """The code that gives `frames`."""
        segments = self.recorded_run.recording.segments.replay()
        body = segments.body if self.recorded_run.frames or self.running else ()
        return replace(self._setup, imports=segments.imports, body=(*self._setup.body, *body))

    def run(self, wait: bool = False) -> None:
        """Begin a new run with the settings of `state`.

        Args:
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: for settings out of range, or without a selected crystal where the run is to start from it.
            CrystalError: if the selected crystal has no z and the model cannot encode it; without `wait` the status
                line shows it.
        """
        model, state = self._next.model, self.state
        sampler = self._next.sampler()
        read, setup = self._next.start()
        n, seed, steps = state.n, state.seed, len(sampler.schedule)

        def frames() -> Iterator[DenoisingFrame]:  # latents from the prior, or of a crystal, take a while
            start: dict[str, Any] = {"n": n} if read is None else {"z": read().repeat(n, 1)}
            return denoise(model, **start, seed=seed, sampler=sampler.schedule)

        self.recorded_run.cancel()
        self._setup = replace(setup, setup={"model": self.model_code, **sampler.setup})
        begin = f"n={n}" if read is None else f"z=z.repeat({n}, 1)"
        call = f"lab.denoise(model, {begin}, seed={seed}{sampler.arguments})"
        self._begin(0, steps)
        self.state.limit("crystal", -1)
        self.state.limit("crystal", n - 1)
        self.recorded_run.start(frames, call, num_steps=steps, pace=PACES[state.pace], wait=wait)

    def stop(self) -> None:
        """End the run, or the export, after the current step; the frames stay, and `resume` continues."""
        self.recorded_run.stop()
        self._export.stop()

    def resume(self, wait: bool = False) -> None:
        """Continue the run from its last frame, exactly as it would have continued.

        Args:
            wait: return at the end, and raise what goes wrong.
        """
        self.recorded_run.cancel()
        last = self._last()
        frames = denoise(self._next.model, frame=last)
        self._begin(len(self.recorded_run.frames), last.num_steps)
        call = "lab.denoise(model, frame=frames[-1])"
        self.recorded_run.resume(frames, call, pace=PACES[self.state.pace], wait=wait)

    def branch(self, seed: int | None = None, wait: bool = False) -> None:
        """Continue from the frame that is shown with another seed; later frames are removed.

        Args:
            seed: by default `state.branch_seed`.
            wait: return at the end, and raise what goes wrong.
        """
        self.recorded_run.cancel()
        frame, keep = self.frame, self._at + 1
        seed = self.state.branch_seed if seed is None else seed
        frames = denoise(self._next.model, frame=frame, seed=seed)
        self.state.branch_seed = seed + 1
        self._begin(keep, frame.num_steps)
        call = f"lab.denoise(model, frame=frames[-1], seed={seed})"
        self.recorded_run.resume(frames, call, keep=keep, pace=PACES[self.state.pace], wait=wait)

    def select(self, which: int | None = None) -> Pick:
        """Select a crystal of the frame that is shown, with its z, for all views that share the selection.

        Args:
            which: its number; by default the one that is shown alone.

        Raises:
            SettingError: if there is no frame yet, or several are shown and none is named.
        """
        frame, index = self.frame, self._at
        which = self.view.choice if which is None else which
        if which is None:
            if len(frame.crystals) > 1:
                raise SettingError("several crystals are shown; choose one under 'show', or call select(0)")
            which = 0
        crystal = self._shown.crystals(index)[which]
        name = f"{captions.formula(crystal)}, crystal {which} of seed {frame.seed} at step {frame.step}"
        code = self.replay_code.then(
            f"crystal, z = frames[{index}].crystals[{which}], frames[{index}].z[{which}:{which + 1}]"
        )
        pick = Pick(name, crystal, frame.z[which : which + 1], f"frames[{index}].crystals[{which}]", code)
        self.selection.choose(pick)
        self.show_message(f"selected: {name}")
        return pick

    def start_from_selection(self) -> None:
        """Let the next run start from the z of the selected crystal."""
        self.state.start = "selection"

    def export(self, folder: str | Path | None = None, kinds: Iterable[str] = KINDS, wait: bool = True) -> list[Path]:
        """Write the crystals that are shown; returns the files.

        With all crystals shown, CIFs of all are written, the page holds all, and the other files are of the first.

        Args:
            folder: created if necessary; by default `state.folder`.
            kinds: "cif" of this frame; of the whole run "extxyz", "gif", and "html", a page that needs nothing else.
            wait: False: write in the background, and return nothing; the status line shows the files.

        Raises:
            SettingError: for another kind, or before the first frame.
            LabError: if a file cannot be written.
        """
        kinds = list(kinds)
        check_kinds(kinds, KINDS)
        self.frame  # noqa: B018 - raises if there is none
        folder = Path(self.state.folder if folder is None else folder)
        shown = self._at, len(self._shown)
        frames, last = self.frames, self._last()
        work = write_run(
            frames, lambda: _trajectory(frames, last), shown, self._shown.crystals, self.view.choice, folder, kinds
        )
        self._export.start(work, wait=wait)
        return list(self._export.newest.files) if wait and self._export.newest is not None else []

    # --- the run ----------------------------------------------------------------------------------------

    @property
    def _at(self) -> int:
        """Number of the frame that is shown and recorded: the slider has room for the whole run."""
        return min(self.index, len(self.recorded_run.frames) - 1)

    def _last(self) -> DenoisingFrame:
        return self.frame and self.recorded_run.frames[-1]

    def _begin(self, keep: int, num_steps: int) -> None:
        """Prepare the display for more frames after the first `keep` of the recording."""
        thin = self.recorded_run.recording.thin if keep else -(-num_steps // MAX_FRAMES)
        self._shown.restart(keep, -(-num_steps // thin))
        self._slow_text = Throttle(_SLOW)

    def _show_run(self, status: RunStatus) -> None:
        self._enable()  # before anything that could fail
        if status.running:
            self._slow_text(lambda: self._show_text(status), now=status.state == "stopping" or not len(self._shown))
            return
        self._show_text(status)
        self._shown.finish()
        self.draw_code()

    def _show_text(self, status: RunStatus) -> None:
        frames = self.recorded_run.frames
        if status.error is not None:
            kept = f"The {len(frames)} frames of the run are kept." if frames else ""
            self.show_error(status.error, status.traceback, kept)
        elif frames:
            self.show_message(f"{status}, seed {frames[-1].seed}")
        else:
            self.show_message("press Run" if status.state == "idle" else str(status))

    def _enable(self) -> None:
        frames = self.recorded_run.frames
        alone = self.view.choice is not None or bool(frames and len(frames[0].crystals) == 1)
        finished, status = bool(frames and frames[-1].finished), self.recorded_run.status
        self.controls.enable(status, len(frames), finished, self._export.running, alone)
        self.controls.before_run.show(waiting=not frames and not status.running)

    def _refresh(self) -> None:
        self._enable()
        self._shown.draw_strips()
        self._show_text(self.recorded_run.status)
        self.draw_code()

    def _take_example(self, example: Crystals | None) -> None:
        self.controls.before_run.take(example)
        self._enable()

    def _choose_crystal(self) -> None:
        which = self.state.crystal
        self.view.choice = None if which == -1 else which
        self._shown.draw_strips()
        self._enable()

    def _show_recording(self, trajectory: Trajectory | str | Path) -> None:
        path = None if isinstance(trajectory, Trajectory) else trajectory
        record = trajectory if isinstance(trajectory, Trajectory) else Trajectory.load(trajectory)
        recording: Recording[DenoisingFrame] = Recording(list(record))
        recording.segments.add("trajectory" if path is None else f"lab.Trajectory.load({str(path)!r})")
        self._setup = ReplayCode(setup={"model": self.model_code} if self.model is not None else {})
        if path is None:
            self._setup = self._setup.then("# `trajectory` is the one that the view was given")
        self.recorded_run.recording = recording
        self.state.limit("crystal", len(record.z) - 1)
        self._shown.restart(0, len(recording.frames) - 1)
        self._shown.add(recording.frames)

    def _show_export(self, status: RunStatus) -> None:
        self._enable()
        self.show_export(status, self._export)

    def picture(self) -> Crystals | None:
        """The frame that is shown, for a page that cannot run widgets."""
        if not len(self._shown):
            return None
        crystals = self._shown.crystals(min(self._at, len(self._shown) - 1))
        return crystals if self.view.choice is None else crystals[self.view.choice]


def _trajectory(frames: Sequence[DenoisingFrame], last: DenoisingFrame) -> Trajectory:
    """The frames of a run with the seed and the latents of its last frame."""
    return Trajectory.of(replace(frame, seed=last.seed, z=last.z) for frame in frames)
