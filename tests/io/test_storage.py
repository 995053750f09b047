"""Files are written atomically, and files of another kind or version are refused."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cdvae_lab import __version__
from cdvae_lab.errors import CheckpointError, LabError
from cdvae_lab.io.storage import atomic_path, read_tensors, refusing_others, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True), "half": torch.ones(2, dtype=torch.float16)}
METADATA = {"numbers": [1, 2.5, None], "text": "Ångström", "nested": {"yes": True}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tensors(tmp_path / "file.safetensors", "thing", 3, TENSORS, METADATA)


def test_round_trip(path: Path) -> None:
    kind, tensors, metadata = read_tensors(path, {"thing": [3]})
    assert kind == "thing"
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_views_and_gradients_are_written_as_plain_values(tmp_path: Path) -> None:
    value = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    path = write_tensors(tmp_path / "views.safetensors", "thing", 1, {"t": value.T, "row": value[1]}, {})
    _, tensors, _ = read_tensors(path, {"thing": [1]})
    assert torch.equal(tensors["t"], value.detach().T)
    assert torch.equal(tensors["row"], value.detach()[1])


def test_several_kinds_can_be_accepted(path: Path) -> None:
    assert read_tensors(path, {"other": [1], "thing": [2, 3]})[0] == "thing"


def test_another_program_reads_it_too(path: Path) -> None:
    assert torch.equal(safetensors.torch.load_file(path)["a"], TENSORS["a"])


@pytest.mark.parametrize(
    ("readable", "message"),
    [
        ({"model": [3]}, r"holds a thing, but a model is needed"),
        ({"model": [3], "trajectory": [3]}, r"a model or trajectory is needed"),
        ({"thing": [4, 5]}, rf"version 3, written by cdvae_lab {__version__}, .* reads version 4 or 5"),
    ],
)
def test_another_kind_or_version_is_refused(path: Path, readable: dict[str, list[int]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tensors(path, readable)
    assert str(path) in str(caught.value)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"file\.safetensors"):
            read_tensors(path, {"thing": [3]})


@pytest.mark.parametrize(
    "header",
    [None, {"format": "pt"}, {"format": "cdvae_lab"}, {"format": "cdvae_lab", "kind": "thing"}],
    ids=["none", "another's", "without kind", "without version"],
)
def test_a_foreign_header_is_refused(path: Path, header: dict[str, str] | None) -> None:
    safetensors.torch.save_file(TENSORS, path, header)
    with pytest.raises(CheckpointError, match=r"file\.safetensors"):
        read_tensors(path, {"thing": [3]})


@pytest.mark.parametrize("metadata", [None, "{not json"])
def test_damaged_metadata_is_refused(path: Path, metadata: str | None) -> None:
    header = {"format": "cdvae_lab", "kind": "thing", "version": "3"}
    safetensors.torch.save_file(TENSORS, path, header if metadata is None else {**header, "metadata": metadata})
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path, {"thing": [3]})


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            read_tensors(path, {"thing": [3]})


def disk_is_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["replace", "write"])
def test_a_full_disk_leaves_the_existing_file(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    before = path.read_bytes()
    if where == "replace":
        monkeypatch.setattr(os, "replace", disk_is_full)
    else:
        monkeypatch.setattr(Path, "write_bytes", disk_is_full)
    with pytest.raises(
        LabError, match=r"cannot write the thing file .*file\.safetensors: No space left.*free some space"
    ):
        write_tensors(path, "thing", 3, {"a": torch.zeros(5)}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_partly_written_file_is_never_visible(path: Path) -> None:
    before = path.read_bytes()

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert path.read_bytes() == before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_folders_are_created_and_other_users_can_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    umask = os.umask(0o022)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("whole")
    finally:
        os.umask(umask)
    assert path.read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_writing_leaves_the_umask_of_the_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(mask: int) -> int:
        raise AssertionError(f"the umask of all threads was set to {mask:o}")

    monkeypatch.setattr(os, "umask", changed)
    with atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole", encoding="utf-8")


def test_an_error_without_text_is_reported_by_its_type() -> None:
    with (
        pytest.raises(CheckpointError, match=r"of a CDVAE of this version \(KeyError\)"),
        refusing_others("x", "a CDVAE"),
    ):
        raise KeyError
    with pytest.raises(CheckpointError, match=r"\(second line\)"), refusing_others("x", "a CDVAE"):
        raise RuntimeError("first line\n  second line\n")


def test_a_path_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="cannot write"):
        write_tensors(tmp_path / "file" / "x.safetensors", "thing", 1, TENSORS, {})
