"""Model files: write, read and identify CDVAEs, property models, composition models and training states.

Every kind of file has a format version of its own (`FORMATS`). A file of an older format is either read or refused
with the version of the package that wrote it. The files are safetensors with JSON metadata: reading one cannot run
code.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cdvae_lab.errors import CheckpointError
from cdvae_lab.io import assets
from cdvae_lab.io.storage import read_tensors, refusing_others, stored_tensors, write_tensors
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import CDVAEConfig, CompositionModelConfig, DiffusionPriorConfig, PropertyModelConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.property_model import PropertyModel


class Format(NamedTuple):
    """Format versions of one kind of file."""

    written: int
    readable: tuple[int, ...]


MODEL, PROPERTY_MODEL, COMPOSITION_MODEL = "model", "property model", "composition model"
TRAINING_STATE = "training state"
FORMATS = {
    MODEL: Format(written=1, readable=(1,)),
    PROPERTY_MODEL: Format(written=1, readable=(1,)),
    COMPOSITION_MODEL: Format(written=1, readable=(1,)),
    TRAINING_STATE: Format(written=1, readable=(1,)),
}
KINDS: dict[type[nn.Module], str] = {
    CDVAE: MODEL,
    PropertyModel: PROPERTY_MODEL,
    CompositionModel: COMPOSITION_MODEL,
}
# A training state names the class of its model.
CLASSES: dict[str, type[nn.Module]] = {c.__name__: c for c in (CDVAE, PropertyModel, CompositionModel, DiffusionPrior)}

Trainable = CDVAE | PropertyModel | CompositionModel | DiffusionPrior


@dataclass(frozen=True)
class TrainingState:
    """Contents of a training state, from which `fit` resumes.

    Attributes:
        model: the model with the weights of the last step, not their moving average.
        tensors: the optimizer's state (`adam.*`) and the moving average of the weights (`average.*`).
        fit: settings of the run.
        step: optimizer steps done.
        data: name, split and number of crystals of the data set.
    """

    model: Trainable
    tensors: Mapping[str, Tensor]
    fit: Mapping[str, Any]
    step: int
    data: Mapping[str, Any]


def read_checkpoint(path: str | Path, *kinds: str) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Read the kind, tensors and metadata of a file of one of the given kinds.

    Raises:
        CheckpointError: if the file is missing, truncated, not written by cdvae_lab, of another kind, or of a format
            version that cannot be read.
    """
    return read_tensors(path, {kind: FORMATS[kind].readable for kind in kinds})


def save_model(
    model: CDVAE | PropertyModel | CompositionModel, path: str | Path, half: bool = False, **metadata: Any
) -> Path:
    """Write a model, and the learned prior of a CDVAE, to one safetensors file.

    Args:
        half: store the weights as float16, which halves the file.
        metadata: JSON values to store beside the model's own (`model.metadata`).

    Raises:
        LabError: if the file cannot be written.
    """
    kind = KINDS[type(model)]
    header: dict[str, Any] = {"config": dataclasses.asdict(model.config), "model": {**model.metadata, **metadata}}
    if isinstance(model, CDVAE) and model.prior is not None:
        header["prior"] = dataclasses.asdict(model.prior.config)
    return write_tensors(path, kind, FORMATS[kind].written, stored_tensors(model, half), header)


def load(name_or_path: str | Path, device: str | torch.device = "cpu") -> CDVAE:
    """Load a trained CDVAE: a bundled one by name ("perov_5"), or a checkpoint by path.

    A training state (`TrainingStep.save`) gives the moving average of its weights.

    Args:
        name_or_path: name of a bundled model, or path of a file.
        device: device of the model.

    Raises:
        SettingError: if no bundled model has that name; the message lists those that exist.
        CheckpointError: if the file is missing, truncated, not written by cdvae_lab, of another kind, or of a format
            version that cannot be read.

    Examples:
        >>> import cdvae_lab as lab
        >>> lab.load("perov_5").config.max_atoms
        5
    """
    model = _load(_located(name_or_path, ".safetensors"), CDVAE, device)
    assert isinstance(model, CDVAE)
    return model


def load_property_model(name_or_path: str | Path, device: str | torch.device = "cpu") -> PropertyModel:
    """Load a trained property model: the bundled one of a data set ("perov_5"), or a file by path.

    A training state gives the moving average of its weights.

    Args:
        name_or_path: name of the data set of a bundled property model, or path of a file.
        device: device of the model.

    Raises:
        SettingError: if no bundled property model has that name; the message lists the bundled files.
        CheckpointError: as for `load`.
    """
    model = _load(_located(name_or_path, "_property.safetensors"), PropertyModel, device)
    assert isinstance(model, PropertyModel)
    return model


def load_composition_model(path: str | Path, device: str | torch.device = "cpu") -> CompositionModel:
    """Load a trained composition model from a file; a training state gives the moving average of its weights.

    Args:
        path: path of the file.
        device: device of the model.

    Raises:
        CheckpointError: as for `load`.
    """
    model = _load(Path(path), CompositionModel, device)
    assert isinstance(model, CompositionModel)
    return model


ModelOrName = CDVAE | str | Path  # what a function takes that calls `as_model`


def as_model(model: ModelOrName) -> CDVAE:
    """Return a CDVAE as it is, or `load` the one of a name or path, on the CPU.

    Raises:
        SettingError, CheckpointError: as for `load`.
    """
    return model if isinstance(model, CDVAE) else load(model)


def fingerprint(model: nn.Module, prior: bool = False) -> str:
    """Compute a short digest of a model's weights, independent of the name of its file.

    Args:
        prior: include the learned prior of a CDVAE. Leave it out where only latents matter (maps of latent space,
            decoding a given z): fitting another prior changes none of these. Include it where the model's own prior
            decides the result (crystals drawn from the prior, a search penalized by it).
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if prior or not name.startswith("prior."):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_training_state(path: str | Path, state: TrainingState) -> Path:
    """Write a training state to one safetensors file.

    Raises:
        LabError: if the file cannot be written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()} | {**state.tensors}
    header = {
        "of": type(state.model).__name__,
        "config": dataclasses.asdict(state.model.config),
        "fit": dict(state.fit),
        "step": state.step,
        "data": dict(state.data),
        "model": state.model.metadata,
    }
    return write_tensors(path, TRAINING_STATE, FORMATS[TRAINING_STATE].written, tensors, header)


def read_training_state(path: str | Path) -> TrainingState:
    """Read a training state.

    Raises:
        CheckpointError: if the file is missing, truncated, not written by cdvae_lab, or a model without the state of
            its optimizer.
    """
    kind, tensors, header = read_checkpoint(path, TRAINING_STATE, *KINDS.values())
    if kind != TRAINING_STATE:
        raise CheckpointError(
            f"{path}: holds a {kind} without the state of its optimizer; to train it further load it first: "
            "fit(cdvae_lab.load(path), dataset)"
        )
    with refusing_others(path, "a training state"):
        model = _built(CLASSES[header.get("of", CDVAE.__name__)], header)
        model.load_state_dict(_prefixed("model.", tensors))
        model.metadata = header["model"]
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        return TrainingState(model, rest, header["fit"], header["step"], header["data"])


def _located(name_or_path: str | Path, suffix: str) -> Path:
    """Return the path of a file, or of a bundled file by the part of its name before the suffix."""
    path = Path(name_or_path)
    if path.is_file() or path.suffix == ".safetensors":
        return path
    return assets.asset_path(f"{name_or_path}{suffix}")


def _load(path: Path, cls: type[CDVAE | PropertyModel | CompositionModel], device: str | torch.device) -> Trainable:
    """Load a model of a class in evaluation mode, from a file of its kind or a training state."""
    kind, tensors, header = read_checkpoint(path, KINDS[cls], TRAINING_STATE)
    if kind == TRAINING_STATE:
        if (name := header.get("of", CDVAE.__name__)) != cls.__name__:
            raise CheckpointError(f"{path}: holds the training state of a {name}, but a {cls.__name__} is needed here")
        tensors = _prefixed("model.", tensors) | _prefixed("average.", tensors)
        header["model"].setdefault("steps", header["step"])
    with refusing_others(path, f"a {cls.__name__}"):
        model = _built(cls, header)
        model.load_state_dict(tensors)
        model.metadata = header["model"]
    return model.to(device).eval().requires_grad_(False)


def _built(cls: type[nn.Module], header: Mapping[str, Any]) -> Trainable:
    """Create an untrained model of the settings in a file's metadata."""
    config = header["config"]
    if cls is PropertyModel:
        return PropertyModel(PropertyModelConfig(**config))
    if cls is CompositionModel:
        return CompositionModel(CompositionModelConfig(**config))
    if cls is DiffusionPrior:
        return DiffusionPrior(DiffusionPriorConfig.from_header(**config))
    model = CDVAE(CDVAEConfig(**config))
    if "prior" in header:
        model.prior = DiffusionPrior(DiffusionPriorConfig.from_header(**header["prior"]))
    return model


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
