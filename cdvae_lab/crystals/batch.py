"""`Crystals`: a frozen batch of periodic crystals.

Crystals of different sizes share one batch by padding: every tensor is dense, (crystals, sites, ...),
and a site whose atomic number is 0 holds no atom. A batch is therefore chosen from a whole data set by
one index tensor, on the device where the data set lives, without a loop over crystals and without
a data-dependent shape; that is what makes CUDA graphs possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.errors import CrystalError

if TYPE_CHECKING:
    from pathlib import Path

    from pymatgen.core import Structure


@dataclass(frozen=True)
class Crystals:
    """A batch of periodic crystals, padded to a common number of sites.

    Attributes:
        frac_coords: fractional coordinates; 0 at padded sites.
        atomic_numbers: 1-based atomic numbers; 0 marks a padded site. Padding is always at the end.
        lattice: the three lattice vectors as *rows*, in Å.
    """

    frac_coords: Float[Tensor, "crystals sites 3"]
    atomic_numbers: Int[Tensor, "crystals sites"]
    lattice: Float[Tensor, "crystals 3 3"]

    @classmethod
    def from_lists(
        cls,
        frac_coords: Sequence[Float[Tensor, "_ 3"]],
        atomic_numbers: Sequence[Int[Tensor, " _"]],
        lattice: Float[Tensor, "crystals 3 3"],
    ) -> Crystals:
        """Pad one (atoms, 3) and one (atoms,) tensor per crystal into a batch."""
        if not len(frac_coords) == len(atomic_numbers) == len(lattice) > 0:
            raise CrystalError(
                f"a batch needs the same number of crystals, at least one, in every field; got "
                f"{len(frac_coords)} frac_coords, {len(atomic_numbers)} atomic_numbers, {len(lattice)} lattice"
            )
        for number, (x, a) in enumerate(zip(frac_coords, atomic_numbers, strict=True)):
            if len(x) != len(a) or len(a) == 0 or int(a.min()) < 1:
                raise CrystalError(
                    f"crystal {number} needs one atomic number >= 1 for each of its atoms, at least one; got "
                    f"{len(x)} positions and atomic_numbers {a.tolist()}"
                )
        pad = torch.nn.utils.rnn.pad_sequence
        return cls(pad(list(frac_coords), batch_first=True), pad(list(atomic_numbers), batch_first=True), lattice)

    @classmethod
    def cat(cls, batches: Sequence[Crystals]) -> Crystals:
        """One batch of all the crystals, in order."""
        if not batches:
            raise CrystalError("cannot concatenate an empty sequence of batches")
        sites = max(b.num_sites for b in batches)
        padded = [b.pad(sites) for b in batches]
        return cls(
            torch.cat([b.frac_coords for b in padded]),
            torch.cat([b.atomic_numbers for b in padded]),
            torch.cat([b.lattice for b in padded]),
        )

    def __len__(self) -> int:
        return self.atomic_numbers.shape[0]

    def __getitem__(self, which: int | slice | Tensor | Sequence[int]) -> Crystals:
        """Some of the crystals, always as a batch: one number gives a batch of one."""
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"crystal {which} of a batch of {len(self)}")
            which = slice(which, which + 1) if which != -1 else slice(-1, None)
        elif not isinstance(which, slice | Tensor):
            which = torch.as_tensor(which, device=self.device)
        elif isinstance(which, Tensor) and which.ndim == 0:
            which = which[None]
        return Crystals(self.frac_coords[which], self.atomic_numbers[which], self.lattice[which])

    @property
    def device(self) -> torch.device:
        return self.lattice.device

    @property
    def num_sites(self) -> int:
        """The padded number of sites that the crystals of this batch share."""
        return self.atomic_numbers.shape[1]

    @property
    def mask(self) -> Bool[Tensor, "crystals sites"]:
        """True where a site holds an atom."""
        return self.atomic_numbers > 0

    @property
    def num_atoms(self) -> Int[Tensor, " crystals"]:
        """Number of atoms of each crystal."""
        return self.mask.sum(1)

    @property
    def crystal_index(self) -> Int[Tensor, " atoms"]:
        """The crystal that each atom belongs to, for flat layouts (reads sizes: a synchronization on a GPU)."""
        return self.mask.nonzero()[:, 0]

    def replace(self, **fields: Tensor) -> Crystals:
        """The same batch with other fields."""
        return replace(self, **fields)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Crystals:
        """The same batch on another device or with another float type."""
        return Crystals(
            self.frac_coords.to(device=device, dtype=dtype),
            self.atomic_numbers.to(device=device),
            self.lattice.to(device=device, dtype=dtype),
        )

    def pad(self, sites: int) -> Crystals:
        """The same crystals padded to at least `sites` sites."""
        extra = sites - self.num_sites
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        return self.replace(
            frac_coords=pad(self.frac_coords, (0, 0, 0, extra)), atomic_numbers=pad(self.atomic_numbers, (0, extra))
        )

    def trim(self) -> Crystals:
        """The same crystals with no more sites than the largest needs (a synchronization on a GPU)."""
        sites = int(self.num_atoms.max())
        return self.replace(frac_coords=self.frac_coords[:, :sites], atomic_numbers=self.atomic_numbers[:, :sites])

    # Leaving the lab: `convert` does the work; these are here because that is where users look for them.

    def to_structures(self) -> list[Structure]:
        """pymatgen Structures, one per crystal; see `cdvae_lab.io.convert.to_structures`."""
        from cdvae_lab.io import convert

        return convert.to_structures(self)

    def to_ase(self) -> list:
        """ASE Atoms, one per crystal; see `cdvae_lab.io.convert.to_ase`."""
        from cdvae_lab.io import convert

        return convert.to_ase(self)

    def to_pyg(self) -> list:
        """torch-geometric Data, one per crystal; see `cdvae_lab.io.convert.to_pyg`."""
        from cdvae_lab.io import convert

        return convert.to_pyg(self)

    def write_cif(self, folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write one CIF per crystal; see `cdvae_lab.io.convert.write`."""
        from cdvae_lab.io import convert

        return convert.write(self, folder, "cif", names)

    def write_poscar(self, folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write one POSCAR per crystal; see `cdvae_lab.io.convert.write`."""
        from cdvae_lab.io import convert

        return convert.write(self, folder, "poscar", names)

    def write_extxyz(self, path: str | Path) -> Path:
        """Write all crystals to one extended XYZ file; see `cdvae_lab.io.convert.write_extxyz`."""
        from cdvae_lab.io import convert

        return convert.write_extxyz(self, path)

    def save_npz(self, path: str | Path) -> Path:
        """Write all crystals to one .npz file in the layout of the CDVAE paper's code; see `cdvae_lab.io.npz`."""
        from cdvae_lab.io import npz

        return npz.save(self, path)

    @classmethod
    def load_npz(cls, path: str | Path) -> Crystals:
        """Crystals from such a file, as they are; see `cdvae_lab.io.npz.load`."""
        from cdvae_lab.io import npz

        return npz.load(path)
