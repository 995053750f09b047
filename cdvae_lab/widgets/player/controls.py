"""The looks of the `TrajectoryPlayer`: its fields and buttons, the film's slider, and the strips below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import ipywidgets

from cdvae_lab.sampling.denoising import NAMED
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.strips import StepButtons, Strips

if TYPE_CHECKING:
    from cdvae_lab.widgets.player.view import TrajectoryPlayer

PACES = {"25 steps/s": 25, "50 steps/s": 50, "as fast as it goes": None}
_SPEEDS = {"½ ×": 160, "1 ×": 80, "2 ×": 40, "4 ×": 20}  # ms a frame
_SELECT = "with its z, for the other widgets and for a new run"


class PlayerLooks:
    """Parts of one `TrajectoryPlayer`; it decides, these show.

    Args:
        panel: whose parts they are.
        n, seed: to begin with.
        height: of the crystals, pixels.
    """

    def __init__(self, panel: TrajectoryPlayer, n: int, seed: int, height: int) -> None:
        W, self._panel = ipywidgets, panel
        given = panel._sampler
        samplers: list[tuple[str, Any]] = [
            (name, name) for name in ("ancestral", "probability_flow", "langevin", *NAMED)
        ]
        if not isinstance(given, str):
            samplers.insert(0, (given.name + " (given)", given))
        self.n = field(W.BoundedIntText, "crystals", "105px", value=n, min=1, max=64)
        self.seed = field(W.BoundedIntText, "seed", "100px", value=seed, min=0, max=2**31 - 1)
        self.sampler = field(W.Dropdown, "sampler", "175px", options=samplers, value=given)
        self.pace = field(W.Dropdown, "", "125px", options=list(PACES), value="25 steps/s")
        self.start = field(W.Dropdown, "from", "170px", options=[("the prior", False)], value=False)
        self.name_start()
        self.slider = W.IntSlider(max=0, description="frame", style={"description_width": "auto"}, layout={"flex": "1"})
        self.view = CrystalView(height=height, slider=self.slider)
        self.crystal = field(W.Dropdown, "show", "140px", options=[("all", -1)])
        self.branch_seed = field(W.BoundedIntText, "with seed", "150px", value=seed + 1, min=0, max=2**31 - 1)
        self.folder = field(W.Text, "into folder", "220px", value="out")
        button = panel._button
        self._run = button("Run", "a new run", panel.run, "primary")
        self._stop = button("Stop", "after the step that is being computed", panel.stop)
        self._go = button("Go on", "from the last frame", panel.go_on)
        self._branch = button(
            "Branch from this frame", "another course from here on", lambda: panel.branch(self.branch_seed.value)
        )
        self._select = button("Select this crystal", _SELECT, panel.select)
        self._exports = panel._export_buttons(
            panel.export,
            ("CIF", "cif", "this frame"),
            ("extended XYZ", "extxyz", "the whole run"),
            ("GIF", "gif", "the whole run, as a film"),
            ("HTML", "html", "the whole run in 3D, as one page that needs no notebook and no network"),
        )
        self._scores = W.ToggleButton(
            description="score arrows",
            tooltip="where the model thinks that each atom belongs",
            layout={"width": "auto"},
        )
        self._play = W.Play(interval=80, max=0, show_repeat=True, layout={"width": "auto"})
        self._speed = field(W.Dropdown, "", "70px", options=list(_SPEEDS.items()), value=80)
        self._strips = Strips(slider=self.slider, play=self._play)
        self._steps = StepButtons(slider=self.slider, play=self._play)
        panel._links.append(W.jslink((self._play, "value"), (self.slider, "value")))
        self.crystal.observe(lambda change: self._choose(None if change["new"] == -1 else change["new"]), "value")
        self._speed.observe(lambda change: setattr(self._play, "interval", change["new"]), "value")
        self._scores.observe(lambda change: setattr(self.view, "scores", change["new"]), "value")

    def rows(self) -> list[ipywidgets.Widget]:
        """From top to bottom."""
        run = row(self._run, self._stop, self._go, self.n, self.start, self.seed, self.sampler, self.pace)
        film = ipywidgets.HBox([self._play, self._steps, self.slider, self._speed], layout={"align_items": "center"})
        return [
            *([run] if self._panel.model else []),
            self.view,
            film,
            self._strips,
            row(self.crystal, self._select, self._scores, self._branch, self.branch_seed),
            row(*self._exports, self.folder, self._panel._code_button),
        ]

    def offer_crystals(self, n: int) -> None:
        """Another run, of so many crystals."""
        self.crystal.options = [("all", -1), *((f"number {k}", k) for k in range(n))]

    def name_start(self) -> None:
        """The selected crystal as a start, by its name."""
        pick, value = cast("Pick | None", self._panel.selection.pick), self.start.value
        name = "the selected crystal's z" if pick is None else f"z of {pick.name.split(',')[0]}"
        self.start.options = [("the prior", False), (name, True)]
        self.start.value = value

    def halt(self) -> None:
        """The film stands still."""
        self._play.playing = False

    def make_room(self, last: int) -> None:
        """For frames up to that number; while a run goes on all at once: a slider whose end moves is drawn anew."""
        self.slider.max = self._play.max = last

    def switch_buttons(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        panel, frames = self._panel, self._panel.frames
        idle, some, model = not panel.running, bool(frames), panel.model is not None
        alone = some and (self.view.choice is not None or len(frames[0].crystals) == 1)
        self._run.disabled = not (idle and model)
        self._stop.disabled = idle
        self._go.disabled = not (idle and some and not frames[-1].finished and model)
        self._branch.disabled = not (some and model)
        self._select.disabled = not alone
        self._select.tooltip = _SELECT if alone else "first choose one crystal under 'show'"
        for one in self._exports:
            one.disabled = not some

    def refresh(self) -> None:
        """Bring everything up to what there is, but for the crystals."""
        self.switch_buttons()
        self._panel._draw_code()
        self.draw_strips()
        self.tell()

    def draw_strips(self) -> None:
        """Up to the frames that they have been worked out for."""
        course = self._panel._course
        if course is None:
            self._strips.data = {}
            return
        shown = len(course.distance)
        length = max(shown, self.slider.max + 1)
        self._strips.data = course.data(self._panel.frames[:shown], self.view.choice, length)

    def tell(self) -> None:
        """The line at the bottom."""
        panel, frames, worker = self._panel, self._panel.frames, self._panel._worker
        if worker.error is not None:
            kept = f"The {len(frames)} frames of the run are kept." if frames else ""
            panel._complain(worker.error, worker.traceback, kept)
        elif frames:
            last = frames[-1]
            state = "finished" if last.finished else "stopped"
            if panel.running:
                state = "stopping" if worker.stopping else "running"
            panel._say(f"{state}: step {last.step} of {last.num_steps}, seed {last.seed}")
        else:
            panel._say("starting" if panel.running else "press Run")

    def _choose(self, which: int | None) -> None:
        self.view.choice = which
        self.draw_strips()
        self.switch_buttons()
