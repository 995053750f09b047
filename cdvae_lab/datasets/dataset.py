"""A data set: crystals with labels, ids and source."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cdvae_lab.crystals import formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.indexing import Index, chosen_rows
from cdvae_lab.datasets.cache import LeftOut


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Crystals of one data set with their labels, ids and source.

    Attributes:
        name: name of the data set.
        split: "train", "val", "test", "all", or several joined by "+".
        crystals: the crystals, Niggli-reduced and canonically oriented.
        ids: one id for each crystal.
        labels: the label of each crystal, in `label_unit`; NaN where there is none.
        label_name: column that the labels come from; empty without labels.
        label_unit: unit of the labels; empty if unknown.
        source: origin of the data.
        license: license of the data, as far as known.
        left_out: rows or files that could not be used, with reasons.
    """

    name: str
    split: str
    crystals: Crystals
    ids: tuple[str, ...]
    labels: Float[Tensor, " crystals"]
    label_name: str
    label_unit: str
    source: str
    license: str
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.crystals)

    def __getitem__(self, which: Index) -> Dataset:
        """Select crystals by an index, a slice, a sequence of indices or a mask; the result is always a data set.

        Raises:
            IndexError: for an index out of range, or a mask of another length.
            TypeError: for any other type of index.
        """
        rows = chosen_rows(which, len(self), self.labels.device)
        chosen = np.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return replace(
            self, crystals=self.crystals[rows], labels=self.labels[rows], ids=tuple(self.ids[i] for i in chosen)
        )

    def __repr__(self) -> str:
        label = f", label {self.label_name}" if self.label_name else ""
        label += f" ({self.label_unit})" if self.label_unit else ""
        return f"Dataset({self.name}, {self.split}: {len(self):,} crystals of {len(self.elements)} elements{label})"

    def _repr_html_(self) -> str:
        """Return an HTML table about the data set, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(text)}"
            "</td></tr>"
            for name, text in self._facts()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """Return (name, text) for each row of the HTML table."""
        atoms = self.crystals.num_atoms
        size = f"{int(atoms.min())} to {int(atoms.max())} atoms, " if len(self) else ""
        facts = [
            ("data set", f"{self.name} ({self.split})"),
            ("crystals", f"{len(self):,}, {size}{len(self.elements)} elements"),
        ]
        if self.label_name:
            labeled = self.labels[torch.isfinite(self.labels)]
            text = f"{len(labeled):,} labeled"
            if len(labeled):
                text += f", {labeled.min():.3f} to {labeled.max():.3f}, mean {labeled.mean():.3f} {self.label_unit}"
            facts.append((self.label_name, text.strip()))
        facts += [("source", self.source), ("license", self.license)]
        return [*facts, ("left out", f"{len(self.left_out):,} rows or files")] if self.left_out else facts

    def to(self, device: torch.device | str) -> Dataset:
        """Move the tensors to a device."""
        return replace(self, crystals=self.crystals.to(device), labels=self.labels.to(device))

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, in ascending order."""
        return tuple(int(n) for n in torch.unique(self.crystals.atomic_numbers) if n > 0)

    @cached_property
    def formulas(self) -> list[str]:
        """Formula of each crystal with all atoms of its cell (Sr2Ti2O6); see `cdvae_lab.crystals.formulas`."""
        return formulas.cell_formulas(self.crystals)

    def summary(self) -> str:
        """Describe the data set in a few lines of text: size, labels, source, rows left out."""
        atoms = self.crystals.num_atoms
        labeled = torch.isfinite(self.labels)
        lines = [
            f"{self.name} ({self.split}): {len(self):,} crystals of {int(atoms.min())} to {int(atoms.max())} atoms, "
            f"{len(self.elements)} elements"
        ]
        if self.label_name:
            text = f"{self.label_name}: {int(labeled.sum()):,} labeled"
            if labeled.any():
                values = self.labels[labeled]
                text += f", {values.min():.3f} to {values.max():.3f}, mean {values.mean():.3f}"
                text += f" {self.label_unit}" if self.label_unit else ""
            lines.append(text)
        lines.append(f"source: {self.source}; license: {self.license}")
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}")
            lines += [f"  {left.where}: {left.reason}" for left in self.left_out[:5]]
            if len(self.left_out) > 5:
                lines.append(f"  and {len(self.left_out) - 5} more (see .left_out)")
        return "\n".join(lines)
