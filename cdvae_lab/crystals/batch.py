"""`Crystals`: a frozen batch of periodic crystals.

Crystals of different sizes share one batch by padding: every tensor is dense, (crystals, sites, ...),
and a site whose atomic number is 0 holds no atom. A batch is therefore chosen from a whole data set by
one index tensor, on the device where the data set lives, without a loop over crystals and without
a data-dependent shape; that is what makes CUDA graphs possible.
"""

# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.indexing import Index, chosen_rows
from cdvae_lab.errors import CrystalError

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms
    from nglview import NGLWidget
    from pymatgen.core import Structure
    from torch_geometric.data import Data

SHOWN_FORMULAS = 4  # of a batch, in its text


@dataclass(frozen=True, eq=False, repr=False)
class Crystals:
    """A batch of periodic crystals, padded to a common number of sites.

    Example:
        >>> import torch
        >>> from cdvae_lab import Crystals
        >>> caesium_chloride = Crystals(
        ...     frac_coords=torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]]),
        ...     atomic_numbers=torch.tensor([[55, 17]]),
        ...     lattice=4.12 * torch.eye(3)[None],
        ... )
        >>> caesium_chloride
        Crystals(1 of 2 atoms: CsCl)
        >>> caesium_chloride.to_structures()[0].get_space_group_info()
        ('Pm-3m', 221)

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
        """Pad crystals of different sizes into a batch.

        Args:
            frac_coords: fractional coordinates of each crystal.
            atomic_numbers: atomic numbers of each crystal, without padding.
            lattice: lattices with vectors as rows, Å.

        Raises:
            CrystalError: for fields of different lengths, or a crystal without atoms.
        """
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
        """Concatenate batches into one, in order.

        Raises:
            CrystalError: for an empty sequence.
        """
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

    def __getitem__(self, which: Index) -> Crystals:
        """Select crystals, always as a batch: a number gives a batch of one, an empty list an empty batch.

        Raises:
            IndexError: for a number that no crystal has, or a mask of another length.
            TypeError: if `which` is neither a number, a slice, a sequence of numbers nor a mask.
        """
        rows = chosen_rows(which, len(self), self.device)
        return Crystals(self.frac_coords[rows], self.atomic_numbers[rows], self.lattice[rows])

    def __eq__(self, other: object) -> bool:
        """Compare crystal by crystal, exactly; padding and device do not count, the float type does.

        A crystal with a number that is not finite is equal to none.
        """
        if not isinstance(other, Crystals):
            return NotImplemented
        ours, theirs = self._comparable(), other._comparable()
        same_kind = all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
        return same_kind and all(bool((a == b).all()) for a, b in zip(ours, theirs, strict=True))

    def __hash__(self) -> int:
        _, numbers, _ = self._comparable()
        return hash((tuple(numbers.shape), numbers.numpy().tobytes()))

    def _comparable(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tensors without padding, on the CPU."""
        trimmed = self.to("cpu").trim()
        frac_coords = trimmed.frac_coords.masked_fill(~trimmed.mask[..., None], 0.0)
        return frac_coords.detach(), trimmed.atomic_numbers.long(), trimmed.lattice.detach()

    def __repr__(self) -> str:
        from cdvae_lab.crystals.formulas import reduced_formulas

        if len(self) == 0:
            return "Crystals(none)"
        few = min(len(self), SHOWN_FORMULAS)
        formulas = ", ".join(reduced_formulas(self[:few])) + (", ..." if len(self) > few else "")
        atoms = self.num_atoms
        least, most = int(atoms.min()), int(atoms.max())
        size = f"{most} atom{'s' * (most != 1)}" if least == most else f"{least} to {most} atoms"
        where = "" if self.device.type == "cpu" else f", on {self.device}"
        return f"Crystals({len(self):,} of {size}: {formulas}{where})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Represent the batch as text and, for notebooks, pictures of the first crystals."""
        from cdvae_lab.render import notebook

        return {"text/plain": repr(self), "text/html": notebook.pictures_html(self)}

    @property
    def device(self) -> torch.device:
        """Device of all tensors of the batch."""
        return self.lattice.device

    @property
    def num_sites(self) -> int:
        """Number of sites, padding included, that the crystals of this batch share."""
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
        """Number of the crystal that each atom belongs to, for flat layouts (a synchronization on a GPU)."""
        return self.mask.nonzero()[:, 0]

    def replace(self, **fields: Tensor) -> Crystals:
        """Copy the batch with other fields."""
        return replace(self, **fields)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Crystals:
        """Move the batch to another device or convert it to another float type."""
        return Crystals(
            self.frac_coords.to(device=device, dtype=dtype),
            self.atomic_numbers.to(device=device),
            self.lattice.to(device=device, dtype=dtype),
        )

    def pad(self, sites: int) -> Crystals:
        """Pad the crystals to at least `sites` sites."""
        extra = sites - self.num_sites
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        return self.replace(
            frac_coords=pad(self.frac_coords, (0, 0, 0, extra)), atomic_numbers=pad(self.atomic_numbers, (0, extra))
        )

    def trim(self) -> Crystals:
        """Remove the sites that no crystal needs (a synchronization on a GPU)."""
        sites = int(self.num_atoms.max()) if len(self) else 0
        return self.replace(frac_coords=self.frac_coords[:, :sites], atomic_numbers=self.atomic_numbers[:, :sites])

    # Conversion, by `cdvae_lab.io.convert`. Users expect these as methods of a batch.

    @classmethod
    def from_structures(cls, structures: Iterable[Structure], *, primitive: bool = False) -> Crystals:
        """Create a batch from pymatgen Structures, as `cdvae_lab.io.convert.from_structures` does."""
        from cdvae_lab.io import convert

        return convert.from_structures(structures, primitive=primitive)

    def to_nglview(self, which: int = 0) -> NGLWidget:
        """Show one crystal in an nglview widget; see `cdvae_lab.io.convert.to_nglview`."""
        from cdvae_lab.io import convert

        return convert.to_nglview(self, which)

    def to_structures(self) -> list[Structure]:
        """Convert to pymatgen Structures, one per crystal; see `cdvae_lab.io.convert.to_structures`."""
        from cdvae_lab.io import convert

        return convert.to_structures(self)

    def to_ase(self) -> list[Atoms]:
        """Convert to ASE Atoms, one per crystal; see `cdvae_lab.io.convert.to_ase`."""
        from cdvae_lab.io import convert

        return convert.to_ase(self)

    def to_pyg(self) -> list[Data]:
        """Convert to torch-geometric Data, one per crystal; see `cdvae_lab.io.convert.to_pyg`."""
        from cdvae_lab.io import convert

        return convert.to_pyg(self)

    def write_cif(self, folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write one CIF per crystal into a folder, and return the paths; see `cdvae_lab.io.writing.write`.

        Args:
            folder: created if it does not exist.
            names: names of the files; by default crystal_0000.cif and so on.

        Raises:
            CrystalError: for crystals that cannot be exported.
            SettingError: for names that are too few, repeated, or not plain file names.
            LabError: if a file cannot be written.
        """
        from cdvae_lab.io import writing

        return writing.write(self, folder, "cif", names)

    def write_poscar(self, folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
        """Write one POSCAR per crystal into a folder, and return the paths; arguments and errors as of `write_cif`."""
        from cdvae_lab.io import writing

        return writing.write(self, folder, "poscar", names)

    def write_extxyz(self, path: str | Path) -> Path:
        """Write all crystals to one extended XYZ file.

        Raises:
            CrystalError: for crystals that cannot be exported.
            LabError: if the file cannot be written.
        """
        from cdvae_lab.io import writing

        return writing.write_extxyz(self, path)

    def save_npz(self, path: str | Path) -> Path:
        """Write all crystals to one .npz file in the layout of the CDVAE paper's code; see `cdvae_lab.io.npz`."""
        from cdvae_lab.io import npz

        return npz.save(self, path)

    @classmethod
    def load_npz(cls, path: str | Path) -> Crystals:
        """Read crystals from an .npz file of that layout, unchanged; see `cdvae_lab.io.npz.load`."""
        from cdvae_lab.io import npz

        return npz.load(path)
