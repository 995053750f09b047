"""Save steps of a search to a file, and load them to analyze them or to resume from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.explore.optimization import LatentStep, Objective
from cdvae_lab.io.storage import read_tensors, write_tensors
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.given_formula import GivenFormula
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal

FORMAT_VERSION = 2
STACKED = ("z", "prediction", "gradient", "mean", "mean_square")
SETTINGS = ("target", "lr", "prior_weight", "seed")
STANDARD, CUSTOM = "standard normal", "custom"


def save_steps(steps: Iterable[LatentStep], path: str | Path, model: CDVAE | None = None) -> Path:
    """Write steps of one run to a safetensors file, atomically; any of them can be resumed exactly.

    A step of one crystal takes 4 kB with 256 latent dimensions: thin long runs, `save_steps(every(steps, 10), path)`.

    Args:
        steps: in order; consumed.
        path: the file.
        model: the model of the run, so that `load_steps` can refuse another one.

    Raises:
        SettingError: without steps, or with steps of different runs.
        LabError: if the file cannot be written.
    """
    steps = list(steps)
    if not steps:
        raise SettingError("save_steps: there are no steps to save")
    first = steps[0]
    for step in steps:
        if not torch.equal(step.numbers, first.numbers) or step.objective != first.objective:
            raise SettingError(
                f"save_steps: steps {first.step} and {step.step} are of different runs; save each to its own file"
            )
    tensors = {name: torch.stack([getattr(step, name) for step in steps]) for name in STACKED}
    tensors |= {name: torch.tensor([getattr(step, name) for step in steps]) for name in ("step", "num_steps")}
    tensors["numbers"] = first.numbers
    header = {name: getattr(first.objective, name) for name in SETTINGS}
    header |= {"prior": prior_identity(first.objective.prior), "model": fingerprint(model) if model else ""}
    return write_tensors(path, "search", FORMAT_VERSION, tensors, header)


def prior_identity(prior: LatentPrior) -> str:
    """Identify a prior: "N(0, I)", the fingerprint of a learned one, or "custom" for any other."""
    if type(prior) is StandardNormal:
        return STANDARD
    if isinstance(prior, GivenFormula):
        atoms = {i + 1: n for i, n in enumerate(prior.counts.tolist()) if n}
        return f"{prior_identity(prior.prior)} given {atoms}"
    return fingerprint(prior) if isinstance(prior, nn.Module) else CUSTOM


def load_steps(path: str | Path, model: CDVAE | None = None, prior: LatentPrior | None = None) -> list[LatentStep]:
    """Read the steps that `save_steps` wrote, in order.

    Args:
        path: the file.
        model: the model of the run, to be sure that they belong together; the steps come on its device.
        prior: that of the run, if it was neither N(0, I) nor the model's learned one: the file does not hold it.

    Raises:
        CheckpointError: if it is missing, truncated, not ours, of another version, or of another model or prior.
        SettingError: if a prior is needed and none was given, or the other way round.
    """
    _, tensors, header = read_tensors(path, {"search": [FORMAT_VERSION]})
    try:
        if model is not None and header["model"] not in ("", fingerprint(model)):
            raise CheckpointError(
                f"{path}: steps of the model of fingerprint {header['model']}, but this model's is "
                f"{fingerprint(model)}; load the model that they were made with"
            )
        prior = _prior_of_run(str(path), header["prior"], model, prior, tensors["z"])
        device = "cpu" if model is None else model.device
        numbers = tensors["numbers"].to(device)
        objective = Objective(prior, **{name: header[name] for name in SETTINGS})
        counted = zip(tensors["step"].tolist(), tensors["num_steps"].tolist(), strict=True)
        return [
            LatentStep(
                step,
                most,
                **{name: tensors[name][i].to(device) for name in STACKED},
                numbers=numbers,
                objective=objective,
            )
            for i, (step, most) in enumerate(counted)
        ]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, CheckpointError | SettingError):
            raise
        raise CheckpointError(f"{path}: lacks a part of a search ({error}); save it again") from error


def _prior_of_run(
    path: str, identity: str, model: CDVAE | None, prior: LatentPrior | None, z: torch.Tensor
) -> LatentPrior:
    if identity == STANDARD:
        if prior is not None and type(prior) is not StandardNormal:
            raise SettingError(f"{path}: the run has N(0, I) as prior; load_steps(path, model) without another")
        return prior or StandardNormal(z.shape[2], z.dtype)
    found = prior or (None if model is None else model.prior)
    if found is None:
        raise SettingError(
            f"{path}: the run has a custom prior ({identity}), which the file does not hold; give it, "
            "load_steps(path, prior=...), or the model that has it"
        )
    if (mine := prior_identity(found)) != identity:
        raise CheckpointError(
            f"{path}: steps of a run with another prior ({identity}) than this one ({mine}); give the prior of the run"
        )
    return found
