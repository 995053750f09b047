"""Examples in docstrings, run as they are printed."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from cdvae_lab.evaluation import card, run, score_tables
from cdvae_lab.metrics import charge_balance
from cdvae_lab.pages import shell
from tools import set_metadata


@pytest.mark.parametrize("module", [run, card, score_tables, charge_balance, shell, set_metadata])
def test_examples_print_what_they_say(module: ModuleType) -> None:
    found = doctest.testmod(module, raise_on_error=False)
    assert found.attempted > 0
    assert found.failed == 0
