"""Settings of the networks, stored in their checkpoints. Importing them does not import torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.errors import SettingError


@dataclass(frozen=True)
class CDVAEConfig:
    """Settings of a CDVAE, stored in its checkpoint.

    Attributes:
        max_atoms: largest number of atoms in a cell; the number-of-atoms head has classes 0 to max_atoms.
        latent_dim: dimension of z.
        hidden_dim: number of scalar features, and of vector features, per atom.
        encoder_blocks, decoder_blocks: message-passing blocks of the two graph networks.
        head_dim: width of the hidden layers of the heads, and of the vector that conditions the decoder.
        num_radial: number of Gaussians that expand a distance.
        cutoff: largest distance between neighbors, Å.
        num_neighbors: largest number of neighbors of an atom, nearest periodic images first; 0 for all within the
            cutoff.
        encoder_sees_aggregates: whether the encoder also receives the number of atoms, the standardized lattice and the
            composition, beside the pooled atom features: a mean over atoms cannot count them. They are then added to
            mu by a linear map as well, and the heads have a linear path beside their hidden layer. Linear maps
            extrapolate to combinations that the training set lacks, where a hidden layer memorizes (departure D1).
        sigma_max, sigma_min: largest and smallest noise level of the coordinates, Å.
        type_sigma_max, type_sigma_min: largest and smallest noise level of the elements, without unit.
        num_levels: number of noise levels in the geometric sequences between these.
        decoder_dropout: share of the hidden channels of the decoder's blocks that training sets to zero
            (`PaiNN.forward`).
    """

    max_atoms: int
    latent_dim: int = 256
    hidden_dim: int = 128
    encoder_blocks: int = 3
    decoder_blocks: int = 5
    head_dim: int = 256
    num_radial: int = 24
    cutoff: float = 7.0
    num_neighbors: int = 20
    encoder_sees_aggregates: bool = True
    sigma_max: float = 10.0
    sigma_min: float = 0.01
    type_sigma_max: float = 5.0
    type_sigma_min: float = 0.01
    num_levels: int = 50
    decoder_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_atoms", "latent_dim", "hidden_dim", "encoder_blocks", "decoder_blocks", "head_dim"):
            if getattr(self, name) < 1:
                raise SettingError(f"CDVAEConfig.{name} must be at least 1, not {getattr(self, name)}")
        if self.num_radial < 2 or self.num_neighbors < 0 or self.num_levels < 2 or not self.cutoff > 0:
            raise SettingError("CDVAEConfig needs num_radial >= 2, num_neighbors >= 0, num_levels >= 2 and cutoff > 0")
        if not (0 < self.sigma_min < self.sigma_max and 0 < self.type_sigma_min < self.type_sigma_max):
            raise SettingError("CDVAEConfig needs 0 < sigma_min < sigma_max, for coordinates and for types")
        if not 0 <= self.decoder_dropout < 1:
            raise SettingError(f"CDVAEConfig.decoder_dropout must be 0 or more and below 1, not {self.decoder_dropout}")


@dataclass(frozen=True)
class PropertyModelConfig:
    """Settings of a `PropertyModel`, stored in its file; the fields mean the same as in `CDVAEConfig`."""

    hidden_dim: int = 128
    blocks: int = 4
    num_radial: int = 24
    cutoff: float = 7.0
    num_neighbors: int = 0

    def __post_init__(self) -> None:
        if self.hidden_dim < 1 or self.blocks < 1 or self.num_radial < 2 or self.num_neighbors < 0:
            raise SettingError(
                "PropertyModelConfig needs hidden_dim and blocks >= 1, num_radial >= 2 and num_neighbors >= 0"
            )
        if not self.cutoff > 0:
            raise SettingError(f"PropertyModelConfig needs a cutoff above 0 Å, not {self.cutoff}")


@dataclass(frozen=True)
class CompositionModelConfig:
    """Settings of a `CompositionModel`, stored in its file.

    Attributes:
        max_atoms: largest number of atoms in a cell.
        max_elements: largest number of elements in a crystal.
        elements: atomic numbers of the elements that occur, in the order of the sequences.
        hidden_dim, blocks, heads: width, number of blocks and attention heads of the transformer.
        dropout: share of the channels that training sets to zero.
        temperature: divisor of the logits of every choice. 1 gives the learned distribution; below 1, compositions of
            high likelihood are drawn more often, and novel ones less often.
    """

    max_atoms: int
    max_elements: int
    elements: Sequence[int]
    hidden_dim: int = 96
    blocks: int = 4
    heads: int = 4
    dropout: float = 0.2
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))  # JSON has lists only
        if min(self.max_atoms, self.max_elements, self.hidden_dim, self.blocks, self.heads) < 1:
            raise SettingError(
                "CompositionModelConfig needs max_atoms, max_elements, hidden_dim, blocks and heads >= 1"
            )
        if self.hidden_dim % self.heads or not 0 <= self.dropout < 1:
            raise SettingError("CompositionModelConfig needs hidden_dim a multiple of heads, and 0 <= dropout < 1")
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"CompositionModelConfig: temperature must be above 0, not {self.temperature}")
        known = set(self.elements)
        if not known or len(known) < len(self.elements) or not known <= set(range(1, NUM_ELEMENTS + 1)):
            raise SettingError(
                f"CompositionModelConfig.elements must be different atomic numbers of 1 to {NUM_ELEMENTS}"
            )


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """Settings of a `DiffusionPrior`, stored in its file.

    Attributes:
        latent_dim: dimension of z.
        hidden_dim, blocks: width and number of blocks of the network.
        sigma_max, sigma_min: noise levels at which sampling starts and ends, in standard deviations of the latents.
        steps: steps of the sampler, with two calls of the network each.
        churn: amount of noise that the sampler adds before each step (S_churn of Karras et al. 2022, algorithm 2); 0
            follows the probability flow. The flow keeps every error of the network; fresh noise lets later steps
            correct it.
        sigma_score: noise level of the score that searches use: large enough to reach from crystal to crystal.
        posterior_share: fraction of the posteriors' deviation in the latents that the prior learns. 1: samples of the
            posteriors; less: latents nearer their means, from which the heads predict number of atoms and composition
            more reliably.
        composition: settings of the composition model that the prior is conditional on; None if it is not conditional.
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
        """Create the settings from the JSON of a file."""
        composition = fields.pop("composition", None)
        return cls(**fields, composition=composition and CompositionModelConfig(**composition))
