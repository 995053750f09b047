"""The app: five views as tabs that share a model, a map and the selected crystal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.app.controls import AppControls
from cdvae_lab.widgets.app.map_maker import MapMaker
from cdvae_lab.widgets.app.model_loader import ModelLoader
from cdvae_lab.widgets.app.models import LoadedModel, Models
from cdvae_lab.widgets.app.preparation import prepare
from cdvae_lab.widgets.app.state import TABS, AppState
from cdvae_lab.widgets.app.tabs import Tabs
from cdvae_lab.widgets.base.replay_code import ReplayCode, WithCode
from cdvae_lab.widgets.base.run_status import RunStatus
from cdvae_lab.widgets.base.selection import Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.interpolation.view import InterpolationView
from cdvae_lab.widgets.latent_map.view import LatentMapView
from cdvae_lab.widgets.monitor.view import TrainingMonitor
from cdvae_lab.widgets.optimizer.view import PropertyOptimizer
from cdvae_lab.widgets.player.view import TrajectoryPlayer

_TAB_OF_USE = {"player": "player", "a": "interpolation", "b": "interpolation", "optimizer": "optimizer", "map": "map"}


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
        models = Models(model, map)
        super().__init__(models.loaded.model, state, selection)
        self._dataset, self._data_folder = dataset, data_folder
        self._when_opened: Callable[[], Any] = lambda: None  # to do with the view of the tab that is being opened
        self._models = models
        self._opener = self.new_run(show=self._show_opening, max_frames=1)
        self.controls = AppControls(state, self, self.selection)
        shown = self.new_run, self.show_message, self.show_error
        self._loader = ModelLoader(*shown, self._use, self._show_model)
        self._mapper = MapMaker(*shown, self.controls.enable_map, self._use_map)
        self.bar = self.controls.bar
        self._tabs = Tabs(
            state,
            self.controls.fields,
            self._opener,
            lambda name: prepare(name, self._models.loaded, dataset),
            lambda name: getattr(self, "map_view" if name == "map" else name),
            {"monitor": self.controls.trained},
            {"map": self.controls.new_map},
        )
        self.show_rows([*self.controls.rows(), self.status_line, self._tabs.widget], self.controls)
        self._show_model()
        self.add_class("cdvae-app")
        self.listen(state, "tab", lambda change: self._tabs.open_chosen())
        self.listen(state, "model", lambda change: self._choose_model(change["new"]))
        self.listen(state, "own_checkpoint", lambda change: self._choose_checkpoint(change["new"]))
        self._tabs.open_chosen()

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
        return None if self._models.loaded.map is None else self._models.loaded.map.value

    @property
    def views(self) -> dict[str, View]:
        """The views that have been made so far, by the names of their tabs."""
        return dict(self._tabs.views)

    @property
    def player(self) -> TrajectoryPlayer:
        """Denoising; made if it has not been opened yet, as the other views are."""
        return self._tabs.view("player", lambda: TrajectoryPlayer(self._with_code(), selection=self.selection))

    @property
    def map_view(self) -> LatentMapView:
        """The map. Raises CheckpointError if there is none of this model; `make_map` makes one."""
        known = self._models.loaded.map
        if known is None:
            raise CheckpointError(f"there is no map of {self._models.loaded.label} yet; make one: make_map()")
        return self._tabs.view(
            "map",
            lambda: LatentMapView(
                self._with_code(), known, selection=self.selection, data_folder=self._data_folder, height=520
            ),
        )

    @property
    def interpolation(self) -> InterpolationView:
        """The path between two crystals, which is also drawn on the map."""
        return self._tabs.view(
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

        return self._tabs.view("optimizer", make)

    @property
    def monitor(self) -> TrainingMonitor:
        """Training of a new model; `use_trained` makes it the model of the other tabs."""

        def make() -> TrainingMonitor:
            made = TrainingMonitor(None, self._dataset, selection=self.selection)
            self.listen(made, "stepped", lambda change: self.controls.enable_trained(change["new"]))
            return made

        return self._tabs.view("monitor", make)

    @property
    def replay_code(self) -> ReplayCode:
        """Python code that repeats the actions in all tabs, one tab after another."""
        loaded = self._models.loaded
        setup = {"model": loaded.model.code}
        if loaded.map is not None:
            setup["known"] = loaded.map.code
        parts = [ReplayCode(setup=setup)]
        for name, title in TABS.items():
            if name in self._tabs.views:
                code: ReplayCode = self._tabs.views[name].replay_code
                if code.body and code.as_setup() != loaded.model.code:
                    parts.append(replace(code, title=title))
        return ReplayCode(before=tuple(parts))

    def stop(self) -> None:
        """Stop what the app itself does: loading a model, opening a tab, making a map."""
        for run in (self._loader, self._opener):
            run.stop()
        self._mapper.stop()

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
                self.interpolation.set_end(where, pick, wait=None)
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
        label = self._models.label_of(model)
        self._loader.load(label, lambda: self._models.read(label, model, map), wait)

    def use_trained(self, wait: bool = True) -> None:
        """Use the model of the training tab, with the moving average of its weights as they are now, in the other tabs.

        Args:
            wait: False: copy the weights in the background, between two steps.

        Raises:
            SettingError: before the first step.
        """
        monitor = self.monitor
        monitor.step  # noqa: B018 - raises if there is none

        def copy() -> LoadedModel:
            return self._models.trained(*monitor.trained())

        self._loader.load("that is trained here", copy, wait, "all tabs now use the model {}")

    def make_map(self, dataset: Dataset | str | Path | None = None, wait: bool = False) -> None:
        """Make a map of this model, of 2,000 crystals of a data set, in the background; it takes half a minute.

        Args:
            dataset: by default the one that the model was trained on.
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: if it is not known what the model was trained on.
            DatasetError: if the data cannot be read or do not fit the model.
        """
        monitor: TrainingMonitor | None = self._tabs.views.get("monitor")
        known = None if monitor is None else WithCode(monitor.dataset, monitor.dataset_code)
        self._mapper.make(self._models.loaded, dataset, known, wait)

    def close(self) -> None:
        """Stop all runs, and release threads and the browser's WebGL contexts."""
        if self._open:  # Python also calls this as it forgets an app that could not be made
            self._mapper.close()
            self._tabs.close()
        super().close()

    def picture(self) -> Crystals | None:
        """Return the crystals of the open tab, or the selected one, for a page that cannot run widgets."""
        view, pick = self.views.get(self.tab), self.selection.pick
        shown = None if view is None else view.picture()
        return shown if shown is not None or pick is None else pick.crystal

    # --- the tabs ---------------------------------------------------------------------------------------

    def _with_code(self) -> WithCode[CDVAE]:
        assert self.model is not None
        return WithCode(self.model, self.model_code)

    def _shared_map(self) -> LatentMapView | None:
        return None if self._models.loaded.map is None else self.map_view

    def _show_opening(self, status: RunStatus) -> None:
        name: str | None = self._opener.newest
        if status.running or name is None:
            return
        self._tabs.prepared(name)
        act, self._when_opened = self._when_opened, lambda: None
        self.attempt(act)

    # --- the model --------------------------------------------------------------------------------------

    def _choose_model(self, label: str) -> None:
        if label != self._models.loaded.label:
            self._loader.load(label, lambda: self._models.read(label), wait=False)

    def _choose_checkpoint(self, path: str) -> None:
        if path.strip():
            self.attempt(lambda: self.use_model(path.strip(), wait=False))

    def _use(self, loaded: LoadedModel) -> None:
        """Use a model that has been read in all tabs but training."""
        self._tabs.forget(one for one in TABS if one != "monitor")
        self._models.use(loaded)
        self.model, self.model_code = loaded.model.value, loaded.model.code
        self._show_model()
        # A latent means something to its own model alone.
        history = tuple(replace(pick, z=None) for pick in self.selection.history)
        with self.selection.hold_trait_notifications():
            self.selection.history = history
            self.selection.pick = history[-1] if history else None
        self._tabs.open_chosen()
        self.draw_code()

    def _show_model(self) -> None:
        """Show which model is used, and offer the others."""
        loaded, labels = self._models.loaded, self._models.labels
        self.state.offer("model", labels)
        self.state.model = loaded.label
        self.controls.show_model(loaded.label, loaded.model.value, len(labels) > 1)

    def _use_map(self, made: LoadedModel) -> None:
        """Use a map that was made of this model."""
        if made.model.value is self.model and made.map is not None:
            self._tabs.forget(("map", "interpolation", "optimizer"))
            self._models.use_made_map(made, made.map)
            self._tabs.open_chosen()
            self.show_message("the map is made")


def app(model: CDVAE | str | Path = "perov_5", map: LatentMap | str | Path | None = None, **options: Any) -> App:
    """Show the whole laboratory on one page; arguments are those of `App`."""
    return App(model, map, **options)
