"""The README as a package index shows it."""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from tools.readme_links import absolute

ROOT = Path(__file__).resolve().parents[2]


def test_relative_links_become_absolute_and_others_stay() -> None:
    text = '[a](docs/a.md#b) [c](https://x.org/c) [d](#e) <img src="p.png"> <img src="https://x.org/q.png">'
    assert absolute(text, "https://host/lab") == (
        "[a](https://host/lab/blob/main/docs/a.md#b) [c](https://x.org/c) [d](#e) "
        '<img src="https://host/lab/raw/main/p.png"> <img src="https://x.org/q.png">'
    )


def test_the_metadata_of_the_wheel_have_no_relative_link() -> None:
    core = WheelBuilder(str(ROOT)).metadata.core
    assert core.readme_content_type == "text/markdown"
    assert "# cdvae_lab" in core.readme
    assert re.findall(r"\]\((?!https://)[^)]+\)", core.readme) == []
    assert re.findall(r'(?:src|srcset)="(?!https://)[^"]+"', core.readme) == []
