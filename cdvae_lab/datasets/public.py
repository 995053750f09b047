"""Download the public benchmark files once, verify them by their git blob ids, and cache them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from cdvae_lab.errors import DatasetError

# txie-93/cdvae at a fixed commit, MIT license.
PUBLIC_URL = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"

# git blob id of each file at that commit.
GIT_IDS = {
    "perov_5/train.csv": "0769074b5d51d293b765c4371b8f55c468c9c9f2",
    "perov_5/val.csv": "4a2c8dde98347dd0e01fa83dcf3982c2abe98f9f",
    "perov_5/test.csv": "d3c5d5af4b27a2a139149f2bb73c8a3dba9d8ac1",
    "carbon_24/train.csv": "5e7ae970fbad8ddc46b6963e8cd6e425f11783a6",
    "carbon_24/val.csv": "b3e29b927883642426ca1d9632d00359b412742b",
    "carbon_24/test.csv": "9beca843fde489de1fe288b32f9e3ff710d42803",
    "mp_20/train.csv": "b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f",
    "mp_20/val.csv": "7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1",
    "mp_20/test.csv": "5dc643041df53f5ce4970a79930ad262b4f07acd",
}


def git_blob_id(path: Path) -> str:
    """Compute the git blob id of a file: SHA-1 of `blob <size>`, a zero byte, and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(
    name: str, split: str, folder: Path, *, base_url: str = PUBLIC_URL, git_id: str | None = None, progress: bool = True
) -> Path:
    """Download a public benchmark file into `folder`, unless a correct copy is there, and return its path.

    Args:
        name: "perov_5", "carbon_24" or "mp_20".
        split: "train", "val" or "test".
        folder: folder of the cache; the file is `<folder>/<name>/<split>.csv`.
        base_url: URL of the folder with `<name>/<split>.csv`.
        git_id: expected `git_blob_id`; None for that of the public file.
        progress: show a progress bar.

    Raises:
        DatasetError: if the network is down, the server does not have the file, the content is not the expected one
            (the file is then deleted) or the disk is full; names the file and the remedy.
    """
    import pooch
    import requests

    key = f"{name}/{split}.csv"
    expected = GIT_IDS[key] if git_id is None else git_id
    url = f"{base_url}/{key}"
    target = folder / key
    by_hand = f"download {url} by other means, put it at <folder>/{key} and pass folder=<folder>"

    def check(path: str, action: str, _: object) -> str:
        found = git_blob_id(Path(path))
        if found != expected:
            Path(path).unlink()
            raise DatasetError(
                f"{path}: is not the expected file (git id {found}, expected {expected}) and was deleted: the download "
                f"from {url} was incomplete or altered. Retry, or {by_hand}"
            )
        return path

    if target.is_file() and git_blob_id(target) != expected:
        target.unlink()  # left by an interrupted download; the public file replaces it
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # pooch would print the SHA-256 of a file without a known hash
    downloader: Any = pooch.HTTPDownloader(progressbar=progress, timeout=30)
    try:
        path = pooch.retrieve(
            url,
            known_hash=None,
            fname=target.name,
            path=target.parent,
            processor=check,
            downloader=downloader,
        )
    except requests.HTTPError as error:
        raise DatasetError(f"{url}: the server does not give the file ({error}); {by_hand}") from error
    except requests.RequestException as error:
        raise DatasetError(f"{url}: cannot be reached, is there a network? ({error}); {by_hand}") from error
    except OSError as error:
        raise DatasetError(
            f"{target}: cannot be written ({error.strerror or error}); free some space or pass cache=<another folder>"
        ) from error
    finally:
        logger.setLevel(level)
    return Path(path)
