"""Files that cannot run code: safetensors with JSON metadata, written atomically and checked when they are read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cdvae_lab import __version__
from cdvae_lab.errors import CheckpointError, LabError

FORMAT = "cdvae_lab"


def stored_tensors(model: nn.Module, half: bool = False) -> dict[str, Tensor]:
    """Return the tensors to store of a model: weights in float32 or float16, buffers (standardization) unchanged."""
    floats, buffers = torch.float16 if half else torch.float32, {name for name, _ in model.named_buffers()}
    return {name: x if name in buffers else x.to(floats) for name, x in model.state_dict().items()}


@contextlib.contextmanager
def atomic_path(path: str | Path, what: str = "the file") -> Iterator[Path]:
    """Yield a temporary path in the same folder that is renamed to `path` if the block succeeds.

    Raises:
        LabError: if it cannot be written (no such folder, no permission, disk full); an existing file is unchanged.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # tempfile.mkstemp makes private files, and opening them to others takes the umask, which belongs to the whole
        # process and can only be read by setting it. To a new file the operating system applies the umask by itself.
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise LabError(
            f"cannot write {what} {path}: {error.strerror or error}; free some space or choose another folder "
            "(an existing file is unchanged)"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_tensors(
    path: str | Path, kind: str, version: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write tensors and JSON metadata to one safetensors file, atomically.

    The header also records the version of the package.

    Args:
        kind: content of the file ("model", "trajectory", ...); a reader states the kinds that it accepts.
        version: format version of that kind.

    Raises:
        LabError: if the file cannot be written.
    """
    header = {"format": FORMAT, "kind": kind, "version": str(version), "written_by": __version__}
    header["metadata"] = json.dumps(dict(metadata))
    data = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, header)
    with atomic_path(path, f"the {kind} file") as temporary:
        temporary.write_bytes(data)
    return Path(path)


@contextlib.contextmanager
def refusing_others(path: str | Path, what: str) -> Iterator[None]:
    """Convert errors of loading the tensors and settings of a file into a model to a CheckpointError.

    Args:
        what: expected content of the file, such as "a CDVAE".
    """
    try:
        yield
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: its tensors or settings are not those of {what} of this version "
            f"({_last_line(error)}); use the cdvae_lab that wrote it"
        ) from error


def _last_line(error: Exception) -> str:
    """Return the last line of an error's text, the specific one in torch's errors; its type if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of a JSON object from version 0.1, which spelled "licence"."""
    return {{"licence": "license"}.get(name, name): value for name, value in values.items()}


def read_tensors(
    path: str | Path, readable: Mapping[str, Collection[int]]
) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Read the kind, tensors and metadata of a file of `write_tensors`.

    Args:
        readable: the kinds of file that are accepted, each with the format versions that can be read.

    Raises:
        CheckpointError: if the file is missing, truncated, not written by cdvae_lab, of another kind, or of a format
            version that cannot be read; the message then names the cdvae_lab that wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: a safetensors file, but not one of cdvae_lab's (its metadata has no format = {FORMAT}); "
                    "other programs' weights cannot be loaded"
                )
            kind = header.get("kind", "")
            if kind not in readable:
                raise CheckpointError(f"{path}: holds a {kind}, but a {' or '.join(readable)} is needed here")
            metadata = json.loads(header["metadata"], object_hook=_renamed)
            versions = [str(version) for version in readable[kind]]
            if (version := header.get("version")) not in versions:
                writer = _writer(header, metadata)
                raise CheckpointError(
                    f"{path}: {kind} format version {version}, written by cdvae_lab {writer}, but this cdvae_lab "
                    f"{__version__} reads version {' or '.join(versions)}; install cdvae_lab {writer} to read the "
                    "file, or write it again with this one"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return kind, tensors, metadata
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated, damaged or no safetensors file ({error}); copy or download it again"
        ) from error


def _writer(header: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Return the version of the package that wrote a file; files of 0.1 state it, if at all, in a model's metadata."""
    model = metadata.get("model")
    stated = model.get("version") if isinstance(model, dict) else None
    return header.get("written_by") or stated or "0.1"
