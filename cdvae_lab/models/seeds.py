"""Check of seeds. Importing it does not import torch."""

from __future__ import annotations

from cdvae_lab.errors import SettingError


def check_seed(seed: int) -> None:
    """Refuse a seed that is negative or has more than 32 bits.

    Raises:
        SettingError: naming the seed.
    """
    if not 0 <= seed < 1 << 32:
        raise SettingError(f"seed must be 0 or more and below 2^32, not {seed}")
