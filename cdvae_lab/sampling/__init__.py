"""Sampling: decode latents to crystals by denoising, retry failed decodings, and process the frames."""

from __future__ import annotations
