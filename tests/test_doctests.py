"""Examples in docstrings, run as they are printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("cdvae_lab", "tools")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_their_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # where an example writes files
    found = doctest.testmod(module, raise_on_error=False)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_functions_that_a_user_meets_first_have_an_example() -> None:
    import cdvae_lab as lab

    first = ["Crystals", "read", "load", "denoise", "generate", "reconstruct", "decode", "encode", "interpolate"]
    first += ["optimize", "CDVAE", "fit", "fit_prior", "evaluate", "score_table", "record", "every"]
    without = [name for name in first if ">>> " not in (getattr(lab, name).__doc__ or "")]
    assert without == []
    assert ">>> " in (lab.datasets.load.__doc__ or "")
