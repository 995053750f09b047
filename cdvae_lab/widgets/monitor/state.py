"""The settings of the training monitor."""

from __future__ import annotations

import traitlets

from cdvae_lab.widgets.base.state import ViewState


class MonitorState(ViewState):
    """Every field of a `TrainingMonitor`.

    Attributes:
        steps: optimizer steps of the next run, or more steps of a finished one.
        batch_size: crystals a step.
        lr: highest learning rate.
        kl: weight of the KL term.
        validate_every: steps between two validations.
        state_path: file of the training state.
        new_rate: load a state with `lr` instead of the learning rate that it was saved with.
        model_path: file of the model.
        crystal: number of the crystal in the filmstrip.
        validation: number of the validation whose reconstructions are shown; -1 before the first.
    """

    steps = traitlets.Int(1000, min=1, max=100_000_000)
    batch_size = traitlets.Int(64, min=1, max=100_000)
    lr = traitlets.Float(1e-3, min=1e-8, max=1e3)
    kl = traitlets.Float(0.01, min=0.0, max=1e3)
    validate_every = traitlets.Int(100, min=1, max=10**8)
    state_path = traitlets.Unicode("out/training.safetensors")
    new_rate = traitlets.Bool(False)
    model_path = traitlets.Unicode("out/model.safetensors")
    crystal = traitlets.Int(0, min=0).tag(saved=False)
    validation = traitlets.Int(-1, min=-1).tag(saved=False)
