from . import cli as cli
from . import crystals as crystals
from . import datasets as datasets
from . import errors as errors
from . import evaluation as evaluation
from . import explore as explore
from . import figures as figures
from . import io as io
from . import metrics as metrics
from . import models as models
from . import pages as pages
from . import render as render
from . import runtime as runtime
from . import sampling as sampling
from . import training as training
from . import widgets as widgets
from .crystals.batch import Crystals as Crystals
from .datasets.dataset import Dataset as Dataset
from .errors import (
    CheckpointError as CheckpointError,
)
from .errors import (
    CrystalError as CrystalError,
)
from .errors import (
    DatasetError as DatasetError,
)
from .errors import (
    LabError as LabError,
)
from .errors import (
    NonFiniteLossError as NonFiniteLossError,
)
from .errors import (
    PriorWarning as PriorWarning,
)
from .errors import (
    SettingError as SettingError,
)
from .errors import (
    UnfamiliarCrystalWarning as UnfamiliarCrystalWarning,
)
from .evaluation.card import ReportCard as ReportCard
from .evaluation.run import evaluate as evaluate
from .evaluation.score_tables import ScoreTable as ScoreTable
from .evaluation.score_tables import score_table as score_table
from .explore.guided import Guidance as Guidance
from .explore.guided import GuidedStep as GuidedStep
from .explore.guided import optimize_guided as optimize_guided
from .explore.interpolation import (
    LatentPath as LatentPath,
)
from .explore.interpolation import (
    decode_path as decode_path,
)
from .explore.interpolation import (
    interpolate as interpolate,
)
from .explore.interpolation import (
    latent_path as latent_path,
)
from .explore.latent_map import LatentMap as LatentMap
from .explore.latent_map import load_map as load_map
from .explore.optimization import LatentStep as LatentStep
from .explore.optimization import optimize as optimize
from .explore.saved_steps import load_steps as load_steps
from .explore.saved_steps import save_steps as save_steps
from .io.assets import asset_path as asset_path
from .io.convert import read as read
from .models.cdvae import CDVAE as CDVAE
from .models.checkpoints import load as load
from .models.checkpoints import load_composition_model as load_composition_model
from .models.checkpoints import load_property_model as load_property_model
from .models.composition_model import (
    CompositionModel as CompositionModel,
)
from .models.configs import CDVAEConfig as CDVAEConfig
from .models.configs import (
    CompositionModelConfig as CompositionModelConfig,
)
from .models.configs import (
    DiffusionPriorConfig as DiffusionPriorConfig,
)
from .models.diffusion_prior import (
    DiffusionPrior as DiffusionPrior,
)
from .models.latent_prior import (
    LatentPrior as LatentPrior,
)
from .models.latent_prior import (
    StandardNormal as StandardNormal,
)
from .models.latents import encode as encode
from .models.latents import latents_of as latents_of
from .models.property_model import PropertyModel as PropertyModel
from .render import picture as picture
from .sampling.calibration import match_probability as match_probability
from .sampling.decoding import Decoded as Decoded
from .sampling.decoding import DecodingSettings as DecodingSettings
from .sampling.decoding import decode as decode
from .sampling.denoising import DenoisingFrame as DenoisingFrame
from .sampling.denoising import denoise as denoise
from .sampling.denoising import generate as generate
from .sampling.frames import every as every
from .sampling.frames import last as last
from .sampling.frames import progress as progress
from .sampling.reconstruction import reconstruct as reconstruct
from .sampling.refinement import latent_distance as latent_distance
from .sampling.refinement import refine as refine
from .sampling.schedules import Schedule as Schedule
from .sampling.trajectory import Trajectory as Trajectory
from .sampling.trajectory import record as record
from .training.loop import TrainingStep as TrainingStep
from .training.loop import fit as fit
from .training.prior import fit_prior as fit_prior
from .training.settings import FitSettings as FitSettings
from .training.settings import LossWeights as LossWeights
from .training.validation import validation_losses as validation_losses
from .widgets.app import app as app
from .widgets.interpolation.view import InterpolationView as InterpolationView
from .widgets.latent_map.view import LatentMapView as LatentMapView
from .widgets.monitor.view import TrainingMonitor as TrainingMonitor
from .widgets.optimizer.view import PropertyOptimizer as PropertyOptimizer
from .widgets.parts.crystal_view import CrystalView as CrystalView
from .widgets.player.view import TrajectoryPlayer as TrajectoryPlayer

__version__: str
