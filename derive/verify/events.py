"""What a watched run of a hand-written function consists of: operations, by the place in the code
where they are written, and the arrays that they read and make."""

from __future__ import annotations

import bisect
import dis
import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Site:
    """An operation's place: the code that it is in, and the instruction."""

    code: CodeType
    instruction: int

    @property
    def span(self) -> tuple[int, int, int, int]:
        """Its first line, column, last line, column (columns in bytes; -1: not known)."""
        return _spans(self.code).get(self.instruction, (self.code.co_firstlineno, -1, -1, -1))

    @property
    def line(self) -> int:
        return self.span[0]

    @property
    def text(self) -> str:
        """The operation as it was written; its line where the columns are not known."""
        first, start, last, end = self.span
        lines = linecache.getlines(self.code.co_filename)[first - 1:max(first, last)]
        if not lines:
            return ""
        if start < 0:
            return lines[0].strip()
        raw = [line.encode() for line in lines]
        raw[-1] = raw[-1][:end]
        raw[0] = raw[0][start:]
        return " ".join(b" ".join(part.strip() for part in raw).decode().split())


def instruction(code: CodeType, at: int) -> int:
    """Where the instruction begins that ``at`` is in: once a call is specialised to a method of
    ours, the frame stands at the end of the instruction's inline cache."""
    starts = _starts(code)
    return starts[bisect.bisect_right(starts, at) - 1]


@lru_cache(maxsize=256)
def _starts(code: CodeType) -> list[int]:
    return [i.offset for i in dis.get_instructions(code)]


@lru_cache(maxsize=256)
def _spans(code: CodeType) -> dict[int, tuple[int, int, int, int]]:
    found = {}
    for n, (line, last, start, end) in enumerate(code.co_positions()):
        if line is not None:
            found[2 * n] = (line, -1 if start is None else start, last or line,
                            -1 if end is None else end)
    return found


@dataclass
class Event:
    """One operation: its NumPy name, its arguments as plain arrays, its options, how to compute it
    with other arguments, the arrays that the code can name at its place (innermost function only),
    and how often it has run before."""

    site: Site
    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    compute: Callable[..., Any]
    names: Callable[[], dict[str, np.ndarray]]
    number: int

    def result(self) -> Any:
        return self.compute(*self.args)


Change = Callable[[Event], Any]


@dataclass
class Record:
    """What an operation did in a run: its events, the result of each, and what they are computed
    from; ``callers`` are the places that called the function it is in, the nearest first."""

    site: Site
    events: list[Event] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    reads: set[Site] = field(default_factory=set)
    callers: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Leaf:
    """An array that an operation reads: where among its arguments, the numbers of its elements
    (-1: a constant), and its value."""

    path: tuple[int, ...]
    ids: np.ndarray
    base: np.ndarray

    @cached_property
    def known(self) -> np.ndarray:
        return self.ids[self.ids >= 0]

    @cached_property
    def distinct(self) -> bool:
        return len(np.unique(self.known)) == self.known.size

    def read(self, values: np.ndarray) -> np.ndarray:
        """It among the elements' values."""
        if self.known.size == self.ids.size:
            found = values[self.ids]
        else:
            found = np.where(self.ids >= 0, values[self.ids], self.base)
        return found if self.base.dtype == float else found.astype(self.base.dtype)


@dataclass(frozen=True)
class Step:
    """An event on a tape: the arrays that it reads, the numbers of its results' elements
    (``start`` up to ``stop``) and their value, and the arrays that its code can name."""

    event: Event
    leaves: tuple[Leaf, ...]
    start: int
    stop: int
    value: Any
    named: tuple[tuple[str, Leaf], ...] = ()

    def flat(self, value: Any) -> np.ndarray:
        parts = value if isinstance(value, tuple | list) else (value,)
        return np.concatenate([np.ravel(np.asarray(v, dtype=float)) for v in parts])

    def args(self, values: np.ndarray) -> tuple[Any, ...]:
        """The arguments as they are among the elements' values."""
        args = list(self.event.args)
        for leaf in self.leaves:
            first, *rest = leaf.path
            args[first] = _with(args[first], tuple(rest), leaf.read(values))
        return tuple(args)

    def at(self, values: np.ndarray) -> Event:
        """The event with what it reads as it is among the elements' values."""
        args, plain = self.args(values), self.event.names

        def names() -> dict[str, np.ndarray]:
            return {**plain(), **{n: leaf.read(values) for n, leaf in self.named}}

        return replace(self.event, args=args, names=names)

    def filled(self, leaf: Leaf, new: np.ndarray, args: tuple[Any, ...] | None = None
               ) -> tuple[Any, ...]:
        """The arguments with another array in the place of one."""
        return tuple(_with(self.event.args if args is None else args, leaf.path, new))

    def readable(self) -> Iterator[tuple[Any, Leaf]]:
        """What it reads or could read, floating-point numbers only."""
        for leaf in self.leaves:
            if leaf.base.dtype.kind == "f":
                yield leaf.path, leaf
        for name, leaf in self.named:
            if leaf.base.dtype.kind == "f":
                yield name, leaf


def _with(args: Any, path: tuple[int, ...], new: Any) -> Any:
    if not path:
        return new
    parts = list(args)
    parts[path[0]] = _with(parts[path[0]], path[1:], new)
    return type(args)(parts)


@dataclass(frozen=True)
class Elsewhere:
    """What a changed assignment to elements gives: a value, for another key."""

    value: Any
    key: Any


@dataclass(frozen=True)
class After:
    """What a changed assignment to elements gives: the value, and what becomes of the whole array
    when it is stored."""

    value: Any
    change: Callable[[np.ndarray], np.ndarray]
