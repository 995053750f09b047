"""`evaluate`: the report card of a set of crystals, as a generator that yields it as far as it is known.

What takes long (fingerprints, matching) runs in parallel and is kept by a hash of the crystal, so that the same call
after an interruption goes on where it was. Definitions follow the CDVAE paper (section 5) and its code
(`compute_metrics.py`, `eval_utils.py`); those beside it say where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cdvae_lab import datasets
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets.tables import Dataset
from cdvae_lab.errors import CrystalError, SettingError
from cdvae_lab.evaluation import generation as generation_task
from cdvae_lab.evaluation.card import ReportCard, Score, chemical_formulas, versions
from cdvae_lab.evaluation.generation import GenerationSettings, percent
from cdvae_lab.evaluation.sources import read_source
from cdvae_lab.metrics import reconstruction as matching
from cdvae_lab.metrics.coverage import CUTOFFS, Cutoffs
from cdvae_lab.metrics.result_cache import ResultCache
from cdvae_lab.metrics.success_rates import SUCCESS, Predictor, chosen_thresholds, optimization
from cdvae_lab.metrics.validity import composition_validity, invalid_reasons, structure_validity

TASKS = ("generation", "reconstruction", "optimization")


def evaluate(
    crystals: Crystals | str | Path | Sequence[Crystals],
    reference: str | Dataset | Crystals,
    *,
    task: str = "generation",
    split: str = "test",
    folder: str | Path | None = None,
    train: Dataset | Crystals | None = None,
    novelty: bool = True,
    predictor: Predictor | None = None,
    predictor_name: str = "",
    property_unit: str = "",
    cutoffs: Cutoffs | None = None,
    thresholds: Sequence[float] | None = None,
    samples: int = 1000,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    unreadable: Sequence[str | None] | None = None,
    jobs: int = -1,
    cache: str | Path | None = None,
) -> Iterator[ReportCard]:
    """Evaluate generated, reconstructed or optimized crystals; yields a `ReportCard` after every piece of work.

        card = lab.last(lab.progress(lab.evaluate(crystals, "perov_5")))
        print(card.table())

    Crystals that no program can make sense of count as invalid.

    Args:
        crystals: what is judged, taken as it is: Crystals, a folder of CIF files, an .npz file in the layout of the
            paper's code (`cdvae_lab.io.npz`), or a folder of these. For "reconstruction" one for each reference
            crystal, in its order. For "optimization" a sequence of batches: all starting points, once for each time
            that they were decoded.
        reference: the set to compare with, or the name of a public one, whose training set is then read for novelty
            too. For "optimization" only its name (and split) matters.
        task: "generation", "reconstruction" or "optimization".
        split: of a reference given by name.
        folder: where the public files lie; None downloads them.
        train: crystals that the model was trained on, for novelty.
        novelty: look for duplicates and for training crystals among those generated.
        predictor: predicts the property of crystals, in its own unit; needed for "optimization".
        predictor_name: which network it is, for the report.
        property_unit: of the predictor's numbers; by default that of the reference's property.
        cutoffs: of coverage; by default the published ones of the reference.
        thresholds: of success, for 5, 10 and 15 %; by default the published ones of the reference.
        samples: valid crystals whose properties are compared.
        seed: of their choice.
        ids: names of the crystals, for the table.
        unreadable: for each crystal why it could not be read, or None.
        jobs: processes (-1: all cores); `joblib.parallel_config` chooses another backend, such as dask or ray.
        cache: folder of what was computed before; None for the user's cache folder.

    Raises:
        SettingError: for an unknown task, or a setting that the task lacks; before any work.
        CrystalError: if the numbers of crystals do not fit.
        DatasetError: if the reference cannot be read.
    """
    if task not in TASKS:
        raise SettingError(f"task: {task!r}; give one of {', '.join(TASKS)}")
    if samples < 1 or seed < 0:
        raise SettingError(f"samples must be at least 1 and seed 0 or more, not {samples} and {seed}")
    if isinstance(crystals, str | Path):
        source = read_source(crystals, jobs=jobs)
        crystals, ids, unreadable = source.crystals, ids or source.ids, unreadable or source.unreadable
    if isinstance(crystals, Crystals) == (task == "optimization"):
        raise CrystalError(
            "optimization takes a sequence of batches, one for each time the starting points were decoded; the other "
            "tasks take Crystals"
        )
    if task == "optimization":
        return _check_optimization(crystals, reference, split, predictor, predictor_name, property_unit, thresholds)
    assert isinstance(crystals, Crystals)
    for name, given in (("ids", ids), ("unreadable", unreadable)):
        if given is not None and len(given) != len(crystals):
            raise SettingError(f"{name}: {len(given)} for {len(crystals)} crystals; give one for each")
    if not len(crystals):
        raise CrystalError("there are no crystals to evaluate; give at least one")
    if isinstance(reference, str):
        if task == "generation" and novelty and train is None:
            train = datasets.load(reference, "train", folder=folder, jobs=_processes(jobs))
        reference = datasets.load(reference, split, folder=folder, jobs=_processes(jobs))
    name, split, truth = _parts(reference)
    unit = property_unit or (reference.label_unit if isinstance(reference, Dataset) else "")
    crystals = crystals.to("cpu", torch.float64)
    store = ResultCache(cache)
    ids = [str(i) for i in range(len(crystals))] if ids is None else list(ids)
    unreadable = [None] * len(crystals) if unreadable is None else list(unreadable)
    if task == "reconstruction":
        if len(truth) != len(crystals):
            raise CrystalError(
                f"{len(crystals)} reconstructed crystals for {len(truth)} of {name}; give one for each, in order"
            )
        return _reconstruction(crystals, truth, name, split, ids, unreadable, jobs, store)
    if cutoffs is None:
        if name not in CUTOFFS:
            raise SettingError(
                f"cutoffs: there are no published ones for {name}, only for {', '.join(CUTOFFS)}; give "
                "cutoffs=Cutoffs(structure, composition)"
            )
        cutoffs = CUTOFFS[name]
    training = train if novelty else None
    settings = GenerationSettings(cutoffs, samples, seed, predictor, predictor_name, unit, novelty, jobs)
    return generation_task.generation(crystals, truth, training, name, split, ids, unreadable, settings, store)


def _processes(jobs: int) -> int | None:
    return jobs if jobs >= 1 else None


def _parts(reference: Dataset | Crystals) -> tuple[str, str, Crystals]:
    if isinstance(reference, Dataset):
        return reference.name, reference.split, reference.crystals.to("cpu", torch.float64)
    return "crystals", "", reference.to("cpu", torch.float64)


# --- reconstruction ----------------------------------------------------------------------------------


def _reconstruction(
    predicted: Crystals,
    truth: Crystals,
    name: str,
    split: str,
    ids: list[str],
    unreadable: Sequence[str | None],
    jobs: int,
    store: ResultCache,
) -> Iterator[ReportCard]:
    settings = {
        "StructureMatcher": f"stol={matching.STOL}, angle_tol={matching.ANGLE_TOL}, ltol={matching.LTOL}",
        "versions": versions(),
    }
    total = len(truth)
    card = ReportCard(0, total, "matching", "reconstruction", name, split, total, settings=settings)
    rms: list[float | None] = [None] * total
    step = 0
    for part, values in matching.matched_rms(truth, predicted, jobs=jobs, cache=store):
        for row, value in zip(part, values, strict=True):
            rms[row] = value
        step += len(part)
        if step < total:
            yield replace(card, step=step)
    score = matching.score(truth, predicted, rms)
    structure, reference = score.structure, score.reference
    penalized = [matching.STOL if value is None else value for value in rms]
    counted = f"{structure.matched:,} of {total:,}"
    match = (
        f"pymatgen's StructureMatcher({settings['StructureMatcher']}).get_rms_dist finds a match; "
        "an invalid prediction is none"
    )
    scores = (
        Score(
            "match_rate", "match rate, paper's criterion", 100 * reference.match_rate, "%",
            f"{match}; valid by structure and by SMACT. The true crystals reach {reference.ceiling:.2%}.",
            f"{reference.matched:,} of {total:,}",
        ),
        Score(
            "rmse", "RMSE, paper's criterion", reference.rmse, "",
            "mean over the matched of the RMS displacement, in units of (volume / atom)^(1/3).",
            f"{reference.matched:,} matched",
        ),
        Score(
            "match_rate_structure", "match rate, structure valid", 100 * structure.match_rate, "%",
            f"the same, but valid by structure alone. The true crystals reach {structure.ceiling:.2%}.", counted,
        ),
        Score(
            "rmse_structure", "RMSE, structure valid", structure.rmse, "", "as above, over these.",
            f"{structure.matched:,} matched",
        ),
        Score(
            "crmse", "cRMSE, structure valid", sum(penalized) / total, "",
            f"mean over all pairs, an unmatched one counting as stol = {matching.STOL}: match rate and RMSE in one "
            "number, which a model cannot lower by matching only what is easy. After cRMSE of Martirossyan et al., "
            "arXiv 2509.12178, here of each crystal with its own reconstruction.", f"{total:,} pairs",
        ),
    )  # fmt: skip
    reasons = invalid_reasons(predicted)
    rows = {
        "id": ids,
        "formula": chemical_formulas(truth),
        "reconstructed": chemical_formulas(predicted),
        "structure_valid": structure_validity(predicted).tolist(),
        "composition_valid": composition_validity(predicted).tolist(),
        "reason": [given or reason for given, reason in zip(unreadable, reasons, strict=True)],
        "matched": [value is not None for value in rms],
        "rms": rms,
    }
    samples = {"rms": torch.tensor([value for value in rms if value is not None], dtype=torch.float64).numpy()}
    yield replace(card, step=total, doing="done", scores=scores, rows=rows, samples=samples)


# --- optimization ------------------------------------------------------------------------------------


def _check_optimization(
    decodings, reference, split, predictor, predictor_name, unit, thresholds
) -> Iterator[ReportCard]:
    if predictor is None:
        raise SettingError(
            "optimization needs predictor=: a function that predicts the property of crystals, and not the "
            "network whose gradient was followed"
        )
    if isinstance(reference, Dataset):
        name, split, unit = reference.name, reference.split, unit or reference.label_unit
    else:
        name = reference if isinstance(reference, str) else "crystals"
    if name in datasets.PUBLIC:
        unit = unit or datasets.UNITS[datasets.PUBLIC[name][0]]
    return _optimization(
        list(decodings), predictor, chosen_thresholds(name if thresholds is None else thresholds), name, split, unit,
        predictor_name,
    )  # fmt: skip


def _optimization(
    decodings: list[Crystals],
    predictor: Predictor,
    thresholds: tuple[float, ...],
    name: str,
    split: str,
    unit: str,
    predictor_name: str,
) -> Iterator[ReportCard]:
    shape = f"{len(decodings[0]) if decodings else 0} starting points, decoded {len(decodings)} times"
    settings = {"predictor": predictor_name or "not named", "decodings": shape, "versions": versions()}
    total = sum(map(len, decodings))
    card = ReportCard(0, 1, "judging", "optimization", name, split, total, settings=settings)
    score = optimization(decodings, predictor, thresholds)
    starts = score.valid.shape[1]
    shares = SUCCESS if len(thresholds) == len(SUCCESS) else range(1, len(thresholds) + 1)
    scores = [
        Score(
            f"sr{share}", f"SR{share}", 100 * success, "%",
            f"starting points whose best (lowest) judged property over their valid decodings is at most "
            f"{threshold:g} {unit}".rstrip() + ".", f"{round(success * starts):,} of {starts:,}",
        )
        for share, threshold, success in zip(shares, thresholds, score.success, strict=True)
    ]  # fmt: skip
    scores.append(
        Score(
            "valid", "valid decodings", percent(score.valid.flatten()), "%",
            "valid by structure and by SMACT; the others do not count.", f"{int(score.valid.sum()):,} of {total:,}",
        )
    )  # fmt: skip
    crystals = Crystals.cat([part.to("cpu", torch.float64) for part in decodings])
    predicted = [value if ok else None for value, ok in zip(
        score.predicted.flatten().tolist(), score.valid.flatten().tolist(), strict=True
    )]  # fmt: skip
    rows = {
        "decoding": [i for i in range(len(decodings)) for _ in range(starts)],
        "start": [i for _ in decodings for i in range(starts)],
        "formula": chemical_formulas(crystals),
        "valid": score.valid.flatten().tolist(),
        "reason": invalid_reasons(crystals),
        "property": predicted,
    }
    best = score.best
    samples = {"best": best[best.isfinite()].numpy()}
    yield replace(card, step=1, doing="done", scores=tuple(scores), rows=rows, samples=samples)
