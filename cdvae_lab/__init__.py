"""A laboratory for the crystal diffusion variational autoencoder: training and denoising as iterations you watch.

    import cdvae_lab as lab

    model = lab.load("perov_5")
    for frame in lab.denoise(model, n=4, seed=0):
        ...
    frame.crystals.write_cif("out/")

Everything here is imported when it is first used, so `import cdvae_lab` costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdvae_lab import (
        assets,
        cdvae,
        composition_model,
        convert,
        crystals,
        cycle,
        datasets,
        denoising,
        errors,
        figures,
        guided_optimization,
        interpolation,
        latent_map,
        latent_prior,
        lattice,
        losses,
        metrics,
        neighbors,
        noise,
        npz,
        optimization,
        painn,
        property_model,
        render,
        training,
        trajectory,
    )
    from cdvae_lab.cdvae import CDVAE, CDVAEConfig, encode, load
    from cdvae_lab.composition_model import CompositionModel, CompositionModelConfig, load_composition_model
    from cdvae_lab.convert import read
    from cdvae_lab.crystals import Crystals
    from cdvae_lab.cycle import Decoded, decode, latent_distance, refine
    from cdvae_lab.datasets import Dataset
    from cdvae_lab.denoising import DenoisingFrame, denoise, reconstruct
    from cdvae_lab.errors import (
        CheckpointError,
        CrystalError,
        DatasetError,
        LabError,
        NonFiniteLossError,
        SettingError,
    )
    from cdvae_lab.guided_optimization import Guidance, GuidedStep, optimize_guided
    from cdvae_lab.interpolation import LatentPath, decode_path, interpolate, latent_path
    from cdvae_lab.latent_map import LatentMap, load_map
    from cdvae_lab.latent_prior import DiffusionPrior, DiffusionPriorConfig, LatentPrior, StandardNormal
    from cdvae_lab.metrics.card import ReportCard
    from cdvae_lab.metrics.evaluation import evaluate
    from cdvae_lab.metrics.tables import ScoreTable, score_table
    from cdvae_lab.optimization import LatentStep, load_steps, optimize, save_steps
    from cdvae_lab.property_model import PropertyModel, load_property_model
    from cdvae_lab.render import picture
    from cdvae_lab.training import TrainingStep, fit
    from cdvae_lab.trajectory import Trajectory, every, last, progress, record
    from cdvae_lab.widgets import (
        CrystalView,
        InterpolationView,
        LatentMapView,
        PropertyOptimizer,
        TrainingMonitor,
        TrajectoryPlayer,
    )
    from cdvae_lab.widgets.app import app

__version__ = "0.1.0"

__all__ = [
    "CDVAE",
    "CDVAEConfig",
    "CheckpointError",
    "CompositionModel",
    "CompositionModelConfig",
    "CrystalError",
    "CrystalView",
    "Crystals",
    "Dataset",
    "DatasetError",
    "Decoded",
    "DenoisingFrame",
    "DiffusionPrior",
    "DiffusionPriorConfig",
    "Guidance",
    "GuidedStep",
    "InterpolationView",
    "LabError",
    "LatentMap",
    "LatentMapView",
    "LatentPath",
    "LatentPrior",
    "LatentStep",
    "NonFiniteLossError",
    "PropertyModel",
    "PropertyOptimizer",
    "ReportCard",
    "ScoreTable",
    "SettingError",
    "StandardNormal",
    "TrainingMonitor",
    "TrainingStep",
    "Trajectory",
    "TrajectoryPlayer",
    "app",
    "assets",
    "cdvae",
    "composition_model",
    "convert",
    "crystals",
    "cycle",
    "datasets",
    "decode",
    "decode_path",
    "denoise",
    "denoising",
    "encode",
    "errors",
    "evaluate",
    "every",
    "figures",
    "fit",
    "guided_optimization",
    "interpolate",
    "interpolation",
    "last",
    "latent_distance",
    "latent_map",
    "latent_path",
    "latent_prior",
    "lattice",
    "load",
    "load_composition_model",
    "load_map",
    "load_property_model",
    "load_steps",
    "losses",
    "metrics",
    "neighbors",
    "noise",
    "npz",
    "optimization",
    "optimize",
    "optimize_guided",
    "painn",
    "picture",
    "progress",
    "property_model",
    "read",
    "reconstruct",
    "record",
    "refine",
    "render",
    "save_steps",
    "score_table",
    "training",
    "trajectory",
]

# The module that each public name lives in; every other name of __all__ is a module itself.
_HOME = {
    name: module
    for module, names in {
        "cdvae": ["CDVAE", "CDVAEConfig", "encode", "load"],
        "composition_model": ["CompositionModel", "CompositionModelConfig", "load_composition_model"],
        "convert": ["read"],
        "crystals": ["Crystals"],
        "cycle": ["Decoded", "decode", "latent_distance", "refine"],
        "datasets": ["Dataset"],
        "denoising": ["DenoisingFrame", "denoise", "reconstruct"],
        "errors": [
            "CheckpointError",
            "CrystalError",
            "DatasetError",
            "LabError",
            "NonFiniteLossError",
            "SettingError",
        ],
        "guided_optimization": ["Guidance", "GuidedStep", "optimize_guided"],
        "interpolation": ["LatentPath", "decode_path", "interpolate", "latent_path"],
        "latent_map": ["LatentMap", "load_map"],
        "latent_prior": ["DiffusionPrior", "DiffusionPriorConfig", "LatentPrior", "StandardNormal"],
        "optimization": ["LatentStep", "load_steps", "optimize", "save_steps"],
        "property_model": ["PropertyModel", "load_property_model"],
        "metrics.card": ["ReportCard"],
        "metrics.evaluation": ["evaluate"],
        "metrics.tables": ["ScoreTable", "score_table"],
        "render": ["picture"],
        "training": ["TrainingStep", "fit"],
        "trajectory": ["Trajectory", "every", "last", "progress", "record"],
        "widgets": [
            "CrystalView",
            "InterpolationView",
            "LatentMapView",
            "PropertyOptimizer",
            "TrainingMonitor",
            "TrajectoryPlayer",
        ],
        "widgets.app": ["app"],
    }.items()
    for name in names
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'cdvae_lab' has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"cdvae_lab.{name}")
    value = getattr(importlib.import_module(f"cdvae_lab.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
