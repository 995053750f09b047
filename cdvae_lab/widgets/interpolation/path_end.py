"""One end of a path: where the crystal comes from, what it looks like, and whether the model gives it back."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas, to_html
from cdvae_lab.errors import CrystalError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.widgets.base import captions as words
from cdvae_lab.widgets.base.panel import field, row
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.parts import files

if TYPE_CHECKING:
    from pymatgen.core import Structure

WARN = "color:var(--jp-error-color1,#c62828)"
# In (volume / atom)^(1/3), beyond which a match is no more than a likeness: ten times what is usual.
ROUGH = 0.05
_OTHER = "(another crystal)"


class PathEnd(ipywidgets.VBox):
    """Chooses one crystal for a model.

    Args:
        model: that has to take it.
        letter: "a" or "b".
        selection: whose newest pick can be taken.
        changed: called after every choice, also one that cannot be used.

    Attributes:
        crystal: as the model takes it; None while there is none that it takes.
        error: what is wrong with the last choice; None if nothing is.
        name: of the choice, for people.
        code: an expression of Python for it.
    """

    _open = False

    def __init__(self, model: CDVAE, letter: str, selection: Selection, changed: Callable[[], Any]) -> None:
        self._model, self.letter, self._selection, self._changed = model, letter, selection, changed
        self.crystal: Crystals | None = None
        self.error: CrystalError | None = None
        self.name, self.code = "", ""
        self._structure: Structure | None = None
        self._source = ""
        self._primitive, self._primitive_size = False, 0
        self._quiet = False
        W = ipywidgets
        self._examples = field(W.Dropdown, f"{letter}:", "190px", options=[_OTHER, *files.examples()], value=_OTHER)
        self._upload = files.upload_button("CIF", lambda uploads: self.attempt(uploads[0]))
        self._path = field(W.Text, "path", "190px", placeholder="my.cif", continuous_update=False)
        self._take = W.Button(description="take the chosen one", tooltip="what was last chosen in any view")
        self._reduce = W.Button(description="take the primitive cell", button_style="info", layout={"display": "none"})
        for one in (self._take, self._reduce):
            one.layout.width, one.layout.align_self = "auto", "flex-start"
        self._words = W.HTML()
        self._pictures = W.HTML()
        self._examples.observe(lambda change: self._example(change["new"]), "value")
        self._path.observe(lambda change: change["new"] and self.attempt(change["new"]), "value")
        self._take.on_click(lambda _: self._take_chosen())
        self._reduce.on_click(lambda _: self._try(self.take_primitive))
        super().__init__(
            [
                row(self._examples, self._upload),
                row(self._path, self._take),
                self._pictures,
                self._words,
                self._reduce,
            ],
            layout={"flex": "1 1 320px", "min_width": "0"},
        )
        self.add_class(f"cdvae-end-{letter}")
        self._open = True
        selection.observe(self._tell_chosen, "pick")
        self._tell_chosen()

    def choose(self, source: Any) -> None:
        """Take a crystal: a file, an `Upload`, a `Pick`, or what `convert.read` takes.

        Raises:
            CrystalError: naming this end, if it cannot be read, is not one, or is none that the model takes. What can
                be done is offered below the picture.
        """
        self._structure, self.crystal, self.error = None, None, None
        self._primitive, self._primitive_size = False, 0
        pick = source if isinstance(source, Pick) else None
        source = source if pick is None else pick.crystal
        path = isinstance(source, str | Path) and "\n" not in str(source)
        self._source = repr(str(source)) if path else ""
        try:
            found = files.named_structures(source)
            if len(found) != 1:
                raise CrystalError(f"holds {len(found)} crystals, but a path needs one at each end; choose one")
            [(self._structure, self.name)] = found
            self.name = self.name if pick is None else pick.name
        except CrystalError as error:
            self.name = str(source) if path else "crystal"
            self._refuse(error)
        self._use()

    def attempt(self, source: Any) -> None:
        """As `choose`, but an error is only shown."""
        self._try(partial(self.choose, source))

    def take_primitive(self) -> None:
        """Replace the crystal by its primitive cell. Raises CrystalError if the model does not take that either."""
        if self._structure is None:
            raise CrystalError(f"end {self.letter}: there is no crystal yet whose primitive cell could be taken")
        self._primitive = True
        self._use()

    def judge(self, decoded: Crystals, rms: float | None) -> None:
        """Say what the model makes of the crystal.

        Args:
            decoded: the reconstruction.
            rms: of `metrics.reconstruction.match`; None for no match.
        """
        assert self.crystal is not None
        pair = [(f"{html.escape(self.name)}", self.crystal), ("as the model gives it back", decoded)]
        self._pictures.value = (
            "<div style='display:flex;gap:8px;flex-wrap:wrap;text-align:center'>"
            + "".join(f"<div>{words.picture(one, 140)}<div>{text}</div></div>" for text, one in pair)
            + "</div>"
        )
        [formula] = reduced_formulas(decoded)
        given = to_html(formula)
        if rms is None:
            text = (
                f"<b style='{WARN}'>It does not come back</b>: the model makes {given} of it. It does not know this "
                "crystal, and what lies between says little about it."
            )
        elif rms > ROUGH:
            text = f"<b style='{WARN}'>It comes back roughly</b>: atoms are off by {rms:.3f} (volume/atom)<sup>⅓</sup>."
        else:
            text = f"It comes back: atoms are off by {rms:.4f} (volume/atom)<sup>⅓</sup>."
        self._words.value = f"<div style='line-height:1.4'>{self._about()}<br>{text}</div>"

    def close(self) -> None:
        """Listen no more."""
        if self._open:  # Python also calls this as it forgets a widget, even one that has never begun
            self._open = False
            self._selection.unobserve(self._tell_chosen, "pick")
        super().close()

    def _use(self) -> None:
        if self._structure is not None:
            if not self._primitive:
                # Of a disordered structure there is none that a model takes.
                ordered = self._structure.is_ordered
                self._primitive_size = len(self._structure.get_primitive_structure()) if ordered else 0
            self.error, self.crystal = None, None
            try:
                self.crystal = files.for_model(self._model, self._structure, self.name, self._primitive)
            except CrystalError as error:
                self._refuse(error)
        self._draw()
        self.code = self._expression()
        self._changed()
        if self.error is not None:
            raise self.error

    def _refuse(self, error: CrystalError) -> None:
        self.error = CrystalError(f"end {self.letter}: {error}")

    def _expression(self) -> str:
        if not self._source:
            return self.letter
        source = self._source
        if self._examples.value != _OTHER:
            source = f"lab.asset_path('examples/{self._examples.value}.cif')"
        return f"lab.read({source}, primitive=True)" if self._primitive else source

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except CrystalError:
            assert self.error is not None  # which is shown, with what can be done

    def _example(self, name: str) -> None:
        if name != _OTHER and not self._quiet:
            self.attempt(files.examples()[name])

    def _take_chosen(self) -> None:
        if self._selection.pick is not None:
            self.attempt(self._selection.pick)

    def _tell_chosen(self, change: Any = None) -> None:
        self._take.disabled = self._selection.pick is None

    def _about(self) -> str:
        assert self._structure is not None
        assert self.crystal is not None
        size, smallest = len(self._structure), self._primitive_size
        [formula] = reduced_formulas(self.crystal)
        text = f"<b>{to_html(formula)}</b>, {int(self.crystal.num_atoms)} atoms in the cell"
        if self._primitive:
            text += f" (the primitive cell; the file's has {size})"
        elif smallest < size:
            text += f". The cell is not primitive: one of {smallest} atoms is the same crystal"
        return text

    def _draw(self) -> None:
        self._quiet = True
        known = {repr(str(path)): name for name, path in files.examples().items()}
        self._examples.value = known.get(self._source, _OTHER)
        self._quiet = False
        size = 0 if self._structure is None else len(self._structure)
        self._reduce.layout.display = "" if not self._primitive and 0 < self._primitive_size < size else "none"
        if self.crystal is not None:
            self._pictures.value = words.picture(self.crystal, 140)
            self._words.value = f"{self._about()}<br>is being decoded …"
            return
        self._pictures.value = ""
        text = html.escape(str(self.error))
        if self._primitive_size and self._structure is not None:
            takers = files.models_that_take(self._structure)
            text += f"<br>Bundled models that take it: {html.escape(', '.join(takers) or 'none')}."
        self._words.value = f"<div style='line-height:1.4'><b style='{WARN}'>Not usable</b>: {text}</div>"
