"""Results of a decoded path: a picture of each stop, and quantities along the path."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import density, reduced_formulas, to_html
from cdvae_lab.crystals.lattice import volume
from cdvae_lab.explore.interpolation import ENDS, LatentPath
from cdvae_lab.metrics import validity
from cdvae_lab.metrics.distances import closest_distance
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import posterior_of
from cdvae_lab.widgets.interpolation.state import PREDICTED
from cdvae_lab.widgets.parts.filmstrip import path_pictures

_MEASURES = {
    "density": density,
    "volume per atom": lambda crystals: volume(crystals.lattice) / crystals.num_atoms,
    "number of atoms": lambda crystals: crystals.num_atoms,
    "closest distance": closest_distance,
}


@dataclass(frozen=True)
class PathResults:
    """Everything that is drawn of the crystals along a path; made in the worker thread.

    Attributes:
        crystals: of the stops, on the CPU.
        pictures: of the filmstrip.
        formulas: of the stops.
        finite: whether a stop's structure is valid.
        lines: values at the stops, by quantity and by the name of the line.
        reference: values of the two ends as they were given, by quantity.
        jumps: text on where the composition changes, as HTML.
    """

    crystals: Crystals
    pictures: list[dict[str, Any]]
    formulas: list[str]
    finite: Bool[Tensor, " stops"]
    lines: Mapping[str, Mapping[str, Float[Tensor, " stops"]]]
    reference: Mapping[str, Mapping[str, float]]
    jumps: str


def path_results(model: CDVAE, path: LatentPath, crystals: Crystals) -> PathResults:
    """Measure the crystals along a path.

    Args:
        model: that decoded them.
        path: their latents.
        crystals: one a stop.
    """
    crystals, ends = crystals.to("cpu"), path.ends.to("cpu")
    finite = validity.structure_validity(crystals)
    lines: dict[str, dict[str, Tensor]] = {PREDICTED: {"predicted from z": predicted(model, path.z)}}
    again = torch.full((len(crystals),), torch.nan)
    if bool(finite.any()):
        again[finite] = predicted(model, posterior_of(model, crystals[finite]).mu)
    lines[PREDICTED]["from the decoded crystal"] = again
    reference: dict[str, dict[str, float]] = {}
    for name, measure in _MEASURES.items():
        lines[name] = {name: measure(crystals).float()}
        values = measure(ends).tolist()
        reference[name] = {f"{letter}, as given": value for letter, value in zip(ENDS, values, strict=True)}
    formulas = reduced_formulas(crystals)
    return PathResults(
        crystals, path_pictures(crystals, places(path)), formulas, finite, lines, reference, jumps(crystals)
    )


def places(path: LatentPath) -> list[str]:
    """Position of each stop along a path, in percent."""
    return [f"{weight:.0%}" for weight in path.weights.tolist()]


def predicted(model: CDVAE, z: Float[Tensor, "stops latent"]) -> Float[Tensor, " stops"]:
    """The property that the model predicts from latents, on the CPU."""
    with torch.no_grad():
        return model.predict_property(z.to(model.device)).cpu().float()


def jumps(crystals: Crystals) -> str:
    """Text on the stops between which composition or number of atoms changes, as HTML."""
    names = [
        f"{to_html(formula)} ({count} atoms)"
        for formula, count in zip(reduced_formulas(crystals), crystals.num_atoms.tolist(), strict=True)
    ]
    steps = [
        f"{k} → {k + 1}: {one} → {other}" for k, (one, other) in enumerate(itertools.pairwise(names)) if one != other
    ]
    if not steps:
        return f"The same atoms at every stop: {names[0]}."
    return f"<b>Jumps</b> (the composition changes between two stops): {'; '.join(steps)}."
