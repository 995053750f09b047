"""What crystals are made of: a distribution over compositions, learned from a data set.

Compositions are discrete, and a density over the continuous z blurs them; a small transformer that writes one element
after the other, each with its number of atoms, does not. `CompositionModel.sample` draws compositions, `log_prob` says
how usual one is, and a `DiffusionPrior` that carries such a model draws the composition first, and z given it.

A composition is a row of counts, `counts[i, Z - 1]` atoms of the element Z in the cell of crystal i. It is written as
the number of atoms and their greatest common divisor (Ti2O4: 6 atoms, 2 formula units), then the reduced formula,
element by element along the groups of the periodic table, which is nearly that of electronegativity: the anions, whose
number balances the charge, come last. No other sequence stands for the same composition, and none that stands for no
composition has a probability, so that the probabilities of all compositions add up to 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cdvae_lab.crystals.elements import NUM_ELEMENTS
from cdvae_lab.crystals.formulas import element_counts
from cdvae_lab.errors import SettingError
from cdvae_lab.models import noise
from cdvae_lab.models.display import Described
from cdvae_lab.models.noise import Stream

if TYPE_CHECKING:
    from cdvae_lab.datasets.tables import Dataset

AT_ONCE = 4096  # compositions
NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
GROUPS, PERIODS = 18, 7


@dataclass(frozen=True)
class CompositionModelConfig:
    """The settings of a `CompositionModel`; saved with it.

    Attributes:
        max_atoms: the largest number of atoms in a cell.
        max_elements: the largest number of elements in a crystal.
        elements: atomic numbers of those that occur, in the order in which a formula names them.
        hidden_dim, blocks, heads: of its transformer.
        dropout: share of the channels that training switches off.
        temperature: of its choices, whose logarithms of probability it divides. 1: what the data taught; below it,
            what is usual more often, which is less new.
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
class Written:
    """Compositions as the transformer writes them.

    Attributes:
        size: number of atoms in the cell.
        units: formula units in it, the greatest common divisor of the counts.
        ranks: places of the elements in `CompositionModelConfig.elements`; their number where there are no more.
        counts: atoms of them in a formula unit; 0 where there are no more.
    """

    size: Int[Tensor, " crystals"]
    units: Int[Tensor, " crystals"]
    ranks: Int[Tensor, "crystals places"]
    counts: Int[Tensor, "crystals places"]

    def before(self) -> tuple[Int[Tensor, "crystals places"], Int[Tensor, "crystals places"]]:
        """At every place, how many atoms of the formula unit are still to come, and the divisor of those so far."""
        remaining, common = [self.size // self.units], [torch.zeros_like(self.size)]
        for count in self.counts.unbind(1)[:-1]:
            remaining.append(remaining[-1] - count)
            common.append(torch.gcd(common[-1], count))
        return torch.stack(remaining, 1), torch.stack(common, 1)

    def __getitem__(self, which: Int[Tensor, " some"]) -> Written:
        return Written(self.size[which], self.units[which], self.ranks[which], self.counts[which])


class Block(nn.Module):
    """Causal self-attention and a hidden layer, each added to what was there (pre-norm)."""

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
    """A distribution over compositions. Build one with `CompositionModel.for_dataset` and train it with `fit`.

    For the 26,000 crystals of MP-20 5,000 steps of 256 at a learning rate of 2e-3 are enough (`ema_decay=0.998`), six
    minutes on one CPU core: after 4,000 the validation data gain nothing more. Fewer crystals need fewer steps.
    """

    numbers: Tensor
    table: Tensor

    def __init__(self, config: CompositionModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.metadata: dict = {}
        known, width = len(c.elements), c.hidden_dim
        self.register_buffer("numbers", torch.tensor(c.elements), persistent=False)
        self.register_buffer("table", _places_in_table(c.elements), persistent=False)
        self.first = nn.Parameter(torch.zeros(c.max_atoms, c.max_atoms))  # logits of (size, units)
        self.sizes, self.units = nn.Embedding(c.max_atoms + 1, width), nn.Embedding(c.max_atoms + 1, width)
        # Elements of a group, and of a period, have much in common, so that they need not be learned one by one.
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
    def for_dataset(cls, dataset: Dataset, seed: int = 0, **settings) -> CompositionModel:
        """An untrained model with the data set's sizes and elements.

        Args:
            seed: of the initial weights.
            settings: of `CompositionModelConfig`.

        Raises:
            SettingError: for settings out of range, or elements beyond Z = 100.
        """
        crystals = dataset.crystals
        elements = sorted(crystals.atomic_numbers[crystals.mask].unique().tolist(), key=group_and_period)
        most = int((element_counts(crystals.atomic_numbers) > 0).sum(1).max())
        given = {"max_atoms": int(crystals.num_atoms.max()), "max_elements": most, "elements": elements, **settings}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(CompositionModelConfig(**given))

    @property
    def device(self) -> torch.device:
        return self.numbers.device

    def written(self, counts: Int[Tensor, "crystals elements"]) -> Written:
        """Compositions as they are written; those that `is_possible` says are impossible come out as something else."""
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
        return Written(atoms.sum(1), units, ranks, atoms // units[:, None])

    def is_possible(self, counts: Int[Tensor, "crystals elements"]) -> Bool[Tensor, " crystals"]:
        """Whether a composition has atoms at all, not too many, of not too many elements, all of them known."""
        c = self.config
        total = counts.sum(1)
        known = counts[:, self.numbers - 1].sum(1) == total
        sized = (total >= 1) & (total <= c.max_atoms) & ((counts > 0).sum(1) <= c.max_elements)
        return known & sized & (counts >= 0).all(1)

    def log_prob(self, counts: Int[Tensor, "crystals elements"]) -> Float[Tensor, " crystals"]:
        """log p(composition), in nats; minus infinity for what `is_possible` refuses.

        Args:
            counts: atoms of the elements Z = 1..100 in a cell, as `element_counts` gives them.
        """
        possible = self.is_possible(counts)
        some = torch.zeros_like(counts)
        some[:, self.numbers[0] - 1] = 1
        written = self.written(torch.where(possible[:, None], counts, some))
        parts = torch.arange(len(counts), device=counts.device).split(AT_ONCE)
        logs = torch.cat([self.log_prob_written(written[part]) for part in parts])
        return torch.where(possible, logs, -torch.inf)

    def log_prob_written(
        self, written: Written, keep: Float[Tensor, "crystals layers width"] | None = None
    ) -> Float[Tensor, " crystals"]:
        """log p of compositions that are written already.

        Args:
            keep: what every channel of every layer is multiplied with in training (dropout); the same at all places
                (Gal and Ghahramani 2016, "variational dropout").
        """
        remaining, common = written.before()
        h = self._network(written, remaining, keep)
        pair = (written.size - 1) * self.config.max_atoms + written.units - 1
        first = nn.functional.embedding(pair, self._first()[:, None])[:, 0]
        element = self._elements(h, written, remaining, common).gather(2, self._real(written)[..., None])
        count = self._counts(h, self._real(written), remaining, common)
        count = count.gather(2, (written.counts - 1).clamp_min(0)[..., None])
        return first + torch.where(remaining > 0, (element + count)[..., 0], 0).sum(1)

    @torch.no_grad()
    def sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Int[Tensor, "crystals elements"]:
        """One composition for each crystal number, on the numbers' device: atoms of Z = 1..100 in the cell.

        The same for the same (seed, number), in whatever batch.

        Raises:
            SettingError: for a seed out of range.
        """
        noise.check_seed(seed)
        # In double precision rounding, which depends on the batch, all but never moves a draw to another class.
        exact = copy.deepcopy(self).eval().to(numbers.device, torch.float64)
        return torch.cat([exact._sample(seed, part) for part in numbers.split(AT_ONCE)])

    def _sample(self, seed: int, numbers: Int[Tensor, " crystals"]) -> Int[Tensor, "crystals elements"]:
        c = self.config
        draw = noise.uniform(seed, Stream.FORMULA, numbers, 0, (c.max_elements + 1, 2), torch.float64)
        first = _drawn(self._first().expand(len(numbers), -1), draw[:, 0, 0])
        size, units = first // c.max_atoms + 1, first % c.max_atoms + 1
        shape = (len(numbers), c.max_elements)
        ranks = torch.full(shape, len(c.elements), device=numbers.device)
        atoms = torch.zeros_like(ranks)
        written = Written(size, units, ranks, atoms)  # of which the places fill
        for place in range(c.max_elements):
            remaining, common = written.before()
            more = remaining[:, place] > 0
            h = self._network(written, remaining, None)
            rank = _drawn(self._elements(h, written, remaining, common)[:, place], draw[:, place + 1, 0])
            ranks[:, place] = torch.where(more, rank, len(c.elements))
            count = _drawn(self._counts(h, self._real(written), remaining, common)[:, place], draw[:, place + 1, 1])
            atoms[:, place] = torch.where(more, count + 1, 0)
        counts = torch.zeros(len(numbers), NUM_ELEMENTS + 1, dtype=torch.int64, device=numbers.device)
        named = nn.functional.pad(self.numbers, (0, 1))[ranks]
        return counts.scatter_add_(1, named, atoms * units[:, None])[:, 1:]

    def save(self, path: str | Path, half: bool = False, **metadata: Any) -> Path:
        """Write the model to one safetensors file; arguments and errors as of `checkpoints.save_model`."""
        from cdvae_lab.models.checkpoints import save_model  # which knows this class

        return save_model(self, path, half, **metadata)

    def _real(self, written: Written) -> Int[Tensor, "crystals places"]:
        """Ranks with some element where there are no more."""
        return written.ranks.clamp_max(len(self.config.elements) - 1)

    def _embedded(self) -> Float[Tensor, "elements width"]:
        """Every element, and after them none."""
        shared = self.shared(self.table.to(self.bias.dtype))
        return self.own.weight + nn.functional.pad(shared, (0, 0, 0, 1))

    def _network(
        self,
        written: Written,
        remaining: Int[Tensor, "crystals places"],
        keep: Float[Tensor, "crystals layers width"] | None,
    ) -> Float[Tensor, "crystals places width"]:
        """What is known at every place of the sequence: number of atoms, formula units, and what stands before."""
        start = (self.sizes(written.size) + self.units(written.units))[:, None]
        past = nn.functional.embedding(written.ranks[:, :-1], self._embedded()) + self.counts(written.counts[:, :-1])
        h = torch.cat([start, past], 1) + self.remaining(remaining.clamp_min(0)) + self.places.weight
        factor = h.new_ones(len(h), 2 * len(self.blocks) + 1, h.shape[2]) if keep is None else keep
        h = h * factor[:, None, -1]
        for i, block in enumerate(self.blocks):
            h = block(h, factor[:, 2 * i : 2 * i + 2])
        return self.norm(h)

    def _first(self) -> Float[Tensor, " pairs"]:
        """log p of the number of atoms and of formula units, which divides it."""
        c = self.config
        size = torch.arange(1, c.max_atoms + 1, device=self.device)
        possible = size[:, None] % size == 0
        if min(c.max_elements, len(c.elements)) == 1:
            possible = size[:, None] == size  # a formula unit is one atom
        return self._log_p(self.first.flatten(), possible.flatten())

    def _left(self, rank: Int[Tensor, "..."], place: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """How many elements may follow one."""
        c = self.config
        return torch.minimum(len(c.elements) - 1 - rank, c.max_elements - 1 - place)

    def _elements(
        self,
        h: Float[Tensor, "crystals places width"],
        written: Written,
        remaining: Int[Tensor, "crystals places"],
        common: Int[Tensor, "crystals places"],
    ) -> Float[Tensor, "crystals places elements"]:
        """log p of the element at every place; of those only that come after the last one and can end well."""
        known = len(self.config.elements)
        logits = self.to_element(h) @ self._embedded()[:known].T + self.bias
        rank = torch.arange(known, device=h.device)
        place = torch.arange(h.shape[1], device=h.device)[:, None]
        last = nn.functional.pad(written.ranks[:, :-1], (1, 0), value=-1)
        # The last possible element takes all that remains: a formula unit it is only without a common divisor.
        whole = torch.gcd(common, remaining) == 1
        possible = (rank > last[..., None]) & ((self._left(rank, place) > 0) | whole[..., None])
        # Where the formula is complete nothing is asked, but all -inf would put NaN into gradients.
        return self._log_p(logits, possible | (remaining <= 0)[..., None])

    def _counts(
        self,
        h: Float[Tensor, "crystals places width"],
        rank: Int[Tensor, "crystals places"],
        remaining: Int[Tensor, "crystals places"],
        common: Int[Tensor, "crystals places"],
    ) -> Float[Tensor, "crystals places counts"]:
        """log p of the count of the element that was chosen at every place; of those only that can end well."""
        logits = self.count_head(self.to_count(h) + nn.functional.embedding(rank, self._embedded()))
        count = torch.arange(1, self.config.max_atoms + 1, device=h.device)
        left = self._left(rank, torch.arange(h.shape[1], device=h.device)[None])[..., None]
        rest = remaining[..., None] - count
        divisor = torch.gcd(torch.gcd(common[..., None], count), rest.clamp_min(0))
        # Two more elements can always bring the divisor to 1, one only if the rest does, which it takes whole.
        possible = torch.where(rest > 0, (left > 1) | ((left == 1) & (divisor == 1)), (rest == 0) & (divisor == 1))
        return self._log_p(logits, possible | (remaining <= 0)[..., None])

    def _log_p(
        self, logits: Float[Tensor, "*places classes"], possible: Bool[Tensor, "*places classes"]
    ) -> Float[Tensor, "*places classes"]:
        """log p of each choice, of those that are possible."""
        return (logits / self.config.temperature).masked_fill(~possible, -torch.inf).log_softmax(-1)


def atoms_of(counts: Int[Tensor, "crystals elements"]) -> Int[Tensor, "crystals sites"]:
    """Atomic numbers of the atoms that are counted, in ascending order, padded with 0 (waits for the device)."""
    sites = max(int(counts.sum(1).max()), 1)
    last = counts.cumsum(1)
    site = torch.arange(sites, device=counts.device)
    number = (last[:, None] <= site[:, None]).sum(-1) + 1
    return torch.where(site < last[:, -1:], number, 0)


def group_and_period(atomic_number: int) -> tuple[int, int]:
    """Place of an element in the periodic table; lanthanides and actinides are in group 3."""
    period = next(i for i, last in enumerate(NOBLE) if atomic_number <= last)
    place, length = atomic_number - NOBLE[period - 1], NOBLE[period] - NOBLE[period - 1]
    if place <= 2 and length > 2:
        return place, period
    if length == 2:
        return (1 if place == 1 else 18), period
    return max(place + 18 - length, 3), period


def _places_in_table(elements: Sequence[int]) -> Float[Tensor, "elements features"]:
    """One-hot group and period, and whether 4f or 5f electrons make an element."""
    rows = torch.zeros(len(elements), GROUPS + PERIODS + 1)
    for row, number in zip(rows, elements, strict=True):
        group, period = group_and_period(number)
        row[group - 1] = row[GROUPS + period - 1] = 1
        row[-1] = float(57 <= number <= 70 or number >= 89)
    return rows


def _drawn(log_p: Float[Tensor, "crystals classes"], draw: Float[Tensor, " crystals"]) -> Int[Tensor, " crystals"]:
    """The class that a uniform number falls into."""
    return noise.draw_types(log_p.exp(), draw[:, None])[:, 0] - 1
