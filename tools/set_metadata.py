"""Correct the JSON metadata of bundled safetensors files without touching a tensor.

    python -m tools.set_metadata                     # every file that tools/metadata_corrections.json names
    python -m tools.set_metadata --check             # only say which files differ
    python -m tools.set_metadata FILE --patch P.json # one file, with the patch in P.json

A patch is a JSON merge patch (RFC 7386) of the file's metadata: objects are merged, null removes a key, and any other
value replaces the old one. The bytes of the tensors are copied as they are and compared before the file is replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdvae_lab.errors import CheckpointError, LabError
from cdvae_lab.io import assets
from cdvae_lab.io.storage import atomic_path

CORRECTIONS = Path(__file__).with_name("metadata_corrections.json")
_LENGTH = 8  # bytes of the header's length, little-endian
_ALIGNMENT = 8  # the tensors begin at a multiple of this many bytes; the header is padded with spaces


def merged(value: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386).

    >>> merged({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 4, "b": {"c": None}})
    {'a': 4, 'b': {'d': 3}}
    """
    if not isinstance(patch, Mapping):
        return patch
    result = dict(value) if isinstance(value, Mapping) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), change)
    return result


def parts(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header and the bytes of its tensors.

    Raises:
        CheckpointError: if it is no safetensors file with metadata of cdvae_lab.
    """
    try:
        (length,) = struct.unpack("<Q", content[:_LENGTH])
        header = json.loads(content[_LENGTH : _LENGTH + length])
        json.loads(header["__metadata__"]["metadata"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: no safetensors file of cdvae_lab ({error!r})") from error
    return header, content[_LENGTH + length :]


def corrected(content: bytes, patch: Mapping[str, Any], name: str) -> bytes:
    """Return the content of a file with its metadata patched; the tensors keep their bytes and their order.

    Raises:
        CheckpointError: if it is no safetensors file with metadata of cdvae_lab.
    """
    header, tensors = parts(content, name)
    old = json.loads(header["__metadata__"]["metadata"])
    new = merged(old, patch)
    if new == old:
        return content
    header["__metadata__"]["metadata"] = json.dumps(new)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text + tensors


def set_metadata(path: Path, patch: Mapping[str, Any], check: bool = False) -> bool:
    """Patch the metadata of a file; returns whether it differed.

    Args:
        check: change nothing.

    Raises:
        CheckpointError: if it is no safetensors file with metadata of cdvae_lab.
        LabError: if it cannot be read or written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error})") from error
    new = corrected(content, patch, path.name)
    if new == content:
        return False
    before, after = (hashlib.sha256(parts(one, path.name)[1]).hexdigest() for one in (content, new))
    if before != after:
        raise CheckpointError(f"{path}: the tensors would change; nothing was written")
    if not check:
        with atomic_path(path, "the file") as temporary:
            temporary.write_bytes(new)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.set_metadata", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="default: all bundled files to correct")
    parser.add_argument("--patch", type=Path, metavar="JSON", help="default: the file's entry in the corrections")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file differs")
    options = parser.parse_args(argv)
    try:
        corrections = json.loads(CORRECTIONS.read_text(encoding="utf-8"))
        if options.file is None:
            work = {assets.asset_path(name): patch for name, patch in corrections.items()}
        elif options.patch is not None:
            work = {options.file: json.loads(options.patch.read_text(encoding="utf-8"))}
        elif options.file.name in corrections:
            work = {options.file: corrections[options.file.name]}
        else:
            parser.error(f"{options.file.name} has no entry in {CORRECTIONS.name}; give --patch")
        changed = [path for path, patch in work.items() if set_metadata(path, patch, options.check)]
    except (LabError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for path in changed:
        print(f"{path.name}: {'differs' if options.check else 'corrected'}; the tensors are the same")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
