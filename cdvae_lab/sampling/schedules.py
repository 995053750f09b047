"""Schedules: the coefficients that make the one denoising step a sampler, and samplers by name.

See docs/explanation/algorithm.md, section 4; departures D13, D14.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.errors import SettingError
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.noise import dense_levels, geometric_levels
from cdvae_lab.sampling.settings import LEVELS, NAMED, SAMPLERS, TYPES, SamplerSettings


@dataclass(frozen=True, eq=False)
class Schedule:
    """Coefficients of every step of a sampler, in order; the last step adds no noise.

    Attributes:
        name: of the sampler, for captions.
        sigma: the noise level that the network is given, Å.
        drift: the factor of the score, Å^2.
        diffusion: the factor of the noise, Å.
        keep_types: keep the elements of the start and move positions alone.
        keep_composition: keep the composition of the start, and assign its elements to the sites again at every step.
            Otherwise every site takes its most likely element, as in the paper.
    """

    name: str
    sigma: Float[Tensor, " steps"]
    drift: Float[Tensor, " steps"]
    diffusion: Float[Tensor, " steps"]
    keep_types: bool = False
    keep_composition: bool = False

    def __len__(self) -> int:
        return len(self.sigma)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        kept = "elements kept, " * self.keep_types + "composition kept, " * self.keep_composition
        return f"{self.name} ({kept}{len(self):,} steps from {self.sigma[0]:.3g} to {self.sigma[-1]:.3g} Å)"

    def __repr__(self) -> str:
        return f"<Schedule: {self}>"

    def without_last(self) -> Schedule:
        """Leave out the noise-free last step, as the reference implementation does: for comparison."""
        return replace(self, sigma=self.sigma[:-1], drift=self.drift[:-1], diffusion=self.diffusion[:-1])

    @classmethod
    def langevin(cls, config: CDVAEConfig, steps_per_level: int = 100, step_size: float = 1e-4) -> Schedule:
        """Create annealed Langevin dynamics, as in the paper (algorithm 1; Song and Ermon 2019).

        At level sigma the drift is a = step_size * (sigma / sigma_min)^2 and the diffusion sqrt(2 a). Steps of
        r = a / sigma^2 keep a Gaussian of variance sigma^2 at 2 sigma^2 / (2 - r), which the last step removes.

        Args:
            config: settings of the model, which hold its noise levels.
            steps_per_level: steps at each noise level.
            step_size: step size at the last level, Å^2.

        Raises:
            SettingError: for settings out of range; from step_size = 2 sigma_min^2 on, the dynamics diverges.
        """
        ratio = step_size / config.sigma_min**2
        if steps_per_level < 1 or not 0 < ratio < 2:
            raise SettingError(
                f"Langevin dynamics needs steps_per_level >= 1 and 0 < step_size < {2 * config.sigma_min**2:g} Å^2 "
                f"(beyond, it diverges), not {steps_per_level} and {step_size:g}"
            )
        levels = geometric_levels(config.sigma_max, config.sigma_min, config.num_levels)
        sigma = levels.repeat_interleave(steps_per_level)
        a = step_size * (sigma / config.sigma_min) ** 2
        return cls._ending_clean("langevin", sigma, a, (2 * a).sqrt(), config.sigma_min * (2 / (2 - ratio)) ** 0.5)

    @classmethod
    def ancestral(cls, config: CDVAEConfig, steps: int = 200) -> Schedule:
        """Create ancestral sampling of the variance-exploding process (Song et al. 2021, appendix F, eq. 47).

        Args:
            config: settings of the model, which hold its noise levels.
            steps: calls of the network, the last of which adds no noise.

        Raises:
            SettingError: for too few steps.
        """
        now, then = cls._descent(config, steps)
        diffusion = then * (now**2 - then**2).sqrt() / now
        return cls._ending_clean("ancestral", now, now**2 - then**2, diffusion, config.sigma_min)

    @classmethod
    def renoising(cls, config: CDVAEConfig, steps: int = 200, levels: str = "dense") -> Schedule:
        """Create steps x <- x + sigma_i^2 score + sigma_(i+1) eps: remove all noise, add that of the next level.

        A step keeps nothing of x but its denoised mean, E[x0 | x] by Tweedie's formula, so that later steps can undo
        errors of earlier ones. In return it sharpens the density: of a Gaussian of variance s^2 many steps keep
        s^2 / 2.

        Args:
            config: settings of the model, which hold its noise levels.
            steps: calls of the network, the last of which adds no noise.
            levels: "dense" has 70 % of the noise levels between 1 and 0.1 Å, "geometric" a constant ratio.

        Raises:
            SettingError: for too few steps, or another spacing of the levels.
        """
        now, then = cls._descent(config, steps, levels)
        return cls._ending_clean("renoising", now, now**2, then, config.sigma_min)

    @classmethod
    def probability_flow(cls, config: CDVAEConfig, steps: int = 100) -> Schedule:
        """Create Euler steps of the probability flow, without noise after the start (Song et al. 2021, eq. 13).

        Args:
            config: settings of the model, which hold its noise levels.
            steps: calls of the network, the last of which adds no noise.

        Raises:
            SettingError: for too few steps.
        """
        now, then = cls._descent(config, steps)
        drift = 0.5 * (now**2 - then**2)
        return cls._ending_clean("probability_flow", now, drift, torch.zeros_like(drift), config.sigma_min)

    @staticmethod
    def _descent(config: CDVAEConfig, steps: int, levels: str = "geometric") -> tuple[Tensor, Tensor]:
        """Return the noise levels before and after every step but the last."""
        if steps < 2:
            raise SettingError(f"steps must be at least 2, not {steps}")
        if levels not in LEVELS:
            raise SettingError(f"levels is {' or '.join(map(repr, LEVELS))}, not {levels!r}")
        spacing = {"dense": dense_levels, "geometric": geometric_levels}[levels]
        sigma = spacing(config.sigma_max, config.sigma_min, steps)
        return sigma[:-1], sigma[1:]

    @classmethod
    def _ending_clean(cls, name: str, sigma: Tensor, drift: Tensor, diffusion: Tensor, left: float) -> Schedule:
        # Tweedie's formula, E[x0 | x] = x + sigma^2 score(x), at the noise that is really left.
        last = torch.tensor([left], dtype=torch.float64)
        return cls(
            name,
            torch.cat([sigma, last]),
            torch.cat([drift, last**2]),
            torch.cat([diffusion, torch.zeros(1, dtype=torch.float64)]),
        )


KEPT = ("keep_types", "keep_composition")  # what a schedule holds beside its name and its coefficients


def choose_schedule(model: CDVAE, sampler: str | Schedule, **settings: Unpack[SamplerSettings]) -> Schedule:
    """Return the schedule of a sampler (`SAMPLERS`) or of a named setting (`NAMED`).

    Args:
        model: whose noise levels the schedule has.
        sampler: a name, or a ready Schedule, which takes no settings.
        settings: of the sampler, see `SamplerSettings`; a named setting takes `types` alone.

    Raises:
        SettingError: for a sampler or a setting that does not exist, or a value out of range.
    """
    if isinstance(sampler, Schedule):
        if settings:
            raise SettingError(f"a ready Schedule takes no further settings, but got {', '.join(settings)}")
        return sampler
    given: dict[str, Any] = dict(settings)
    if sampler in NAMED:
        name, fixed = NAMED[sampler]
        if more := sorted(set(given) - {"types"}):
            raise SettingError(
                f"{sampler!r} is a named setting, which takes no settings but types, and got {', '.join(more)}; "
                f"give sampler={name!r} to choose them"
            )
        sampler, given = name, fixed | given
    if sampler not in SAMPLERS:
        raise SettingError(f"no sampler {sampler!r}; there are {', '.join([*SAMPLERS, *NAMED])}")
    types = given.pop("types", TYPES[0])
    if types not in TYPES:
        raise SettingError(f"types is {' or '.join(map(repr, TYPES))}, not {types!r}")
    takes = SAMPLERS[sampler]
    if unknown := sorted(set(given) - takes):
        raise SettingError(f"the {sampler} sampler takes {', '.join(sorted(takes))}, not {', '.join(unknown)}")
    return replace(getattr(Schedule, sampler)(model.config, **given), keep_composition=types == "assigned")
