"""The start of a search: an example, a file, crystals from the prior, or the crystal selected in another view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.io import assets
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.replay_code import ReplayCode
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.optimizer.state import FILE, GIVEN, PRIOR, SELECTION, OptimizerState
from cdvae_lab.widgets.parts import files

_CHOSEN = "the chosen crystal"


@dataclass(frozen=True)
class Start:
    """Start of a search.

    Attributes:
        source: as `optimize` takes it.
        crystals: number of crystals.
        code: an expression for it.
        before: the code that has to run before that.
    """

    source: Any
    crystals: int
    code: str
    before: ReplayCode = field(default_factory=ReplayCode)


class SearchStart:
    """Reads the start that a state names.

    Args:
        state: of the optimizer.
        model: that has to encode it.
        given: as `start` of the `PropertyOptimizer`.
        selection: whose newest crystal can be the start.
    """

    def __init__(self, state: OptimizerState, model: CDVAE, given: Any, selection: Selection) -> None:
        self._state, self._model, self._given, self._selection = state, model, given, selection
        self._uploaded: files.Upload | None = None
        self.offer()
        state.start = self._first()

    def offer(self) -> None:
        """Offer what a search can start from; the selected crystal by its name."""
        pick: Pick | None = self._selection.pick
        options = [] if self._given is None or isinstance(self._given, int) else [("as given", GIVEN)]
        options += [(name, name) for name in files.examples()]
        chosen = _CHOSEN + (f": {pick.name}" if pick is not None else "")
        options += [("crystals from the prior", PRIOR), (chosen, SELECTION), ("a file", FILE)]
        self._state.offer("start", options)

    def take(self, upload: files.Upload) -> None:
        """Start from an uploaded file."""
        self._uploaded = upload
        self._state.update({"file": upload.name, "start": FILE})

    @property
    def named(self) -> bool:
        """False before a file is written into its field."""
        return self._state.start != FILE or bool(self._state.file.strip())

    def reading(self) -> Callable[[], Start]:
        """A function that reads the start as it is chosen now, for another thread: parsing a file takes a while.

        It raises CrystalError for crystals that the model cannot take.

        Raises:
            SettingError: if nothing is chosen yet.
        """
        kind, n, path, upload = self._state.start, self._state.n, self._state.file.strip(), self._uploaded
        if kind == PRIOR:
            return lambda: Start(n, n, str(n))
        if kind == GIVEN:
            return self._read_given
        if kind == SELECTION:
            pick: Pick | None = self._selection.pick
            if pick is None:
                raise SettingError("no crystal is chosen yet; choose one in another view, or start from something else")
            return lambda: self._read_pick(pick)
        if kind != FILE:
            example = assets.asset_path(f"examples/{kind}.cif")
            return lambda: Start(self._taken(example), 1, f"lab.asset_path('examples/{kind}.cif')")
        if not path:
            raise SettingError("which file? Upload one, or write its path")
        return lambda: self._read_file(path, upload)

    def _read_file(self, path: str, upload: files.Upload | None) -> Start:
        if upload is None or path != upload.name:
            crystals = self._taken(path)
            return Start(crystals, len(crystals), repr(path))
        crystals = self._taken(upload)
        given = ReplayCode(body=(f"# `crystals` is the uploaded file {path}",))
        return Start(crystals, len(crystals), "crystals", given)

    def _read_given(self) -> Start:
        given, comment = self._given, ReplayCode(body=("# `start` is the one that the view was given",))
        if files.is_path(given):
            crystals = self._taken(given)
            return Start(crystals, len(crystals), repr(str(given)))
        if isinstance(given, Tensor):
            return Start(given, len(given), "start", comment)
        crystals = self._taken(given)
        return Start(given if isinstance(given, Crystals) else crystals, len(crystals), "start", comment)

    def _read_pick(self, pick: Pick) -> Start:
        before = pick.binding("crystal")
        if pick.z is not None and pick.z.shape[-1] == self._model.config.latent_dim:
            return Start(pick.z, 1, "z", before)
        self._taken(pick.crystal)
        return Start(pick.crystal, 1, "crystal", before)

    def _taken(self, source: Any) -> Crystals:
        """Crystals that the model can encode, as they are read for it."""
        found = files.named_structures(source)
        return Crystals.cat([files.for_model(self._model, structure, name) for structure, name in found])

    def _first(self) -> str:
        if self._given is not None:
            return PRIOR if isinstance(self._given, int) else GIVEN
        if self._selection.pick is not None:
            return SELECTION
        for name in ("SrTiO3", *files.examples()):
            try:
                self._taken(assets.asset_path(f"examples/{name}.cif"))
            except CrystalError:  # of elements or a size that this model was not made for
                continue
            return name
        return PRIOR
