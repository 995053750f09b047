"""Replay code of several views as one program."""

from __future__ import annotations

from typing import Any

from cdvae_lab.widgets.base.replay_code import ReplayCode, str_of

MODEL = {"model": "model = 'small'"}


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_imports_come_first_and_once() -> None:
    one = ReplayCode(("from itertools import islice", "import torch"), MODEL, ("a = list(islice('abc', 2))",))
    other = ReplayCode(("from itertools import islice",), MODEL, ("b = list(islice('abc', 1))",), title="Other")
    text = str_of([one, other])
    assert text.splitlines()[:3] == ["from itertools import islice", "import torch", "import cdvae_lab as lab"]
    assert text.count("islice\n") == 1
    assert text.count("model = 'small'") == 1
    assert "\n# Other\n" in text
    assert run(text)["b"] == ["a"]


def test_a_setup_that_a_body_has_overwritten_is_repeated() -> None:
    use = ReplayCode(setup=MODEL, body=("used = [*used, model]",))
    train = ReplayCode(setup={"data": "data = [1]"}, body=("model = 'trained'",))
    text = str_of([ReplayCode(body=("used = []",)), use, use, train, use])
    assert run(text)["used"] == ["small", "small", "small"]
    assert text.count("model = 'small'") == 2


def test_code_that_comes_before_may_have_another_setup() -> None:
    pick = ReplayCode(setup={"model": "model = 'large'"}, body=("crystal = model + ' crystal'",))
    own = ReplayCode(setup=MODEL, body=("made = (model, crystal)",)).after(pick)
    assert run(str_of([ReplayCode(setup=MODEL, body=("x = 1",)), own]))["made"] == ("small", "large crystal")


def test_a_setup_of_several_statements_runs_once() -> None:
    trained = {"model": "runs = [*runs, 1] if 'runs' in globals() else [1]\nmodel = 'trained'"}
    text = str_of([ReplayCode(setup=trained, body=("a = model",)), ReplayCode(setup=trained, body=("b = model",))])
    names = run(text)
    assert (names["a"], names["b"], names["runs"]) == ("trained", "trained", [1])


def test_more_lines() -> None:
    code = ReplayCode(setup=MODEL, body=("a = 1",)).then("b = sqrt(a)", imports=["from math import sqrt"])
    assert run(str(code))["b"] == 1
