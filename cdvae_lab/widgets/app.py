"""The whole laboratory on one page: five widgets as tabs that share a model, a map and the chosen crystal."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import CheckpointError, LabError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import load
from cdvae_lab.widgets.base.panel import Panel, field, row
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode, str_of
from cdvae_lab.widgets.base.selection import Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.interpolation.view import InterpolationView
from cdvae_lab.widgets.latent_map.view import LatentMapView
from cdvae_lab.widgets.monitor.view import TrainingMonitor
from cdvae_lab.widgets.optimizer.view import PropertyOptimizer
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.maps import require_map
from cdvae_lab.widgets.parts.selection_bar import SelectionBar
from cdvae_lab.widgets.player.view import TrajectoryPlayer

TABS = {
    "player": "Denoise",
    "map": "Latent map",
    "interpolation": "Interpolate",
    "optimizer": "Optimize",
    "monitor": "Train",
}
_TAB_OF_USE = {"player": "player", "a": "interpolation", "b": "interpolation", "optimizer": "optimizer", "map": "map"}
MAPPED = 2000  # crystals that a map made here is of: half a minute on two cores


class App(Panel):
    """Five widgets as tabs. A tab is made when it is first opened.

    What is chosen in one tab is the start of something in another: the bar above the tabs shows it, with all that were
    chosen before. Paths of interpolation and optimization are drawn on the one map. Everything is also a method: `tab`
    opens, `use` sends the chosen crystal somewhere, `use_model` and `use_trained` change the model of all tabs;
    `player`, `map_view`, `interpolation`, `optimizer` and `monitor` are the widgets themselves.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        map: the LatentMap of that model, its file, or a bundled one's name; None takes the bundled one, if there is.
        dataset: what the training tab trains on, as `TrainingMonitor` takes it.
        selection: what is chosen; a new one by default.
        data_folder: where the public data files lie, as of `LatentMapView`.
        tab: which one to open first: "player", "map", "interpolation", "optimizer" or "monitor".

    Raises:
        SettingError: if there is no such model, map or tab.
        CheckpointError: if the model cannot be read, or the map is of another model.
    """

    def __init__(
        self,
        model: CDVAE | str | Path = "perov_5",
        map: LatentMap | str | Path | None = None,
        *,
        dataset: Dataset | str | Path = datasets.SYNTHETIC,
        selection: Selection | None = None,
        data_folder: str | Path | None = None,
        tab: str = "player",
    ) -> None:
        _check_tab(tab)
        super().__init__(model)
        self.map, map_lines = _map_for(self._the_model, map, self._name)
        self._head = [self._model_line(), *map_lines]  # lines of code that all tabs begin with
        self._model_lines = 1  # how many of them give the model
        self.selection = selection or Selection()
        self._dataset, self._data_folder = dataset, data_folder
        self._panels: dict[str, Any] = {}
        self._made_map: LatentMap | None = None
        self._mapper = self._runner(self._keep_map, self._map_ended)
        self._read = False  # whether the data set has been tried; what is wrong with it the training tab says
        self._reader = self._runner(lambda done: None, self._data_read)
        self._known: dict[str, CDVAE | str | Path] = {name: name for name in files.bundled_models()}
        self._maps: dict[str, LatentMap] = {}  # that were made here, by the model's label
        self._map_lines: list[str] = []  # of code, of the one that is being made
        self._lines: dict[str, list[str]] = {}  # of code, by the model's label
        self._quiet = False
        self._make_controls()
        label = self._label_of(model)
        self._lines[label] = [self._model_line()]
        self._tell_model(label, model)
        self.add_class("cdvae-app")
        self.tab = tab
        self._open_tab()

    # --- what can be done, by buttons and from code -----------------------------------------------------

    @property
    def tab(self) -> str:
        """The tab that is open; setting it opens another."""
        return list(TABS)[self._tabs.selected_index or 0]

    @tab.setter
    def tab(self, name: str) -> None:
        _check_tab(name)
        self._tabs.selected_index = list(TABS).index(name)

    @property
    def player(self) -> TrajectoryPlayer:
        """Denoising; made if it has not been opened yet, as the others are."""
        return self._panel("player", lambda: TrajectoryPlayer(self._model_with_code, selection=self.selection))

    @property
    def map_view(self) -> LatentMapView:
        """The map. Raises CheckpointError if there is none of this model; `make_map` makes one."""
        if self.map is None:
            raise CheckpointError(f"there is no map of {self._model_label} yet")

        known = WithCode(self.map, "\n".join(self._head[self._model_lines :]))
        return self._panel(
            "map",
            lambda: LatentMapView(
                self._model_with_code, known, selection=self.selection, data_folder=self._data_folder, height=520
            ),
        )

    @property
    def interpolation(self) -> InterpolationView:
        """The path between two crystals, which is also drawn on the map."""
        return self._panel(
            "interpolation",
            lambda: InterpolationView(self._model_with_code, map=self._shared_map(), selection=self.selection),
        )

    @property
    def optimizer(self) -> PropertyOptimizer:
        """The search for another property, whose trail is also drawn on the map."""

        def make() -> PropertyOptimizer:
            made = PropertyOptimizer(self._model_with_code, map=self._shared_map(), selection=self.selection)
            if self.selection.pick is not None:
                made.start_from_selection()
            return made

        return self._panel("optimizer", make)

    @property
    def monitor(self) -> TrainingMonitor:
        """Training, of a model of its own; `use_trained` gives it to the other tabs."""
        return self._panel("monitor", lambda: TrainingMonitor(None, self._dataset, selection=self.selection))

    def use(self, where: str) -> None:
        """Go on with the chosen crystal.

        Args:
            where: "player", to denoise from its z; "a" or "b", an end of the interpolation; "optimizer", its start;
                "map", to see where it lies.

        Raises:
            SettingError: for another place, or if nothing is chosen.
            LabError: if the model of the tabs cannot take the crystal.
        """
        pick: Any = self.selection.pick
        if where not in _TAB_OF_USE:
            raise SettingError(f"use: no place {where!r}; there are {', '.join(_TAB_OF_USE)}")
        if pick is None:
            raise SettingError("no crystal is chosen yet; choose one in any tab")
        self.tab = _TAB_OF_USE[where]
        if where == "player":
            self.player.start_from_selection()
        elif where in ("a", "b"):
            self.interpolation.set_end(where, pick)
        elif where == "optimizer":
            self.optimizer.start_from_selection()
        elif self.map is None:
            raise CheckpointError(f"there is no map of {self._model_label} yet; make one in the tab")
        self._say("")

    def use_model(self, model: CDVAE | str | Path, map: LatentMap | str | Path | None = None) -> None:
        """Take another model in all tabs but training, which keeps its own. What runs is stopped; the map of the model
        is taken if there is one. Chosen crystals stay, without the other model's latents.

        Raises:
            SettingError, CheckpointError: as of the app itself, and then nothing has changed.
        """
        self._change(self._label_of(model), model, map)

    def use_trained(self) -> None:
        """Take the training tab's model, with the moving average of its weights as they are now, in the other tabs.

        Raises:
            SettingError: before the first step.
        """
        trained = self.monitor.trained()
        name = f"trained here, step {self.monitor.step.step:,}"
        self._change(name, trained.value, None, trained.code.splitlines())
        self._say(f"all tabs now use the model {name}")

    def make_map(self, dataset: Dataset | str | Path | None = None, wait: bool = False) -> None:
        """Make a map of this model, of 2,000 crystals of a data set; it takes half a minute.

        Args:
            dataset: by default the one that the model was trained on.
            wait: until it is there.

        Raises:
            SettingError: if it is not known what the model was trained on.
            DatasetError: if the data cannot be read or do not fit the model.
        """
        trained_on = self._the_model.metadata.get("data", {}).get("name")
        source: Any = dataset or trained_on
        if source is None:
            raise SettingError("this model does not say what it was trained on; name a data set, or a folder of CIFs")
        if dataset is None and "monitor" in self._panels and self.monitor.dataset.name == trained_on:
            source = self.monitor.dataset
        model = self._the_model
        given = isinstance(source, Dataset)
        self._map_lines = [] if given else [f"data = lab.datasets.load({str(source)!r})"]
        self._map_lines.append(f"known = lab.LatentMap.fit(model, data, limit={MAPPED})")

        def make() -> Iterator[tuple[LatentMap, CDVAE]]:
            data = source if isinstance(source, Dataset) else datasets.load(source)
            yield LatentMap.fit(model, data, limit=MAPPED), model

        self._say("making the map: half a minute")
        if wait:
            self._mapper.run_blocking(make())
        else:
            self._mapper.start(make())

    @property
    def code(self) -> str:
        """Lines of Python that do again what was done in all tabs."""
        known = self._head[self._model_lines :]
        setup = {"model": self._model_with_code.code} | ({"known": "\n".join(known)} if known else {})
        parts = [ReplayCode(setup=setup)]
        given = ("# `model` is the one that the widget was given", "# `known` is the map that the widget was given")
        for name in TABS:
            if name in self._panels:
                panel = self._panels[name]
                if isinstance(panel, View):
                    code = panel.replay_code
                    parts.append(replace(code, title=TABS[name]))
                    continue
                lines = panel.code.splitlines()
                imports = [line for line in lines if line.startswith(("import ", "from "))]
                own = [line for line in lines if line and line not in (*self._head, *given, *imports)]
                parts.append(ReplayCode(tuple(imports), {}, tuple(own), title=TABS[name]))
        return str_of(parts)

    def close(self) -> None:
        """Stop what runs, and give threads and the browser's WebGL contexts back."""
        if self._open:
            for panel in self._panels.values():
                panel.close()
        super().close()

    # --- the tabs ---------------------------------------------------------------------------------------

    @property
    def _the_model(self) -> CDVAE:
        assert self.model is not None
        return self.model

    def _panel(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._panels:
            made = make()
            made.add_class(f"cdvae-{name}")
            self._panels[name] = made
        return self._panels[name]

    @property
    def _model_with_code(self) -> WithCode[CDVAE]:
        return WithCode(self._the_model, "\n".join(self._head[: self._model_lines]))

    def _shared_map(self) -> LatentMapView | None:
        return None if self.map is None else self.map_view

    def _open_tab(self) -> None:
        """Make what the open tab shows, unless it is there. Hidden tabs are not drawn, which spares WebGL contexts."""
        name = self.tab
        box = self._boxes[name]
        if box.children and box.children[0] is self._panels.get(name):
            return
        if name not in self._panels:
            box.children = (ipywidgets.HTML("opening …"),)
            if name == "monitor" and not isinstance(self._dataset, Dataset) and not self._read:
                if not self._reader.running:
                    self._reader.start(self._read_data())
                return  # the page stays alive meanwhile; `_data_read` comes back here
        try:
            panel = getattr(self, "map_view" if name == "map" else name)
        except LabError as error:
            self._show_problem(name, error)
            return
        box.children = (panel, row(self._take_trained)) if name == "monitor" else (panel,)

    def _read_data(self) -> Iterator[bool]:
        """In the worker: a data set that is made or parsed takes seconds, and is quick the second time."""
        assert not isinstance(self._dataset, Dataset)
        datasets.load(self._dataset)
        yield True

    def _data_read(self) -> None:
        self._read = True
        if self.tab == "monitor":
            self._open_tab()

    def _show_problem(self, name: str, error: LabError) -> None:
        text = ipywidgets.HTML(f"<p>{html.escape(str(error))}.</p>")
        self._boxes[name].children = (text, row(self._map_data, self._map_button)) if name == "map" else (text,)

    def _keep_map(self, made: tuple[LatentMap, CDVAE]) -> None:
        self._made_map = made[0] if made[1] is self.model else None

    def _map_ended(self) -> None:
        if self._mapper.error is not None:
            expected = isinstance(self._mapper.error, LabError)
            self._complain(self._mapper.error, "" if expected else self._mapper.traceback)
        elif self._made_map is not None:
            made, self._made_map = self._made_map, None
            self._forget_panels(("map", "interpolation", "optimizer"))
            self.map = self._maps[self._model_label] = made
            self._head = [*self._head, *self._map_lines]
            self._open_tab()
            self._say("the map is there")

    def _forget_panels(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._boxes[name].children = ()
            if name in self._panels:
                self._panels.pop(name).close()

    def _change(
        self,
        label: str,
        source: CDVAE | str | Path,
        map: LatentMap | str | Path | None,
        lines: list[str] | None = None,
    ) -> None:
        """Another model in all tabs but training; nothing has changed if it cannot be read."""
        model = source if isinstance(source, CDVAE) else load(source)
        name = None if isinstance(source, CDVAE) else source
        found, map_lines = _map_for(model, map or self._maps.get(label), name)
        self._forget_panels(tuple(one for one in TABS if one != "monitor"))
        self.model, self._name, self.map = model, name, found
        self._lines[label] = lines or self._lines.get(label) or [self._model_line()]
        self._head, self._model_lines = [*self._lines[label], *map_lines], len(self._lines[label])
        self._tell_model(label, source)
        # A latent means something to its own model alone.
        history = tuple(replace(pick, z=None) for pick in self.selection.history)
        with self.selection.hold_trait_notifications():
            self.selection.history = history
            self.selection.pick = history[-1] if history else None
        self._open_tab()
        self._draw_code()

    # --- the looks --------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        W = ipywidgets
        self._models = field(W.Dropdown, "model", "320px", options=[*self._known])
        self._path = field(W.Text, "own checkpoint", "330px", placeholder="path, then Enter", continuous_update=False)
        self._about = W.HTML()
        self.bar = SelectionBar(self.selection, lambda where: self._try(lambda: self.use(where)))
        self._map_data = field(
            W.Text, "data set, or folder of CIFs", "360px", placeholder="what the model was trained on"
        )
        self._map_button = self._button(
            "Make a map", "half a minute", lambda: self.make_map(self._map_data.value.strip() or None), "primary"
        )
        self._take_trained = self._button(
            "Use this model in the other tabs", "with the averaged weights as they are now", self.use_trained, "info"
        )
        self._boxes = {name: W.VBox(layout={"min_height": "200px"}) for name in TABS}
        self._tabs = W.Tab(list(self._boxes.values()), titles=list(TABS.values()), selected_index=0)
        self._models.observe(lambda change: self._chosen_model(change["new"]), "value")
        self._path.observe(lambda change: change["new"] and self._try(lambda: self.use_model(change["new"])), "value")
        self._tabs.observe(lambda change: self._open_tab(), "selected_index")
        self.children = (
            row(self._models, self._path, self._about, self._code_button),
            self.bar,
            self._status,
            self._tabs,
            self._code_view,
        )

    def _chosen_model(self, label: str) -> None:
        if not self._quiet:
            try:
                self._try(lambda: self._change(label, self._known[label], None))
            finally:  # what it says is what there is, also if that could not be taken
                self._offer_models()

    def _label_of(self, model: CDVAE | str | Path) -> str:
        if not isinstance(model, CDVAE):
            return str(model)
        same = [label for label, one in self._known.items() if one is model]
        number = sum(isinstance(one, CDVAE) for one in self._known.values())
        return same[0] if same else f"given model {number + 1}" if number else "given model"

    def _tell_model(self, label: str, source: CDVAE | str | Path) -> None:
        """Say which model is used, and keep it among those to choose from."""
        self._model_label = label
        self._known[label] = source
        self._offer_models()
        data = self._the_model.metadata.get("data", {}).get("name", "unknown data")
        size = sum(one.numel() for one in self._the_model.parameters())
        shown = "" if len(self._known) > 1 else f"<b>{html.escape(label)}</b>: "
        self._about.value = (
            f"<span style='padding:0 8px'>{shown}{size:,} parameters, trained on {html.escape(data)}</span>"
        )

    def _offer_models(self) -> None:
        self._quiet = True
        self._models.options = [*self._known]
        self._models.value = self._model_label
        self._quiet = False
        self._models.layout.display = "" if len(self._known) > 1 else "none"

    def _draw_code(self) -> None:
        if hasattr(self, "_panels"):
            super()._draw_code()

    def _picture(self) -> Crystals | None:
        panel = self._panels.get(self.tab)
        shown = None if panel is None else panel.picture() if isinstance(panel, View) else panel._picture()
        pick: Any = self.selection.pick
        return shown if shown is not None or pick is None else pick.crystal


def app(model: CDVAE | str | Path = "perov_5", map: LatentMap | str | Path | None = None, **options: Any) -> App:
    """The whole laboratory on one page; arguments as of `App`."""
    return App(model, map, **options)


def _check_tab(name: str) -> None:
    if name not in TABS:
        raise SettingError(f"there is no tab {name!r}; there are {', '.join(TABS)}")


def _map_for(
    model: CDVAE, map: LatentMap | str | Path | None, name: str | Path | None
) -> tuple[LatentMap | None, list[str]]:
    """The map that was given or is bundled, if there is one, and its line of code."""
    try:
        found = require_map(model, map)
    except CheckpointError:
        if map is not None:
            raise
        return None, []
    return found.value, [found.code]
