"""States of views: what can be set, observed, linked, saved and refused."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import pytest
import traitlets

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.widgets.base.fields import Fields
from cdvae_lab.widgets.base.state import Choice, ViewState


class Oven(ViewState):
    n = traitlets.Int(4, min=1, max=64)
    heat = traitlets.Float(1.5, min=0.0)
    color = Choice(["red", ("dark blue", "blue")])
    name = traitlets.Unicode("out")
    on = traitlets.Bool(False)
    index = traitlets.Int(0, min=0).tag(saved=False)


class TestSetting:
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("n", 65, r"n is 65; choose a whole number from 1 to 64"),
            ("n", 1.5, "n is 1.5; choose a whole number"),
            ("heat", -1.0, "heat is -1.0; choose a number of at least 0"),
            ("heat", float("nan"), "heat is nan; choose a finite number"),
            ("color", "green", "color is 'green'; choose one of 'red', 'blue'"),
            ("name", 3, "name is 3; choose text"),
            ("on", "yes", "on is 'yes'; choose True or False"),
            ("no_such", 3, "Oven has no setting 'no_such'; it has .*color"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_by_name(self, name: str, value: object, message: str) -> None:
        state = Oven()
        before = state.values()
        with pytest.raises(SettingError, match=message):
            setattr(state, name, value)
        with pytest.raises(SettingError, match=message):
            Oven(**{name: value})
        assert state.values() == before

    def test_several_at_once_or_none(self) -> None:
        state = Oven()
        with pytest.raises(SettingError, match="heat"):
            state.update({"n": 7, "heat": -3.0})
        assert state.n == 4
        state.update({"n": 7, "color": "blue"})
        assert (state.n, state.color) == (7, "blue")

    def test_observed_and_linked(self) -> None:
        one, other, seen = Oven(), Oven(), []
        one.observe(lambda change: seen.append(change["new"]), "n")
        traitlets.link((one, "n"), (other, "n"))
        other.n = 9
        assert one.n == 9
        assert seen == [9]

    def test_options_that_change(self) -> None:
        state = Oven(color="blue")
        state.offer("color", ["blue", "green"])
        state.color = "green"
        assert Oven().options("color") == (("red", "red"), ("dark blue", "blue"))  # of this state alone
        state.offer("color", ["red", "blue"])
        assert state.color == "red"

    def test_a_limit_that_moves(self) -> None:
        state = Oven()
        state.limit("index", 12)
        state.index = 12
        with pytest.raises(SettingError, match="index is 13; choose a whole number from 0 to 12"):
            state.index = 13
        state.limit("index", 5)
        assert state.index == 5


class TestSaving:
    def test_values_come_back_from_a_file(self, tmp_path: Path) -> None:
        state = Oven(n=8, heat=2, color="blue", index=3)
        path = state.save(tmp_path / "settings.json")
        other = Oven()
        other.load(path)
        assert other.values() == state.values() == {"n": 8, "heat": 2, "color": "blue", "name": "out", "on": False}
        assert other.index == 0  # says what is shown, and is no setting

    def test_refused_as_a_whole(self, tmp_path: Path) -> None:
        state = Oven()
        for values, message in (({"n": 2, "m": 3}, "saves no setting m"), ({"n": 2, "heat": -1}, "heat is -1")):
            with pytest.raises(SettingError, match=message):
                state.restore(values)
            assert state.n == 4
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(LabError, match=r"broken.json: cannot be read"):
            state.load(tmp_path / "broken.json")
        with pytest.raises(LabError, match=r"none.json: cannot be read"):
            state.load(tmp_path / "none.json")
        (tmp_path / "list.json").write_text("[]")
        with pytest.raises(LabError, match="no settings by name"):
            state.load(tmp_path / "list.json")
        with pytest.raises(LabError):
            state.save("/proc/no/such/place.json")


class TestFields:
    def test_an_input_for_each_kind_of_trait_both_ways(self) -> None:
        state = Oven()
        fields = Fields(state)
        kinds = {name: type(fields.make(name, name, "9px")) for name in ("n", "heat", "color", "name", "on")}
        W = ipywidgets
        assert list(kinds.values()) == [W.BoundedIntText, W.FloatText, W.Dropdown, W.Text, W.Checkbox]
        n, color = fields.make("n", "n", "9px"), fields.make("color", "color", "9px")
        assert (n.min, n.max) == (1, 64)
        n.value = 12
        assert state.n == 12
        state.n = 13
        assert n.value == 13
        color.value = "blue"
        assert state.color == "blue"
        state.offer("color", ["green", "blue"])
        assert color.value == state.color == "blue"
        assert [word for _, word in color.options] == ["green", "blue"]
        fields.close()
        state.n = 2
        assert n.value == 13

    def test_a_value_that_the_state_refuses_is_taken_back(self) -> None:
        state = Oven()
        heat = Fields(state).make("heat", "heat", "9px")
        heat.value = -4.0
        assert heat.value == state.heat == 1.5
