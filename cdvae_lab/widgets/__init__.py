"""What is watched and steered: widgets for notebooks, each over the generators that scripts use too."""

from __future__ import annotations

from cdvae_lab.widgets.app import App
from cdvae_lab.widgets.interpolation_view import InterpolationView
from cdvae_lab.widgets.latent_map_view import LatentMapView
from cdvae_lab.widgets.panel import Panel
from cdvae_lab.widgets.property_optimizer import PropertyOptimizer
from cdvae_lab.widgets.runner import Runner
from cdvae_lab.widgets.selection import Pick, Selection
from cdvae_lab.widgets.training_monitor import TrainingMonitor
from cdvae_lab.widgets.trajectory_player import TrajectoryPlayer
from cdvae_lab.widgets.viewer import CrystalView

__all__ = [
    "App",
    "CrystalView",
    "InterpolationView",
    "LatentMapView",
    "Panel",
    "Pick",
    "PropertyOptimizer",
    "Runner",
    "Selection",
    "TrainingMonitor",
    "TrajectoryPlayer",
]
