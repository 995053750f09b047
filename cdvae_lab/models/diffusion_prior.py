"""The learned prior over z: a small diffusion model of the encoded training set, fitted in a minute after the CDVAE.

Karras, Aittala, Aila and Laine, "Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS 2022).
Where the data have many compositions, a continuous density blurs them. A conditional prior carries a
`CompositionModel`, draws the composition first and z given it: p(z) = sum_c p(c) p(z | c).

See docs/explanation/algorithm.md, departure D5.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import parse_counts
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.composition_model import CompositionModel
from cdvae_lab.models.configs import DiffusionPriorConfig
from cdvae_lab.models.display import Described
from cdvae_lab.models.given_formula import GivenFormula
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed

NOISE_FEATURES = 32
CONDITION = 64  # width of the embedded noise level
PROBES = 8  # random directions of Hutchinson's estimate of a divergence
RHO = 7  # exponent of the spacing of noise levels (Karras et al., eq. 5)


def noise_levels(
    highest: float, lowest: float, number: int, dtype: torch.dtype, device: torch.device | None = None
) -> Float[Tensor, " levels"]:
    """Compute decreasing noise levels, both ends included, denser at the low end (Karras et al., eq. 5)."""
    return torch.linspace(highest ** (1 / RHO), lowest ** (1 / RHO), number, device=device, dtype=dtype) ** RHO


# Latent dimensions with a smaller share of their variance between crystals are collapsed: their posterior is the same
# for every crystal, and they hold no information.
COLLAPSED_BELOW = 0.02


class DiffusionPrior(Described):
    """A learned prior: a diffusion model over z. Untrained it is exactly the Gaussian of its mean and deviations.

    In collapsed dimensions (often most of them) it stays this Gaussian, since they would otherwise dominate the others
    with noise. `active` marks the dimensions that are learned. `cdvae_lab.fit_prior` creates and fits a prior.
    """

    mean: Tensor
    std: Tensor
    active: Tensor

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict[str, Any] = {}
        self.register_buffer("mean", torch.zeros(c.latent_dim))
        self.register_buffer("std", torch.ones(c.latent_dim))
        self.register_buffer("active", torch.ones(c.latent_dim, dtype=torch.bool))
        self.embed = nn.Sequential(nn.Linear(NOISE_FEATURES, CONDITION), nn.SiLU())
        self.enter = nn.Linear(c.latent_dim, c.hidden_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(c.hidden_dim) for _ in range(c.blocks))
        self.films = nn.ModuleList(nn.Linear(CONDITION, 2 * c.hidden_dim) for _ in range(c.blocks))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(c.hidden_dim, c.hidden_dim), nn.SiLU(), nn.Linear(c.hidden_dim, c.hidden_dim))
            for _ in range(c.blocks)
        )
        self.leave = nn.Linear(c.hidden_dim, c.latent_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.composition_model: CompositionModel | None = None
        if c.composition is not None:
            # Without a bias: a row of zeros adds nothing, which gives the network of the marginal density.
            known = c.composition.max_atoms + 1 + 2 * NUM_ELEMENTS
            self.known_at_start = nn.Linear(known, c.hidden_dim, bias=False)
            self.known_in_blocks = nn.Linear(known, CONDITION, bias=False)
            self.composition_model = CompositionModel(c.composition)

    @classmethod
    def for_compositions(cls, model: CompositionModel, latent_dim: int, **settings: Any) -> DiffusionPrior:
        """Create an untrained prior that is conditional on compositions, with a copy of a trained composition model.

        Args:
            latent_dim: dimension of z.
            settings: fields of `DiffusionPriorConfig`.

        Raises:
            SettingError: for settings out of range.
        """
        prior = cls(DiffusionPriorConfig(latent_dim, composition=model.config, **settings)).to(model.device)
        assert prior.composition_model is not None
        prior.composition_model.load_state_dict(model.state_dict())
        prior.composition_model.metadata = model.metadata
        return prior

    def known(self, counts: Int[Tensor, "crystals elements"]) -> Float[Tensor, "crystals known"]:
        """Compute the conditioning features of a composition: number of atoms, share and presence of every element.

        Args:
            counts: number of atoms of each element Z = 1..100 in the cell.

        Raises:
            SettingError: if the prior is not conditional, or for a composition that its model knows to be impossible.
        """
        model = self.composition_model
        if model is None:
            raise SettingError(
                "this prior is not conditional; fit one that is: `cdvae-lab prior --composition-steps N`"
            )
        if wrong := (~model.is_possible(counts)).nonzero()[:1, 0].tolist():
            atoms = {i + 1: n for i, n in enumerate(counts[wrong[0]].tolist()) if n}
            raise SettingError(
                f"composition {wrong[0]} (atoms by atomic number: {atoms}) is unknown to this prior, which takes 1 to "
                f"{model.config.max_atoms} atoms of at most {model.config.max_elements} elements, those of its data"
            )
        total, dtype = counts.sum(1, keepdim=True), self.mean.dtype
        size = total == torch.arange(model.config.max_atoms + 1, device=counts.device)
        return torch.cat([size.to(dtype), counts.to(dtype) / total, (counts > 0).to(dtype)], 1)

    def standardize_with(self, mu: Float[Tensor, "crystals latent"], log_var: Float[Tensor, "crystals latent"]) -> None:
        """Set mean, deviation and active dimensions from the posteriors of a data set."""
        between, within = mu.var(0, correction=0), log_var.exp().mean(0)
        self.mean.copy_(mu.mean(0))
        self.std.copy_((between + within).sqrt().clamp_min(1e-6))
        self.active.copy_(between >= COLLAPSED_BELOW * (between + within))

    def network(
        self,
        w: Float[Tensor, "crystals latent"],
        sigma: Float[Tensor, " crystals"],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        """Evaluate F of Karras et al., eq. 7, for noisy latents that are scaled to deviation 1.

        Args:
            w: noisy standardized latents, divided by sqrt(1 + sigma^2).
            sigma: deviation of the noise, in standard deviations of the latents.
            known: conditioning features as `known` returns them; None, or a row of zeros, for the marginal density.
        """
        frequencies = torch.arange(1, NOISE_FEATURES // 2 + 1, device=w.device, dtype=w.dtype) * 0.5
        angles = 0.25 * torch.log(sigma)[:, None] * frequencies * torch.pi
        condition = self.embed(torch.cat([torch.sin(angles), torch.cos(angles)], -1))
        h = self.enter(w * self.active)
        if known is not None:
            h, condition = h + self.known_at_start(known), condition + self.known_in_blocks(known)
        for norm, film, layer in zip(self.norms, self.films, self.layers, strict=True):
            scale, shift = film(condition).chunk(2, -1)
            h = h + layer(norm(h) * (1 + scale) + shift)
        return self.leave(h) * self.active

    def denoised(
        self,
        u: Float[Tensor, "crystals latent"],
        sigma: Float[Tensor, " crystals"],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        """Estimate standardized latents from noisy ones: D of Karras et al., eq. 7, with data of deviation 1.

        Args:
            u: standardized latents with noise.
            sigma: deviation of the noise, in standard deviations of the latents.
            known: conditioning features as `known` returns them; None for the marginal density.
        """
        total = (1 + sigma * sigma).sqrt()[:, None]
        return u / (total * total) + sigma[:, None] / total * self.network(u / total, sigma, known)

    def loss(
        self,
        z: Float[Tensor, "crystals latent"],
        eps: Float[Tensor, "crystals latent"],
        level: Float[Tensor, " crystals"],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the weighted squared error of the denoised latents (Karras et al., eq. 8, table 1), 1 if untrained.

        Args:
            z: latents of the training data.
            eps: standard normal.
            level: standard normal; log sigma = -0.8 + 1.4 * level.
            known: conditioning features as `known` returns them, with rows of zeros for condition dropout.
        """
        u = (z - self.mean) / self.std
        sigma = torch.exp(-0.8 + 1.4 * level)
        error = self.denoised(u + sigma[:, None] * eps, sigma, known) - u
        learned = (error.square() * self.active).sum(-1) / self.active.sum().clamp_min(1)
        return (learned * (1 + sigma**2) / sigma**2).mean()

    @torch.no_grad()
    def sample(
        self,
        seed: int,
        numbers: Int[Tensor, " crystals"],
        composition: Int[Tensor, "crystals elements"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        """Draw one z for each crystal number, on the numbers' device (Karras et al., algorithm 2).

        Args:
            composition: number of atoms of each element Z = 1..100 in the cell, to draw z given it; by default drawn
                as well if the prior is conditional.

        Raises:
            SettingError: for a seed out of range, or a composition that the prior does not know.
        """
        check_seed(seed)
        if composition is None and self.composition_model is not None:
            composition = self.composition_model.sample(seed, numbers)
        known = None if composition is None else self.known(composition.to(numbers.device))
        angles = self._angles(numbers.device)
        more = min(self.config.churn / self.config.steps, 2**0.5 - 1)
        shape, dtype = (self.config.latent_dim,), self.mean.dtype
        w = noise.normal(seed, Stream.LATENT, numbers, 0, shape, dtype)
        for step, (now, then) in enumerate(itertools.pairwise(angles), start=1):
            if more > 0:
                sigma = torch.tan(now)
                noisier = sigma * (1 + more)
                eps = noise.normal(seed, Stream.LATENT, numbers, step, shape, dtype)
                u = w * (1 + sigma**2).sqrt() + (noisier**2 - sigma**2).sqrt() * eps
                w, now = u / (1 + noisier**2).sqrt(), torch.atan(noisier)
            slope = self._slope(w, now, known)
            ahead = w + (then - now) * slope
            w = w + (then - now) * 0.5 * (slope + self._slope(ahead, then, known))
        sigma = torch.tan(angles[-1])
        u = self.denoised(w * (1 + sigma**2).sqrt(), sigma.expand(len(w)), known)
        return u * self.std + self.mean

    def given(self, formula: str) -> GivenFormula:
        """Condition the prior on a formula, the atoms of a cell: `prior.given("SrTiO3")` is p(z | composition).

        Raises:
            SettingError: for an invalid formula, or one that the composition model cannot represent.
        """
        counts = parse_counts(formula).to(self.mean.device)
        self.known(counts[None])
        return GivenFormula(self, counts)

    def at_temperature(self, temperature: float) -> DiffusionPrior:
        """Copy the prior with another temperature of its compositions (`CompositionModelConfig`).

        Raises:
            SettingError: if the prior draws no compositions, or for a temperature out of range.
        """
        if self.composition_model is None:
            raise SettingError(
                "this prior draws no compositions, which alone have a temperature; fit one that does: "
                "`cdvae-lab prior --composition-steps N`"
            )
        other = copy.deepcopy(self)
        assert other.composition_model is not None
        composition = replace(self.composition_model.config, temperature=temperature)
        other.config = replace(self.config, composition=composition)
        other.composition_model.config = composition
        return other

    def score(
        self,
        z: Float[Tensor, "crystals latent"],
        composition: Int[Tensor, "crystals elements"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        """Evaluate the score, the gradient of log p(z), with p blurred by `sigma_score` (Karras et al., eq. 3).

        Args:
            composition: number of atoms of each element Z = 1..100 in the cell, for the score of p(z | composition).
        """
        sigma = torch.full_like(z[:, 0], self.config.sigma_score)
        u = (z - self.mean) / self.std
        known = None if composition is None else self.known(composition)
        return (self.denoised(u, sigma, known) - u) / self.config.sigma_score**2 / self.std

    def log_prob(
        self,
        z: Float[Tensor, "crystals latent"],
        composition: Int[Tensor, "crystals elements"] | None = None,
    ) -> Float[Tensor, " crystals"]:
        """Evaluate log p(z) in nats, p blurred by `sigma_min`, along the probability flow (Song et al. 2021, eq. 39).

        The divergence is estimated with a few fixed random directions, accurate to about a nat.

        Args:
            composition: number of atoms of each element Z = 1..100 in the cell, for log p(z | composition).
        """
        # Out of the caller's inference mode, in which the divergence could not be differentiated.
        with torch.inference_mode(False), torch.no_grad():
            known = None if composition is None else self.known(composition)
            angles = self._angles(z.device).flip(0)
            total = (1 + self.config.sigma_min**2) ** 0.5
            w = (z.detach().clone() - self.mean) / self.std / total
            dim = self.config.latent_dim
            probe = torch.arange(PROBES, device=z.device)
            signs = noise.uniform(0, Stream.PROBE, probe, 0, (dim,), z.dtype).sub(0.5).sign()
            gained = torch.zeros_like(w[:, 0])
            for now, then in itertools.pairwise(angles):
                slope, divergence = self._slope_and_divergence(w, now, signs, known)
                ahead = w + (then - now) * slope
                slope_ahead, divergence_ahead = self._slope_and_divergence(ahead, then, signs, known)
                w = w + (then - now) * 0.5 * (slope + slope_ahead)
                gained = gained + (then - now) * 0.5 * (divergence + divergence_ahead)
            at_end = -0.5 * (w.square().sum(-1) + dim * math.log(2 * math.pi))
            return at_end + gained - (self.std * total).log().sum()

    def _angles(self, device: torch.device) -> Float[Tensor, " levels"]:
        """Compute the arctangents of the noise levels, from sigma_max down to sigma_min.

        With u = w sqrt(1 + sigma^2) and the angle theta = arctan(sigma) the probability flow is dw / dtheta = -F(w),
        which vanishes for a Gaussian (Lu and Song 2024, "TrigFlow").
        """
        c = self.config
        return torch.atan(noise_levels(c.sigma_max, c.sigma_min, c.steps + 1, self.mean.dtype, device))

    def _slope(
        self,
        w: Float[Tensor, "crystals latent"],
        angle: Float[Tensor, ""],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        return -self.network(w, torch.tan(angle).expand(len(w)), known)

    def _slope_and_divergence(
        self,
        w: Float[Tensor, "crystals latent"],
        angle: Float[Tensor, ""],
        signs: Float[Tensor, "probes latent"],
        known: Float[Tensor, "crystals known"] | None,
    ) -> tuple[Float[Tensor, "crystals latent"], Float[Tensor, " crystals"]]:
        """Evaluate dw / dtheta and Hutchinson's estimate of its divergence.

        With reverse-mode differentiation: torch keeps one forward-mode level for all threads of the process, and
        widgets evaluate densities in several threads at the same time.
        """
        probes = len(signs)
        with torch.enable_grad():
            # A copy of every latent for each probe: one call, one backward.
            copies = w.repeat(probes, 1).requires_grad_()
            slopes = self._slope(copies, angle, None if known is None else known.repeat(probes, 1))
            directions = signs.repeat_interleave(len(w), 0)
            (change,) = torch.autograd.grad(slopes, copies, directions)
        divergences = (change * directions).sum(-1).view(probes, len(w))
        return slopes[: len(w)].detach(), divergences.mean(0)
