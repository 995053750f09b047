"""The settings of a model that is small enough for a test and has every part of a real one."""

from __future__ import annotations

SMALL = {
    "hidden_dim": 16,
    "latent_dim": 8,
    "head_dim": 16,
    "encoder_blocks": 1,
    "decoder_blocks": 2,
    "num_radial": 8,
}
