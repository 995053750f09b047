"""Correcting metadata: the tensors keep their bytes, the file loads, and the corrections fit the bundled files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cdvae_lab.io import assets
from cdvae_lab.io.storage import read_tensors, write_tensors
from tools import set_metadata

CORRECTIONS = json.loads(set_metadata.CORRECTIONS.read_text(encoding="utf-8"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.float16), "c": torch.tensor([7])}
    return write_tensors(tmp_path / "x.safetensors", "kind", 1, tensors, {"keep": [1], "change": {"x": 1, "y": 2}})


def test_the_tensors_keep_their_bytes_and_the_metadata_change(file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    patch = tmp_path / "patch.json"
    patch.write_text(json.dumps({"change": {"x": "a longer text: ä", "y": None}, "new": 3}))
    assert set_metadata.main([str(file), "--patch", str(patch), "--check"]) == 1
    assert file.read_bytes() == before
    assert set_metadata.main([str(file), "--patch", str(patch)]) == 0
    after = file.read_bytes()
    assert set_metadata.parts(after, "x")[1] == set_metadata.parts(before, "x")[1]
    _, tensors, metadata = read_tensors(file, {"kind": (1,)})
    assert metadata == {"keep": [1], "change": {"x": "a longer text: ä"}, "new": 3}
    assert torch.equal(tensors["b"], torch.arange(5.0))
    assert set_metadata.main([str(file), "--patch", str(patch), "--check"]) == 0  # done already


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, patch = tmp_path / "other.safetensors", tmp_path / "patch.json"
    patch.write_text("{}")
    safetensors.torch.save_file({"a": torch.ones(1)}, other)
    assert set_metadata.main([str(other), "--patch", str(patch)]) == 2
    assert "no safetensors file of cdvae_lab" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        set_metadata.main([str(other)])


@pytest.mark.parametrize("name", CORRECTIONS)
def test_the_corrections_change_texts_of_bundled_files_and_nothing_else(name: str, tmp_path: Path) -> None:
    copy = tmp_path / name
    shutil.copy(assets.asset_path(name), copy)
    set_metadata.set_metadata(copy, CORRECTIONS[name])
    (old, tensors), (new, copied) = (
        set_metadata.parts(path.read_bytes(), name) for path in (assets.asset_path(name), copy)
    )
    assert copied == tensors
    texts = [json.loads(header.pop("__metadata__")["metadata"]) for header in (old, new)]
    assert old == new  # names, types, shapes and places of the tensors
    assert "96.6 %" not in json.dumps(texts[1])
    assert texts[0].keys() == texts[1].keys()
    for key in ("config", "ids", "umap", "prior"):
        assert texts[0].get(key) == texts[1].get(key)
