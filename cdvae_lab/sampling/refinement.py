"""Refinement: slide atoms and cell along the gradient of the encoder, towards crystals that encode to a given z."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.crystals.size_groups import MAX_PAIRS, size_groups
from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.latents import check_latents, posterior_of

STEP = 0.03  # Å, the first step's length
BETA_1, BETA_2 = 0.9, 0.99  # Adam's
STRAIN = 0.2  # 1/Å: how much a cell stretches while its atoms move by 1 Å
MARGIN = 0.5  # Å beyond the cutoff in which neighbors are listed, once for all steps: cells change little


@torch.no_grad()
def latent_distance(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"]
) -> Float[Tensor, " crystals"]:
    """Distance between the latents that crystals encode to and given ones, in standard deviations of the posterior.

    The square root of sum_i (mu_i - z_i)^2 / sigma_i^2; infinite for crystals that are not finite.

    Args:
        model: the model whose encoder is used.
        z: latents to compare with, one for each crystal.
    """
    posterior = posterior_of(model, crystals)
    squared = ((posterior.mu - z).square() * torch.exp(-posterior.log_var)).sum(-1)
    finite = torch.isfinite(crystals.frac_coords).all(-1).all(-1) & torch.isfinite(crystals.lattice).all(-1).all(-1)
    return torch.where(finite, squared.sqrt(), torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)


def refine(
    model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"], steps: int = 100, compile: bool = False
) -> tuple[Crystals, Float[Tensor, " crystals"]]:
    """Move atoms and cells so that crystals encode nearer to given latents: gradient descent on `latent_distance`.

    Elements do not change. It mends small errors of a right arrangement and leaves a wrong one wrong. It is for z that
    are posterior means: samples of the posterior or of the prior hold noise that no crystal encodes to.

    Args:
        model: a trained model.
        crystals: on the model's device.
        z: the latents that each should encode to.
        steps: of the descent; each takes the time of two or three calls of the decoder.
        compile: compile the model's encoder with torch.compile, for good: for many crystals on a GPU.

    Returns:
        The nearest crystals on the way, and their `latent_distance`.

    Raises:
        SettingError: for fewer than one step, or latents that are not one for each crystal.
    """
    if steps < 1:
        raise SettingError(f"refine: steps must be at least 1, not {steps}")
    check_latents(model, z)
    if len(z) != len(crystals):
        raise SettingError(f"refine: needs one z for each of the {len(crystals)} crystals, not {len(z)}")
    if compile:
        model.encoder.compile_blocks()
    # Under the caller's inference mode nothing would have a gradient; copies made outside of it have.
    with torch.inference_mode(False):
        groups = size_groups(crystals.num_atoms, MAX_PAIRS)
        parts = [_refined(model, group.of(crystals), z[group.rows].clone(), steps) for group in groups]
        order = torch.cat([group.rows for group in groups]).argsort()
        refined = Crystals.cat(parts).pad(crystals.num_sites)[order]
        return refined, latent_distance(model, refined, z)


def _refined(model: CDVAE, crystals: Crystals, z: Float[Tensor, "crystals latent"], steps: int) -> Crystals:
    images = periodic_images(crystals.lattice, model.config.cutoff + MARGIN)
    precision = torch.exp(-model.encode(crystals, images).log_var).detach()
    to_frac = lat.inverse(crystals.lattice)
    eye = torch.eye(3, device=z.device, dtype=z.dtype)
    shift = torch.zeros_like(crystals.frac_coords).requires_grad_()
    stretch = torch.zeros_like(crystals.lattice).requires_grad_()
    moment = torch.zeros_like(torch.cat([shift, stretch], 1))
    power = torch.zeros_like(moment[:, :1, :1])
    best, nearest = crystals, torch.full_like(z[:, 0], torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            strain = STRAIN * 0.5 * (stretch + stretch.transpose(1, 2))  # symmetric: without the rotations
            moved = crystals.replace(
                frac_coords=crystals.frac_coords + (shift @ to_frac) * crystals.mask[..., None],
                lattice=crystals.lattice @ (eye + strain),
            )
            squared = ((model.encode(moved, images).mu - z).square() * precision).sum(-1)
            # The logarithm's gradient is as steep far away from z as it is near.
            slope = torch.cat(torch.autograd.grad(torch.log1p(squared).sum(), [shift, stretch]), 1)
        with torch.no_grad():
            better = squared < nearest
            nearest = torch.where(better, squared, nearest)
            best = best.replace(
                frac_coords=torch.where(better[:, None, None], moved.frac_coords, best.frac_coords),
                lattice=torch.where(better[:, None, None], moved.lattice, best.lattice),
            )
            # Adam (Kingma and Ba 2015), but with one second moment for the whole crystal: with one for each coordinate,
            # those on which z does not depend (symmetry forbids a slope) would drift with the rounding errors.
            moment = BETA_1 * moment + (1 - BETA_1) * slope
            power = BETA_2 * power + (1 - BETA_2) * slope.square().amax((1, 2), keepdim=True)
            unbiased = (power / (1 - BETA_2 ** (step + 1))).sqrt().clamp_min(1e-12)
            rate = STEP * 0.5 * (1 + math.cos(math.pi * step / steps))
            change = rate * moment / (1 - BETA_1 ** (step + 1)) / unbiased
            shift -= change[:, :-3]
            stretch -= change[:, -3:]
    return best.replace(frac_coords=lat.wrap(best.frac_coords))
