"""The README and the documentation: examples that run, names that are listed, links that lead somewhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import cdvae_lab as lab

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
ALGORITHM = (ROOT / "docs" / "explanation" / "algorithm.md").read_text(encoding="utf-8")
CODE_BLOCK = re.compile(r"^(`{3,})(\S*)\n(.*?)^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def python_blocks(text: str) -> list[str]:
    """Return the Python examples of a page."""
    return [code for _, language, code in CODE_BLOCK.findall(text) if language == "python"]


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page to files that are not there."""
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    links = [a or b for a, b in LINK.findall(text)]
    files = [link.split("#")[0] for link in links if "://" not in link and not link.startswith(("#", "mailto:"))]
    made = ("docs/tutorials/", "docs/_static/generated/")  # by `tools.tutorials`
    there = [(link, (page.parent / link).resolve()) for link in files]
    return [a for a, b in there if not b.exists() and not b.relative_to(ROOT).as_posix().startswith(made)]


def test_readme_is_an_overview() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = python_blocks(README.read_text(encoding="utf-8"))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(list((tmp_path / "out").glob("*.cif"))) == 8
    assert len(names["decoded"]) == 1
    assert len(names["crystals"]) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    text = "[a](gone.md#x) [b](index.md) [c](https://example.org) ```x```\n```python\n[d](gone.md)\n```\n"
    page = tmp_path / "page.md"
    page.write_text(text + '<img src="gone.png">', encoding="utf-8")
    (tmp_path / "index.md").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.ROOT", tmp_path)
        assert dead_links(page) == ["gone.md", "gone.png"]


def test_reference_lists_every_public_name_once() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = re.findall(r"^   (\w+)$", pages, re.MULTILINE)
    public = [name for name in lab.__all__ if not inspect.ismodule(getattr(lab, name))]
    assert sorted(listed) == sorted(public), "docs/reference/ and cdvae_lab/__init__.pyi differ"


def test_departures_are_numbered_in_order_and_citations_lead_to_one() -> None:
    numbers = [int(number) for number in re.findall(r"^\*\*D(\d+)\.", ALGORITHM, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    sections = {int(number) for number in re.findall(r"^## (\d+)\.", ALGORITHM, re.MULTILINE)}
    cited = 0
    for file in [*(ROOT / "cdvae_lab").rglob("*.py"), *PAGES]:
        for line in file.read_text(encoding="utf-8").splitlines():
            if "algorithm.md" in line or "(D" in line:
                found = re.findall(r"\bD(\d+)\b", line), re.findall(r"algorithm\.md,? section (\d+)", line)
                assert {int(number) for number in found[0]} <= set(numbers), f"{file}: {line}"
                assert {int(number) for number in found[1]} <= sections, f"{file}: {line}"
                cited += len(found[0]) + len(found[1])
    assert cited > 30
