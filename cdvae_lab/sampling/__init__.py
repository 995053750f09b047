"""From latents to crystals: denoising, decoding with retries, and what to do with frames."""

from __future__ import annotations
