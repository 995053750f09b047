"""Latents of crystals and files, latents as they are, or latents drawn from a prior.

Every function that starts from crystals or latents uses `latents_of`, so that crystals that the model cannot encode are
refused with the same message everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.formulas import atoms_from_counts
from cdvae_lab.crystals.size_groups import MAX_PAIRS, size_groups
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.cdvae import CDVAE, Posterior
from cdvae_lab.models.checkpoints import ModelOrName, as_model
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.encodable import check_encodable, read_encodable
from cdvae_lab.models.familiarity import warn_if_unfamiliar
from cdvae_lab.models.given_formula import GivenFormula
from cdvae_lab.models.latent_prior import LatentPrior, StandardNormal, default_prior
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed


@torch.no_grad()
def latents_of(
    model: ModelOrName,
    source: Any,
    *,
    sampled: bool = False,
    seed: int = 0,
    first_number: int = 0,
    prior: LatentPrior | None = None,
    allow_unseen: bool = False,
) -> Float[Tensor, "crystals latent"]:
    """Return the latents of crystals, latents as they are, or latents drawn from a prior, on the model's device.

    Args:
        model: a trained model, the name of a bundled one, or the path of a checkpoint.
        source: crystals (files, pymatgen Structures, ASE Atoms, or a list of these, reduced as `cdvae_lab.read` does;
            or Crystals, which are taken as they are), of which z is the posterior mean; or latents
            (crystals, latent); or a number of crystals to draw from the prior.
        sampled: draw z from the posterior of the crystals instead of taking its mean.
        seed: seed of the draws from the posterior or the prior.
        first_number: number of the first crystal; crystals of other numbers have other noise.
        prior: what a number of crystals is drawn from; by default `prior_of(model)`.
        allow_unseen: let Crystals pass with elements that the model never saw, and do not warn, so that one of them
            does not end the evaluation of a whole test set; the model cannot reconstruct them.

    Raises:
        CrystalError: naming the crystal, for what the model cannot encode.
        SettingError: for a number below 1, latents of another size, or a seed or first number out of range.

    Warns:
        UnfamiliarCrystalWarning: of crystals whose composition the model does not predict from their latents.
    """
    model = as_model(model)
    if isinstance(source, int):
        return draw_latents(model, source, prior, seed, first_number)[0]
    if isinstance(source, Tensor):
        check_latents(model, source)
        return source.detach().to(model.device, model.lattice_mean.dtype)
    crystals = crystals_of(model, source, allow_unseen=allow_unseen)
    posterior = posterior_of(model, crystals)
    if not allow_unseen:
        warn_if_unfamiliar(model, crystals, posterior.mu)
    if not sampled:
        return posterior.mu
    numbers = crystal_numbers(model, len(crystals), seed, first_number)
    shape = (model.config.latent_dim,)
    return posterior.sample(noise.normal(seed, Stream.LATENT, numbers, 0, shape, posterior.mu.dtype))


def crystals_of(model: CDVAE, source: Any, *, allow_unseen: bool = False) -> Crystals:
    """Return crystals that the model can encode, on its device; arguments and errors are those of `latents_of`."""
    if not isinstance(source, Crystals):
        return read_encodable(model, source)
    check_encodable(model, source, allow_unseen=allow_unseen)
    return source.to(model.device, model.lattice_mean.dtype)


def encode(model: ModelOrName, source: Any) -> Float[Tensor, "crystals latent"]:
    """Encode crystals: the posterior mean of z, for files, pymatgen Structures, ASE Atoms, Crystals or a list of these.

    Every crystal is reduced to its Niggli cell first, Crystals too.

    Raises:
        CrystalError: naming the crystal, for what the model cannot encode.

    Warns:
        UnfamiliarCrystalWarning: of crystals that are far from what the model was trained on, naming a bundled model
            that represents them. See `match_probability` for what a reconstruction tells.

    Examples:
        >>> import cdvae_lab as lab
        >>> lab.encode("perov_5", lab.asset_path("examples/SrTiO3.cif")).shape
        torch.Size([1, 256])
    """
    model = as_model(model)
    return latents_of(model, read_encodable(model, source))


@torch.no_grad()
def posterior_of(model: CDVAE, crystals: Crystals) -> Posterior:
    """Encode any number of crystals, in groups of similar size that bound the memory, on the model's device."""
    device, dtype = model.device, model.lattice_mean.dtype
    mu = torch.empty(len(crystals), model.config.latent_dim, device=device, dtype=dtype)
    posterior = Posterior(mu, torch.empty_like(mu))
    for group in size_groups(crystals.num_atoms, MAX_PAIRS):
        part, rows = model.encode(group.of(crystals).to(device, dtype)), group.rows.to(device)
        posterior.mu[rows], posterior.log_var[rows] = part.mu, part.log_var
    return posterior


@torch.no_grad()
def draw_latents(
    model: CDVAE, n: int, prior: LatentPrior | None = None, seed: int = 0, first_number: int = 0
) -> tuple[Float[Tensor, "crystals latent"], Int[Tensor, "crystals sites"] | None]:
    """Draw latents of n crystals from a prior, with the atoms that they are for where the prior draws a composition.

    Raises:
        SettingError: for a number below 1, or a seed or first number out of range.
    """
    if n < 1:
        raise SettingError(f"the number of crystals to draw must be at least 1, not {n}")
    numbers = crystal_numbers(model, n, seed, first_number)
    z, atoms = draw(prior_of(model, prior), seed, numbers)
    check_latents(model, z)
    return z.to(model.lattice_mean.dtype), atoms


def draw(
    prior: LatentPrior, seed: int, numbers: Int[Tensor, " crystals"]
) -> tuple[Float[Tensor, "crystals latent"], Int[Tensor, "crystals sites"] | None]:
    """Draw one z for each crystal number, as `sample` does, and the atomic numbers of its composition, padded with 0.

    The second is None if the prior draws no compositions.
    """
    if isinstance(prior, GivenFormula):
        prior, counts = prior.prior, prior.counts.expand(len(numbers), -1)
    elif isinstance(prior, DiffusionPrior) and prior.composition_model is not None:
        counts = prior.composition_model.sample(seed, numbers)
    else:
        return prior.sample(seed, numbers), None
    return prior.sample(seed, numbers, counts), atoms_from_counts(counts)


def prior_of(model: CDVAE, prior: LatentPrior | None = None, *, matters: bool = True) -> LatentPrior:
    """Return the given prior, or the model's learned one, or N(0, I) if it has none.

    Args:
        matters: whether results depend on the prior, so that a trained model without one warns.

    Warns:
        PriorWarning: if N(0, I) stands in for the learned prior of a trained model.
    """
    if prior is not None or model.prior is not None or matters:
        return prior or default_prior(model)
    return StandardNormal(model.config.latent_dim, model.lattice_mean.dtype)


def crystal_numbers(model: CDVAE, n: int, seed: int = 0, first_number: int = 0) -> Int[Tensor, " crystals"]:
    """Number n crystals consecutively, on the model's device.

    Raises:
        SettingError: for a seed or first number out of range.
    """
    check_seed(seed)
    if first_number < 0:
        raise SettingError(f"first_number must be 0 or more, not {first_number}")
    return torch.arange(first_number, first_number + n, device=model.device)


def check_latents(model: CDVAE, z: Tensor) -> None:
    """Refuse latents of another size than the model's.

    Raises:
        SettingError: naming their shape.
    """
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] != model.config.latent_dim:
        raise SettingError(
            f"z must be (crystals, {model.config.latent_dim}) with at least one, not {tuple(z.shape)}; latents of "
            "another size are another model's"
        )
