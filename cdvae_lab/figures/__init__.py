"""plotly figures of runs, maps and report cards; no widgets.

Every figure comes in a light and a dark theme, in colors that color-blind readers tell apart.
"""

from __future__ import annotations

from cdvae_lab.figures.evaluation import distance_curves, evaluation_figures, statistic_histogram
from cdvae_lab.figures.maps import GRID, POINTS, empty_places, latent_map, layer_trace
from cdvae_lab.figures.paths import along_path
from cdvae_lab.figures.search import search_course
from cdvae_lab.figures.speed_quality import speed_quality
from cdvae_lab.figures.strips import trajectory_strips
from cdvae_lab.figures.style import COLORS, THEMES, Theme
from cdvae_lab.figures.training import read_log, training_curve

__all__ = [
    "COLORS",
    "GRID",
    "POINTS",
    "THEMES",
    "Theme",
    "along_path",
    "distance_curves",
    "empty_places",
    "evaluation_figures",
    "latent_map",
    "layer_trace",
    "read_log",
    "search_course",
    "speed_quality",
    "statistic_histogram",
    "training_curve",
    "trajectory_strips",
]
