"""The user's own crystals on the map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import reduced_formulas
from cdvae_lab.errors import CrystalError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.familiarity import Unfamiliar, unfamiliar_crystals
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.widgets.parts import files


@dataclass(frozen=True)
class OwnCrystals:
    """Crystals read so far, with the code that reads them again.

    Attributes:
        names: of the crystals, for people.
        read: the crystals, one each, as the model takes them.
        sources: expressions of Python.
        given: comments on names that the expressions need.
    """

    names: tuple[str, ...] = ()
    read: tuple[Crystals, ...] = ()
    sources: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.read)

    def and_of(self, model: CDVAE, source: Any) -> OwnCrystals:
        """These crystals and all those of one more source.

        Args:
            model: that has to encode them.

        Raises:
            CrystalError: naming the file, the problem and the remedy.
        """
        found = [(name, files.for_model(model, one, name)) for one, name in files.named_structures(source)]
        if not found:
            raise CrystalError("holds no crystal; choose another file")
        given = self.given
        if isinstance(source, files.Upload):
            expression = repr(source.text)
        elif isinstance(source, str | Path):
            expression = repr(str(source))
        else:
            expression = f"given_{len(given)}"
            given = (*given, f"# `{expression}` is {found[0][0]} as it was given to the view")
        names, read = zip(*found, strict=True)
        return OwnCrystals((*self.names, *names), (*self.read, *read), (*self.sources, expression), given)

    @property
    def crystals(self) -> Crystals:
        """All crystals, on the CPU."""
        return Crystals.cat([crystal.to("cpu") for crystal in self.read])

    @property
    def texts(self) -> list[str]:
        """Formula and source of each crystal."""
        return [f"{f} ({name})" for f, name in zip(reduced_formulas(self.crystals), self.names, strict=True)]

    @property
    def code_lines(self) -> tuple[str, ...]:
        """Lines of Python that bind `made` to the crystals and `z` to their latents."""
        return (*self.given, f"made = lab.read([{', '.join(self.sources)}])", "z = lab.encode(model, made)")


@dataclass(frozen=True)
class Encoding:
    """State of reading and encoding the user's crystals.

    Attributes:
        step, num_steps: sources that are read, and number of sources.
        own: the crystals so far.
        z: their latents, on the CPU, in the end; None before, and if none is new.
        unfamiliar: those that the model does not represent, in the end.
        wrong: errors of the sources that cannot be used.
    """

    step: int
    num_steps: int
    own: OwnCrystals
    z: Float[Tensor, "crystals latent"] | None = None
    unfamiliar: tuple[Unfamiliar, ...] = ()
    wrong: tuple[CrystalError, ...] = ()


def encode_own(model: CDVAE, own: OwnCrystals, sources: Sequence[Any]) -> Iterator[Encoding]:
    """Read more crystals and encode all; yields the progress after each source, and the latents in the end.

    Args:
        own: those that were read before.
        sources: files, or what `convert.read` takes.
    """
    state, before = Encoding(0, len(sources), own), len(own)
    yield state
    for number, source in enumerate(sources, 1):
        try:
            state = replace(state, step=number, own=state.own.and_of(model, source))
        except CrystalError as error:
            state = replace(state, step=number, wrong=(*state.wrong, error))
        yield state
    if len(state.own) > before:
        z = posterior_of(model, state.own.crystals).mu
        unfamiliar = unfamiliar_crystals(model, state.own.crystals.to(model.device), z)
        yield replace(state, z=z.cpu(), unfamiliar=tuple(unfamiliar))
