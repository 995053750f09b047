"""Python code that repeats the actions in a view."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cdvae_lab.models.cdvae import CDVAE
from cdvae_lab.sampling.schedules import Schedule, choose_schedule
from cdvae_lab.sampling.settings import DEFAULT

PACKAGE = "import cdvae_lab as lab"
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class WithCode(Generic[Thing]):
    """An object together with the statement that makes it, such as `model = lab.load('perov_5')`."""

    value: Thing
    code: str


@dataclass(frozen=True)
class ReplayCode:
    """Code in parts that can be joined with other views' code.

    Attributes:
        imports: beside that of this package.
        setup: statements that several views may need, by the name that they bind: {"model": "model = ..."}. One that
            is in force already is not repeated.
        body: lines that repeat the actions.
        before: code that has to run first, such as that of a crystal that was made in another view.
        title: comment above the body.
    """

    imports: tuple[str, ...] = ()
    setup: Mapping[str, str] = field(default_factory=dict)
    body: tuple[str, ...] = ()
    before: tuple[ReplayCode, ...] = ()
    title: str = ""

    def then(self, *body: str, imports: Iterable[str] = ()) -> ReplayCode:
        """This code and more lines."""
        return ReplayCode((*self.imports, *imports), self.setup, (*self.body, *body), self.before, self.title)

    def after(self, *others: ReplayCode) -> ReplayCode:
        """This code, to be run after other code."""
        return ReplayCode(self.imports, self.setup, self.body, (*others, *self.before), self.title)

    def as_setup(self) -> str:
        """All lines as one statement of another code's `setup`."""
        return "\n".join([*self.imports, *self.setup.values(), *self.body])

    def __str__(self) -> str:
        return str_of([self])


def str_of(parts: Iterable[ReplayCode]) -> str:
    """Several parts, one after another, as one piece of Python: imports first, and no setup twice in a row."""
    blocks: list[list[str]] = []
    bound: dict[str, str] = {}
    imports: dict[str, None] = {}
    flat = [one for part in parts for one in _flat(part)]
    for part in flat:
        needed = [code for name, code in part.setup.items() if bound.get(name) != code]
        lines = [line for code in needed for line in code.splitlines()]
        for name, code in part.setup.items():
            _rebind(bound, code)
            bound[name] = code
        if part.body:
            lines += [f"# {part.title}", *part.body] if part.title else part.body
            _rebind(bound, "\n".join(part.body))
        imports |= dict.fromkeys([*part.imports, *filter(_is_import, lines)])
        if rest := [line for line in lines if not _is_import(line)]:
            blocks.append(rest)
    imports.pop(PACKAGE, None)
    head = "\n".join([*sorted(imports, key=_import_order), PACKAGE])
    return "\n\n".join([head, *("\n".join(lines) for lines in blocks)])


def _flat(part: ReplayCode) -> list[ReplayCode]:
    return [*(one for earlier in part.before for one in _flat(earlier)), part]


def _rebind(bound: dict[str, str], code: str) -> None:
    """Remove the bindings of names that this code assigns."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.pop(node.id, None)


def _is_import(line: str) -> bool:
    return line.startswith(("import ", "from "))


def _import_order(line: str) -> tuple[bool, str]:
    return "torch" in line, line  # the standard library first


def arguments(options: Mapping[str, Any]) -> str:
    """Settings as a call has them after its first argument."""
    return "".join(f", {name}={value!r}" for name, value in options.items())


class Sampler:
    """A sampler of `denoise` with its settings, and the code that names it.

    Args:
        sampler, settings: of `denoise`.

    Attributes:
        schedule: the noise levels and steps.
        arguments: as a call of `denoise` has them after its first argument.
        setup: of the `ReplayCode` of such a call.

    Raises:
        SettingError: for a sampler or a setting that does not exist.
    """

    def __init__(self, model: CDVAE, sampler: str | Schedule, settings: Mapping[str, Any]) -> None:
        self.schedule = choose_schedule(model, sampler, **settings)
        ready = isinstance(sampler, Schedule)
        named = "" if sampler == DEFAULT else f", sampler={sampler!r}"
        self.arguments = (", sampler=schedule" if ready else named) + arguments(settings)
        self.setup = {"schedule": "# `schedule` is the one that the view was given"} if ready else {}


@dataclass
class Segment:
    """One uninterrupted part of a recording.

    Attributes:
        call: the expression that gives its frames.
        first: index in the recording of its first frame.
        thin: interval of the kept frames, in steps.
        taken: frames that the generator gave before it was left; None: all.
        kept: frames that are still in the recording, where later ones were removed; None: all that were kept.
    """

    call: str
    first: int
    thin: int = 1
    taken: int | None = None
    kept: int | None = None

    def expression(self) -> str:
        call = self.call if self.taken is None else f"islice({self.call}, {self.taken})"
        thinned = call if self.thin == 1 else f"lab.every({call}, {self.thin})"
        if self.kept is None:
            return f"list({thinned})"
        # Of an unthinned run the first frames are all that need be computed.
        return f"list(islice({self.call if self.thin == 1 else thinned}, {self.kept}))"


@dataclass
class Segments:
    """The parts that a recording was made of: run, stopped, resumed, cut off, continued with another seed.

    Attributes:
        name: of the list in the code.
    """

    name: str = "frames"
    parts: list[Segment] = field(default_factory=list)

    def add(self, call: str, first: int = 0, thin: int = 1) -> None:
        """Begin another part, whose first frame has this index."""
        self.parts.append(Segment(call, first, thin))

    def leave(self, taken: int) -> None:
        """Note that the last part ended after `taken` frames of its generator."""
        if taken == 0 and len(self.parts) > 1:
            self.parts.pop()
        elif self.parts:
            self.parts[-1].taken = taken

    def cut(self, count: int) -> None:
        """Note that all frames but the first `count` were removed."""
        while self.parts and self.parts[-1].first >= count:
            self.parts.pop()
        if self.parts:
            last = self.parts[-1]
            last.kept = min(count - last.first, last.kept or count)

    def replay(self) -> ReplayCode:
        """The code that makes the list."""
        lines = [f"{self.name} {'+=' if one.first else '='} {one.expression()}" for one in self.parts]
        imports = ("from itertools import islice",) if any("islice(" in line for line in lines) else ()
        return ReplayCode(imports, body=tuple(lines))
