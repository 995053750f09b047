"""Latent maps: saving and loading, placing latents, refused input; the bundled map."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import KDTree

from cdvae_lab import datasets
from cdvae_lab.errors import CheckpointError, CrystalError, DatasetError, SettingError
from cdvae_lab.explore.latent_map import LatentMap, load_map
from cdvae_lab.io import assets
from cdvae_lab.io.storage import read_tensors, write_tensors
from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.models.checkpoints import fingerprint, load
from cdvae_lab.models.latents import encode
from cdvae_lab.runtime import threads

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"hidden_dim": 16, "encoder_blocks": 1, "decoder_blocks": 1, "head_dim": 32, "latent_dim": 12}
BUNDLED = [name for name in assets.names() if name.endswith("_map.safetensors")]


@pytest.fixture
def model(random_dataset) -> CDVAE:
    return CDVAE.for_dataset(random_dataset, **SMALL).eval()


@pytest.fixture(scope="module")
def points() -> LatentMap:
    """Two hundred points whose latents differ in 6 of 8 dimensions, without a model."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(200, 8, generator=generator)
    latents[:, 6:] *= 1e-3
    labels = torch.randn(200, generator=generator)
    labels[:7] = torch.nan
    return LatentMap(
        xy=latents[:, :2] + 0.1 * torch.randn(200, 2, generator=generator),
        latents=latents.half(),
        labels=labels,
        num_atoms=torch.tensor([5, 2]).repeat(100),
        density=torch.rand(200, generator=generator) + 4,
        ids=tuple(f"crystal-{i}" for i in range(200)),
        formulas=("SrTiO3", "NaCl") * 100,
        label_name="energy",
        label_unit="eV/atom",
        model="0123456789abcdef",
        metadata={"data": {"name": "random", "split": "train"}, "notes": {"labels": "drawn at random"}},
    )


def same(a: LatentMap, b: LatentMap) -> bool:
    """Equal in every field, NaN equal to NaN."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return all(
        torch.equal(x.nan_to_num(123.0), y.nan_to_num(123.0)) and x.dtype == y.dtype
        if isinstance(x, torch.Tensor)
        else x == y
        for x, y in pairs
    )


def test_fit_is_reproducible_and_keeps_the_data_set_s_fields(model, random_dataset, tmp_path):
    one = LatentMap.fit(model, random_dataset, notes={"labels": "random"})
    two = LatentMap.fit(model, random_dataset, notes={"labels": "random"})
    assert same(one, two)
    assert not torch.equal(LatentMap.fit(model, random_dataset, seed=1).xy, one.xy)
    assert one.xy.shape == (20, 2)
    assert one.xy.isfinite().all()
    assert len(one.xy.unique(dim=0)) == 20
    with torch.no_grad():
        mu = model.encode(random_dataset.crystals).mu
    torch.testing.assert_close(one.latents.float(), mu, atol=1e-3, rtol=1e-3)
    assert one.ids == random_dataset.ids
    assert list(one.formulas) == random_dataset.formulas
    torch.testing.assert_close(one.labels, random_dataset.labels, equal_nan=True)
    assert torch.equal(one.num_atoms, random_dataset.crystals.num_atoms)
    assert one.model == fingerprint(model)
    assert one.metadata["umap"] == {"n_neighbors": 15, "min_dist": 0.1, "seed": 0}
    assert one.metadata["notes"] == {"labels": "random"}
    assert same(one, LatentMap.load(one.save(tmp_path / "map.safetensors"), model))

    part = LatentMap.fit(model, random_dataset, limit=12)
    assert len(part) == len(part.formulas) == 12
    assert set(part.ids) < set(random_dataset.ids)
    assert part.metadata["umap"]["n_neighbors"] == 11


def test_fit_leaves_the_number_of_threads_as_it_is(model, random_dataset, monkeypatch):
    # What numba does at the first fit of a process, which may have been that of another test.
    from umap import UMAP

    fit_transform = UMAP.fit_transform

    def with_two_threads(self, *args):
        places = fit_transform(self, *args)
        threads._openmp().omp_set_num_threads(2)
        return places

    monkeypatch.setattr(UMAP, "fit_transform", with_two_threads)
    assert torch.get_num_threads() == 1
    LatentMap.fit(model, random_dataset)
    assert torch.get_num_threads() == 1


def test_fit_refuses_invalid_settings_and_data(model, random_dataset):
    for settings in ({"seed": -1}, {"n_neighbors": 1}, {"min_dist": 2.0}, {"limit": 3}):
        with pytest.raises(SettingError, match="limit >="):
            LatentMap.fit(model, random_dataset, **settings)
    with pytest.raises(DatasetError, match="at least 8"):
        LatentMap.fit(model, random_dataset[:5])
    smaller = CDVAE.for_dataset(random_dataset, **SMALL, max_atoms=3)
    with pytest.raises(CrystalError, match="3 atoms"):
        LatentMap.fit(smaller, random_dataset)


def test_a_crystal_of_the_map_is_placed_at_its_own_point(points):
    torch.testing.assert_close(points.place(points.latents.float()), points.xy)
    # Also after rounding to half precision.
    nudged = points.latents.float() * (1 + 2**-12)
    torch.testing.assert_close(points.place(nudged), points.xy, atol=1e-3, rtol=0)


def test_the_place_of_a_crystal_has_its_latent(points):
    torch.testing.assert_close(points.latent_at(points.xy), points.latents.float())
    torch.testing.assert_close(points.latent_at(points.xy + 1e-5), points.latents.float(), atol=1e-2, rtol=0)


def test_dimensions_that_the_encoder_does_not_use_do_not_move_a_place(points):
    assert points.informative.tolist() == [True] * 6 + [False] * 2
    noisy = points.latents.float().clone()
    noisy[:, 6:] += 5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(points.place(noisy), points.xy)


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_a_mean_over_the_nearest_with_inverse_square_weights(points, seed, k):
    """Compare with a k-d tree and the formula in double precision."""
    xy = torch.rand(3, 2, generator=torch.Generator().manual_seed(seed)) * 6 - 3
    rows, distances = points.nearest(xy, k=k)
    expected, numbers = KDTree(points.xy.double().numpy()).query(xy.double().numpy(), k=[*range(1, k + 1)])
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-3, atol=1e-5)
    weights = 1 / expected**2
    latents = points.latents.double().numpy()[numbers]
    mean = (latents * weights[..., None]).sum(1) / weights.sum(1)[:, None]
    np.testing.assert_allclose(points.latent_at(xy, k=k).numpy(), mean, atol=0.02)
    low, high = points.latents.float()[rows].aminmax(dim=1)
    found = points.latent_at(xy, k=k)
    assert ((found >= low - 1e-3) & (found <= high + 1e-3)).all()


def test_points_on_one_place_share_it(points):
    twice = dataclasses.replace(points, xy=torch.cat([points.xy[:1], points.xy[:1], points.xy[2:]]))
    mean = points.latents[:2].float().mean(0, keepdim=True)
    torch.testing.assert_close(twice.latent_at(points.xy[:1]), mean)


def test_far_away_and_empty_queries_are_answered(points):
    assert points.latent_at(torch.tensor([[1e18, -1e18]])).isfinite().all()
    assert points.place(torch.full((1, 8), 1e15)).isfinite().all()
    assert points.place(torch.zeros(0, 8)).shape == (0, 2)
    assert points.nearest(torch.zeros(2, 2), k=1000)[0].shape == (2, 200)


def test_nearest_and_place_refuse_invalid_arguments(points):
    for arguments in ({}, {"xy": torch.zeros(1, 2), "z": torch.zeros(1, 8)}, {"xy": torch.zeros(1, 2), "k": 0}):
        with pytest.raises(SettingError, match="either xy or z"):
            points.nearest(**arguments)
    with pytest.raises(SettingError, match="3 dimensions"):
        points.place(torch.zeros(1, 3))


def test_shares_of_elements_are_those_of_the_formulas(points):
    assert points.elements == ("Cl", "Na", "O", "Sr", "Ti")
    assert points.share("O")[:2].tolist() == pytest.approx([0.6, 0])
    assert points.share("Na")[:2].tolist() == pytest.approx([0, 0.5])
    with pytest.raises(SettingError, match="Cl, Na, O, Sr, Ti"):
        points.share("Fe")


def test_a_loaded_map_equals_the_saved_one(points, tmp_path):
    assert same(points, LatentMap.load(points.save(tmp_path / "map.safetensors")))


def test_the_map_of_another_model_is_refused(points, model, random_dataset, tmp_path):
    path = points.save(tmp_path / "map.safetensors")
    with pytest.raises(CheckpointError, match=f"map.safetensors.*0123456789abcdef.*{fingerprint(model)}"):
        LatentMap.load(path, model)
    mine = dataclasses.replace(points, model=fingerprint(model))
    mine.check(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(CheckpointError, match=r"LatentMap\.fit"):
        mine.check(model)


def test_files_that_are_no_maps_are_refused(points, model, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_map(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="holds a model"):
        load_map(model.save(tmp_path / "model.safetensors"))
    path = points.save(tmp_path / "map.safetensors")
    kind, tensors, header = read_tensors(path, {"latent map": [1]})
    with pytest.raises(CheckpointError, match="formulas"):
        load_map(write_tensors(path, kind, 1, tensors, {k: v for k, v in header.items() if k != "formulas"}))
    with pytest.raises(CheckpointError, match="one length"):
        load_map(write_tensors(path, kind, 1, {**tensors, "labels": tensors["labels"][:-1]}, header))
    with pytest.raises(
        SettingError, match=r"no latent map 'no_such_map' is bundled; there are carbon_24, mp_20, perov_5,"
    ):
        load_map("no_such_map")


# The bundled map


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_map_is_of_the_bundled_model(name):
    model = load(name.removesuffix("_map.safetensors"))
    bundled = load_map(name.removesuffix("_map.safetensors"), model)
    assert assets.asset_path(name).stat().st_size <= 5e6
    assert bundled.latents.dtype == torch.float16
    assert len(bundled) == len(set(bundled.ids)) >= 4000
    assert bundled.xy.isfinite().all()
    assert bundled.metadata["data"]["split"] == model.metadata["data"]["split"]
    assert bundled.metadata["data"]["split"] in ("train", "train+val")
    assert (bundled.density > 0.1).all()
    # Neighbors on the map are alike: nearer in latent space than any two points are (on a shuffled map, as near).
    chosen = torch.arange(0, len(bundled), 20)
    rows, _ = bundled.nearest(bundled.xy[chosen], k=6)
    latents = bundled.latents.float()[:, bundled.informative]
    near = (latents[rows[:, 1:]] - latents[chosen][:, None]).norm(dim=-1).mean()
    any_two = torch.pdist(latents[chosen]).mean()
    assert near < 0.8 * any_two
    # The model's predictions from the latents agree with the map's values.
    aggregates = model.aggregates(bundled.latents[chosen].float())
    assert (aggregates.num_atoms == bundled.num_atoms[chosen]).float().mean() > 0.99
    labeled = chosen[torch.isfinite(bundled.labels[chosen])]
    assert len(labeled) > 50
    predicted = model.predict_property(bundled.latents[labeled].float())
    assert torch.corrcoef(torch.stack([predicted, bundled.labels[labeled]]))[0, 1] > 0.95


def test_the_bundled_map_is_of_training_crystals_only(shared_data):
    """Compare with the public files' rows, where they lie beside the repository; otherwise with the map's metadata."""
    bundled, model = load_map("perov_5"), load("perov_5")
    assert "estimated" in bundled.metadata["notes"]["labels"]
    assert "train" in bundled.metadata["notes"]["points"]
    if shared_data is None:
        return
    ids = {
        split: set(pd.read_csv(shared_data / "perov_5" / f"{split}.csv.gz", dtype=str)["material_id"])
        for split in ("train", "val", "test")
    }
    assert set(bundled.ids) <= ids["train"]
    assert not set(bundled.ids) & (ids["test"] | ids["val"])
    first = datasets.load("perov_5", folder=shared_data, limit=60, jobs=1, progress=False)
    pairs = [(i, bundled.ids.index(name)) for i, name in enumerate(first.ids) if name in bundled.ids]
    here, there = (torch.tensor(side) for side in zip(*pairs, strict=True))
    assert len(pairs) > 15
    latents = encode(model, first[here].crystals)
    torch.testing.assert_close(latents, bundled.latents[there].float(), atol=5e-3, rtol=2e-3)
    torch.testing.assert_close(bundled.place(latents), bundled.xy[there], atol=1e-3, rtol=0)
    assert [first.formulas[i] for i in here] == [bundled.formulas[i] for i in there]
    torch.testing.assert_close(first.labels[here], bundled.labels[there])


def test_the_bundled_map_opens_without_umap_or_network():
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a map asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
from cdvae_lab.explore.latent_map import load_map
bundled = load_map("perov_5")
xy = bundled.place(bundled.latent_at(bundled.xy[:3] + 0.1))
assert len(xy) == 3
print({"umap", "numba", "sklearn", "plotly"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_map_shows_itself_and_leaves_for_chemiscope(tmp_path: Path, random_dataset):
    model = CDVAE.for_dataset(random_dataset, **SMALL)
    fitted = LatentMap.fit(model, random_dataset)
    assert repr(fitted) == "<LatentMap: 20 points of random, 12 latent dimensions, energy>"
    assert "<th>elements</th><td>C, O, Ti</td>" in fitted._repr_html_()
    path = tmp_path / "map.json"
    written = fitted.to_chemiscope(random_dataset.crystals, path)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert set(read) == {"meta", "structures", "properties", "settings"}
    assert [s["size"] for s in read["structures"]] == random_dataset.crystals.num_atoms.tolist()
    for number, structure in enumerate(random_dataset.crystals.to_structures()):
        mine = read["structures"][number]
        assert mine["names"] == [str(site.specie) for site in structure]
        assert mine["y"] == pytest.approx(structure.cart_coords[:, 1].tolist())
        assert mine["cell"] == pytest.approx(structure.lattice.matrix.flatten().tolist())
    for column in read["properties"].values():
        assert column["target"] == "structure"
        assert len(column["values"]) == 20
    assert read["properties"]["map 2"]["values"] == pytest.approx(fitted.xy[:, 1].tolist())
    assert [math.isnan(v) for v in read["properties"]["energy"]["values"]] == [True] * 4 + [False] * 16
    assert read["properties"]["energy"]["units"] == "eV/atom"
    assert written["structures"] == read["structures"]
    with pytest.raises(SettingError, match="20 points, and needs as many crystals, not 3"):
        fitted.to_chemiscope(random_dataset.crystals[:3])
