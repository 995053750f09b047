"""Samplers by name, their settings, and the defaults of decoding with retries. Importing it does not import torch."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class SamplerSettings(TypedDict, total=False):
    """Settings of samplers, which editors complete.

    Keys:
        steps: calls of the network, of "renoising" (200), "ancestral" (200) and "probability_flow" (100).
        steps_per_level: of "langevin", at each noise level (100).
        step_size: of "langevin" at the last noise level, Å^2 (1e-4).
        levels: spacing of the noise levels of "renoising": "dense" (default), most of them between 1 and 0.1 Å, or
            "geometric".
        types: "assigned" (default) keeps the composition of the start and assigns it to the sites again at every
            step; "argmax" gives every site its most likely element at every step, as in the paper.
    """

    steps: int
    steps_per_level: int
    step_size: float
    levels: Literal["dense", "geometric"]
    types: Literal["assigned", "argmax"]


SAMPLERS: dict[str, frozenset[str]] = {
    "renoising": frozenset({"steps", "levels"}),
    "ancestral": frozenset({"steps"}),
    "probability_flow": frozenset({"steps"}),
    "langevin": frozenset({"steps_per_level", "step_size"}),
}
"""Samplers, each a classmethod of `Schedule` of the same name, and the settings that they take."""

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "preview": ("renoising", {"steps": 50}),
    "standard": ("renoising", {"steps": 200}),
    "paper": ("langevin", {"steps_per_level": 100, "types": "argmax"}),
}
"""Named combinations of a sampler and its settings, from the fastest to the paper's."""

DEFAULT = "renoising"  # with its own defaults it is "standard"; compared with the others in docs/results/samplers.md
TYPES = ("assigned", "argmax")
LEVELS = ("dense", "geometric")

# Standard deviations of the posterior. Decoded from its posterior mean a right crystal is at 0 to 4 and a wrong one at
# 4 to 30; refined, a right one is nearer.
TOLERANCE, TOLERANCE_REFINED = 2.0, 0.3
# Å. Where the attempts begin, in turn: at the start, or at the best crystal so far, with enough noise to change it.
RESTART_SIGMAS = (float("inf"), 0.5, 1.0, 2.0)
MAX_ATTEMPTS, BATCH_SIZE = 8, 1024
