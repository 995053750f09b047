"""The looks of the `TrainingMonitor`: its fields, the curves, and crystals beside what came back of them."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import ipywidgets

from cdvae_lab import figures, render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.figures.style import Theme
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.monitor.training_record import Looked, duration, verdicts
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film, film_picture
from cdvae_lab.widgets.parts.keys import Keys
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from cdvae_lab.widgets.monitor.view import TrainingMonitor

_CURVES = (
    "<div style='color:var(--jp-ui-font-color2,inherit);font-size:12px;line-height:1.4'>Each term of the objective "
    "over the optimizer's steps, on logarithmic axes. Faint: each batch; strong: its moving average; points: the "
    "averaged weights on {}.</div>"
)


class MonitorLooks:
    """Parts of one `TrainingMonitor`; it decides, these show.

    Args:
        panel: whose parts they are.
        steps, batch_size, validate_every: to begin with.
    """

    def __init__(self, panel: TrainingMonitor, steps: int, batch_size: int, validate_every: int) -> None:
        W, self._panel = ipywidgets, panel
        settings = panel._settings
        weights = settings.get("weights")
        kl = 0.01 if weights is None else weights.kl
        whole, real = W.BoundedIntText, W.BoundedFloatText
        self.steps = field(whole, "steps", "140px", value=steps, min=1, max=100_000_000)
        self.batch_size = field(whole, "crystals a step", "175px", value=batch_size, min=1, max=100_000)
        self.lr = field(
            real, "highest learning rate", "230px", value=settings.get("lr", 1e-3), min=1e-8, max=1e3, step=1e-3
        )
        self.kl = field(real, "weight of the KL term", "230px", value=kl, min=0.0, max=1e3, step=1e-3)
        self.validate_every = field(
            whole, "look at crystals every (steps)", "270px", value=validate_every, min=1, max=10**8
        )
        button = panel._button
        self._run = button("Run", "train, from the first step on", panel.run, "primary")
        self._stop = button("Stop", "after the step that is being computed; nothing is lost", panel.stop)
        self._go = button("Go on", "exactly as the run would have gone", panel.go_on)
        self.state_path = field(W.Text, "state", "260px", value="out/training.safetensors")
        self._save_state = button(
            "Save state", "all that it takes to go on later", lambda: panel._written([panel.save_state()])
        )
        self._load_state = button("Load state and go on", "with the settings that it was saved with", self._load)
        self._other_rate = W.Checkbox(
            description="with the learning rate above", indent=False, layout={"width": "auto"}
        )
        self.model_path = field(W.Text, "model", "260px", value="out/model.safetensors")
        self._save_model = button(
            "Save model", "the averaged weights, to generate with", lambda: panel._written([panel.save_model()])
        )
        self.crystal = field(W.Dropdown, "film of", "190px", options=_names(panel._shown), value=0)
        self._choose = button("Choose this crystal", "as it came back, for the other widgets", panel.choose)
        self._speed = W.HTML()
        self._caption = W.HTML()
        self._keys = Keys(self._key)
        self.view = CrystalView(height=340)
        self.film = Film()
        self._curves = Plot(self._figure)
        self._curves.figure._config = {"displayModeBar": False, "responsive": True}  # it would lie on the titles
        self._shown: Looked | None = None
        self._filmed: tuple[Any, ...] = ()
        self._following, self._moving = True, False
        self.crystal.observe(lambda change: self._draw_film(), "value")
        self.film.observe(lambda change: self._clicked(), "at")

    def rows(self) -> list[ipywidgets.Widget]:
        """From top to bottom."""
        seen = "crystals that are not trained on" if self._panel.validation else "crystals of the training set"
        return [
            row(self._run, self._stop, self._go, self._speed),
            row(self.steps, self.batch_size, self.lr, self.kl, self.validate_every),
            ipywidgets.HBox([self._curves]),  # a Plot's room is reckoned along a row
            ipywidgets.HTML(_CURVES.format(seen)),
            self._caption,
            self.view,
            self.film,
            row(self.crystal, self._choose, self._panel._code_button, self._keys),
            row(self._save_state, self._load_state, self._other_rate, self.state_path),
            row(self._save_model, self.model_path),
        ]

    def looked(self) -> Looked | None:
        """What the picture shows."""
        looked = self._panel._record.looked
        return looked[min(max(self.film.at, 0), len(looked) - 1)] if looked else None

    def draw(self) -> None:
        """Bring everything up to what there is."""
        self._curves.redraw()
        self._draw_film()
        self._tell()

    def refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        panel, idle = self._panel, not self._panel.running
        some = panel._last is not None
        self._run.disabled = self._load_state.disabled = not idle
        self._stop.disabled = idle
        self._go.disabled = not (idle and panel.can_go_on)
        self._save_state.disabled = self._save_model.disabled = not some
        self._choose.disabled = not panel._record.looked
        panel._draw_code()
        self._draw_film()
        self._tell()

    def _load(self) -> None:
        self._panel.load_state(**({"lr": self.lr.value} if self._other_rate.value else {}))

    def _key(self, key: str, far: bool) -> None:
        panel = self._panel
        if key == "space":
            act = panel.stop if panel.running else panel.go_on if panel.can_go_on else panel.run
            panel._try(act)
            return
        last = len(panel._record.looked) - 1
        goal = {"left": self.film.at - 1, "right": self.film.at + 1, "home": 0, "end": last}[key]
        if last >= 0:
            self.film.at = max(0, min(last, goal))

    def _clicked(self) -> None:
        if not self._moving:
            self._following = self.film.at >= len(self._panel._record.looked) - 1
            self._draw_pair()

    def _tell(self) -> None:
        panel = self._panel
        step, record = panel._last, panel._record
        if panel._worker.error is not None:
            panel._complain(panel._worker.error, panel._worker.traceback, panel._kept())
        elif step is None:
            n, kept = len(panel.dataset), len(panel.validation or ())
            size = sum(p.numel() for p in panel.model.parameters()) if panel.model is not None else 0
            away = f", {kept:,} more kept away" if kept else ""
            ready = f"{size:,} parameters, {n:,} crystals to train on{away}"
            panel._say("starting" if panel.running else f"press Run (or Space): {ready}")
        else:
            state = "running" if panel.running else "finished" if panel.finished else "stopped"
            panel._say(f"{state}: step {step.step:,} of {step.num_steps:,}, epoch {step.epoch:.1f}")
        if step is not None:
            rate = record.rate(step.batch_size)
            told = [f"loss {step.loss:.3g}", f"{rate:,.0f} structures/s"]
            if step.step < step.num_steps:
                told.append(f"about {duration(record.left(step))} left")
            self._speed.value = f"<span style='padding-left:10px'>{html.escape(', '.join(told))}</span>"

    def _figure(self, theme: Theme) -> Figure:
        records = self._panel._record.records
        figure: Any = figures.training_curve(records, theme, rate=True)
        if not records:  # a logarithmic axis without anything goes from 0.1 to a million
            figure.update_yaxes(range=[-2, 1])
            figure.update_xaxes(range=[0, self.steps.value])
        figure.update_layout(width=None, autosize=True, height=470, margin={"l": 44, "r": 10, "t": 30, "b": 40})
        return figure

    def _draw_film(self) -> None:
        looked, k = self._panel._record.looked, self.crystal.value
        filmed = tuple((id(one), k) for one in looked)
        if filmed != self._filmed:
            known = dict(zip(self._filmed, self.film.items, strict=False))
            first = (
                [film_picture(self._panel._shown[k], ["given", words.formula(self._panel._shown[k])])]
                if not looked
                else []
            )
            self.film.items = first or [
                known.get((id(one), k))
                or film_picture(
                    one.crystals[k], [f"step {one.step:,}", words.formula(one.crystals[k]), verdicts(one.rms)[k]]
                )
                for one in looked
            ]
            self._filmed = filmed
            if self._following:
                self._moving = True
                self.film.at = len(looked) - 1
                self._moving = False
        self._draw_pair()

    def _draw_pair(self) -> None:
        looked, panel = self.looked(), self._panel
        seen = "not trained on" if panel.validation else "of the training set"
        if looked is None:
            self._caption.value = f"<b>{len(panel._shown)} crystals {seen}</b>, to be encoded and decoded again:"
            if self.view.current() is None:
                self.view.show(render.at_atom(panel._shown))
            return
        if looked is not self._shown:
            self._shown = looked
            truth = render.at_atom(panel._shown)
            self.view.show(Crystals.cat([truth, render.at_atom(looked.crystals)]))
        found = [value for value in looked.rms if value is not None]
        rms = f", mean RMSD {sum(found) / len(found):.3f} (volume/atom)<sup>1/3</sup>" if found else ""
        self._caption.value = (
            f"<b>{len(looked.rms)} crystals {seen}, and then as they came back at step {looked.step:,}</b> (averaged "
            f"weights, {panel._decode_steps} denoising steps): {looked.matched} of {len(looked.rms)} match{rms}"
        )


def _names(crystals: Crystals) -> list[tuple[str, int]]:
    return [(f"crystal {k}: {words.formula(crystals[k])}", k) for k in range(len(crystals))]
