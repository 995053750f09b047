"""Text files are read and written as UTF-8 everywhere, whatever the locale."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("cdvae_lab", "tools", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def text_without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines that read or write text in the locale's encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        modes = [a.value for a in node.args[: 1 if isinstance(node.func, ast.Attribute) else 2] if is_text(a)]
        mode = modes[-1] if modes else "r"
        at_path = name in ("read_text", "write_text") and len(node.args) < (1 if name == "read_text" else 2)
        others = ("os", "Image", "webbrowser", "browser", "self", "super()")
        if at_path or (name == "open" and owner not in others and "b" not in mode):
            yield node.lineno


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_has_its_encoding(path: Path) -> None:
    assert list(text_without_encoding(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", True),
        ("open(path)", True),
        ("path.open('w')", True),
        ("path.write_text(text)", True),
        ("open(path, 'rb')", False),
        ("path.open('rb')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("super().open()", False),  # of a widget's channel
    ],
)
def test_the_check_detects_missing_encodings(code: str, found: bool) -> None:
    assert bool(list(text_without_encoding(ast.parse(code)))) == found


def test_a_file_with_letters_beyond_ascii_is_read_in_any_locale(tmp_path: Path) -> None:
    text = "CsCl, in Å\n1.0\n4.12 0 0\n0 4.12 0\n0 0 4.12\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    (tmp_path / "one.vasp").write_text(text, encoding="utf-8")
    code = "import sys, cdvae_lab as lab; print(lab.read(sys.argv[1]).num_atoms.tolist())"
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "one.vasp")], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert found.stdout.strip() == "[2]"
