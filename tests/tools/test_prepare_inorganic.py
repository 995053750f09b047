"""The preparation of the data of `inorganic`, on a handful of crystals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdvae_lab import datasets
from cdvae_lab.crystals import formulas
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.datasets import Dataset
from cdvae_lab.errors import SettingError
from tools.prepare_inorganic import largest_gap, main, near, splits, write


def salts(*pairs: tuple[int, int, float], prefix: str = "mp-") -> Dataset:
    """Cubic cells of two atoms, CsCl's structure, by atomic numbers and edge in Å."""
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64).repeat(len(pairs), 1, 1)
    lattice = torch.stack([edge * torch.eye(3, dtype=torch.float64) for *_, edge in pairs])
    crystals = Crystals(frac, torch.tensor([pair[:2] for pair in pairs]), lattice)
    ids = tuple(f"{prefix}{row}" for row in range(len(pairs)))
    labels = torch.arange(len(pairs), dtype=torch.float32)
    return Dataset("salts", "train", crystals, ids, labels, "formation_energy_per_atom", "eV/atom", "here", "MIT")


def test_largest_gap_is_periodic_and_ignores_padding() -> None:
    lattice = torch.diag(torch.tensor([3.0, 4.0, 20.0]))
    frac = torch.tensor([[[0.1, 0.0, 0.95], [0.1, 0.5, 0.05]], [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]])
    crystals = Crystals(frac, torch.tensor([[6, 6], [6, 0]]), lattice.expand(2, 3, 3))
    # From 0.05 to 0.95 of 20 Å; alone in its cell an atom is a whole cell away from its image.
    torch.testing.assert_close(largest_gap(crystals), torch.tensor([18.0, 20.0]))


def test_near_compares_crystals_of_one_formula() -> None:
    data = salts((55, 17, 4.1), (55, 35, 4.3), (11, 17, 3.5))
    other = salts((55, 17, 4.2), (19, 17, 3.6))
    assert near(data, [other]).tolist() == [True, False, False]


def test_splits_set_whole_new_formulas_aside() -> None:
    names = ["A", "A", "B", "C", "C", "D", "E"]
    found = splits(names, {"B"}, 2)
    assert found[2] == "train"
    assert min(found.count("val"), found.count("test")) >= 2
    for name in set(names):
        assert len({split for split, one in zip(found, names, strict=True) if one == name}) == 1
    with pytest.raises(SettingError, match=r"6 crystals have a formula .* too few to set 4 aside"):
        splits(names, {"B"}, 4)


def test_the_command_writes_a_table_that_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mp_20").mkdir()
    public = {
        "train": salts((55, 17, 4.1), (55, 35, 4.3), prefix="train-"),
        "val": salts((55, 17, 4.15), prefix="val-"),
        "test": salts((37, 35, 4.0), prefix="test-"),
    }
    for split, data in public.items():
        write(tmp_path / "mp_20" / f"{split}.csv", [(data, [""] * len(data))])
    # Further crystals: an id of MP-20, one far too large, one near the test file's, and five to keep.
    kept = ((55, 35, 4.35), (55, 53, 4.5), (37, 17, 3.8), (37, 53, 4.2), (19, 53, 4.0))
    further = salts((3, 9, 3.0), (3, 17, 9.0), (37, 35, 4.05), *kept)
    further = replace(further, ids=("train-0", *further.ids[1:]))
    write(tmp_path / "further.csv", [(further, [""] * len(further))])
    # A user's table with an empty column split has no rows of train; without that column it is taken whole.
    table = (tmp_path / "further.csv").read_text()
    (tmp_path / "further.csv").write_text(table.replace("split", "remark", 1))

    command = [str(tmp_path / "further.csv"), "--out", str(tmp_path / "out.csv"), "--folder", str(tmp_path)]
    command += ["--cache", str(tmp_path / "cache")]
    assert main([*command, "--set-aside", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("4 train", "1 val", "1 test", "1 left out: an id of MP-20", "1 left out: more than 60 Å^3 per atom"):
        assert part in printed
    assert "1 left out: near a crystal of MP-20's val or test, of MP-20's training file" in printed
    assert "1 left out: near a crystal of MP-20's val or test, of the further crystals" in printed

    read = {
        split: datasets.load(
            tmp_path / "out.csv", split, label="formation_energy_per_atom", cache=tmp_path / "cache", progress=False
        )
        for split in datasets.SPLITS
    }
    assert [len(data) for data in read.values()] == [4, 1, 1]
    trained = set(formulas.reduced_formulas(read["train"].crystals))
    assert not trained & {data.formulas[0] for split, data in read.items() if split != "train"}
    assert read["train"].ids[0] == "train-1"
    torch.testing.assert_close(read["train"].crystals[[0]].lattice, public["train"].crystals[[1]].lattice.float())

    assert main([*command, "--set-aside", "9"]) == 2
    assert "too few to set 9 aside" in capsys.readouterr().err
