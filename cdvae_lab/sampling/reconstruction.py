"""Reconstruction: crystals encoded and decoded again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.latents import latents_of
from cdvae_lab.sampling.denoising import DenoisingFrame, denoise
from cdvae_lab.sampling.schedules import Schedule
from cdvae_lab.sampling.settings import SamplerSettings


def reconstruct(
    model: ModelOrName,
    source: Any,
    *,
    sampled: bool = False,
    seed: int = 0,
    sampler: str | Schedule | None = None,
    first_number: int = 0,
    allow_unseen: bool = False,
    compile: bool = False,
    **settings: Unpack[SamplerSettings],
) -> Iterator[DenoisingFrame]:
    """Encode crystals and decode them again; yields frames like `denoise`, and the last one holds the result.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        source: files, pymatgen Structures, ASE Atoms, a list of these, or Crystals, which are taken as they are.
        sampled: decode a sample of the posterior, as the reference implementation does, instead of its mean.
        seed, sampler, first_number, compile, settings: as in `denoise`.
        allow_unseen: let Crystals pass with elements that the model never saw: for whole test sets.

    Raises:
        CrystalError: for crystals that the model cannot encode.
        SettingError: for settings out of range.

    Examples:
        >>> import cdvae_lab as lab
        >>> model = lab.load("perov_5")
        >>> frame = lab.last(lab.reconstruct(model, lab.asset_path("examples/SrTiO3.cif"), steps=20))
        >>> frame.crystals.to_structures()[0].formula
        'Sr1 Ti1 O3'
    """
    model = as_model(model)
    options: dict[str, Any] = {"seed": seed, "first_number": first_number}
    z = latents_of(model, source, sampled=sampled, allow_unseen=allow_unseen, **options)
    return denoise(model, z=z, sampler=sampler, compile=compile, **options, **settings)
