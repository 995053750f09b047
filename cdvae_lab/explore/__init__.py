"""Navigation of latent space: interpolation, maps, property optimization."""

from __future__ import annotations
