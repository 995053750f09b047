"""The looks of the `PropertyOptimizer`: its fields, its figures, and the crystals on the way."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch

from cdvae_lab import figures, render
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import SettingError
from cdvae_lab.figures.search import Decodings
from cdvae_lab.figures.style import Theme, dress
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.latent_map.search_map import TRAIL, SearchMap
from cdvae_lab.widgets.optimizer.latent_search import Search
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.parts.filmstrip import Film, film_picture
from cdvae_lab.widgets.parts.keys import Keys
from cdvae_lab.widgets.parts.plot import Plot

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from cdvae_lab.widgets.optimizer.view import PropertyOptimizer

OWN = "same model, decoded crystal (not independent)"
INDEPENDENT = "independent predictor, decoded crystal"
HEIGHT = 430  # pixels, of the figures
_TARGETS = (("as low as it gets", "min"), ("as high as it gets", "max"), ("a value", "value"))
PACES = {"40 steps/s": 40, "100 steps/s": 100, "as fast as it goes": None}
_WARNING = (
    "<div role='status' style='border-left:4px solid var(--jp-warn-color1,#f57c00);padding:4px 10px;line-height:1.45;"
    "color:var(--jp-ui-font-color1,inherit)'><b>Outside the data.</b> {}</div>"
)


class OptimizerLooks:
    """Parts of one `PropertyOptimizer`; it decides, these show.

    Args:
        panel: whose parts they are.
        options: of `optimize`, to begin with.
        decode_every: steps.
    """

    def __init__(
        self,
        panel: PropertyOptimizer,
        options: dict[str, Any],
        decode_every: int,
    ) -> None:
        W, self._panel = ipywidgets, panel
        unit = panel.property_unit
        target = options["target"]
        by_name = isinstance(target, str)
        self.target = field(
            W.Dropdown, panel.property_name, "240px", options=_TARGETS, value=target if by_name else "value"
        )
        self.value = field(
            W.FloatText, f"to reach ({unit})" if unit else "to reach", "200px", value=0.0 if by_name else target
        )
        self.lr = field(
            W.BoundedFloatText,
            "step length (Adam's learning rate)",
            "310px",
            value=options["lr"],
            min=1e-6,
            max=1.0,
            step=1e-3,
        )
        self.count = field(W.BoundedIntText, "steps", "120px", value=options["steps"], min=1, max=100_000)
        self.pull = field(
            W.BoundedFloatText, "pull to the prior (deviations per nat)", "330px", value=options["prior_weight"],
            min=0.0, max=100.0, step=0.01,
        )  # fmt: skip
        self.pull.tooltip = (
            "what a nat of log p(z) is worth, in standard deviations of the property in the training set; 0: none"
        )
        self.decode_every = field(
            W.BoundedIntText, "decode every (steps)", "215px", value=decode_every, min=1, max=100_000
        )
        self.pace = field(W.Dropdown, "", "150px", options=list(PACES), value="100 steps/s")
        self.slider = W.IntSlider(
            max=0, description="step", readout=False, style={"description_width": "auto"}, layout={"flex": "1"}
        )
        self._where = W.HTML(layout={"width": "auto"})
        self.crystal = field(W.Dropdown, "show", "150px", options=[("crystal 0", 0)], value=0)
        self.folder = field(W.Text, "into folder", "220px", value="out")
        button = panel._button
        self._run = button("Run", "a new search with these settings", panel.run, "primary")
        self._stop = button("Stop", "after the step that is being computed", panel.stop)
        self._go = button(
            "Go on from here", "exactly as the search would have gone; what came after is dropped", panel.go_on
        )
        self._anew = button(
            "Start anew from here", "from these latents, with the target and settings above", panel.start_anew
        )
        self._back = button("Back", "to the search before this one", panel.back)
        self._decode = button("Decode this step", "the crystals of the step that is shown", panel.decode)
        self._choose = button("Choose this crystal", "for the other widgets", panel.choose)
        self._exports = panel._export_buttons(
            panel.export,
            ("CIF", "cif", "the decoded crystals of this step"),
            ("CSV", "csv", "the table of all steps"),
            ("steps", "steps", "a file that any step goes on from"),
        )
        self._load_path = field(W.Text, "steps from file", "240px", placeholder="out/search.safetensors")
        self._load = button(
            "Load", "show a search that was exported as steps", lambda: panel.load(self._load_path.value)
        )
        self._warning = W.HTML()
        self._caption = W.HTML()
        self.view = CrystalView(height=300)
        self.film = Film()
        self._keys = Keys(self._key)
        self._following, self._moving = True, False
        self._shown: Any = None
        self._filmed: tuple[Any, ...] = ()
        self._course = Plot(self._course_figure)
        own_map = panel.map is not None and panel._view_of_map is None
        self._map = SearchMap(panel.map, HEIGHT) if own_map and panel.map is not None else None
        self.target.observe(lambda change: self._show_value(), "value")
        self.slider.observe(lambda change: self._moved(), "value")
        self.crystal.observe(lambda change: self._another(), "value")
        self.film.observe(lambda change: self._film_clicked(), "at")
        self._show_value()

    def rows(self) -> list[ipywidgets.Widget]:
        """From top to bottom."""
        return [
            row(self._run, self._stop, self._go, self._anew, self._back, self.pace),
            row(*self._panel._start.fields, self.target, self.value),
            row(self.count, self.lr, self.pull, self.decode_every),
            ipywidgets.HBox([self._course, *([self._map] if self._map else [])], layout={"flex_flow": "row wrap"}),
            ipywidgets.HBox([self.slider, self._where], layout={"align_items": "center"}),
            self._warning,
            ipywidgets.VBox([self._caption, self.view]),
            self.film,
            row(self.crystal, self._decode, self._choose, *self._exports, self.folder),
            row(self._load_path, self._load, self._panel._code_button, self._keys),
        ]

    def options(self) -> dict[str, Any]:
        """Of `optimize`, as the fields have them."""
        target = self.value.value if self.target.value == "value" else self.target.value
        return {
            "target": target,
            "steps": self.count.value,
            "lr": self.lr.value,
            "prior_weight": self.pull.value,
        }

    def set_options(self, options: dict[str, Any]) -> None:
        """Put some of them into the fields. Raises SettingError for what is none of them."""
        fields = {"steps": self.count, "lr": self.lr, "prior_weight": self.pull}
        if strange := sorted(set(options) - {*fields, "target"}):
            raise SettingError(f"a search has no setting {', '.join(strange)}; there are target, {', '.join(fields)}")
        for name, value in options.items():
            if name != "target":
                fields[name].value = value
            elif isinstance(value, str):
                self.target.value = value
            else:
                self.target.value, self.value.value = "value", value

    # --- what happens -----------------------------------------------------------------------------------

    def new_search(self, crystals: int | None = None) -> None:
        """Another search than before: everything from the beginning."""
        search = self._panel._search
        n = crystals or len(search.steps[0].z)
        self._shown, self._filmed, self._following = None, (), True
        self.crystal.options = [(f"crystal {k}", k) for k in range(n)]
        self.crystal.value = 0
        self._move(max(0, len(search.steps) - 1))

    def follow(self) -> None:
        """Look at the newest step from now on."""
        self._following = True

    def draw(self) -> None:
        """Bring everything up to what there is."""
        panel, search = self._panel, self._panel._search
        if not search.steps:
            return
        if panel.running:
            most = -(-search.steps[0].num_steps // search.thin)
            self.slider.max = max(most, len(search.steps) - 1, 1)
        else:
            self.slider.max = len(search.steps) - 1
        if self._following:
            self._move(len(search.steps) - 1)
        self._draw_course()
        self._draw_trail()
        self._draw_crystals()
        self._draw_words()

    def refresh(self) -> None:
        """Buttons that would only raise an error cannot be pressed."""
        panel, search = self._panel, self._panel._search
        idle, some = not panel.running, bool(search.steps)
        self._run.disabled = self._load.disabled = not idle
        self._stop.disabled = idle
        for one in (self._go, self._anew, self._decode, *self._exports):
            one.disabled = not (idle and some)
        self._back.disabled = not (idle and panel._earlier)
        self._choose.disabled = not search.decoded
        self.draw()
        panel._draw_code()
        self._tell()

    def _tell(self) -> None:
        panel, search = self._panel, self._panel._search
        if panel._worker.error is not None:
            kept = f"The {len(search.steps)} steps and {len(search.decoded)} decodings so far are kept."
            panel._complain(panel._worker.error, panel._worker.traceback, kept if search.steps else "")
        elif search.steps:
            last = search.steps[-1]
            state = "running" if panel.running else "finished" if last.finished else "stopped"
            panel._say(f"{state}: step {last.step} of {last.num_steps}, {len(search.decoded)} times decoded")
        else:
            panel._say("starting" if panel.running else "press Run (or Space)")

    def _key(self, key: str, far: bool) -> None:
        panel = self._panel
        if key == "space":
            if panel.running:
                panel._try(panel.stop)
            elif panel._search.steps and not panel._search.steps[-1].finished:
                panel._try(lambda: panel.go_on(-1))
            else:
                panel._try(panel.run)
            return
        last = len(panel._search.steps) - 1
        hop = 10 if far else 1
        goal = {"left": panel.index - hop, "right": panel.index + hop, "home": 0, "end": last}[key]
        self.slider.value = max(0, min(last, goal))

    def _moved(self) -> None:
        if self._moving or not self._panel._search.steps:
            return
        self._following = self.slider.value >= len(self._panel._search.steps) - 1
        self._draw_course()
        self._draw_trail()
        self._draw_crystals()
        self._draw_words()

    def _move(self, value: int) -> None:
        self._moving = True
        self.slider.max = max(self.slider.max, value)
        self.slider.value = value
        self._moving = False

    def _another(self) -> None:
        self._filmed = ()
        self.draw()

    def _film_clicked(self) -> None:
        search = self._panel._search
        if not self._moving and 0 <= self.film.at < len(search.decoded):
            self.slider.value = search.index(search.decoded[self.film.at].step)

    def _show_value(self) -> None:
        self.value.layout.display = "" if self.target.value == "value" else "none"

    # --- how it looks -----------------------------------------------------------------------------------

    def _course_figure(self, theme: Theme) -> Figure:
        from plotly.graph_objects import Scatter
        from plotly.subplots import make_subplots

        panel, search = self._panel, self._panel._search
        if not search.steps:
            figure: Any = make_subplots(2, 1, shared_xaxes=True)
            rows = [1, 1, 2, 2, 1, *([1] if panel.predictor is not None else [])]  # as many traces as there will be
            figure.add_traces([Scatter(x=[], y=[], showlegend=False) for _ in rows], rows=rows, cols=[1] * len(rows))
            dress(figure, theme, HEIGHT)
            figure.update_xaxes(visible=False, range=[0, 1]).update_yaxes(visible=False, range=[0, 1])
            figure.add_annotation(text="press Run: the course of the search is drawn here", showarrow=False)
            return figure
        decoded: dict[str, Decodings] = {OWN: [(one.step, one.own) for one in search.decoded]}
        if panel.predictor is not None:
            decoded[INDEPENDENT] = [
                (one.step, one.independent) for one in search.decoded if one.independent is not None
            ]
        return figures.search_course(
            search.steps, panel.property_name, panel.property_unit, crystal=self.crystal.value, decoded=decoded,
            labels=panel.region.labels, lengths=panel.region.lengths, current=search.steps[panel.index].step,
            theme=theme, height=HEIGHT,
        )  # fmt: skip

    def _draw_course(self) -> None:
        self._course.redraw()

    def _draw_trail(self) -> None:
        panel, search = self._panel, self._panel._search
        if panel._view_of_map is not None:
            z = torch.stack([step.z[self.crystal.value] for step in search.steps])
            panel._view_of_map.set_path(TRAIL, z, [f"step {step.step}" for step in search.steps])
        if self._map is not None:
            self._map.draw(search, self.crystal.value, panel.index)

    def _draw_crystals(self) -> None:
        panel, search, k = self._panel, self._panel._search, self.crystal.value
        place = search.at(panel.index)
        if place is None:
            self.film.items = []
            self._caption.value = ""
            return
        filmed = tuple((id(one), k) for one in search.decoded)
        if filmed != self._filmed:
            known = dict(zip(self._filmed, self.film.items, strict=False))
            self.film.items = [
                known.get((id(one), k)) or film_picture(one.crystals[k], self._film_lines(search, place_of))
                for place_of, one in enumerate(search.decoded)
            ]
            self._filmed = filmed
        self._moving = True
        self.film.at = place
        self._moving = False
        one, first = search.decoded[place], search.decoded[0]
        shown = (id(one), id(first), k)
        if shown != self._shown:
            self._shown = shown
            self.view.show(render.at_atom(Crystals.cat([first.crystals[k], one.crystals[k]])))
            self._caption.value = (
                "<div style='display:flex;justify-content:space-around;text-align:center;line-height:1.4'>"
                f"<div>decoded at step {first.step}<br>{self._verdict(search, 0)}</div>"
                f"<div>decoded at step {one.step}<br>{self._verdict(search, place)}</div></div>"
            )

    def _film_lines(self, search: Search, place: int) -> list[str]:
        one, k = search.decoded[place], self.crystal.value
        value = one.own if one.independent is None else one.independent
        unit = self._panel.property_unit
        worth = "no possible cell" if bool(value[k].isnan()) else f"{float(value[k]):.2f} {unit}".strip()
        return [f"step {one.step}", words.formula(one.crystals[k]), worth]

    def _verdict(self, search: Search, place: int) -> str:
        one, k = search.decoded[place], self.crystal.value
        unit = self._panel.property_unit
        step = search.steps[search.index(one.step)]
        predictions = [
            f"for z {float(step.prediction[k]):.2f}",
            "no possible cell" if bool(one.own[k].isnan()) else f"same model, this crystal {float(one.own[k]):.2f}",
        ]
        if one.independent is not None:
            predictions.append(f"independent predictor {float(one.independent[k]):.2f}")
        said = html.escape(f"{'; '.join(predictions)} {unit}")
        return f"<b>{html.escape(words.formula(one.crystals[k]))}</b> &nbsp; {said}"

    def _draw_words(self) -> None:
        panel = self._panel
        step, k = panel.step, self.crystal.value
        unit = panel.property_unit
        self._where.value = html.escape(
            f"{step.step} of {step.num_steps}: {float(step.prediction[k]):.3f} {unit}, "
            f"|z| {float(step.z[k].norm()):.1f}, log p(z) {float(step.log_prob[k]):.0f} nats"
        )
        left = panel.region.left_by(step, panel.property_name, unit)
        self._warning.value = _WARNING.format(html.escape(" ".join(left))) if left else ""
        if panel.running:
            self._tell()
