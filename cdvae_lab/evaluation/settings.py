"""Settings of `evaluate`, by task; each is a keyword argument, which an editor completes for the task that is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.metrics.charge_balance import Rules
from cdvae_lab.metrics.cutoffs import Cutoffs
from cdvae_lab.metrics.success_rates import Predictor


class ValiditySettings(TypedDict, total=False):
    """Settings of task="validity", which every task takes.

    Attributes:
        rules: the version of SMACT that decides on compositions: "current" (default), or "paper" for 2.2.1, with which
            the CDVAE paper's numbers were made; see `metrics.charge_balance`.
        jobs: processes; -1 (default) for all cores. `joblib.parallel_config` chooses another backend, such as dask.
        cache: folder of earlier results; None (default) for the user's cache folder.
    """

    rules: Rules
    jobs: int
    cache: str | Path | None


class ReconstructionSettings(ValiditySettings, total=False):
    """Settings of task="reconstruction".

    Attributes:
        split: of a reference given by name; "test" by default.
        folder: where the public files are; None (default) downloads them.
    """

    split: str
    folder: str | Path | None


class PredictorSettings(ValiditySettings, total=False):
    """Settings of a predicted property.

    Attributes:
        predictor: a function from Crystals to one number each, in the property's unit; for "optimization" not the
            network whose gradient was followed.
        predictor_name: which network it is, for the report.
        property_unit: of its numbers; by default the unit of the reference's label.
    """

    predictor: Predictor | None
    predictor_name: str
    property_unit: str


class GenerationSettings(PredictorSettings, total=False):
    """Settings of task="generation".

    Attributes:
        split: of a reference given by name; "test" by default.
        folder: where the public files are; None (default) downloads them.
        train: crystals that the model was trained on, for novelty; by default the training set of a reference given by
            name.
        novelty: compare with each other and with the training set; True by default.
        cutoffs: of coverage; by default the published ones of the reference.
        samples: number of valid crystals whose properties are compared; 1,000 by default, as in the paper.
        seed: of their choice; 0 by default.
    """

    split: str
    folder: str | Path | None
    train: Dataset | Crystals | None
    novelty: bool
    cutoffs: Cutoffs | None
    samples: int
    seed: int


class OptimizationSettings(PredictorSettings, total=False):
    """Settings of task="optimization"; `predictor` is required.

    Attributes:
        thresholds: of success for 5, 10 and 15 %, in the property's unit; by default the published ones of the
            reference.
    """

    thresholds: Sequence[float] | None


SETTINGS: dict[str, frozenset[str]] = {
    "generation": frozenset(GenerationSettings.__annotations__),
    "reconstruction": frozenset(ReconstructionSettings.__annotations__),
    "optimization": frozenset(OptimizationSettings.__annotations__),
    "validity": frozenset(ValiditySettings.__annotations__),
}
"""Names of the settings of each task."""
