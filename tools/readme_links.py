"""The README on a package index: a build hook makes its relative links and pictures absolute.

hatchling calls it (`tool.hatch.metadata.hooks.custom` in pyproject.toml). An index shows the README without the
repository beside it, so that `docs/installation.md` leads nowhere there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s]+)")
PICTURE = re.compile(r"((?:src|srcset)=\")(?!\w+:)([^\"]+)")


def absolute(text: str, repository: str, branch: str = "main") -> str:
    """Return a README with absolute links to files of a repository, and pictures that are served raw."""
    text = LINK.sub(rf"\1{repository}/blob/{branch}/\2", text)
    return PICTURE.sub(rf"\1{repository}/raw/{branch}/\2", text)


class ReadmeLinks(MetadataHookInterface):
    """Give the package's metadata a README with absolute links."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}
