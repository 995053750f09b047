"""A map of the latent space: UMAP of a data set's latents, kept as plain arrays.

The map is fitted once (`LatentMap.fit`) and only read afterwards. Further latents are placed among its points, and an
empty place is decoded from the points around it, both by a mean over the nearest (`inverse_distance`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.crystals.elements import ATOMIC_NUMBERS, symbol_of
from cdvae_lab.crystals.formulas import density, parse, respell
from cdvae_lab.datasets.dataset import Dataset
from cdvae_lab.errors import CheckpointError, SettingError
from cdvae_lab.explore.chemiscope import chemiscope_map
from cdvae_lab.explore.inverse_distance import mean_of_nearest, nearest_points
from cdvae_lab.explore.map_fitting import check_settings, crystals_of_map, umap_places
from cdvae_lab.io import assets
from cdvae_lab.io.storage import atomic_path, read_tensors, write_tensors
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint
from cdvae_lab.models.encodable import check_encodable
from cdvae_lab.models.latents import posterior_of

FORMAT_VERSION = 1
NEIGHBORS = 5  # points that a place, or the latent at a place, is a mean over
# Dimensions that spread less than this share of the widest are collapsed: the KL term has removed their information,
# and a latent from the prior holds noise there.
COLLAPSED_BELOW = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class LatentMap:
    """A map of latent space: crystals as points on a plane, with their latents.

    Attributes:
        xy: places on the map; they have no unit; only neighborhoods are meaningful.
        latents: the posterior means that belong to them.
        labels: the property in `label_unit`; NaN where there is none.
        num_atoms: in the cell.
        density: g/cm^3.
        ids: of the crystals in their data set.
        formulas: with all atoms of the cell, as `Dataset.formulas`.
        label_name, label_unit: empty where not known.
        model: `checkpoints.fingerprint` of the model that the latents are of.
        metadata: JSON values: data set, settings of UMAP, seed, notes.
    """

    xy: Float[Tensor, "points 2"]
    latents: Float[Tensor, "points latent"]
    labels: Float[Tensor, " points"]
    num_atoms: Int[Tensor, " points"]
    density: Float[Tensor, " points"]
    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    label_name: str
    label_unit: str
    model: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.xy)

    def __repr__(self) -> str:
        name = self.metadata.get("data", {}).get("name", "crystals")
        label = f", {self.label_name}" * bool(self.label_name)
        return f"<LatentMap: {len(self):,} points of {name}, {self.latents.shape[1]} latent dimensions{label}>"

    def _repr_html_(self) -> str:
        """Return an HTML table of the ranges of the points' values, for notebooks."""
        rows = [("points", f"{len(self):,}"), ("elements", ", ".join(self.elements))]
        ranges = {"atoms": self.num_atoms, "density, g/cm³": self.density}
        ranges |= {f"{self.label_name}, {self.label_unit}": self.labels} if self.label_name else {}
        for name, values in ranges.items():
            known = values[torch.isfinite(values.float())]
            if len(known):
                rows.append((name, f"{float(known.min()):.4g} to {float(known.max()):.4g}"))
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
        return f"<table><caption>{escape(repr(self))}</caption>{cells}</table>"

    # Fitting, saving and loading

    @classmethod
    def fit(
        cls,
        model: CDVAE,
        dataset: Dataset,
        seed: int = 0,
        n_neighbors: int = 15,
        min_dist: float = 0.1,
        limit: int | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> LatentMap:
        """Fit a map to a data set's latents: about a minute on two cores; results are reproducible on one machine.

        Args:
            model: the model that encodes the crystals.
            dataset: the crystals of the map.
            seed: of UMAP, and of the choice where there is a limit.
            n_neighbors: number of neighbors of UMAP: few preserve local detail, many the global structure.
            min_dist: how close UMAP lets points lie.
            limit: largest number of crystals, chosen at random.
            notes: notes for readers, by subject, stored in `metadata`. Figures show the note "labels".

        Raises:
            SettingError: for settings out of range.
            DatasetError: with too few crystals to make a map of.
            CrystalError: for crystals that the model has no room for.
        """
        check_settings(seed, n_neighbors, min_dist, limit)
        dataset = crystals_of_map(dataset, seed, limit)
        crystals = dataset.crystals.to("cpu")
        check_encodable(model, crystals)
        # Half precision before the fit, so that the map is one of just those latents that it holds.
        latents = posterior_of(model, dataset.crystals).mu.cpu().half()
        n_neighbors = min(n_neighbors, len(dataset) - 1)
        return cls(
            umap_places(latents.float(), seed, n_neighbors, min_dist),
            latents,
            dataset.labels.cpu().float(),
            crystals.num_atoms,
            density(crystals).float(),
            tuple(dataset.ids),
            tuple(dataset.formulas),
            dataset.label_name,
            dataset.label_unit,
            fingerprint(model),
            {
                "data": {
                    "name": dataset.name,
                    "split": dataset.split,
                    "source": dataset.source,
                    "license": dataset.license,
                },
                "umap": {"n_neighbors": n_neighbors, "min_dist": min_dist, "seed": seed},
                "notes": dict(notes or {}),
            },
        )

    def save(self, path: str | Path) -> Path:
        """Write the map to one safetensors file, atomically. Raises LabError if it cannot be written."""
        tensors = {name: getattr(self, name) for name in ("xy", "latents", "labels", "density")}
        tensors["num_atoms"] = self.num_atoms.to(torch.int16)
        header = {name: getattr(self, name) for name in ("model", "metadata")}
        header |= {"property_name": self.label_name, "property_unit": self.label_unit}
        header |= {"ids": list(self.ids), "formulas": list(self.formulas)}
        return write_tensors(path, "latent map", FORMAT_VERSION, tensors, header)

    @classmethod
    def load(cls, path: str | Path, model: CDVAE | None = None) -> LatentMap:
        """Read a map that `save` wrote.

        Args:
            model: the model that it is used with; a map of another model is refused.

        Raises:
            CheckpointError: if it is missing, truncated, not a latent map, of another version, or of another model.
        """
        _, tensors, header = read_tensors(path, {"latent map": [FORMAT_VERSION]})
        try:
            texts = {name: tuple(header.pop(name)) for name in ("ids", "formulas")}
            texts["formulas"] = tuple(map(respell, texts["formulas"]))  # older maps have the elements in another order
            tensors["num_atoms"] = tensors["num_atoms"].long()
            if len({len(array) for array in (*tensors.values(), *texts.values())}) > 1:
                raise CheckpointError(f"{path}: its arrays are not of one length; fit the map again")
            label = {"label_name": header.pop("property_name"), "label_unit": header.pop("property_unit")}
            read = cls(**tensors, **texts, **label, **header)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: lacks a part of a latent map ({error}); fit it again") from error
        if model is not None:
            read.check(model, str(path))
        return read

    def check(self, model: CDVAE, where: str = "this latent map") -> None:
        """Refuse another model than that of the map, since its latents are not comparable.

        Raises:
            CheckpointError: naming both.
        """
        if (given := fingerprint(model)) != self.model:
            raise CheckpointError(
                f"{where}: made with the model of fingerprint {self.model}, but this model's is {given}; load the "
                "model that it was made with, or make a map of this one: LatentMap.fit(model, dataset)"
            )

    def to_chemiscope(self, crystals: Crystals, path: str | Path | None = None) -> dict[str, Any]:
        """Return the map in the JSON format of chemiscope, the structure-property explorer, and write it to a file.

        Open the file at chemiscope.org, or show it in a notebook with `chemiscope.show_input(path)`.

        Args:
            crystals: of the points, in order: `dataset.crystals`, which the map does not hold.
            path: a .json file, in which a missing label is NaN as chemiscope writes it; None writes none.

        Raises:
            SettingError: if there is not one crystal for each point.
            CrystalError: for crystals that cannot be exported.
            LabError: if the file cannot be written.
        """
        data = chemiscope_map(self, crystals)
        if path is not None:
            with atomic_path(path, "the map") as temporary:
                temporary.write_text(json.dumps(data), encoding="utf-8")
        return data

    # Using a map

    @cached_property
    def informative(self) -> Bool[Tensor, " latent"]:
        """Dimensions in which the map's latents differ; only those count for distances between latents."""
        spread = self.latents.float().std(0)
        return spread >= COLLAPSED_BELOW * spread.max()

    def nearest(
        self,
        xy: Float[Tensor, "queries 2"] | None = None,
        *,
        z: Float[Tensor, "queries latent"] | None = None,
        k: int = 1,
    ) -> tuple[Int[Tensor, "queries k"], Float[Tensor, "queries k"]]:
        """Find the k nearest points, nearest first: their numbers and their distances.

        Args:
            xy: places on the map; or else
            z: latents, compared in the `informative` dimensions.
            k: at most all points are given.

        Raises:
            SettingError: for both or neither of xy and z, k < 1, or latents of another model's size.
        """
        if (xy is None) == (z is None) or k < 1:
            raise SettingError(f"nearest needs either xy or z, and k >= 1, not k = {k}")
        if z is None:
            assert xy is not None
            points, queries = self.xy, xy.cpu().float()
        else:
            self._check_size(z)
            points, queries = self.latents.float()[:, self.informative], z.cpu().float()[:, self.informative]
        return nearest_points(points, queries, k)

    def place(self, z: Float[Tensor, "queries latent"], k: int = NEIGHBORS) -> Float[Tensor, "queries 2"]:
        """Place latents on the map without changing it: at the mean place of their k nearest neighbors.

        Weights are 1 / distance^2 between latents, so that a crystal of the map is placed where it is. A latent between
        two islands is placed between them, where UMAP might have chosen one.

        Raises:
            SettingError: for latents of another model's size, or k < 1.
        """
        rows, distances = self.nearest(z=z, k=k)
        return mean_of_nearest(self.xy, rows, distances)

    def latent_at(self, xy: Float[Tensor, "queries 2"], k: int = NEIGHBORS) -> Float[Tensor, "queries latent"]:
        """Return the latent of any place on the map: the mean of the k nearest points' latents, to be decoded.

        Weights are 1 / distance^2 on the map, so that the place of a crystal has its latent. Far from every point the
        k weights become equal: far away the latent no longer depends on the place.

        Raises:
            SettingError: for k < 1.
        """
        rows, distances = self.nearest(xy, k=k)
        return mean_of_nearest(self.latents, rows, distances)

    def share(self, element: str) -> Float[Tensor, " points"]:
        """Compute the share of an element, given by its symbol, among the atoms of each crystal.

        Raises:
            SettingError: if no crystal of the map has it.
        """
        number = ATOMIC_NUMBERS.get(element, 0)
        counts = [composition.get(number, 0) for composition in self._compositions]
        if not any(counts):
            raise SettingError(f"no crystal of this map has {element!r}; there are {', '.join(self.elements)}")
        return torch.tensor(counts) / self.num_atoms

    def find(self, text: str) -> list[int]:
        """Find the numbers of the crystals with an id or a formula.

        Args:
            text: an id, or the formula of the cell with all its atoms, such as Sr2Ti2O6, in any order of elements.
        """
        wanted = respell(text)
        return [
            number
            for number, (identity, formula) in enumerate(zip(self.ids, self.formulas, strict=True))
            if text == identity or wanted == formula
        ]

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements that occur, in alphabetical order."""
        return tuple(sorted({symbol_of(number) for composition in self._compositions for number in composition}))

    @cached_property
    def _compositions(self) -> list[dict[int, int]]:
        """Counts by atomic number of each crystal; empty where a formula cannot be read."""
        found = []
        for formula in self.formulas:
            try:
                found.append(dict(parse(formula)))
            except SettingError:
                found.append({})
        return found

    def _check_size(self, z: Tensor) -> None:
        if z.shape[-1] != self.latents.shape[-1]:
            raise SettingError(
                f"latents of {z.shape[-1]} dimensions do not belong on a map of {self.latents.shape[-1]}; use the "
                "model that the map was made with"
            )


def load_map(name_or_path: str | Path, model: CDVAE | None = None) -> LatentMap:
    """Load a bundled map by the name of its model ("perov_5"), or a map file by path, as `LatentMap.load` does.

    Args:
        name_or_path: name of a bundled model, or path of a map file.
        model: the model that it is used with; a map of another model is refused.

    Raises:
        SettingError: if no map of that name is bundled; it lists the bundled files.
        CheckpointError: as `LatentMap.load`.
    """
    path = Path(name_or_path)
    if not path.is_file() and path.suffix != ".safetensors":
        path = assets.asset_path(f"{name_or_path}_map.safetensors")
    return LatentMap.load(path, model)


def map_of(model: CDVAE) -> LatentMap | None:
    """Find the bundled map that was made with a model, by the fingerprint of its weights; None if there is none."""
    mine = fingerprint(model)
    for name in assets.names("*_map.safetensors"):
        if (found := LatentMap.load(assets.asset_path(name))).model == mine:
            return found
    return None
