"""Published numbers and those of the bundled models, from published_scores.json and our_scores.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cdvae_lab.io import assets


@cache
def published_scores() -> dict[str, Any]:
    """Read the published numbers, by task and data set; shares in per cent. Bundled as published_scores.json."""
    return json.loads(assets.asset_path("published_scores.json").read_text(encoding="utf-8"))


@cache
def our_scores() -> dict[str, Any]:
    """Read the numbers of the bundled models, in the layout of `published_scores`. Bundled as our_scores.json.

    A number is one, or of several seeds {"mean", "std", "values"}. Besides numbers a row has the `model`, the `seeds`,
    the number of `crystals` of each, `seconds`, `hardware`, the `command` and a `note`, and where it applies:

    - `unlike`: how the row was made otherwise than the published ones; such a row is not compared with them;
    - `decimals`: of numbers that are known to fewer digits than usual;
    - `headline`: which number of the headline table the row is.

    `python -m tools.collect_scores` adds rows from report cards.
    """
    return json.loads(assets.asset_path("our_scores.json").read_text(encoding="utf-8"))


def system_name(system: str) -> str:
    """Name a row of the bundled models for a table with other systems: our name in place of "ours"."""
    return f"cdvae_lab{system.removeprefix('ours')}" if system.startswith("ours") else f"cdvae_lab, {system}"


def mean_of(score: float | Mapping[str, Any]) -> float:
    """Return a number of `our_scores`, or its mean over seeds."""
    return score["mean"] if isinstance(score, Mapping) else score
