"""The latent map."""

from __future__ import annotations
