"""Views for notebooks: watch and control the generators that scripts use, too."""

from __future__ import annotations

from cdvae_lab.widgets.app import App
from cdvae_lab.widgets.base.recorded_run import RecordedRun
from cdvae_lab.widgets.base.selection import Pick, Selection
from cdvae_lab.widgets.base.view import View
from cdvae_lab.widgets.interpolation.view import InterpolationView
from cdvae_lab.widgets.latent_map.view import LatentMapView
from cdvae_lab.widgets.monitor.view import TrainingMonitor
from cdvae_lab.widgets.optimizer.view import PropertyOptimizer
from cdvae_lab.widgets.parts.crystal_view import CrystalView
from cdvae_lab.widgets.player.view import TrajectoryPlayer

__all__ = [
    "App",
    "CrystalView",
    "InterpolationView",
    "LatentMapView",
    "Pick",
    "PropertyOptimizer",
    "RecordedRun",
    "Selection",
    "TrainingMonitor",
    "TrajectoryPlayer",
    "View",
]
