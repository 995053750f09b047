"""Composition model: an autoregressive distribution over compositions, learned from a data set.

Compositions are discrete, and a density over the continuous z blurs them. A small transformer that generates one
element after another, each with its number of atoms, does not. `CompositionModel.sample` draws compositions and
`log_prob` evaluates their log-likelihood. A `DiffusionPrior` that carries such a model draws the composition first and
then z given the composition.

A composition is a row of counts: `counts[i, Z - 1]` atoms of element Z in the cell of crystal i. Its sequence begins
with the number of atoms and their greatest common divisor (Ti2O4: 6 atoms, 2 formula units). The reduced formula
follows, element by element in the order of the groups of the periodic table, which is nearly the order of
electronegativity: the anions, whose number balances the charge, come last. Every composition has exactly one sequence,
and sequences that are no composition are masked, so that the probabilities of all compositions add up to 1.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals.elements import GROUPS, NUM_ELEMENTS, PERIODS, group_and_period
from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.models import noise
from cdvae_lab.models.configs import CompositionModelConfig
from cdvae_lab.models.display import Described
from cdvae_lab.models.noise import Stream
from cdvae_lab.models.seeds import check_seed

if TYPE_CHECKING:
    from cdvae_lab.datasets.dataset import Dataset

CHUNK_SIZE = 4096  # compositions per call of the network


@dataclass(frozen=True)
class FormulaSequences:
    """Compositions as sequences that the transformer reads and generates.

    Attributes:
        size: number of atoms in the cell.
        units: number of formula units in the cell, the greatest common divisor of the counts.
        ranks: index of each element in `CompositionModelConfig.elements`; after the last element, the length of
            `elements`.
        counts: number of atoms of each element in a formula unit; after the last element, 0.
    """

    size: Int[Tensor, " crystals"]
    units: Int[Tensor, " crystals"]
    ranks: Int[Tensor, "crystals places"]
    counts: Int[Tensor, "crystals places"]

    def prefix_state(self) -> tuple[Int[Tensor, "crystals places"], Int[Tensor, "crystals places"]]:
        """Compute, before every place, the remaining atoms of the formula unit and the divisor of the counts so far."""
        remaining, common = [self.size // self.units], [torch.zeros_like(self.size)]
        for count in self.counts.unbind(1)[:-1]:
            remaining.append(remaining[-1] - count)
            common.append(torch.gcd(common[-1], count))
        return torch.stack(remaining, 1), torch.stack(common, 1)

    def __getitem__(self, which: Int[Tensor, " some"]) -> FormulaSequences:
        return FormulaSequences(self.size[which], self.units[which], self.ranks[which], self.counts[which])


class Block(nn.Module):
    """Transformer block: causal self-attention and a perceptron, both residual, with layer norm before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.seen = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width))

    def forward(
        self, h: Float[Tensor, "crystals places width"], keep: Float[Tensor, "crystals 2 width"]
    ) -> Float[Tensor, "crystals places width"]:
        q, k, v = self.look(self.norm_1(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        later = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        weight = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(later, -torch.inf).softmax(-1)
        h = h + self.seen((weight @ v).transpose(1, 2).flatten(2)) * keep[:, None, 0]
        return h + self.hidden(self.norm_2(h)) * keep[:, None, 1]


class CompositionModel(Described):
    """Autoregressive distribution over compositions. `for_dataset` creates a model, `fit` trains it.

    For the 26,000 crystals of MP-20, 5,000 steps with a batch size of 256 and a learning rate of 2e-3 suffice
    (`ema_decay=0.998`): six minutes on one CPU core. The validation loss stops falling after 4,000 steps. Smaller data
    sets need fewer steps.
    """

    numbers: Tensor
    table: Tensor

    def __init__(self, config: CompositionModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict[str, Any] = {}
        known, width = len(c.elements), c.hidden_dim
        self.register_buffer("numbers", torch.tensor(c.elements), persistent=False)
        self.register_buffer("table", _table_features(c.elements), persistent=False)
        self.first = nn.Parameter(torch.zeros(c.max_atoms, c.max_atoms))  # logits of (size, units)
        self.sizes, self.units = nn.Embedding(c.max_atoms + 1, width), nn.Embedding(c.max_atoms + 1, width)
        # Elements of a group or period share an embedding, so that rare elements are learned from similar ones.
        self.own, self.shared = nn.Embedding(known + 1, width), nn.Linear(GROUPS + PERIODS + 1, width, bias=False)
        self.counts, self.remaining = nn.Embedding(c.max_atoms + 1, width), nn.Embedding(c.max_atoms + 1, width)
        self.places = nn.Embedding(c.max_elements, width)
        for part in (self.sizes, self.units, self.own, self.counts, self.remaining, self.places):
            nn.init.normal_(part.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, c.heads) for _ in range(c.blocks))
        self.norm = nn.LayerNorm(width)
        self.to_element = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(known))
        self.to_count = nn.Linear(width, width)
        self.count_head = nn.Sequential(nn.SiLU(), nn.Linear(width, c.max_atoms))

    @classmethod
    def for_dataset(cls, dataset: Dataset, seed: int = 0, **settings: Any) -> CompositionModel:
        """Create an untrained model with a data set's largest cell and elements.

        Args:
            dataset: the training data.
            seed: seed of the initial weights.
            settings: fields of `CompositionModelConfig`.

        Raises:
            SettingError: for settings out of range, or elements beyond Z = 100.
        """
        crystals = dataset.crystals
        elements = sorted(crystals.atomic_numbers[crystals.mask].unique().tolist(), key=group_and_period)
        most = int((element_counts(crystals.atomic_numbers) > 0).sum(1).max())
        sizes = {"max_atoms": int(crystals.num_atoms.max()), "max_elements": most}
        given: dict[str, Any] = {**sizes, "elements": elements, **settings}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(CompositionModelConfig(**given))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.numbers.device

    def sequences(self, counts: Int[Tensor, "crystals elements"]) -> FormulaSequences:
        """Convert counts of atoms to sequences; meaningless for compositions that `is_possible` refuses."""
        c = self.config
        known = len(c.elements)
        ordered = counts[:, self.numbers - 1]
        place = torch.arange(known, device=counts.device)
        early = torch.where(ordered > 0, known - place, 0)
        early = nn.functional.pad(early, (0, max(c.max_elements - known, 0))).topk(c.max_elements, 1).values
        ranks = known - early
        atoms = nn.functional.pad(ordered, (0, 1)).gather(1, ranks)
        units = torch.zeros_like(atoms[:, 0])
        for count in atoms.unbind(1):
            units = torch.gcd(units, count)
        units = units.clamp_min(1)
        return FormulaSequences(atoms.sum(1), units, ranks, atoms // units[:, None])

    def is_possible(self, counts: Int[Tensor, "crystals elements"]) -> Bool[Tensor, " crystals"]:
        """Test for 1 to `max_atoms` atoms, at most `max_elements` elements, and no elements but the known ones."""
        c = self.config
        total = counts.sum(1)
        known = counts[:, self.numbers - 1].sum(1) == total
        sized = (total >= 1) & (total <= c.max_atoms) & ((counts > 0).sum(1) <= c.max_elements)
        return known & sized & (counts >= 0).all(1)

    def log_prob(self, counts: Int[Tensor, "crystals elements"]) -> Float[Tensor, " crystals"]:
        """Evaluate log p(composition), in nats; minus infinity for compositions that `is_possible` refuses.

        Args:
            counts: number of atoms of each element Z = 1..100 in the cell, as `element_counts` returns them.
        """
        possible = self.is_possible(counts)
        some = torch.zeros_like(counts)
        some[:, self.numbers[0] - 1] = 1
        sequences = self.sequences(torch.where(possible[:, None], counts, some))
        parts = torch.arange(len(counts), device=counts.device).split(CHUNK_SIZE)
        logs = torch.cat([self.log_prob_of_sequences(sequences[part]) for part in parts])
        return torch.where(possible, logs, -torch.inf)

    def log_prob_of_sequences(
        self, sequences: FormulaSequences, keep: Float[Tensor, "crystals layers width"] | None = None
    ) -> Float[Tensor, " crystals"]:
        """Evaluate log p of compositions that are sequences already, in nats.

        Args:
            keep: dropout factors of every channel of every layer, the same at all places of a sequence ("variational
                dropout", Gal and Ghahramani 2016); None for no dropout.
        """
        remaining, common = sequences.prefix_state()
        h = self._network(sequences, remaining, keep)
        pair = (sequences.size - 1) * self.config.max_atoms + sequences.units - 1
        first = nn.functional.embedding(pair, self._size_log_p()[:, None])[:, 0]
        ranks = self._valid_ranks(sequences)
        element = self._element_log_p(h, sequences, remaining, common).gather(2, ranks[..., None])
        count = self._count_log_p(h, ranks, remaining, common)
        count = count.gather(2, (sequences.counts - 1).clamp_min(0)[..., None])
        return first + torch.where(remaining > 0, (element + count)[..., 0], 0).sum(1)

    @torch.no_grad()
    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Int[Tensor, "crystals elements"]:
        """Draw a composition for each crystal number, on the numbers' device: number of atoms of each Z = 1..100.

        A composition depends on (seed, crystal number) alone, not on the batch.

        Raises:
            SettingError: for a seed out of range.
        """
        check_seed(seed)
        # Rounding depends on the batch; in double precision it almost never moves a draw to another class.
        exact = copy.deepcopy(self).eval().to(numbers.device, torch.float64)
        return torch.cat([exact._sample(seed, part) for part in numbers.split(CHUNK_SIZE)])

    def _sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Int[Tensor, "crystals elements"]:
        c = self.config
        draw = noise.uniform(seed, Stream.FORMULA, numbers, 0, (c.max_elements + 1, 2), torch.float64)
        first = _draw_class(self._size_log_p().expand(len(numbers), -1), draw[:, 0, 0])
        size, units = first // c.max_atoms + 1, first % c.max_atoms + 1
        shape = (len(numbers), c.max_elements)
        ranks = torch.full(shape, len(c.elements), device=numbers.device)
        atoms = torch.zeros_like(ranks)
        sequences = FormulaSequences(size, units, ranks, atoms)  # ranks and atoms are filled in place below
        for place in range(c.max_elements):
            remaining, common = sequences.prefix_state()
            more = remaining[:, place] > 0
            h = self._network(sequences, remaining, None)
            rank = _draw_class(self._element_log_p(h, sequences, remaining, common)[:, place], draw[:, place + 1, 0])
            ranks[:, place] = torch.where(more, rank, len(c.elements))
            count_log_p = self._count_log_p(h, self._valid_ranks(sequences), remaining, common)[:, place]
            count = _draw_class(count_log_p, draw[:, place + 1, 1])
            atoms[:, place] = torch.where(more, count + 1, 0)
        counts = torch.zeros(len(numbers), NUM_ELEMENTS + 1, dtype=torch.int64, device=numbers.device)
        named = nn.functional.pad(self.numbers, (0, 1))[ranks]
        return counts.scatter_add_(1, named, atoms * units[:, None])[:, 1:]

    def save(self, path: str | Path, half: bool = False, **metadata: Any) -> Path:
        """Write the model to one safetensors file; arguments and errors are those of `checkpoints.save_model`."""
        from cdvae_lab.models.checkpoints import save_model  # imports this module

        return save_model(self, path, half, **metadata)

    def _valid_ranks(self, sequences: FormulaSequences) -> Int[Tensor, "crystals places"]:
        """Return ranks that can be gathered: those of no element become the last known element."""
        return sequences.ranks.clamp_max(len(self.config.elements) - 1)

    def _embedded(self) -> Float[Tensor, "elements width"]:
        """Compute embeddings of every element, followed by one for "no element"."""
        shared = self.shared(self.table.to(self.bias.dtype))
        return self.own.weight + nn.functional.pad(shared, (0, 0, 0, 1))

    def _network(
        self,
        sequences: FormulaSequences,
        remaining: Int[Tensor, "crystals places"],
        keep: Float[Tensor, "crystals layers width"] | None,
    ) -> Float[Tensor, "crystals places width"]:
        """Compute the hidden state at every place of a sequence, from number of atoms, formula units and prefix."""
        start = (self.sizes(sequences.size) + self.units(sequences.units))[:, None]
        past = nn.functional.embedding(sequences.ranks[:, :-1], self._embedded())
        past = past + self.counts(sequences.counts[:, :-1])
        h = torch.cat([start, past], 1) + self.remaining(remaining.clamp_min(0)) + self.places.weight
        factor = h.new_ones(len(h), 2 * len(self.blocks) + 1, h.shape[2]) if keep is None else keep
        h = h * factor[:, None, -1]
        for i, block in enumerate(self.blocks):
            h = block(h, factor[:, 2 * i : 2 * i + 2])
        return self.norm(h)

    def _size_log_p(self) -> Float[Tensor, " pairs"]:
        """Compute the joint log p of the number of atoms and of the number of formula units, which must divide it."""
        c = self.config
        size = torch.arange(1, c.max_atoms + 1, device=self.device)
        possible = size[:, None] % size == 0
        if min(c.max_elements, len(c.elements)) == 1:
            possible = size[:, None] == size  # a formula unit is one atom
        return self._log_p(self.first.flatten(), possible.flatten())

    def _max_following(self, rank: Int[Tensor, "..."], place: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Compute the largest number of elements that can follow an element of this rank at this place."""
        c = self.config
        return torch.minimum(len(c.elements) - 1 - rank, c.max_elements - 1 - place)

    def _element_log_p(
        self,
        h: Float[Tensor, "crystals places width"],
        sequences: FormulaSequences,
        remaining: Int[Tensor, "crystals places"],
        common: Int[Tensor, "crystals places"],
    ) -> Float[Tensor, "crystals places elements"]:
        """Compute log p of the element at every place, masked to elements that can complete the formula."""
        known = len(self.config.elements)
        logits = self.to_element(h) @ self._embedded()[:known].T + self.bias
        rank = torch.arange(known, device=h.device)
        place = torch.arange(h.shape[1], device=h.device)[:, None]
        last = nn.functional.pad(sequences.ranks[:, :-1], (1, 0), value=-1)
        # The last possible element takes all remaining atoms, which is a formula unit only without a common divisor.
        whole = torch.gcd(common, remaining) == 1
        possible = (rank > last[..., None]) & ((self._max_following(rank, place) > 0) | whole[..., None])
        # After a complete formula the result is not used, but a row of -inf would put NaN into the gradients.
        return self._log_p(logits, possible | (remaining <= 0)[..., None])

    def _count_log_p(
        self,
        h: Float[Tensor, "crystals places width"],
        rank: Int[Tensor, "crystals places"],
        remaining: Int[Tensor, "crystals places"],
        common: Int[Tensor, "crystals places"],
    ) -> Float[Tensor, "crystals places counts"]:
        """Compute log p of the number of atoms at every place, masked to counts that can complete the formula."""
        logits = self.count_head(self.to_count(h) + nn.functional.embedding(rank, self._embedded()))
        count = torch.arange(1, self.config.max_atoms + 1, device=h.device)
        left = self._max_following(rank, torch.arange(h.shape[1], device=h.device)[None])[..., None]
        rest = remaining[..., None] - count
        divisor = torch.gcd(torch.gcd(common[..., None], count), rest.clamp_min(0))
        # Two further elements can always bring the divisor to 1; a single one takes the whole rest, which must do so.
        possible = torch.where(rest > 0, (left > 1) | ((left == 1) & (divisor == 1)), (rest == 0) & (divisor == 1))
        return self._log_p(logits, possible | (remaining <= 0)[..., None])

    def _log_p(
        self, logits: Float[Tensor, "*places classes"], possible: Bool[Tensor, "*places classes"]
    ) -> Float[Tensor, "*places classes"]:
        """Compute log p of each possible choice, at the model's temperature; minus infinity for the others."""
        return (logits / self.config.temperature).masked_fill(~possible, -torch.inf).log_softmax(-1)


def _table_features(elements: Sequence[int]) -> Float[Tensor, "elements features"]:
    """Encode elements: one-hot group, one-hot period, and a flag for lanthanides and elements from actinium on."""
    rows = torch.zeros(len(elements), GROUPS + PERIODS + 1)
    for row, number in zip(rows, elements, strict=True):
        group, period = group_and_period(number)
        row[group - 1] = row[GROUPS + period - 1] = 1
        row[-1] = float(57 <= number <= 70 or number >= 89)
    return rows


def _draw_class(log_p: Float[Tensor, "crystals classes"], draw: Float[Tensor, " crystals"]) -> Int[Tensor, " crystals"]:
    """Draw a class of each distribution with a uniform number, by inverting the cumulative distribution."""
    return noise.draw_types(log_p.exp(), draw[:, None])[:, 0] - 1
