"""The settings of a view as traits: they can be set, observed, linked, saved and restored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import traitlets

from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.io.storage import atomic_path


class Choice(traitlets.Unicode):
    """One of several words. `ViewState.offer` changes the words.

    Args:
        options: to begin with, each as a word, or as (text on the screen, word).
        default: the word to begin with; the first by default.
    """

    def __init__(self, options: Iterable[str | tuple[str, str]], default: str | None = None, **more: Any) -> None:
        self.options = labelled(options)
        super().__init__(self.options[0][1] if default is None else default, **more)

    def validate(self, obj: Any, value: Any) -> str:
        words = [word for _, word in obj.options(self.name)]
        if value not in words:
            raise SettingError(f"{self.name} is {value!r}; choose one of {', '.join(map(repr, words))}")
        return value


class ViewState(traitlets.HasTraits):
    """Base of the states of the views: every public trait is a field on the screen.

    A trait tagged `saved=False` says what is shown at the moment, such as the number of a frame, and is not saved.

    Args:
        values: of the traits, by name.

    Raises:
        SettingError: naming the setting, for a name or a value that cannot be; also whenever a trait is set later.
    """

    show_code = traitlets.Bool(False, help="show the code that repeats what was done").tag(saved=False)
    choices = traitlets.Dict(help="options of the `Choice`s that `offer` has changed").tag(saved=False)
    limits = traitlets.Dict(help="largest values that `limit` has set").tag(saved=False)

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.update(values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        self._check_name(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f"{name} is {value}; choose a finite number")
        largest = None if name in ("choices", "limits") else self.limits.get(name)
        if largest is not None and isinstance(value, int) and value > largest:
            raise SettingError(f"{name} is {value}; choose {_range(self.traits()[name], largest)}")
        trait: Any = self.traits()[name]
        try:
            trait._validate(self, value)
        except traitlets.TraitError as error:
            raise SettingError(f"{name} is {value!r}; choose {_range(trait)}") from error
        super().__setattr__(name, value)

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several traits. If one is refused, none has changed. Raises SettingError as setting one does."""
        for name in values:
            self._check_name(name)
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
        except SettingError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def options(self, name: str) -> tuple[tuple[str, str], ...]:
        """The options of a `Choice`, each as (text on the screen, word)."""
        trait: Any = self.traits()[name]
        return self.choices.get(name, trait.options)

    def offer(self, name: str, options: Iterable[str | tuple[str, str]]) -> None:
        """Change the options of a `Choice`; a value that is no longer among them becomes the first."""
        pairs = labelled(options)
        self.choices = {**self.choices, name: pairs}
        if getattr(self, name) not in [word for _, word in pairs]:
            setattr(self, name, pairs[0][1])

    def limit(self, name: str, largest: int) -> None:
        """Change the largest value of a number, such as that of the frame that is shown; a larger value is reduced."""
        if largest < getattr(self, name):
            setattr(self, name, largest)
        self.limits = {**self.limits, name: largest}

    def values(self) -> dict[str, Any]:
        """The settings by name, ready for JSON."""
        return {name: getattr(self, name) for name in sorted(self._saved())}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take settings that `values` gave. If one is refused, none has changed.

        Raises:
            SettingError: for a name or a value that cannot be.
        """
        if strange := sorted(set(values) - self._saved()):
            known = ", ".join(sorted(self._saved()))
            raise SettingError(f"{type(self).__name__} saves no setting {', '.join(strange)}; it has {known}")
        self.update(values)

    def save(self, path: str | Path) -> Path:
        """Write the settings to a JSON file, atomically. Raises LabError if it cannot be written."""
        with atomic_path(path, "the settings") as temporary:
            temporary.write_text(json.dumps(self.values(), indent=2) + "\n", encoding="utf-8")
        return Path(path)

    def load(self, path: str | Path) -> None:
        """Restore the settings of a file of `save`.

        Raises:
            LabError: if the file cannot be read, or is not JSON.
            SettingError: for a name or a value that cannot be.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LabError(f"{path}: cannot be read as settings ({error}); save them again") from error
        if not isinstance(values, dict):
            raise LabError(f"{path}: holds no settings by name; save them again")
        self.restore(values)

    def _saved(self) -> set[str]:
        return {name for name, trait in self.traits().items() if trait.metadata.get("saved", True)}

    def _check_name(self, name: str) -> None:
        if name not in self.traits():
            names = ", ".join(sorted(self.traits()))
            raise SettingError(f"{type(self).__name__} has no setting {name!r}; it has {names}")


def labelled(options: Iterable[str | tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Options as pairs of the text on the screen and the word."""
    return tuple((one, one) if isinstance(one, str) else (one[0], one[1]) for one in options)


def _range(trait: Any, largest: int | None = None) -> str:
    """The values that a trait takes, in words."""
    if isinstance(trait, traitlets.Bool):
        return "True or False"
    if isinstance(trait, traitlets.Int | traitlets.Float):
        kind = "a whole number" if isinstance(trait, traitlets.Int) else "a number"
        low, high = trait.min, trait.max if largest is None else largest
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            return f"{kind} from {low:,} to {high:,}"
        return kind if low is None or not math.isfinite(low) else f"{kind} of at least {low:,}"
    return "text" if isinstance(trait, traitlets.Unicode) else str(trait.info())
