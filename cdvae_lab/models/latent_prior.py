"""The prior over z: where new crystals are drawn from, and how usual a latent is.

The paper's is N(0, I), towards which its KL term pulls the encoder; but encoded crystals are far from filling it. The
learned one is a small diffusion model of the encoded training set, as Karras, Aittala, Aila and Laine write it,
"Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS 2022): fitted in a minute after the model.
Where the data are of many compositions, a continuous density blurs them; a prior that carries a `CompositionModel`
draws the composition first and z given it, p(z) = sum_c p(c) p(z | c).
Both fulfil one protocol: `denoise` draws from it, `optimize` is pulled towards it.

See docs/explanation/algorithm.md, departure D5.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import parse_counts
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.composition_model import (
    CompositionModel,
    CompositionModelConfig,
    atoms_of,
)
from cdvae_lab.models.noise import Stream


@runtime_checkable
class LatentPrior(Protocol):
    """A density over z that can be drawn from and followed uphill."""

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """One z for each crystal number, the same for the same (seed, number), in whatever batch."""
        ...

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """log p(z), in nats."""
        ...

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """The gradient of log p(z)."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I).

    Attributes:
        latent_dim: numbers in a z.
        dtype: of what is drawn.

    Raises:
        SettingError: if latent_dim is less than 1.
    """

    latent_dim: int
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise SettingError(f"StandardNormal: latent_dim must be at least 1, not {self.latent_dim}")

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """One z for each crystal number, on the numbers' device.

        Raises:
            SettingError: for a seed out of range.
        """
        noise.check_seed(seed)
        return noise.normal(seed, Stream.LATENT, numbers, 0, (self.latent_dim,), self.dtype)

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """log p(z) = -|z|^2 / 2 - (latent_dim / 2) log 2 pi, in nats."""
        return -0.5 * (z.square().sum(-1) + self.latent_dim * math.log(2 * math.pi))

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """The gradient of log p(z), which is -z."""
        return -z


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """The settings of a `DiffusionPrior`; saved with it.

    Attributes:
        latent_dim: numbers in a z.
        hidden_dim, blocks: of its network.
        sigma_max, sigma_min: noise levels between which a sample is drawn, in standard deviations of the latents.
        steps: of the sampler, two calls of the network each.
        churn: how much noise the sampler adds again on its way, for it to take away once more (S_churn of Karras et
            al. 2022, algorithm 2); 0 follows the probability flow. The flow keeps every error of the network, and
            fresh noise lets later steps mend it.
        sigma_score: the noise level at which the score is taken: coarse enough to reach from crystal to crystal.
        posterior_share: of the posteriors' deviation, in what it learns from. 1: their samples; less: latents
            nearer their means, of which the heads read number of atoms and composition more surely.
        composition: of the model of compositions that it carries and is conditional on; None if it is not conditional.
    """

    latent_dim: int
    hidden_dim: int = 512
    blocks: int = 4
    sigma_max: float = 20.0
    sigma_min: float = 0.02
    steps: int = 48
    churn: float = 20.0
    sigma_score: float = 0.2
    posterior_share: float = 1.0
    composition: CompositionModelConfig | None = None

    def __post_init__(self) -> None:
        if min(self.latent_dim, self.hidden_dim, self.blocks) < 1 or self.steps < 2 or self.churn < 0:
            raise SettingError(
                "DiffusionPriorConfig needs latent_dim, hidden_dim and blocks >= 1, steps >= 2 and churn >= 0"
            )
        if not 0 < self.posterior_share <= 1:
            raise SettingError(f"DiffusionPriorConfig: posterior_share must be in (0, 1], not {self.posterior_share}")
        if not 0 < self.sigma_min <= self.sigma_score < self.sigma_max:
            raise SettingError("DiffusionPriorConfig needs 0 < sigma_min <= sigma_score < sigma_max")

    @classmethod
    def from_header(cls, **fields: Any) -> DiffusionPriorConfig:
        """The settings that a file holds as JSON."""
        composition = fields.pop("composition", None)
        return cls(**fields, composition=composition and CompositionModelConfig(**composition))


NOISE_FEATURES = 32
CONDITION = 64  # the noise level alone, which needs no more
PROBES = 8  # random directions that estimate a divergence
RHO = 7  # of the spacing of noise levels (Karras et al., eq. 5)


def noise_levels(
    highest: float, lowest: float, number: int, dtype: torch.dtype, device: torch.device | None = None
) -> Float[Tensor, " levels"]:
    """So many noise levels from the highest down to the lowest, denser below (Karras et al., eq. 5)."""
    return torch.linspace(highest ** (1 / RHO), lowest ** (1 / RHO), number, device=device, dtype=dtype) ** RHO


IDLE = 0.02  # a latent dimension with a smaller share of its variance between crystals says nothing of them


class DiffusionPrior(nn.Module):
    """A diffusion model over z. Untrained it is a Gaussian of the mean and the deviations in its buffers, exactly.

    It stays that Gaussian in the dimensions that the encoder does not use (often most of them: their posterior is the
    same for every crystal), which would otherwise drown the others in noise: `active` says which ones are learned.
    """

    mean: Tensor
    std: Tensor
    active: Tensor

    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict = {}
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
            # Without a bias: nothing known adds nothing, which is the network of the marginal density.
            known = c.composition.max_atoms + 1 + 2 * NUM_ELEMENTS
            self.known_at_start = nn.Linear(known, c.hidden_dim, bias=False)
            self.known_in_blocks = nn.Linear(known, CONDITION, bias=False)
            self.composition_model = CompositionModel(c.composition)

    @classmethod
    def for_compositions(cls, model: CompositionModel, latent_dim: int, **settings: Any) -> DiffusionPrior:
        """An untrained prior that draws compositions from a trained model of them, of which it takes a copy.

        Args:
            settings: of `DiffusionPriorConfig`.

        Raises:
            SettingError: for settings out of range.
        """
        prior = cls(DiffusionPriorConfig(latent_dim, composition=model.config, **settings)).to(model.device)
        assert prior.composition_model is not None
        prior.composition_model.load_state_dict(model.state_dict())
        prior.composition_model.metadata = model.metadata
        return prior

    def known(self, counts: Int[Tensor, "crystals elements"]) -> Float[Tensor, "crystals known"]:
        """What the network is told of a composition, as the encoder is: number of atoms, shares and presence.

        Args:
            counts: atoms of the elements Z = 1..100 in a cell.

        Raises:
            SettingError: if the prior is not conditional, or for a composition that its model knows to be impossible.
        """
        model = self.composition_model
        if model is None:
            raise SettingError(
                "this prior knows no compositions; fit one that does: `cdvae-lab prior --composition-steps N`"
            )
        if wrong := (~model.is_possible(counts)).nonzero()[:1, 0].tolist():
            atoms = {i + 1: n for i, n in enumerate(counts[wrong[0]].tolist()) if n}
            raise SettingError(
                f"composition {wrong[0]} (atoms by atomic number: {atoms}) is none of this prior's, which has 1 to "
                f"{model.config.max_atoms} atoms, at most {model.config.max_elements} elements, and those of its data"
            )
        total, dtype = counts.sum(1, keepdim=True), self.mean.dtype
        size = total == torch.arange(model.config.max_atoms + 1, device=counts.device)
        return torch.cat([size.to(dtype), counts.to(dtype) / total, (counts > 0).to(dtype)], 1)

    def standardize_with(self, mu: Float[Tensor, "crystals latent"], log_var: Float[Tensor, "crystals latent"]) -> None:
        """Take mean, deviation and what is in use from the posteriors of a data set."""
        between, within = mu.var(0, correction=0), log_var.exp().mean(0)
        self.mean.copy_(mu.mean(0))
        self.std.copy_((between + within).sqrt().clamp_min(1e-6))
        self.active.copy_(between >= IDLE * (between + within))

    def network(
        self,
        w: Float[Tensor, "crystals latent"],
        sigma: Float[Tensor, " crystals"],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, "crystals latent"]:
        """F of Karras et al., eq. 7, for noisy latents that are scaled to deviation 1.

        Args:
            known: of the composition, as `known` gives it; None, or a row of zeros, if nothing is.
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
        """The mean of standardized latents, given noisy ones (Karras et al., eq. 7, with data of deviation 1)."""
        total = (1 + sigma * sigma).sqrt()[:, None]
        return u / (total * total) + sigma[:, None] / total * self.network(u / total, sigma, known)

    def loss(
        self,
        z: Float[Tensor, "crystals latent"],
        eps: Float[Tensor, "crystals latent"],
        level: Float[Tensor, " crystals"],
        known: Float[Tensor, "crystals known"] | None = None,
    ) -> Float[Tensor, ""]:
        """Weighted squared error of the denoised latents (Karras et al., eq. 8; weights of table 1), 1 if untrained.

        Args:
            eps: standard normal.
            level: standard normal; log sigma = -0.8 + 1.4 * level.
            known: of the compositions, as `known` gives it, with zeros where the network shall not know.
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
        """One z for each crystal number, on the numbers' device: Heun's method, with fresh noise before every step.

        Args:
            composition: atoms of the elements Z = 1..100 in the cell, to draw z given it; by default drawn as well, if
                the prior carries a model of compositions.

        Raises:
            SettingError: for a seed out of range, or a composition that the prior does not know.
        """
        noise.check_seed(seed)
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
        """The prior of crystals with the atoms of a formula in their cell, p(z | composition): `prior.given("SrTiO3")`.

        Raises:
            SettingError: for what is no formula, or none that the prior knows.
        """
        counts = parse_counts(formula).to(self.mean.device)
        self.known(counts[None])
        return GivenFormula(self, counts)

    def at_temperature(self, temperature: float) -> DiffusionPrior:
        """A copy that draws compositions at another temperature (`CompositionModelConfig`), and z as before.

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
        """The gradient of log p(z), p blurred with `sigma_score` (Karras et al., eq. 3).

        Args:
            composition: of log p(z | composition) instead; atoms of the elements Z = 1..100 in the cell.
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
        """log p(z), p blurred with `sigma_min`, along the probability flow (Song et al. 2021, eq. 39), in nats.

        The divergence is estimated with a few fixed random directions: good to a nat or so.

        Args:
            composition: log p(z | composition) instead; atoms of the elements Z = 1..100 in the cell.
        """
        # Out of the caller's inference mode, in which the divergence would have no gradient to be made of.
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
        """arctan of the noise levels, from sigma_max down to sigma_min.

        With u = w sqrt(1 + sigma^2) and the angle theta = arctan(sigma) the probability flow is dw / dtheta = -F(w),
        which stands still for a Gaussian (Lu and Song 2024, "TrigFlow").
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
        """dw / dtheta and its divergence by Hutchinson's estimate.

        By reverse-mode differentiation: torch keeps forward-mode levels for all threads in common, and a widget's
        threads ask for densities at the same time.
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


@dataclass(frozen=True)
class GivenFormula:
    """A `DiffusionPrior` of which the composition is given; of `DiffusionPrior.given`.

    Attributes:
        prior: a conditional one.
        counts: atoms of the elements Z = 1..100 in the cell.
    """

    prior: DiffusionPrior
    counts: Int[Tensor, " elements"]

    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Float[Tensor, "crystals latent"]:
        """One z for each crystal number, on the numbers' device."""
        return self.prior.sample(seed, numbers, self.counts.expand(len(numbers), -1))

    def log_prob(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """log p(z | composition), in nats, as `DiffusionPrior.log_prob`."""
        return self.prior.log_prob(z, self.counts.expand(len(z), -1))

    def score(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """The gradient of log p(z | composition), as `DiffusionPrior.score`."""
        return self.prior.score(z, self.counts.expand(len(z), -1))


def draw(
    prior: LatentPrior, seed: int, numbers: Int[Tensor, " crystals"]
) -> tuple[Float[Tensor, "crystals latent"], Int[Tensor, "crystals sites"] | None]:
    """One z for each crystal number, as `sample`, and the atoms that it is for, padded with 0.

    None where a prior draws z alone.
    """
    if isinstance(prior, GivenFormula):
        prior, counts = prior.prior, prior.counts.expand(len(numbers), -1)
    elif isinstance(prior, DiffusionPrior) and prior.composition_model is not None:
        counts = prior.composition_model.sample(seed, numbers)
    else:
        return prior.sample(seed, numbers), None
    return prior.sample(seed, numbers, counts), atoms_of(counts)
