"""Making a map of the app's model, in the background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import SettingError
from cdvae_lab.widgets.app.models import LoadedModel, make_map
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.replay_code import WithCode
from cdvae_lab.widgets.base.run_status import RunStatus


class MapMaker:
    """Makes one map at a time; it takes half a minute.

    Args:
        new_run: makes the run, given what shows its status.
        say: shows a text.
        fail: shows an error and its traceback.
        changed: called with whether a map is being made.
        use: called with the model and its map.
    """

    def __init__(
        self,
        new_run: Callable[..., RecordedRun[LoadedModel | str]],
        say: Callable[[str], None],
        fail: Callable[[BaseException, str], None],
        changed: Callable[[bool], None],
        use: Callable[[LoadedModel], None],
    ) -> None:
        self._say, self._fail, self._changed, self._use = say, fail, changed, use
        self._run = new_run(show=self._show, max_frames=1)

    def make(
        self, loaded: LoadedModel, dataset: Dataset | str | Path | None, known: WithCode[Dataset] | None, wait: bool
    ) -> None:
        """Make a map of a model.

        Args:
            dataset: crystals to place on the map; by default those that the model was trained on.
            known: a data set that has been read already.
            wait: return at the end, and raise what goes wrong.

        Raises:
            SettingError: if it is not known what the model was trained on.
            DatasetError: if the data cannot be read or do not fit the model.
        """
        trained_on = loaded.model.value.metadata.get("data", {}).get("name")
        source: Any = dataset or trained_on
        if source is None:
            raise SettingError(
                "this model's metadata name no training data; give the name of a data set, or a folder of CIFs"
            )
        code = f"data = lab.datasets.load({str(source)!r})"
        if dataset is None and known is not None and known.value.name == trained_on:
            source, code = known.value, known.code
        elif isinstance(source, Dataset):
            code = "# `data` is the data set that the view was given"
        self._run.start(make_map(loaded, source, code), wait=wait)

    def stop(self) -> None:
        """Take no map that is being made: UMAP cannot be interrupted, and ends in the background."""
        if self._run.running:
            self._run.cancel()
            self._changed(False)
            self._say("stopped: no map was made")

    def close(self) -> None:
        """End without waiting for a map that is being made."""
        self._run.close(wait=False)

    def _show(self, status: RunStatus) -> None:
        made: Any = self._run.newest
        self._changed(status.running)
        if status.running:
            self._say(f"making the map: half a minute; {made or 'starting'}")
        elif status.error is not None:
            self._fail(status.error, status.traceback)
        elif isinstance(made, LoadedModel):
            self._use(made)
