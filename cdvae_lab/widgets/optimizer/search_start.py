"""Where a search begins: an example, a user's file, crystals from the prior, or what was chosen in another widget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.explore.optimization import optimize
from cdvae_lab.io import assets, convert
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base.panel import Panel, field
from cdvae_lab.widgets.base.selection import Pick
from cdvae_lab.widgets.parts import files

_CHOSEN = "the chosen crystal"


class SearchStart:
    """Fields of one panel that say where its search begins.

    Args:
        panel: whose fields they are.
        model: that has to take it.
        given: as `start` of the `PropertyOptimizer`; None takes the selection's crystal, or an example.
    """

    def __init__(self, panel: Panel, model: CDVAE, given: Any) -> None:
        W = ipywidgets
        self._panel, self._model, self._given = panel, model, given
        self._uploaded: files.Upload | None = None
        count = given if isinstance(given, int) else 4
        options = [] if given is None or isinstance(given, int) else [("as given", "given")]
        options += [(name, f"examples/{name}.cif") for name in files.examples()]
        options += [("crystals from the prior", "prior"), (_CHOSEN, "selection"), ("a file", "file")]
        self.kind = field(W.Dropdown, "start from", "250px", options=options)
        self.n = field(W.BoundedIntText, "how many", "130px", value=count, min=1, max=32)
        self.path = field(W.Text, "file", "230px", placeholder="a CIF, POSCAR or XYZ file")
        self._upload = files.upload_button("upload", lambda uploads: panel._try(lambda: self.take(uploads[0])))
        self.kind.observe(lambda change: self._show_fields(), "value")
        self.kind.value = self._first()
        self._show_fields()

    @property
    def fields(self) -> list[ipywidgets.Widget]:
        """From left to right."""
        return [self.kind, self.n, self.path, self._upload]

    def take(self, upload: files.Upload) -> None:
        """Begin with a file from the user's own machine. Raises CrystalError if it cannot be read."""
        self._uploaded = upload
        self.path.value = upload.name
        self.kind.value = "file"
        files.named_structures(upload)  # complains at once

    def offer(self, pick: Pick | None) -> None:
        """The chosen crystal, by its name."""
        options = [(text, kind) for text, kind in self.kind.options if kind != "selection"]
        chosen = self.kind.value
        self.kind.options = [*options, (_CHOSEN + (f": {pick.name}" if pick is not None else ""), "selection")]
        # What this panel chose itself is no new start unless somebody says so.
        self.kind.value = chosen if chosen == "given" or self._panel.running else "selection" if pick else chosen

    def source(self) -> tuple[Any, str]:
        """What `optimize` starts from, and how to say so in Python.

        Raises:
            SettingError: if nothing is chosen yet.
            CrystalError: for an uploaded file that the model cannot take.
        """
        kind = self.kind.value
        if kind == "given":
            return self._given, repr(str(self._given)) if isinstance(self._given, str | Path) else "start"
        if kind == "prior":
            return self.n.value, str(self.n.value)
        if kind == "selection":
            return self._selected()
        if kind != "file":
            return assets.asset_path(kind), f"lab.asset_path({kind!r})"
        path = self.path.value.strip()
        if not path:
            raise SettingError("which file? Upload one, or write its path")
        if self._uploaded is not None and path == self._uploaded.name:
            structures, names = zip(*files.named_structures(self._uploaded), strict=True)
            return convert.from_structures(list(structures), names=list(names)), repr(path)
        return path, repr(path)

    def lines(self) -> list[str]:
        """For what no expression of Python can name."""
        code = self.source()[1]
        return [f"# `{code}` is the widget's start"] if code in ("start", "z", "crystal") else []

    def _selected(self) -> tuple[Any, str]:
        pick: Any = self._panel.selection.pick
        if pick is None:
            raise SettingError("no crystal is chosen yet; choose one in another widget, or start from another place")
        if pick.z is not None and pick.z.shape[-1] == self._model.config.latent_dim:
            return pick.z, "z" if not pick.code else f"lab.encode(model, {pick.code})"
        return pick.crystal, pick.code or "crystal"

    def _first(self) -> str:
        if self._given is not None:
            return "prior" if isinstance(self._given, int) else "given"
        if self._panel.selection.pick is not None:
            return "selection"
        for name in ("examples/SrTiO3.cif", *assets.names("examples/*.cif")):
            try:
                optimize(self._model, assets.asset_path(name))
            except LabError:  # of elements or a size that this model was not made for
                continue
            return name
        return "prior"

    def _show_fields(self) -> None:
        kind = self.kind.value
        for one, when in ((self.n, kind == "prior"), (self.path, kind == "file"), (self._upload, kind == "file")):
            one.layout.display = "" if when else "none"
