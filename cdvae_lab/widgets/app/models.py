"""The models to choose from, the one that is in use, and their maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cdvae_lab import datasets
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError
from cdvae_lab.explore.latent_map import LatentMap
from cdvae_lab.io import assets
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.replay_code import WithCode
from cdvae_lab.widgets.base.view import with_code
from cdvae_lab.widgets.parts.maps import require_map

Source = CDVAE | WithCode[CDVAE] | str | Path
MapSource = WithCode[LatentMap] | LatentMap | str | Path | None
MAPPED = 2000  # crystals of a map that is made here: half a minute on two cores


@dataclass(frozen=True)
class LoadedModel:
    """A model as the dropdown names it, with its map, if there is one.

    Attributes:
        source: what it can be loaded from again.
    """

    label: str
    source: Source
    model: WithCode[CDVAE]
    map: WithCode[LatentMap] | None


class Models:
    """The bundled models and those that were used here.

    Args:
        source: the first to use.
        map: of that model; None: the bundled one, if there is.

    Attributes:
        loaded: the one that is in use.

    Raises:
        SettingError: if there is no such model or map.
        CheckpointError: if the model cannot be read, or the map is of another model.
    """

    def __init__(self, source: CDVAE | str | Path, map: MapSource = None) -> None:
        self._sources: dict[str, Source] = {name: name for name in assets.models()}
        self._made_maps: dict[str, WithCode[LatentMap]] = {}
        self.use(self.read(self.label_of(source), source, map))

    @property
    def labels(self) -> list[str]:
        """Labels of all models, those used here last."""
        return [*self._sources]

    def label_of(self, model: CDVAE | str | Path) -> str:
        """The name or path of a model; one that was given without either is numbered."""
        if not isinstance(model, CDVAE):
            return str(model)
        given = {label: one.value if isinstance(one, WithCode) else one for label, one in self._sources.items()}
        same = [label for label, one in given.items() if one is model]
        number = sum(isinstance(one, CDVAE) for one in given.values())
        return same[0] if same else f"given model {number + 1}" if number else "given model"

    def read(self, label: str, source: Source | None = None, map: MapSource = None) -> LoadedModel:
        """Load a model with its map, which takes a moment, without using it.

        Args:
            source: by default that of the label.
            map: by default the one that was made here, or the bundled one.

        Raises:
            SettingError: if there is no such model or map.
            CheckpointError: if the model cannot be read, or the map is of another model.
        """
        source = self._sources[label] if source is None else source
        model = with_code(source)
        assert model is not None
        made = self._made_maps.get(label) if map is None else map
        return LoadedModel(label, source, model, _find_map(model.value, made))

    def trained(self, model: WithCode[CDVAE], step: int) -> LoadedModel:
        """A model that was trained here until a step; its map, if one was made here."""
        label = f"trained here, step {step:,}"
        return LoadedModel(label, model, model, self._made_maps.get(label))

    def use(self, loaded: LoadedModel) -> None:
        """Use a model, and keep it among those to choose from."""
        self.loaded: LoadedModel = loaded
        self._sources[loaded.label] = loaded.source

    def use_made_map(self, mapped: LoadedModel, map: WithCode[LatentMap]) -> None:
        """Use a map that was made here with its model, now and whenever that model is chosen again."""
        self.loaded, self._made_maps[mapped.label] = mapped, map


def make_map(loaded: LoadedModel, source: Dataset | str | Path, code: str) -> Iterator[LoadedModel | str]:
    """Make a map of a model; yields what is being done, and then the model with the map.

    Args:
        source: crystals to place on the map.
        code: the statement that binds them to `data`.

    Raises:
        DatasetError: if the data cannot be read or do not fit the model.
    """
    yield "1 of 2: reading the data"
    data = source if isinstance(source, Dataset) else datasets.load(source)
    yield f"2 of 2: encoding and placing {min(MAPPED, len(data)):,} crystals"
    made = LatentMap.fit(loaded.model.value, data, limit=MAPPED)
    yield replace(loaded, map=WithCode(made, f"{code}\nknown = lab.LatentMap.fit(model, data, limit={MAPPED})"))


def _find_map(model: CDVAE, map: MapSource) -> WithCode[LatentMap] | None:
    """The given map, or the bundled one; None if there is none."""
    try:
        return require_map(model, map)
    except CheckpointError:
        if map is not None:
            raise
        return None
