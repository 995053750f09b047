"""Defaults of property optimization. Importing them does not import torch."""

from __future__ import annotations

STEPS = 5000  # of Adam, as in the paper (section 5.3)
ROUNDS = 10
NOISE_LEVEL = 4.0
GUIDANCE = 10.0
STEPS_PER_ROUND = 20
