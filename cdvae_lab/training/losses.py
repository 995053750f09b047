"""Loss terms of a CDVAE, one function per term (paper, section 4 and appendix B).

Each term is a mean over a crystal's atoms and then over the crystals; the property's is over labeled crystals.

See docs/explanation/algorithm.md, section 3; departures D7, D8, D11, D12.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.models import noise
from cdvae_lab.models.aggregates import Aggregates, composition
from cdvae_lab.models.cdvae import CDVAE, Posterior, masked_mean
from cdvae_lab.models.noise import Stream
from cdvae_lab.training.settings import LossWeights

TERMS = tuple(LossWeights.__dataclass_fields__)


def coordinate_loss(
    p: Float[Tensor, "crystals sites 3"],
    delta: Float[Tensor, "crystals sites 3"],
    sigma: Float[Tensor, " crystals"],
    mask: Bool[Tensor, "crystals sites"],
) -> Float[Tensor, ""]:
    """Compute half the squared distance between the network's p and delta / sigma (paper, eq. 8).

    Args:
        delta: shortest displacement from the noisy positions to the clean ones, over periodic images, Å.
    """
    return masked_mean(0.5 * ((delta / sigma[:, None, None] - p) ** 2).sum(-1), mask).mean()


def type_loss(
    logits: Float[Tensor, "crystals sites elements"],
    atomic_numbers: Int[Tensor, "crystals sites"],
    sigma: Float[Tensor, " crystals"],
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the denoised atom types, divided by the type noise (paper, section 4.3)."""
    entropy = F.cross_entropy(logits.transpose(1, 2), (atomic_numbers.long() - 1).clamp_min(0), reduction="none")
    return (masked_mean(entropy, atomic_numbers > 0) / sigma).mean()


def num_atoms_loss(logits: Float[Tensor, "crystals sizes"], num_atoms: Int[Tensor, " crystals"]) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the number of atoms."""
    return F.cross_entropy(logits, num_atoms)


def lattice_loss(predicted: Float[Tensor, "crystals 6"], target: Float[Tensor, "crystals 6"]) -> Float[Tensor, ""]:
    """Compute the mean squared error of the standardized lattice parameters."""
    return F.mse_loss(predicted, target)


def composition_loss(
    logits: Float[Tensor, "crystals elements"], shares: Float[Tensor, "crystals elements"]
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of the predicted composition with every atom's element, a mean over atoms."""
    return F.cross_entropy(logits, shares)


def kl_loss(posterior: Posterior) -> Float[Tensor, ""]:
    """Compute the Kullback-Leibler divergence of q(z | crystal) from N(0, I), summed over the latent dimensions."""
    mu, log_var = posterior.mu, posterior.log_var
    return (0.5 * (mu**2 + log_var.exp() - 1 - log_var)).sum(-1).mean()


def property_loss(
    predicted: Float[Tensor, " crystals"],
    target: Float[Tensor, " crystals"],
    labeled_crystals: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Compute the mean squared error of the standardized property over the labeled crystals (a NaN target is no label).

    Args:
        labeled_crystals: the number to divide by where these crystals are a share of a batch: the labeled crystals of
            an average share. By default the labeled crystals among these; without any the loss is 0.
    """
    labeled = torch.isfinite(target)
    error = torch.where(labeled, predicted - torch.where(labeled, target, 0.0), 0.0)
    return (error**2).sum() / (labeled.sum().clamp_min(1) if labeled_crystals is None else labeled_crystals)


def loss_terms(
    model: CDVAE,
    crystals: Crystals,
    images: Float[Tensor, "crystals images 3"],
    labels: Float[Tensor, " crystals"],
    numbers: Int[Tensor, " crystals"],
    step: int | Int[Tensor, ""],
    seed: int,
    labeled_crystals: Float[Tensor, ""] | None = None,
    encoder_input: Crystals | None = None,
    decoder_keep: Float[Tensor, "crystals blocks 2 hidden"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Compute every term of a CDVAE's loss, unweighted, for one batch and one draw of the noise.

    Two departures from the paper. Noise levels are drawn log-uniformly between the model's largest and smallest, one
    for the coordinates and one for the types of each crystal; the reference implementation draws them from its 50
    levels, and a sampler with other levels then meets noise that the network was not trained on.

    Most dimensions of z have a posterior about as wide as N(0, I), so that its mean is far shorter than any of its
    samples. The heads for number of atoms, lattice and composition are therefore also trained on points between the
    mean and the sample; otherwise they would be wrong at the mean, from which crystals are reconstructed. These points
    send no gradient to the encoder, and the values of the terms are those of the sample alone.

    Args:
        images: translations of `periodic_images` for these lattices and the model's cutoff.
        labels: in their own unit; NaN where unlabeled.
        numbers: the crystals' numbers in their data set; with step and seed they determine the noise.
        labeled_crystals: as for `property_loss`.
        encoder_input: the crystals as the encoder receives them, with displaced atoms; by default `crystals`.
        decoder_keep: dropout factors of the decoder, as for `PaiNN.forward`; by default no dropout.
    """
    c = model.config
    mask = crystals.mask
    sites, dtype = crystals.num_sites, crystals.lattice.dtype
    posterior = model.encode(crystals if encoder_input is None else encoder_input, images)
    z = posterior.sample(noise.normal(seed, Stream.LATENT, numbers, step, (c.latent_dim,), dtype))
    aggregates = model.aggregates(z)
    nearer = posterior.mu + noise.uniform(seed, Stream.NEARER, numbers, step, (1,), dtype) * (z - posterior.mu)
    of_nearer = model.aggregates(nearer.detach())

    size, lattice, shares = crystals.num_atoms, model.standardized_lattice(crystals), composition(crystals, dtype)

    def of_heads(given: Aggregates) -> dict[str, Float[Tensor, ""]]:
        return {
            "num_atoms": num_atoms_loss(given.num_atoms_logits, size),
            "lattice": lattice_loss(given.lattice_parameters, lattice),
            "composition": composition_loss(given.composition_logits, shares),
        }

    heads, more = of_heads(aggregates), of_heads(of_nearer)

    sigma = c.sigma_min * (c.sigma_max / c.sigma_min) ** noise.uniform(seed, Stream.LEVEL, numbers, step, dtype=dtype)
    eps = noise.normal(seed, Stream.POSITION, numbers, step, (sites, 3), dtype)
    noisy, delta = noise.corrupt_coordinates(crystals.frac_coords, crystals.lattice, sigma, eps)
    level = noise.uniform(seed, Stream.TYPE_LEVEL, numbers, step, dtype=dtype)
    type_sigma = c.type_sigma_min * (c.type_sigma_max / c.type_sigma_min) ** level
    which, draw = noise.uniform(seed, Stream.TYPE, numbers, step, (sites, 2), dtype).unbind(-1)
    probabilities = aggregates.composition.detach()
    types = noise.corrupt_types(crystals.atomic_numbers, probabilities, type_sigma, which, draw)

    noisy_crystals = crystals.replace(frac_coords=noisy * mask[..., None], atomic_numbers=types)
    p, type_logits = model.predict_noise(noisy_crystals, z, sigma, images, decoder_keep)
    return {
        "coordinates": coordinate_loss(p, delta, sigma, mask),
        "types": type_loss(type_logits, crystals.atomic_numbers, type_sigma),
        **{name: value + (more[name] - more[name].detach()) for name, value in heads.items()},
        "kl": kl_loss(posterior),
        "property": property_loss(
            aggregates.standardized_property,
            (labels - model.property_mean) / model.property_std,
            labeled_crystals,
        ),
    }
