"""The Crystal Diffusion Variational Autoencoder (CDVAE).

Xie, Fu, Ganea, Barzilay and Jaakkola, "Crystal Diffusion Variational Autoencoder for Periodic Material Generation"
(ICLR 2022, arXiv 2110.06197), section 4. The model has three parts, which are trained together:

* `CDVAE.encode`, the periodic graph network PGNN_ENC: a crystal to a Gaussian q(z | crystal) over the latent z.
* `CDVAE.aggregates`, the multilayer perceptrons MLP_AGG: z to the number of atoms, the lattice and the composition.
* `CDVAE.predict_noise`, the periodic graph network PGNN_DEC: z and a noisy crystal to the score of every atom's
  position and the logits of its element.

To generate, draw z, build a cell of randomly placed atoms from its aggregates, and move them along the score while the
noise level decreases (`cdvae_lab.sampling.denoising`). To train, minimize the terms of `cdvae_lab.training.losses`.

See docs/explanation/algorithm.md, section 2; departures D1, D2, D6.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.neighbors import periodic_images
from cdvae_lab.errors import DatasetError
from cdvae_lab.models.aggregates import Aggregates, composition, scaled_parameters
from cdvae_lab.models.configs import CDVAEConfig
from cdvae_lab.models.diffusion_prior import DiffusionPrior
from cdvae_lab.models.display import Described
from cdvae_lab.models.noise import geometric_levels
from cdvae_lab.models.painn import PaiNN

if TYPE_CHECKING:
    from cdvae_lab.datasets.dataset import Dataset

NOISE_FREQUENCIES = 8  # sines, and as many cosines, of log sigma


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over z that the encoder predicts: q(z | crystal) = N(mu, exp(log_var)) (paper, section 4.1)."""

    mu: Float[Tensor, "crystals latent"]
    log_var: Float[Tensor, "crystals latent"]

    def sample(self, eps: Float[Tensor, "crystals latent"]) -> Float[Tensor, "crystals latent"]:
        """Sample by reparameterization: z = mu + exp(log_var / 2) * eps, with standard normal eps."""
        return self.mu + torch.exp(0.5 * self.log_var) * eps


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Create a perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class Head(nn.Module):
    """Perceptron with one hidden layer and a parallel linear path."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = mlp(inputs, hidden, outputs)
        self.linear = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Float[Tensor, "crystals inputs"]) -> Float[Tensor, "crystals outputs"]:
        return self.hidden(x) + self.linear(x)


class CDVAE(Described):
    """Crystal Diffusion Variational Autoencoder. `for_dataset` creates a model, `cdvae_lab.load` loads a trained one.

    Examples:
        >>> import cdvae_lab as lab
        >>> data = lab.datasets.load("synthetic_perovskites", limit=4)
        >>> model = lab.CDVAE.for_dataset(data, hidden_dim=8, latent_dim=4, head_dim=8)
        >>> model.encode(data.crystals).mu.shape
        torch.Size([4, 4])
    """

    lattice_mean: Tensor
    lattice_std: Tensor
    property_mean: Tensor
    property_std: Tensor
    elements: Tensor
    sigmas: Tensor
    type_sigmas: Tensor

    def __init__(self, config: CDVAEConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict[str, Any] = {}
        self.prior: DiffusionPrior | None = None  # learned prior over z, fitted after the model
        # From the training set: standardization, and which elements occur (departure D6).
        self.register_buffer("lattice_mean", torch.zeros(6))
        self.register_buffer("lattice_std", torch.ones(6))
        self.register_buffer("property_mean", torch.zeros(()))
        self.register_buffer("property_std", torch.ones(()))
        self.register_buffer("elements", torch.ones(NUM_ELEMENTS + 1, dtype=torch.bool))
        levels = geometric_levels(c.sigma_max, c.sigma_min, c.num_levels)
        type_levels = geometric_levels(c.type_sigma_max, c.type_sigma_min, c.num_levels)
        self.register_buffer("sigmas", levels.float(), persistent=False)
        self.register_buffer("type_sigmas", type_levels.float(), persistent=False)

        # PGNN_ENC (paper, section 4.1): a graph network, a mean over atoms, and linear maps to mu and log_var.
        self.encoder_types = nn.Embedding(NUM_ELEMENTS + 1, c.hidden_dim, padding_idx=0)
        self.encoder = PaiNN(c.hidden_dim, c.encoder_blocks, c.num_radial, c.cutoff)
        self.pool = mlp(c.hidden_dim, c.head_dim, c.latent_dim)
        seen = c.max_atoms + 1 + 6 + 2 * NUM_ELEMENTS if c.encoder_sees_aggregates else 0
        self.posterior_features = mlp(c.latent_dim + seen, c.head_dim, c.head_dim)
        self.to_mu = nn.Linear(c.head_dim, c.latent_dim)
        self.to_log_var = nn.Linear(c.head_dim, c.latent_dim)
        self.direct_to_mu = nn.Linear(seen, c.latent_dim, bias=False) if seen else None

        # MLP_AGG (paper, section 4.2).
        head = Head if c.encoder_sees_aggregates else mlp
        self.num_atoms_head = head(c.latent_dim, c.head_dim, c.max_atoms + 1)
        self.lattice_head = head(c.latent_dim, c.head_dim, 6)
        self.composition_head = head(c.latent_dim, c.head_dim, NUM_ELEMENTS)
        self.property_head = mlp(c.latent_dim, c.head_dim, 1)

        # PGNN_DEC (paper, section 4.3), conditioned on z and the noise level in every block (departure D2).
        self.condition = nn.Sequential(
            nn.Linear(c.latent_dim + 1 + 2 * NOISE_FREQUENCIES, c.head_dim),
            nn.SiLU(),
            nn.Linear(c.head_dim, c.head_dim),
            nn.SiLU(),
        )
        self.decoder_types = nn.Embedding(NUM_ELEMENTS + 1, c.hidden_dim, padding_idx=0)
        self.decoder_start = nn.Linear(c.head_dim, c.hidden_dim)
        self.decoder = PaiNN(c.hidden_dim, c.decoder_blocks, c.num_radial, c.cutoff, c.head_dim)
        self.score_gate = mlp(c.hidden_dim, c.hidden_dim, c.hidden_dim)
        self.type_head = mlp(c.hidden_dim, c.head_dim, NUM_ELEMENTS)

    @classmethod
    def for_dataset(cls, dataset: Dataset, seed: int = 0, **settings: Any) -> CDVAE:
        """Create an untrained model with a data set's largest cell, elements and standardization.

        Args:
            dataset: the training data.
            seed: seed of the initial weights.
            settings: fields of `CDVAEConfig`.

        Raises:
            DatasetError: for elements beyond Z = 100, for which a CDVAE has no class.
            SettingError: for settings out of range.
        """
        crystals = dataset.crystals
        if (heaviest := max(dataset.elements)) > NUM_ELEMENTS:
            raise DatasetError(
                f"{dataset.name}: has Z = {heaviest}, but a CDVAE has no classes beyond Z = {NUM_ELEMENTS}; leave its "
                "crystals out"
            )
        given: dict[str, Any] = {"max_atoms": int(crystals.num_atoms.max()), **settings}
        config = CDVAEConfig(**given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(config)
        parameters = scaled_parameters(crystals).cpu()  # the data may be on a GPU, a new model is not
        # All cubic cells have the same angles: dividing by a deviation of nearly 0 would amplify rounding errors.
        std = parameters.std(0, correction=0)
        model.lattice_mean.copy_(parameters.mean(0))
        model.lattice_std.copy_(torch.where(std < 1e-3, torch.ones_like(std), std))
        labels = dataset.labels[torch.isfinite(dataset.labels)].cpu()
        if len(labels) > 1:
            model.property_mean.copy_(labels.mean())
            model.property_std.copy_(labels.std(correction=0).clamp_min(1e-6))
        model.elements.zero_()
        model.elements[crystals.atomic_numbers[crystals.mask].unique().cpu()] = True
        return model

    def facts(self) -> dict[str, str]:
        """Facts to display: number of parameters, training data, dimension of z, and prior."""
        return super().facts() | {
            "latent_dim": str(self.config.latent_dim),
            "prior": "N(0, I)" if self.prior is None else "learned",
        }

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lattice_mean.device

    def standardized_lattice(self, crystals: Crystals) -> Float[Tensor, "crystals 6"]:
        """Compute the target of the lattice head: scaled lattice parameters, standardized."""
        return (scaled_parameters(crystals) - self.lattice_mean) / self.lattice_std

    def atom_features(
        self,
        crystals: Crystals,
        images: Float[Tensor, "crystals images 3"] | None = None,
        num_neighbors: int | None = None,
    ) -> Float[Tensor, "crystals sites hidden"]:
        """Compute the encoder's invariant features of every atom, before pooling.

        Args:
            images: periodic images as `periodic_images` lists them; by default computed here.
            num_neighbors: largest number of neighbors; by default the model's.
        """
        c = self.config
        if images is None:
            images = periodic_images(crystals.lattice, c.cutoff)
        k = c.num_neighbors if num_neighbors is None else num_neighbors
        basis = self.encoder.basis_for(crystals, images, k, c.cutoff)
        return self.encoder(self.encoder_types(crystals.atomic_numbers), basis, crystals.mask)[0]

    def encode(self, crystals: Crystals, images: Float[Tensor, "crystals images 3"] | None = None) -> Posterior:
        """Predict q(z | crystal) (PGNN_ENC; paper, section 4.1).

        It is invariant to rotation, translation, permutation of the atoms, and padding.

        Args:
            images: periodic images as `periodic_images` lists them; by default computed here.
        """
        pooled = masked_mean(self.pool(self.atom_features(crystals, images)), crystals.mask)
        if self.direct_to_mu is None:
            features = self.posterior_features(pooled)
            return Posterior(self.to_mu(features), self.to_log_var(features))
        seen = self.encoder_aggregates(crystals).to(pooled.dtype)
        features = self.posterior_features(torch.cat([pooled, seen], -1))
        return Posterior(self.to_mu(features) + self.direct_to_mu(seen), self.to_log_var(features))

    def encoder_aggregates(self, crystals: Crystals) -> Float[Tensor, "crystals aggregates"]:
        """Compute the aggregates that the encoder receives: number of atoms, lattice, composition, elements present.

        The number of atoms is one-hot and the presence of an element is 0 or 1, since the heads must tell 11 atoms from
        12 in z, and a small share of an element from none.
        """
        shares = composition(crystals, crystals.lattice.dtype)
        classes = torch.arange(self.config.max_atoms + 1, device=shares.device)
        count = crystals.num_atoms[:, None] == classes
        return torch.cat(
            [count.to(shares.dtype), self.standardized_lattice(crystals), shares, (shares > 0).to(shares.dtype)], -1
        )

    def aggregates(self, z: Float[Tensor, "crystals latent"]) -> Aggregates:
        """Predict number of atoms, lattice, composition and property from z (MLP_AGG; paper, section 4.2)."""
        return Aggregates(
            self.num_atoms_head(z), self.lattice_head(z), self.composition_head(z), self.property_head(z).squeeze(-1)
        )

    def predict_lattice(
        self, aggregates: Aggregates, num_atoms: Int[Tensor, " crystals"] | None = None
    ) -> Float[Tensor, "crystals 3 3"]:
        """Build a valid lattice (Å) from the lattice head's prediction.

        Args:
            num_atoms: number of atoms that the lengths are scaled with; by default the most likely one.
        """
        count = (aggregates.num_atoms if num_atoms is None else num_atoms)[:, None]
        parameters = aggregates.lattice_parameters * self.lattice_std + self.lattice_mean
        lengths = parameters[:, :3] * count.to(parameters.dtype) ** (1 / 3)
        return lat.from_parameters(*lat.possible_parameters(lengths, parameters[:, 3:]))

    def predict_property(self, z: Float[Tensor, "crystals latent"]) -> Float[Tensor, " crystals"]:
        """Predict the property from z, in the unit of the training set's labels."""
        return self.property_head(z).squeeze(-1) * self.property_std + self.property_mean

    def predict_noise(
        self,
        crystals: Crystals,
        z: Float[Tensor, "crystals latent"],
        sigma: Float[Tensor, " crystals"],
        images: Float[Tensor, "crystals images 3"] | None = None,
        keep: Float[Tensor, "crystals blocks 2 hidden"] | None = None,
    ) -> tuple[Float[Tensor, "crystals sites 3"], Float[Tensor, "crystals sites elements"]]:
        """Predict the coordinate noise and the element of every atom of noisy crystals (PGNN_DEC; paper, section 4.3).

        Args:
            z: latents that the decoder is conditioned on.
            sigma: noise level of the coordinates, Å.
            images: periodic images as `periodic_images` lists them; by default computed here.
            keep: dropout factors of training, as for `PaiNN.forward`.

        Returns:
            p, without unit: p / sigma is the score, the gradient of log p(coordinates) in 1/Å. And the logits of the
            elements Z = 1..100 of every atom.
        """
        c = self.config
        if images is None:
            images = periodic_images(crystals.lattice, c.cutoff)
        basis = self.decoder.basis_for(crystals, images, c.num_neighbors, c.cutoff)
        condition = self.condition(torch.cat([z, self.embed_noise(sigma)], -1))
        start = self.decoder_types(crystals.atomic_numbers) + self.decoder_start(condition)[:, None]
        s, v = self.decoder(start, basis, crystals.mask, condition, keep)
        p = (v * self.score_gate(s)[..., None, :]).sum(-1) * s.shape[-1] ** -0.5
        return p, self.type_head(s)

    def save(self, path: str | Path, half: bool = False, **metadata: Any) -> Path:
        """Write the model to one safetensors file; arguments and errors are those of `checkpoints.save_model`."""
        from cdvae_lab.models.checkpoints import save_model  # imports this module

        return save_model(self, path, half, **metadata)

    def embed_noise(self, sigma: Float[Tensor, " crystals"]) -> Float[Tensor, "crystals features"]:
        """Embed noise levels: log sigma, scaled to [-1, 1] over the model's range, and its sines and cosines."""
        low, high = torch.log(self.sigmas[-1]), torch.log(self.sigmas[0])
        x = (2 * (torch.log(sigma) - low) / (high - low) - 1)[:, None]
        angles = x * torch.pi * 2.0 ** torch.arange(-1, NOISE_FREQUENCIES - 1, device=x.device).mul(0.5)
        return torch.cat([x, torch.sin(angles), torch.cos(angles)], -1)


def masked_mean(
    x: Float[Tensor, "crystals sites *features"], mask: Bool[Tensor, "crystals sites"]
) -> Float[Tensor, "crystals *features"]:
    """Average features over the atoms of each crystal."""
    weight = mask.to(x.dtype) / mask.sum(1, keepdim=True)
    return (x * weight.reshape(*weight.shape, *[1] * (x.ndim - 2))).sum(1)
