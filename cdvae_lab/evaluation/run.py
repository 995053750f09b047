"""Evaluate crystals: a generator that yields the report card as far as it is known.

Fingerprints and matching take long; they run in parallel and are cached by a hash of the crystal, so that the same call
after an interruption continues where it stopped. Definitions follow the CDVAE paper (section 5) and its code
(`compute_metrics.py`, `eval_utils.py`); other measures name their source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.evaluation import generation, optimization, reconstruction, validity
from cdvae_lab.evaluation.card import ReportCard
from cdvae_lab.evaluation.settings import (
    SETTINGS,
    GenerationSettings,
    OptimizationSettings,
    ReconstructionSettings,
    ValiditySettings,
)
from cdvae_lab.evaluation.sources import CrystalSource, read_source
from cdvae_lab.evaluation.tasks import TASKS
from cdvae_lab.metrics.cutoffs import CUTOFFS
from cdvae_lab.metrics.success_rates import chosen_thresholds
from cdvae_lab.runtime.result_cache import ResultCache

Source = Crystals | CrystalSource | str | Path


@overload
def evaluate(
    crystals: Source,
    reference: str | Dataset | Crystals,
    *,
    task: Literal["generation"] = "generation",
    **settings: Unpack[GenerationSettings],
) -> Iterator[ReportCard]: ...
@overload
def evaluate(
    crystals: Source,
    reference: str | Dataset | Crystals,
    *,
    task: Literal["reconstruction"],
    **settings: Unpack[ReconstructionSettings],
) -> Iterator[ReportCard]: ...
@overload
def evaluate(
    crystals: Sequence[Crystals],
    reference: str | Dataset | Crystals | None = None,
    *,
    task: Literal["optimization"],
    **settings: Unpack[OptimizationSettings],
) -> Iterator[ReportCard]: ...
@overload
def evaluate(
    crystals: Source,
    reference: None = None,
    *,
    task: Literal["validity"],
    **settings: Unpack[ValiditySettings],
) -> Iterator[ReportCard]: ...
def evaluate(
    crystals: Any, reference: Any = None, *, task: str = "generation", **settings: Any
) -> Iterator[ReportCard]:
    """Evaluate generated, reconstructed or optimized crystals; yields a `ReportCard` after every piece of work.

    The crystals are taken as they are. One that cannot be read, or whose cell or atoms are impossible, counts as
    invalid.

    Args:
        crystals: Crystals, a folder of CIF files, an .npz file in the layout of the paper's code (`cdvae_lab.io.npz`),
            a folder of these, or a `CrystalSource`. For "reconstruction" one for each reference crystal, in its order.
            For "optimization" a sequence of batches: all starting points, once for each time they were decoded.
        reference: the set to compare with, or the name of a public one. For "optimization" the set whose published
            thresholds apply. None for "validity".
        task: "generation", "reconstruction", "optimization" or "validity".
        settings: those of the task; see `GenerationSettings`, `ReconstructionSettings`, `OptimizationSettings` and
            `ValiditySettings` in `cdvae_lab.evaluation.settings`.

    Raises:
        SettingError: for an unknown task, a setting that the task does not take or lacks; before any work.
        CrystalError: if the numbers of crystals do not fit.
        DatasetError: if the reference cannot be read.

    >>> import cdvae_lab as lab
    >>> crystals = lab.read(sorted(lab.asset_path("examples").glob("*.cif")))
    >>> card = lab.last(lab.evaluate(crystals, task="validity"))
    >>> card["structure_valid"]
    100.0
    """
    if task not in TASKS:
        raise SettingError(f"task: {task!r}; give one of {', '.join(TASKS)}")
    if unknown := sorted(settings.keys() - SETTINGS[task]):
        raise SettingError(
            f"{', '.join(unknown)}: no setting of task={task!r}, which takes {', '.join(sorted(SETTINGS[task]))}"
        )
    if settings.get("samples", 1) < 1 or settings.get("seed", 0) < 0:
        raise SettingError(
            f"samples must be at least 1 and seed 0 or more, not {settings.get('samples', 1000)} and "
            f"{settings.get('seed', 0)}"
        )
    if isinstance(crystals, Sequence) and not isinstance(crystals, str):
        if task != "optimization":
            raise CrystalError(f"{task} takes one batch of Crystals; a sequence of batches is for optimization")
        return _optimization(list(crystals), reference, settings)
    if task == "optimization":
        raise CrystalError("optimization takes a sequence of batches, one for each decoding of the starting points")
    source = _source(crystals, settings)
    if not len(source.crystals):
        raise CrystalError("there are no crystals to evaluate; give at least one")
    if task == "validity":
        if reference is not None:
            raise SettingError('task="validity" compares with no reference; leave it out, or choose another task')
        return validity.validity(source, settings.get("rules", "current"))
    if reference is None:
        raise SettingError(f'{task} needs a reference to compare with; give one, or task="validity"')
    store = ResultCache(settings.get("cache"))
    if task == "reconstruction":
        return _reconstruction(source, reference, settings, store)
    return _generation(source, reference, settings, store)


def _source(crystals: Source, settings: Mapping[str, Any]) -> CrystalSource:
    if isinstance(crystals, str | Path):
        crystals = read_source(crystals, jobs=settings.get("jobs", -1))
    if isinstance(crystals, Crystals):
        numbered = tuple(map(str, range(len(crystals))))
        crystals = CrystalSource(crystals, numbered, (None,) * len(crystals))
    return CrystalSource(crystals.crystals.to("cpu", torch.float64), crystals.ids, crystals.unreadable)


def _load(name: str, split: str | None, settings: Mapping[str, Any]) -> Dataset:
    jobs = settings.get("jobs", -1)
    return datasets.load(name, split, folder=settings.get("folder"), jobs=jobs if jobs >= 1 else None)


def _reference(name: str, settings: Mapping[str, Any]) -> Dataset:
    """Load a reference by name: the split that is asked for, or that of test where there are splits."""
    return _load(name, settings.get("split") or datasets.split_of(name, "test"), settings)


def _named(reference: Dataset | Crystals) -> tuple[str, str, Crystals]:
    """Name, split and crystals of a reference."""
    if isinstance(reference, Dataset):
        return reference.name, reference.split, reference.crystals.to("cpu", torch.float64)
    return "crystals", "", reference.to("cpu", torch.float64)


def _reconstruction(
    source: CrystalSource, reference: str | Dataset | Crystals, settings: Mapping[str, Any], store: ResultCache
) -> Iterator[ReportCard]:
    if isinstance(reference, str):
        reference = _reference(reference, settings)
    name, split, truth = _named(reference)
    if len(truth) != len(source.crystals):
        raise CrystalError(
            f"{len(source.crystals)} reconstructed crystals for {len(truth)} of {name}; give one for each, in order"
        )
    options = reconstruction.Options(settings.get("rules", "current"), settings.get("jobs", -1))
    return reconstruction.reconstruction(source, truth, name, split, options, store)


def _generation(
    source: CrystalSource, reference: str | Dataset | Crystals, settings: Mapping[str, Any], store: ResultCache
) -> Iterator[ReportCard]:
    novelty, train = settings.get("novelty", True), settings.get("train")
    if isinstance(reference, str):
        if novelty and train is None:
            train = _load(reference, datasets.split_of(reference, "train"), settings)
        reference = _reference(reference, settings)
    name, split, truth = _named(reference)
    cutoffs = settings.get("cutoffs")
    if cutoffs is None:
        if name not in CUTOFFS:
            raise SettingError(
                f"cutoffs: there are no published ones for {name}, only for {', '.join(CUTOFFS)}; give "
                "cutoffs=Cutoffs(structure, composition)"
            )
        cutoffs = CUTOFFS[name]
    unit = reference.label_unit if isinstance(reference, Dataset) else ""
    options = generation.Options(
        cutoffs=cutoffs,
        samples=settings.get("samples", 1000),
        seed=settings.get("seed", 0),
        predictor=settings.get("predictor"),
        predictor_name=settings.get("predictor_name", ""),
        unit=settings.get("property_unit") or unit,
        novelty=novelty,
        rules=settings.get("rules", "current"),
        jobs=settings.get("jobs", -1),
    )
    return generation.generation(source, truth, train if novelty else None, name, split, options, store)


def _optimization(
    decodings: list[Crystals], reference: str | Dataset | Crystals | None, settings: Mapping[str, Any]
) -> Iterator[ReportCard]:
    predictor, unit = settings.get("predictor"), settings.get("property_unit", "")
    if predictor is None:
        raise SettingError(
            "optimization needs predictor=: a function that predicts the property of crystals, and not the network "
            "whose gradient was followed"
        )
    name = reference if isinstance(reference, str) else "crystals"
    if isinstance(reference, Dataset):
        name, unit = reference.name, unit or reference.label_unit
    if name in datasets.PUBLIC:
        unit = unit or datasets.UNITS[datasets.PUBLIC[name][0]]
    thresholds = settings.get("thresholds")
    options = optimization.Options(
        predictor=predictor,
        predictor_name=settings.get("predictor_name", ""),
        unit=unit,
        thresholds=chosen_thresholds(name if thresholds is None else thresholds),
        rules=settings.get("rules", "current"),
    )
    return optimization.optimization(decodings, name, options)
