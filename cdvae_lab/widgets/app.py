"""The whole laboratory on one page: five views as tabs that share a model, a map and the selected crystal."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets

from cdvae_lab import datasets, figures
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, LabError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.fields import Fields, button, row
from cdvae_lab.widgets.base.recorded_run import RunStatus, in_event_loop
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.selection import Selection
from cdvae_lab.widgets.base.state import Choice, ViewState
from cdvae_lab.widgets.base.view import View, with_code
from cdvae_lab.widgets.interpolation.path_end import default_ends
from cdvae_lab.widgets.interpolation.view import InterpolationView
from cdvae_lab.widgets.latent_map.view import LatentMapView
from cdvae_lab.widgets.monitor.view import TrainingMonitor
from cdvae_lab.widgets.optimizer.view import PropertyOptimizer
from cdvae_lab.widgets.parts import files
from cdvae_lab.widgets.parts.maps import require_map
from cdvae_lab.widgets.parts.plot import prepare_figures
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
MAPPED = 2000  # crystals of a map that is made here: half a minute on two cores


class AppState(ViewState):
    """Every field of an `App`.

    Attributes:
        tab: the open tab.
        model: the model of all tabs but training, by its label.
        own_checkpoint: path of a checkpoint to take as the model.
        map_source: data set, or folder of CIFs, to make a map of; empty: what the model was trained on.
    """

    tab = Choice([(title, name) for name, title in TABS.items()])
    model = Choice(["perov_5"]).tag(saved=False)
    own_checkpoint = traitlets.Unicode("").tag(saved=False)
    map_source = traitlets.Unicode("")


@dataclass(frozen=True)
class LoadedModel:
    """A model as the dropdown names it, with its map, if there is one."""

    label: str
    model: WithCode[CDVAE]
    map: WithCode[LatentMap] | None


class App(View):
    """Five views as tabs. A view is made when its tab is first opened.

    A crystal that is selected in one tab is the start of something in another: the bar above the tabs shows it, with
    those selected before. Paths of interpolation and optimization are drawn on the one map. Everything is also a
    method or a trait of `state`: `tab` opens, `use` sends the selected crystal somewhere, `use_model` and `use_trained`
    change the model of all tabs; `player`, `map_view`, `interpolation`, `optimizer` and `monitor` are the views.

    Args:
        model: a CDVAE, the name of a bundled one, or a checkpoint's path.
        map: the LatentMap of that model, its file, or a bundled one's name; None takes the bundled one, if there is.
        dataset: what the training tab trains on, as `TrainingMonitor` takes it.
        selection: the selected crystals; a new one by default.
        data_folder: folder of the public data files, as for `LatentMapView`.
        tab: the one to open first: "player", "map", "interpolation", "optimizer" or "monitor".

    Raises:
        SettingError: if there is no such model, map or tab.
        CheckpointError: if the model cannot be read, or the map is of another model.
    """

    state: AppState

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
        state = AppState(tab=tab)
        super().__init__(model, state, selection)
        self._views: dict[str, Any] = {}
        self._dataset, self._data_folder = dataset, data_folder
        self._ready = {"player"}  # tabs whose data are read, and whose modules are imported
        self._when_opened: Callable[[], Any] = lambda: None  # to do with the view of the tab that is being opened
        self._known: dict[str, CDVAE | WithCode[CDVAE] | str | Path] = {name: name for name in files.bundled_models()}
        self._made_maps: dict[str, WithCode[LatentMap]] = {}  # by the model's label
        label = self._label_of(model)
        self._loaded = LoadedModel(label, self._with_code(), self._find_map(self._with_code(), map))
        self._loader = self.new_run(show=self._show_loading, max_frames=1)
        self._mapper = self.new_run(show=self._show_mapping, max_frames=1)
        self._opener = self.new_run(show=self._show_opening, max_frames=1)
        self._fields = Fields(state)
        self._make_controls()
        self._offer(label, model)
        self.add_class("cdvae-app")
        self.listen(state, "tab", lambda change: self._open_tab())
        self.listen(state, "model", lambda change: self._choose_model(change["new"]))
        self.listen(state, "own_checkpoint", lambda change: self._choose_checkpoint(change["new"]))
        self._open_tab()

    # --- what can be done, by buttons and from code -----------------------------------------------------

    @property
    def tab(self) -> str:
        """The open tab; setting it opens another."""
        return self.state.tab

    @tab.setter
    def tab(self, name: str) -> None:
        self.state.tab = name

    @property
    def map(self) -> LatentMap | None:
        """The map of the model; None if there is none."""
        return None if self._loaded.map is None else self._loaded.map.value

    @property
    def views(self) -> dict[str, View]:
        """The views that have been made so far, by the names of their tabs."""
        return dict(self._views)

    @property
    def player(self) -> TrajectoryPlayer:
        """Denoising; made if it has not been opened yet, as the other views are."""
        return self._view("player", lambda: TrajectoryPlayer(self._with_code(), selection=self.selection))

    @property
    def map_view(self) -> LatentMapView:
        """The map. Raises CheckpointError if there is none of this model; `make_map` makes one."""
        known = self._loaded.map
        if known is None:
            raise CheckpointError(f"there is no map of {self._loaded.label} yet; make one: make_map()")
        return self._view(
            "map",
            lambda: LatentMapView(
                self._with_code(), known, selection=self.selection, data_folder=self._data_folder, height=520
            ),
        )

    @property
    def interpolation(self) -> InterpolationView:
        """The path between two crystals, which is also drawn on the map."""
        return self._view(
            "interpolation",
            lambda: InterpolationView(self._with_code(), map=self._shared_map(), selection=self.selection),
        )

    @property
    def optimizer(self) -> PropertyOptimizer:
        """The search for another property, whose trail is also drawn on the map."""

        def make() -> PropertyOptimizer:
            made = PropertyOptimizer(self._with_code(), map=self._shared_map(), selection=self.selection)
            if self.selection.pick is not None:
                made.start_from_selection()
            return made

        return self._view("optimizer", make)

    @property
    def monitor(self) -> TrainingMonitor:
        """Training of a new model; `use_trained` makes it the model of the other tabs."""
        return self._view("monitor", lambda: TrainingMonitor(None, self._dataset, selection=self.selection))

    @property
    def replay_code(self) -> ReplayCode:
        """Python code that repeats the actions in all tabs, one tab after another."""
        setup = {"model": self._loaded.model.code}
        if self._loaded.map is not None:
            setup["known"] = self._loaded.map.code
        parts = [ReplayCode(setup=setup)]
        for name, title in TABS.items():
            if name in self._views:
                code: ReplayCode = self._views[name].replay_code
                if code.body and code.as_setup() != self._loaded.model.code:
                    parts.append(replace(code, title=title))
        return ReplayCode(before=tuple(parts))

    def stop(self) -> None:
        """Stop what the app itself does: loading a model, opening a tab, making a map."""
        for run in (self._loader, self._opener):
            run.stop()
        if self._mapper.running:
            self._mapper.cancel()  # UMAP cannot be interrupted: it ends in the background, and its map is not taken
            self._enable_map(False)
            self.show_message("stopped: no map was made")

    def use(self, where: str) -> None:
        """Use the selected crystal in a tab.

        Args:
            where: "player", to denoise from its z; "a" or "b", an end of the interpolation; "optimizer", its start;
                "map", to see where it lies.

        Raises:
            SettingError: for another place, or if nothing is selected.
            LabError: if the model of the tabs cannot take the crystal. In a notebook, where a tab opens in the
                background, the status line shows it.
        """
        pick: Any = self.selection.pick
        if where not in _TAB_OF_USE:
            raise SettingError(f"use: no place {where!r}; there are {', '.join(_TAB_OF_USE)}")
        if pick is None:
            raise SettingError("no crystal is selected yet; select one in any tab")

        def use() -> None:
            if where == "player":
                self.player.start_from_selection()
            elif where in ("a", "b"):
                self.interpolation.set_end(where, pick)
            elif where == "optimizer":
                self.optimizer.start_from_selection()
            else:
                self.map_view  # noqa: B018 - raises if there is none
            self.show_message("")

        self.tab = _TAB_OF_USE[where]
        if self._opener.running:
            self._when_opened = use
        else:
            use()

    def use_model(
        self, model: CDVAE | str | Path, map: LatentMap | str | Path | None = None, wait: bool = True
    ) -> None:
        """Use another model in all tabs but training, which keeps its own.

        Runs are stopped. The map of the model is used, if there is one. Selected crystals stay, without the latents of
        the other model.

        Args:
            model, map: as of the app itself.
            wait: False: read the files in the background.

        Raises:
            SettingError, CheckpointError: as of the app itself, and then nothing has changed.
        """
        self._load(self._label_of(model), model, map, wait)

    def use_trained(self, wait: bool = True) -> None:
        """Use the model of the training tab, with the moving average of its weights as they are now, in the other tabs.

        Args:
            wait: False: copy the weights in the background, between two steps.

        Raises:
            SettingError: before the first step.
        """
        monitor = self.monitor
        monitor.step  # noqa: B018 - raises if there is none

        def copy() -> Iterator[LoadedModel]:
            trained, step = monitor.trained()
            label = f"trained here, step {step:,}"
            yield LoadedModel(label, trained, self._made_maps.get(label))

        self._loading = "that is trained here", None
        self._loader.start(copy(), wait=wait)

    def make_map(self, dataset: Dataset | str | Path | None = None, wait: bool = False) -> None:
        """Make a map of this model, of 2,000 crystals of a data set, in the background; it takes half a minute.

        Args:
            dataset: by default the one that the model was trained on.
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: if it is not known what the model was trained on.
            DatasetError: if the data cannot be read or do not fit the model.
        """
        loaded = self._loaded
        trained_on = loaded.model.value.metadata.get("data", {}).get("name")
        source: Any = dataset or trained_on
        if source is None:
            raise SettingError(
                "this model's metadata name no training data; give the name of a data set, or a folder of CIFs"
            )
        code = f"data = lab.datasets.load({str(source)!r})"
        if dataset is None and "monitor" in self._views and self.monitor.dataset.name == trained_on:
            source, code = self.monitor.dataset, self.monitor.dataset_code
        elif isinstance(source, Dataset):
            code = "# `data` is the data set that the view was given"
        code += f"\nknown = lab.LatentMap.fit(model, data, limit={MAPPED})"

        def make() -> Iterator[LoadedModel | str]:
            yield "1 of 2: reading the data"
            data = source if isinstance(source, Dataset) else datasets.load(source)
            yield f"2 of 2: encoding and placing {min(MAPPED, len(data)):,} crystals"
            made = LatentMap.fit(loaded.model.value, data, limit=MAPPED)
            yield replace(loaded, map=WithCode(made, code))

        self._mapper.start(make(), wait=wait)

    def close(self) -> None:
        """Stop all runs, and release threads and the browser's WebGL contexts."""
        if self._open:  # Python also calls this as it forgets an app that could not be made
            self._mapper.close(wait=False)  # a map takes half a minute
            for view in self._views.values():
                view.close()
        super().close()

    def picture(self) -> Crystals | None:
        """Return the crystals of the open tab, or the selected one, for a page that cannot run widgets."""
        view, pick = self._views.get(self.tab), self.selection.pick
        shown = None if view is None else view.picture()
        return shown if shown is not None or pick is None else pick.crystal

    # --- the tabs ---------------------------------------------------------------------------------------

    def _with_code(self) -> WithCode[CDVAE]:
        assert self.model is not None
        return WithCode(self.model, self.model_code)

    def _view(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._views:
            self._views[name] = make()
            self._views[name].add_class(f"cdvae-{name}")
        return self._views[name]

    def _shared_map(self) -> LatentMapView | None:
        return None if self._loaded.map is None else self.map_view

    def _open_tab(self) -> None:
        """Create the view of the open tab if it is missing. Hidden tabs are not drawn, which saves WebGL contexts.

        In a notebook the data and modules of the view are first read in the background, so that the page stays
        responsive; `_show_opening` calls this again. A script waits, except for the data to train on.
        """
        name = self.tab
        box = self._boxes[name]
        if box.children and box.children[0] is self._views.get(name):
            return
        if name not in self._views:
            box.children = (ipywidgets.HTML("opening …"),)
            if name not in self._ready and (name == "monitor" or in_event_loop()):
                self._opener.start(lambda: self._prepared(name))
                return
        try:
            view = getattr(self, "map_view" if name == "map" else name)
        except LabError as error:
            text = ipywidgets.HTML(f"<p>{html.escape(str(error))}.</p>")
            controls = row(self._map_source, self._map_button, self._map_stop)
            box.children = (text, controls) if name == "map" else (text,)
            return
        box.children = (view, row(self._take_trained)) if name == "monitor" else (view,)

    def _prepared(self, name: str) -> Iterator[str]:
        """Import and read in the worker thread what a view needs: seconds when a tab is first opened."""
        try:
            prepare_figures()
            if self._loaded.map is not None and name != "monitor":
                figures.latent_map(self._loaded.map.value)
            if name == "interpolation":
                default_ends(self._loaded.model.value)
            elif name == "monitor" and not isinstance(self._dataset, Dataset):
                datasets.load(self._dataset)
        except LabError:  # the view raises it again, and the tab shows it
            pass
        yield name

    def _show_opening(self, status: RunStatus) -> None:
        name: str | None = self._opener.newest
        if status.running or name is None:
            return
        self._ready.add(name)
        self._open_tab()
        act, self._when_opened = self._when_opened, lambda: None
        self.attempt(act)

    def _forget_views(self, names: tuple[str, ...]) -> None:
        for name in names:
            self._boxes[name].children = ()
            self._ready.discard(name)
            if name in self._views:
                self._views.pop(name).discard()

    # --- the model --------------------------------------------------------------------------------------

    def _choose_model(self, label: str) -> None:
        if label != self._loaded.label:
            self.attempt(lambda: self._load(label, self._known[label], None, wait=False))

    def _choose_checkpoint(self, path: str) -> None:
        if path.strip():
            self.attempt(lambda: self.use_model(path.strip(), wait=False))

    def _load(
        self,
        label: str,
        source: CDVAE | WithCode[CDVAE] | str | Path,
        map: LatentMap | str | Path | None,
        wait: bool,
    ) -> None:
        def read() -> Iterator[LoadedModel]:
            model = with_code(source)
            assert model is not None
            yield LoadedModel(label, model, self._find_map(model, self._made_maps.get(label) if map is None else map))

        self._loading: tuple[str, Any] = label, source
        self._loader.start(read(), wait=wait)

    def _find_map(
        self, model: WithCode[CDVAE], map: WithCode[LatentMap] | LatentMap | str | Path | None
    ) -> WithCode[LatentMap] | None:
        """The given map, or the bundled one; None if there is none."""
        try:
            return require_map(model.value, map)
        except CheckpointError:
            if map is not None:
                raise
            return None

    def _show_loading(self, status: RunStatus) -> None:
        label, source = self._loading
        loaded: LoadedModel | None = self._loader.newest
        if status.running:
            self.show_message(f"reading the model {label}")
        elif status.error is not None:
            self.show_error(status.error, status.traceback)
            self._offer(self._loaded.label, self._known[self._loaded.label])
        elif loaded is not None:
            self._take(loaded, loaded.model if source is None else source)
            self.show_message(f"all tabs now use the model {loaded.label}" if source is None else "")

    def _take(self, loaded: LoadedModel, source: CDVAE | WithCode[CDVAE] | str | Path) -> None:
        """Use a model that has been read in all tabs but training."""
        self._forget_views(tuple(one for one in TABS if one != "monitor"))
        self._loaded = loaded
        self.model, self.model_code = loaded.model.value, loaded.model.code
        self._offer(loaded.label, source)
        # A latent means something to its own model alone.
        history = tuple(replace(pick, z=None) for pick in self.selection.history)
        with self.selection.hold_trait_notifications():
            self.selection.history = history
            self.selection.pick = history[-1] if history else None
        self._open_tab()
        self.draw_code()

    def _show_mapping(self, status: RunStatus) -> None:
        made: LoadedModel | str | None = self._mapper.newest
        self._enable_map(status.running)
        if status.running:
            self.show_message(f"making the map: half a minute; {made or 'starting'}")
        elif status.error is not None:
            self.show_error(status.error, status.traceback)
        elif isinstance(made, LoadedModel) and made.model.value is self.model and made.map is not None:
            self._forget_views(("map", "interpolation", "optimizer"))
            self._loaded, self._made_maps[made.label] = made, made.map
            self._open_tab()
            self.show_message("the map is made")

    def _enable_map(self, running: bool) -> None:
        self._map_button.disabled, self._map_stop.disabled = running, not running

    def _label_of(self, model: CDVAE | str | Path) -> str:
        if not isinstance(model, CDVAE):
            return str(model)
        given = {label: one.value if isinstance(one, WithCode) else one for label, one in self._known.items()}
        same = [label for label, one in given.items() if one is model]
        number = sum(isinstance(one, CDVAE) for one in given.values())
        return same[0] if same else f"given model {number + 1}" if number else "given model"

    def _offer(self, label: str, source: CDVAE | WithCode[CDVAE] | str | Path) -> None:
        """Show which model is used, and keep it among those to choose from."""
        self._known[label] = source
        self.state.offer("model", [*self._known])
        self.state.model = label
        self._models.layout.display = "" if len(self._known) > 1 else "none"
        model = self._with_code().value
        data = model.metadata.get("data", {}).get("name", "unknown data")
        size = sum(one.numel() for one in model.parameters())
        shown = "" if len(self._known) > 1 else f"<b>{html.escape(label)}</b>: "
        self._about.value = (
            f"<span style='padding:0 8px'>{shown}{size:,} parameters, trained on {html.escape(data)}</span>"
        )

    # --- the screen -------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        W, fields = ipywidgets, self._fields
        self._models = fields.make("model", "model", "320px")
        path = fields.make(
            "own_checkpoint", "own checkpoint", "330px", placeholder="path, then Enter", continuous_update=False
        )
        self._about = W.HTML()
        self.bar = SelectionBar(self.selection, lambda where: self.attempt(lambda: self.use(where)))
        self._map_source = fields.make(
            "map_source", "data set, or folder of CIFs", "360px", placeholder="what the model was trained on"
        )
        self._map_button = button(
            self, "Make a map", "half a minute", lambda: self.make_map(self.state.map_source.strip() or None), "primary"
        )
        self._map_stop = button(self, "Stop", "make no map", self.stop)
        self._map_stop.disabled = True
        self._take_trained = button(
            self,
            "Use this model in the other tabs",
            "with the averaged weights as they are now",
            lambda: self.use_trained(wait=False),
            "info",
        )
        self._boxes = {name: W.VBox(layout={"min_height": "200px"}) for name in TABS}
        names = list(TABS)
        tabs = W.Tab(list(self._boxes.values()), titles=list(TABS.values()), selected_index=names.index(self.tab))
        tabs.observe(lambda change: setattr(self.state, "tab", names[change["new"] or 0]), "selected_index")
        fields.observe("tab", lambda change: setattr(tabs, "selected_index", names.index(change["new"])))
        self.show_rows(
            [row(self._models, path, self._about, fields.code_button()), self.bar, self.status_line, tabs], fields
        )


def app(model: CDVAE | str | Path = "perov_5", map: LatentMap | str | Path | None = None, **options: Any) -> App:
    """Show the whole laboratory on one page; arguments are those of `App`."""
    return App(model, map, **options)
