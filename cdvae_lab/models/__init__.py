"""Networks: the CDVAE, priors over its latents, a property predictor, and their files."""

from __future__ import annotations
