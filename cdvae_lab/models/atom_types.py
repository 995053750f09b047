"""Elements of the sites: chosen from the predicted composition, and assigned to the sites at every step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdvae_lab.models.aggregates import Aggregates
from cdvae_lab.models.cdvae import CDVAE


def predicted_types(
    model: CDVAE, aggregates: Aggregates, num_atoms: Int[Tensor, " crystals"] | None = None
) -> Int[Tensor, "crystals sites"]:
    """Choose the elements that a decoding starts with, among those that the model knows; 0 for no atom, at the end.

    Args:
        aggregates: what the model predicts from z.
        num_atoms: number of atoms, instead of the predicted one.
    """
    num_atoms = aggregates.num_atoms if num_atoms is None else num_atoms
    sites = int(num_atoms.max())
    composition = aggregates.composition_logits.masked_fill(~model.elements[1:], -torch.inf).softmax(-1)
    exists = torch.arange(sites, device=num_atoms.device) < num_atoms[:, None]
    return initial_types(composition, num_atoms, sites) * exists


def initial_types(
    composition: Float[Tensor, "crystals elements"], num_atoms: Int[Tensor, " crystals"], sites: int
) -> Int[Tensor, "crystals sites"]:
    """Round c * N to whole counts that add up to N by the largest remainders; the most frequent element comes first.

    The paper rounds and draws what is missing (section 4.3); the largest remainder is right more often where one atom
    is missing.
    """
    wanted = composition * num_atoms[:, None]
    counts = torch.floor(wanted)
    missing = num_atoms - counts.sum(-1).long()
    rank = (wanted - counts).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    counts, order = (counts + (rank < missing[:, None])).sort(dim=-1, descending=True, stable=True)
    ends = counts.long().cumsum(-1)
    site = torch.arange(sites, device=composition.device)
    place = (ends[:, None, :] <= site[:, None]).sum(-1)
    return torch.gather(order, 1, place.clamp_max(order.shape[1] - 1)) + 1


def assign_types(
    logits: Float[Tensor, "crystals sites elements"], atomic_numbers: Int[Tensor, "crystals sites"]
) -> Int[Tensor, "crystals sites"]:
    """Assign the same atomic numbers to the sites again, greedily: the most likely pair of site and element first.

    Nearly the assignment of greatest likelihood, without waiting for the device; padded sites stay padded.
    """
    exists = atomic_numbers > 0
    wanted = logits.log_softmax(-1)
    number = (atomic_numbers - 1).clamp_min(0)[:, None].expand(-1, logits.shape[1], -1)
    gain = torch.gather(wanted, 2, number)  # [crystal, site, place in the list of numbers]
    gain = gain.masked_fill(~(exists[:, :, None] & exists[:, None, :]), -torch.inf)
    assigned = torch.zeros_like(atomic_numbers)
    sites = logits.shape[1]
    places = torch.arange(sites, device=logits.device)
    for _ in range(sites):
        best, where = gain.flatten(1).max(-1)
        found = torch.isfinite(best)[:, None]
        site, place = (where // sites)[:, None] == places, (where % sites)[:, None] == places
        taken = (atomic_numbers * place).sum(1, keepdim=True)
        assigned = torch.where(found & site, taken, assigned)
        gain = gain.masked_fill(site[:, :, None] | place[:, None, :], -torch.inf)
    return assigned
