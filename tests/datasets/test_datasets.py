"""Data sets: public tables, downloads, a user's own files, the cache, and the synthetic perovskites."""

from __future__ import annotations

import errno
import functools
import gzip
import http.server
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from cdvae_lab import datasets
from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets import cache as parse_cache
from cdvae_lab.datasets import carbon_24, synthetic
from cdvae_lab.datasets import public as download
from cdvae_lab.errors import DatasetError, SettingError
from cdvae_lab.io import convert

SIZES = {"perov_5": (11356, 3787, 3785), "carbon_24": (2442, 2032, 2030), "mp_20": (26217, 9047, 9046)}


def perovskite(a: float, symbols: str = "Sr Ti O O O") -> str:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return str(CifWriter(Structure(Lattice.cubic(a), symbols.split(), sites)))


@pytest.fixture
def table() -> pd.DataFrame:
    """Table of six rows: the second is invalid, the fourth has no label."""
    return pd.DataFrame(
        {
            "material_id": ["a", "b", "c", "d", "e", "f"],
            "cif": [perovskite(3.9), "broken", *(perovskite(4 + i / 10, "Ca Ti O O O") for i in range(4))],
            "heat_ref": [1.0, 2.0, 3.0, np.nan, 5.0, 6.0],
            "gap": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )


@pytest.fixture
def load(tmp_path):
    """`datasets.load` with a separate cache, in this process, without progress bars."""
    return functools.partial(datasets.load, cache=tmp_path / "cache", jobs=1, progress=False)


# Tables


@pytest.mark.parametrize("layout", ["perov_5/train.csv", "perov_5/train.csv.gz", "train.csv", "train.csv.gz"])
def test_public_layouts(load, table, tmp_path, layout):
    path = tmp_path / "data" / layout
    path.parent.mkdir(parents=True)
    table.to_csv(path)  # with an unnamed index column, which some of the public files have
    found = load("perov_5", folder=tmp_path / "data")
    assert (found.name, found.split, len(found)) == ("perov_5", "train", 5)
    assert found.ids == ("a", "c", "d", "e", "f")
    torch.testing.assert_close(found.labels, torch.tensor([1, 3, float("nan"), 5, 6]), equal_nan=True)
    assert (found.label_name, found.label_unit) == ("heat_ref", "eV/atom")
    assert found.left_out == (datasets.LeftOut("row 2", found.left_out[0].reason),)
    assert "cannot be read as CIF" in found.left_out[0].reason
    torch.testing.assert_close(found.crystals.lattice[0], 3.9 * torch.eye(3))
    assert load("perov_5", folder=tmp_path / "data", label="gap").labels[0] == pytest.approx(0.1)


def test_user_table(load, table, tmp_path):
    path = tmp_path / "mine.csv"
    table.drop(columns="material_id").to_csv(path, index=False)
    found = load(path, label="gap")
    assert (found.split, found.ids) == ("all", ("0", "2", "3", "4", "5"))
    torch.testing.assert_close(found.labels, torch.tensor([0.1, 0.3, 0.4, 0.5, 0.6]))
    assert torch.isnan(load(path).labels).all()
    assert len(load(path, limit=3)) == 2
    table["split"] = ["train", "train", "test", "test", "val", "test"]
    table.to_csv(path, index=False)
    assert load(path, "test").ids == ("c", "d", "f")
    assert load(path, "train").left_out[0].where == "row 2"
    table["split"] = "train"
    table.to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"mine\.csv: no row has 'val' in its column split, which contains train"):
        load(path, "val")


def test_bad_tables(load, table, tmp_path):
    path = tmp_path / "bad.csv"
    table.to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"bad\.csv: has no column 'energy'; it has material_id, cif, heat"):
        load(path, label="energy")
    assert not (tmp_path / "cache").exists()  # reported before anything is parsed
    table.assign(gap=[1, 2, 3, 4, 5, "low"]).to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"bad\.csv: column 'gap' contains text that is not a number.*low"):
        load(path, label="gap")
    table.assign(gap=[1, 2, 3, 4, 5, "inf"]).to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"bad\.csv: column 'gap' is infinite in row 6"):
        load(path, label="gap")
    table.drop(columns="cif").to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"bad\.csv: has no column cif \(columns: material_id, heat_ref, gap\)"):
        load(path)
    table.iloc[[1]].to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"bad\.csv: none of its 1 crystals can be used; row 1: cannot be read"):
        load(path)
    path.write_text("")
    with pytest.raises(DatasetError, match=r"bad\.csv: cannot be read as a CSV table"):
        load(path)
    path.write_text("cif,gap\n")
    with pytest.raises(DatasetError, match=r"bad\.csv: has no rows"):
        load(path)
    broken = tmp_path / "cut.csv.gz"
    broken.write_bytes(gzip.compress(table.to_csv(index=False).encode())[:-40])
    with pytest.raises(DatasetError, match=r"cut\.csv\.gz: cannot be read as a CSV table"):
        load(broken)


def test_bad_arguments(load, tmp_path):
    with pytest.raises(DatasetError, match="perov_6: no such data set or path; give one of perov_5, carbon_24"):
        load("perov_6")
    with pytest.raises(SettingError, match="split: 'training'; give one of train, val, test"):
        load("perov_5", "training")
    with pytest.raises(SettingError, match="limit: 0"):
        load("perov_5", limit=0)
    with pytest.raises(SettingError, match="jobs: 0"):
        load("perov_5", jobs=0)
    with pytest.raises(DatasetError, match=r"has no file of perov_5 \(val\); looked for .*val\.csv"):
        load("perov_5", "val", folder=tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"notes\.txt: is neither a folder of CIF files nor a \.csv"):
        load(tmp_path / "notes.txt")


# A folder of CIF files


def test_folder_of_cifs(load, tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"cifs: contains no \.cif files"):
        load(folder)
    (folder / "one.cif").write_text(perovskite(3.9))
    (folder / "two.cif").write_text(perovskite(4.1))
    (folder / "bad.cif").write_bytes(b"\xff\xfe")
    found = load(folder)
    assert (found.name, found.ids, len(found)) == ("cifs", ("one", "two"), 2)
    assert found.left_out[0].where == "bad.cif"
    assert torch.isnan(found.labels).all()
    with pytest.raises(DatasetError, match=r"labels\.csv: no such file, so label='gap' cannot be found"):
        load(folder, label="gap")
    (folder / "labels.csv").write_text("file,gap\ntwo.cif,2.5\nother,1.0\n")
    torch.testing.assert_close(load(folder, label="gap").labels, torch.tensor([float("nan"), 2.5]), equal_nan=True)
    (folder / "labels.csv").write_text("name,gap\ntwo.cif,2.5\n")
    with pytest.raises(DatasetError, match=r"labels\.csv: has no column file"):
        load(folder, label="gap")


# The cache


def test_second_load_parses_nothing(load, table, tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    table.to_csv(path, index=False)
    first = load(path, label="gap")

    def forbidden(*_):
        raise AssertionError("parsed again")

    monkeypatch.setattr(parse_cache, "_parse_all", forbidden)
    second = load(path, label="heat_ref")  # another property needs no parsing
    assert torch.equal(second.crystals.frac_coords, first.crystals.frac_coords)
    assert torch.equal(second.crystals.lattice, first.crystals.lattice)
    assert (second.ids, second.left_out) == (first.ids, first.left_out)
    table.loc[0, "cif"] = perovskite(4.5)
    table.to_csv(path, index=False)
    with pytest.raises(AssertionError, match="parsed again"):  # another content does
        load(path)


def test_damaged_cache_is_replaced(load, table, tmp_path):
    path = tmp_path / "mine.csv"
    table.to_csv(path, index=False)
    first = load(path)
    (cached,) = (tmp_path / "cache" / "parsed").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="damaged and will be parsed again"):
        again = load(path)
    assert torch.equal(again.crystals.lattice, first.crystals.lattice)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the new one is whole
        assert torch.equal(load(path).crystals.frac_coords, first.crystals.frac_coords)


def test_full_disk_loses_no_data(load, table, tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    table.to_csv(path, index=False)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match=r"not cached.*\.safetensors: No space left on device; free some space"):
        assert len(load(path)) == 5
    assert list((tmp_path / "cache" / "parsed").iterdir()) == []


def test_parallel_parsing_gives_the_same_crystals(table, tmp_path, monkeypatch):
    monkeypatch.setattr(parse_cache, "PARALLEL_FROM", 2)
    monkeypatch.setattr(parse_cache, "CHUNK", 2)
    texts, places = table.cif.tolist(), [f"row {i}" for i in range(len(table))]
    serial = parse_cache.read_texts(texts, places, tmp_path / "one", jobs=1, progress=False)
    parallel = parse_cache.read_texts(texts, places, tmp_path / "two", jobs=2, progress=False)
    assert torch.equal(serial[0].frac_coords, parallel[0].frac_coords)
    assert serial[1].tolist() == parallel[1].tolist() == [0, 2, 3, 4, 5]
    assert serial[2] == parallel[2]


# Downloads


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    """A local web server over tmp_path / "served"."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def serve(table: pd.DataFrame, tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "served" / "perov_5" / "train.csv"
    path.parent.mkdir()
    table.to_csv(path, index=False)
    monkeypatch.setitem(download.GIT_IDS, "perov_5/train.csv", download.git_blob_id(path))
    return path


def test_git_blob_id_equals_git(tmp_path):
    path = tmp_path / "file.csv"
    path.write_bytes(b"cif,heat_ref\r\n" * 1000)
    expected = subprocess.run(
        ["git", "hash-object", "--no-filters", str(path)], capture_output=True, text=True, check=True
    )
    assert download.git_blob_id(path) == expected.stdout.strip()


def test_download(load, table, tmp_path, monkeypatch, server):
    served = serve(table, tmp_path, monkeypatch)
    assert load("perov_5", base_url=server).ids == ("a", "c", "d", "e", "f")
    served.unlink()
    assert len(load("perov_5", base_url=server)) == 5  # downloaded once
    kept = tmp_path / "cache" / "public" / "perov_5" / "train.csv"
    assert kept.is_file()
    table.to_csv(served, index=False)
    kept.write_text("half of a fi")  # left by a run that was killed
    assert len(load("perov_5", base_url=server)) == 5


def test_wrong_content_is_deleted(load, table, tmp_path, monkeypatch, server):
    served = serve(table, tmp_path, monkeypatch)
    served.write_text("another file")
    with pytest.raises(
        DatasetError, match=r"train\.csv: is not the expected file .* was deleted.*pass folder=<folder>"
    ):
        load("perov_5", base_url=server)
    assert not (tmp_path / "cache" / "public" / "perov_5" / "train.csv").exists()


def test_missing_on_the_server(load, server):
    with pytest.raises(DatasetError, match=r"perov_5/val\.csv: the server does not give the file \(404.*by|put it at"):
        load("perov_5", "val", base_url=server)


def test_no_network(load, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        DatasetError, match=r"cannot be reached, is there a network.*put it at <folder>/mp_20/test\.csv"
    ):
        load("mp_20", "test", base_url=f"http://127.0.0.1:{port}")


def test_download_that_cannot_be_written(load, table, tmp_path, monkeypatch, server):
    serve(table, tmp_path, monkeypatch)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "public").write_text("in the way")
    with pytest.raises(DatasetError, match=r"train\.csv: cannot be written .*pass cache=<another folder>"):
        load("perov_5", base_url=server)


def test_a_missing_split_of_own_data_is_refused(load, table, tmp_path):
    table.to_csv(tmp_path / "mine.csv", index=False)
    (tmp_path / "cifs").mkdir()
    with pytest.raises(DatasetError, match=r"mine\.csv: has no column split; add one that contains test"):
        load(tmp_path / "mine.csv", "test")
    with pytest.raises(DatasetError, match="a folder has no splits"):
        load(tmp_path / "cifs", "test")
    assert load(tmp_path / "mine.csv").split == "all"
    assert datasets.split_of(tmp_path / "mine.csv", "test") is datasets.split_of(tmp_path / "cifs", "test") is None
    table.assign(split="test").to_csv(tmp_path / "parts.csv", index=False)
    assert datasets.split_of(tmp_path / "parts.csv", "test") == datasets.split_of("perov_5", "test") == "test"
    assert load(tmp_path / "parts.csv", "test").split == "test"


# Selecting, and the benchmark files


def test_selection(load, table, tmp_path):
    table.to_csv(tmp_path / "mine.csv", index=False)
    found = load(tmp_path / "mine.csv", label="gap")
    for which in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False, False]), [1, 2]):
        part = found[which]
        assert (part.ids, len(part)) == (("c", "d"), 2)
        torch.testing.assert_close(part.labels, torch.tensor([0.3, 0.4]))
        torch.testing.assert_close(part.crystals.lattice[:, 0, 0], torch.tensor([4.0, 4.1]))
    assert [found[which].ids for which in (0, np.int64(-1), [], torch.tensor(2))] == [("a",), ("f",), (), ("d",)]
    with pytest.raises(IndexError, match="number 5 of 5 crystals"):
        found[5]
    assert repr(found) == "Dataset(mine.csv, all: 5 crystals of 4 elements, label gap)"
    assert "5 labeled" in found._repr_html_()
    assert found.elements == (8, 20, 22, 38)
    assert found.formulas == ["SrTiO3", *["CaTiO3"] * 4]
    assert found[:1].elements == (8, 22, 38)
    assert found.to("cpu").labels.device.type == "cpu"
    summary = found.summary()
    assert "5 crystals of 5 to 5 atoms, 4 elements" in summary
    assert "gap: 5 labeled, 0.100 to 0.600" in summary
    assert "row 2: cannot be read as CIF" in summary


def test_benchmark_files(load, shared_data, table, tmp_path):
    """Read the first rows of the benchmark files beside the repository; without them, of a small table."""
    if shared_data is None:
        table = table.drop(index=1)
        table.to_csv(tmp_path / "train.csv", index=False)
        files = {"perov_5": (tmp_path, table)}
    else:
        files = {name: (shared_data, pd.read_csv(shared_data / name / "train.csv.gz")) for name in SIZES}
        assert {name: len(rows) for name, (_, rows) in files.items()} == {n: s[0] for n, s in SIZES.items()}
    for name, (folder, rows) in files.items():
        found = load(name, folder=folder, limit=40)
        assert len(found) == min(40, len(rows))
        assert found.left_out == ()
        references = [CifParser.from_str(c).parse_structures(False, on_error="raise")[0] for c in rows["cif"][:40]]
        np.testing.assert_allclose(lat.volume(found.crystals.lattice), [r.volume for r in references], rtol=1e-5)
        for one, reference in zip(found.crystals.to_structures(), references, strict=True):
            assert StructureMatcher(0.01, 0.01, 0.1, primitive_cell=False, scale=False).fit(one, reference)


def test_carbon_24_protocol(shared_data, tmp_path, monkeypatch):
    """Use the benchmark files if there are any; otherwise two small tables with two validation crystals."""
    if shared_data is None:
        monkeypatch.setattr(carbon_24, "VALIDATION_CRYSTALS", 2)
        for split, count in (("train", 3), ("val", 5)):
            rows = [(f"{split}{i}", perovskite(4 + i / 10, "C C C C C"), float(i)) for i in range(count)]
            pd.DataFrame(rows, columns=["material_id", "cif", "energy_per_atom"]).to_csv(tmp_path / f"{split}.csv")
        sizes, folder = (6, 2), tmp_path
    else:
        sizes, folder = (4074, 400), shared_data
    train, val = datasets.carbon_24_protocol(folder=folder, cache=tmp_path / "cache", progress=False)
    assert (len(train), len(val)) == sizes
    assert not set(train.ids) & set(val.ids)
    assert torch.isfinite(val.labels).all()
    assert train.elements == val.elements == (6,)


# Synthetic perovskites


@pytest.fixture(scope="module")
def perovskites() -> datasets.Dataset:
    return datasets.synthetic_perovskites()


def test_synthetic_perovskites_are_perovskites(perovskites):
    crystals = perovskites.crystals
    assert len(perovskites) > 2000
    assert "SYNTHETIC" in perovskites.source
    assert (crystals.num_atoms == 5).all()
    assert convert.is_usable(crystals).all()
    assert len(set(perovskites.ids)) == len(perovskites)
    for composition in synthetic.compositions():
        a, b, x = composition.charges
        assert a + b + 3 * x == 0
        assert 0.82 <= composition.tolerance_factor <= 1.06
        assert 0.41 <= composition.octahedral_factor <= 0.75
    # SrTiO3 from Shannon's radii: rA = 1.44, rB = 0.605, rX = 1.40 Å.
    strontium_titanate = next(c for c in synthetic.compositions() if c.symbols == ("Sr", "Ti", "O"))
    assert strontium_titanate.tolerance_factor == pytest.approx(2.84 / (2**0.5 * 2.005), rel=1e-3)
    index = perovskites.ids.index("SrTiO3-0")
    torch.testing.assert_close(crystals.lattice[index].diagonal(), torch.full((3,), 2**0.5 * 2.84), rtol=1e-3, atol=0)
    # The first variant is ideal; the others are not all.
    distorted = (perovskites.crystals.frac_coords * 4 % 1).abs() > 1e-3
    assert not distorted[:: synthetic.VARIANTS].any()
    assert distorted.any(-1).any(-1).float().mean() > 0.5


def test_synthetic_is_deterministic(perovskites):
    crystals, energies, _ = synthetic.perovskites(seed=0)
    assert torch.equal(crystals.frac_coords, perovskites.crystals.frac_coords)
    assert torch.equal(energies.float(), perovskites.labels)
    other = datasets.synthetic_perovskites(seed=1)
    assert not torch.equal(other.crystals.frac_coords, perovskites.crystals.frac_coords)
    with pytest.raises(SettingError, match="seed: -1"):
        datasets.synthetic_perovskites(seed=-1)


def test_synthetic_energies_equal_pymatgen(perovskites):
    charges = {c.symbols: c.charges for c in synthetic.compositions()}
    generator = torch.Generator().manual_seed(0)
    for index in torch.randint(len(perovskites), (12,), generator=generator).tolist():
        structure = convert.to_structures(perovskites.crystals[index])[0]
        kinds = list(dict.fromkeys(site.specie.symbol for site in structure))  # A, B, X in the order of the sites
        structure.add_oxidation_state_by_element(dict(zip(kinds, charges[tuple(kinds)], strict=True)))
        expected = EwaldSummation(structure).total_energy / len(structure)
        assert float(perovskites.labels[index]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("positions", "charges", "cell", "madelung"),
    [
        # Per ion pair, over the distance of neighbors, which is 1 Å: rock salt and caesium chloride.
        ([[0, 0, 0], [0.5, 0.5, 0.5]], [1, -1], np.ones((3, 3)) - np.eye(3), 1.747564594633),
        ([[0, 0, 0], [0.5, 0.5, 0.5]], [1, -1], 2 / 3**0.5 * np.eye(3), 1.762674773070),
    ],
)
def test_madelung_constants(positions, charges, cell, madelung):
    crystals = Crystals(
        torch.tensor([positions], dtype=torch.float64), torch.tensor([[11, 17]]), torch.tensor(cell[None])
    )
    energy = synthetic.electrostatic_energy(crystals, torch.tensor([charges], dtype=torch.float64), reach=4)
    assert float(energy[0]) * 2 == pytest.approx(-synthetic.COULOMB * madelung, rel=1e-9)


def test_synthetic_splits(load):
    parts = [load("synthetic_perovskites", split) for split in datasets.SPLITS]
    total = sum(len(p) for p in parts)
    assert len(parts[0]) == pytest.approx(0.8 * total, rel=0.01)
    compositions = [{i.rsplit("-", 1)[0] for i in p.ids} for p in parts]
    assert not compositions[0] & compositions[1]
    assert not compositions[0] & compositions[2]
    assert not compositions[1] & compositions[2]
    assert len({i for p in parts for i in p.ids}) == total
    assert load("synthetic_perovskites", limit=7).ids == parts[0].ids[:7]
    with pytest.raises(SettingError, match="is generated, not read"):
        load("synthetic_perovskites", label="band_gap")


def test_finding_one_crystal_in_a_local_file(tmp_path, srtio3, diamond):
    assert datasets.find_crystals("perov_5", "train", "1", "SrTiO3", folder=tmp_path) is None
    assert datasets.find_crystals("perov_5", "train", "1", "SrTiO3", cache=tmp_path) is None
    texts = [str(CifWriter(crystal.to_structures()[0])) for crystal in (srtio3, diamond, srtio3)]
    table = pd.DataFrame({"material_id": ["1", "2", "3"], "cif": texts, "heat_ref": 0.0})
    (tmp_path / "public" / "perov_5").mkdir(parents=True)
    table.to_csv(tmp_path / "public" / "perov_5" / "train.csv", index=False)

    def find(identity, formula, split="train"):
        return datasets.find_crystals("perov_5", split, identity, formula, cache=tmp_path)

    found = find("2", "?")
    assert found.atomic_numbers.tolist() == [[6, 6]]
    assert float(lat.volume(found.lattice)) == pytest.approx(float(lat.volume(diamond.lattice)), rel=1e-4)
    assert len(find("no such id", "SrTiO3")) == 2  # of that formula
    assert find("no such id", "SrTiO3", "val") is None
    assert len(find("1", "?", "train+val")) == 1
    assert find("no such id", "O4") is None
    # A replaced file is read again.
    table.assign(material_id=["a", "b", "c"]).to_csv(tmp_path / "public" / "perov_5" / "train.csv", index=False)
    assert find("2", "?") is None
    many = pd.concat([table] * 20)
    many.to_csv(tmp_path / "public" / "perov_5" / "train.csv", index=False)
    assert find("no such id", "SrTiO3") is not None
    pd.concat([many, table]).to_csv(tmp_path / "public" / "perov_5" / "train.csv", index=False)
    assert find("no such id", "SrTiO3") is None  # too many to tell apart
