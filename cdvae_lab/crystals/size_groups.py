"""Groups of crystals of similar size: a network computes each group alone, so that padding costs little.

A batch is padded to its largest crystal, and a call of a network costs as much as the padded pairs of atoms, plus a
constant. MP-20's crystals have 10.3 atoms on average and up to 20: of the 400 pairs of a padded crystal two thirds hold
no atoms. In groups one in ten is padding on a GPU, and hardly any on a CPU.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals

# Pairs of atoms that take as long as the constant part of a call, by type of device (the GPU's is estimated).
PAIRS_PER_CALL = {"cpu": 150, "cuda": 5000}
# Pairs of atoms in one group where memory must be bounded: about 10 kB each in a network of 256 features.
MAX_PAIRS = 1 << 17


@dataclass(frozen=True, eq=False)
class SizeGroup:
    """Crystals of a batch that a network computes together.

    Attributes:
        rows: their numbers in the batch.
        sites: number of sites that they are padded to.
    """

    rows: Int[Tensor, " members"]
    sites: int

    def of(self, crystals: Crystals) -> Crystals:
        """Choose the group's crystals from the batch, without the sites that none of them needs."""
        return Crystals(
            crystals.frac_coords[self.rows, : self.sites],
            crystals.atomic_numbers[self.rows, : self.sites],
            crystals.lattice[self.rows],
        )


def size_groups(num_atoms: Int[Tensor, " crystals"], max_pairs: int | None = None) -> tuple[SizeGroup, ...]:
    """Divide a batch into the groups whose calls take the least time in all (a synchronization on a GPU).

    The time of a group is its padded pairs plus `PAIRS_PER_CALL`. Groups are in order of size, and their crystals in
    the order of the batch.

    Args:
        num_atoms: number of atoms of each crystal.
        max_pairs: largest number of padded pairs in a group, to bound memory; a larger crystal is a group of its own.
    """
    device = num_atoms.device
    overhead = PAIRS_PER_CALL.get(device.type, PAIRS_PER_CALL["cuda"])
    by_size, order = num_atoms.cpu().sort(stable=True)
    sizes, counts = (x.tolist() for x in by_size.unique_consecutive(return_counts=True))
    # The best division of the smallest sizes, one size more at a time: its time, and where its last group starts.
    times, starts = [0], [0]
    for end in range(1, len(sizes) + 1):
        options = [
            (times[start] + overhead + sum(counts[start:end]) * sizes[end - 1] ** 2, start) for start in range(end)
        ]
        time, start = min(options)
        times.append(time)
        starts.append(start)
    ends = [len(sizes)]
    while ends[-1] > 0:
        ends.append(starts[ends[-1]])
    offsets = [0, *itertools.accumulate(counts)]
    groups: list[SizeGroup] = []
    for start, end in itertools.pairwise(offsets[place] for place in reversed(ends)):
        at_once = end - start if max_pairs is None else max(1, max_pairs // int(by_size[end - 1]) ** 2)
        groups.extend(
            SizeGroup(order[part].sort().values.to(device), int(by_size[part[-1]]))
            for part in torch.arange(start, end).split(at_once)
        )
    return tuple(groups)
