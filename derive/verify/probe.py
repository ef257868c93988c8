"""A hand-written function run on arrays that see every operation, one of which may be changed.

The arguments are NumPy arrays of a class of their own, so whatever runs on arrays runs here:
ufuncs, functions and methods report to a `Run` before their result goes on. An operation is known
by its place in the function's code, which is the text between two columns of a line; one that runs
many times (a loop, a helper called twice) is one operation with many events, and is changed in all.
"""

from __future__ import annotations

import bisect
import dis
import linecache
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import CodeType, FrameType
from typing import Any

import numpy as np

from derive.verify.branches import OWN
from derive.verify.hand import Hand

_STATE = threading.local()
_METHODS = ("all", "any", "astype", "clip", "copy", "cumprod", "cumsum", "diagonal", "dot",
            "flatten", "max", "mean", "min", "prod", "ravel", "repeat", "reshape", "round",
            "squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var")
_MAKERS = ("array", "asarray", "ascontiguousarray", "empty", "eye", "full", "identity", "ones",
           "zeros")
_EVENTS = 100_000
_plain_array = np.asarray  # NumPy's own, also while a function runs


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


def _instruction(code: CodeType, at: int) -> int:
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


class TooLong(Exception):
    """The function runs more operations than are worth a search."""


class Run:
    """One call of the function; `changes` are made, `records` are kept if asked for."""

    def __init__(self, changes: Mapping[Site, Change], record: bool = False) -> None:
        self.changes, self.record = changes, record
        self.records: dict[Site, Record] = {}
        self.numbers: dict[Site, int] = {}
        self.results: dict[str, set[Site]] = {}  # what each gradient is computed from
        self.events = 0

    def operation(self, name: str, args: tuple[Any, ...], options: Mapping[str, Any],
                  compute: Callable[..., Any], reads: set[Site]) -> tuple[Any, set[Site]]:
        """The result of an operation, and what it is computed from."""
        self.events += 1
        if self.events > _EVENTS:
            raise TooLong
        frame = sys._getframe(2)
        while frame.f_code.co_filename.startswith(OWN) and frame.f_back is not None:
            frame = frame.f_back
        site = Site(frame.f_code, _instruction(frame.f_code, frame.f_lasti))
        number = self.numbers[site] = self.numbers.get(site, -1) + 1
        change = self.changes.get(site)
        if change is None:
            value = compute(*args)
        else:
            value = change(Event(site, name, args, options, compute, lambda: _named(frame),
                                 number))
        if self.record:
            self._keep(Event(site, name, _copied(args), options, compute,
                             partial(_copied, _copied(_named(frame))), number),
                       value, reads, frame)
        return value, reads | {site}

    def _keep(self, event: Event, value: Any, reads: set[Site], frame: FrameType) -> None:
        kept = self.records.get(event.site)
        if kept is None:
            kept = self.records[event.site] = Record(event.site)
            caller = frame.f_back
            while caller is not None and not caller.f_code.co_filename.startswith(OWN):
                kept.callers.append((caller.f_code.co_filename, caller.f_lineno))
                caller = caller.f_back
        kept.events.append(event)
        kept.results.append(_copied(value))
        kept.reads |= reads


def _named(frame: FrameType) -> dict[str, np.ndarray]:
    return {n: plain(v) for n, v in frame.f_locals.items()
            if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}


def _copied(value: Any) -> Any:
    """A copy with copies of the arrays in it."""
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, tuple | list):
        return type(value)(_copied(v) for v in value)
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return value


@contextmanager
def _running(this: Run) -> Iterator[None]:
    """Arrays that NumPy makes of nothing, in this thread, are probes as well."""
    before = {name: getattr(np, name) for name in _MAKERS}

    def made(make: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **options: Any) -> Any:
            value = make(*plain(args), **plain(options))
            ours = sys._getframe(1).f_code.co_filename.startswith(OWN)
            return value if ours or not _running_here() else watched(value, _reads(args))

        return function

    _STATE.run = this
    try:
        for name, make in before.items():
            setattr(np, name, made(make))
        yield
    finally:
        for name, make in before.items():
            setattr(np, name, make)
        _STATE.run = None


def run(hand: Hand, point: Mapping[str, Any], changes: Mapping[Site, Change] | None = None,
        record: bool = False) -> tuple[dict[str, np.ndarray], Run]:
    """The function's gradients at a point with some operations changed.

    Raises:
        whatever the function raises on arrays that are no longer what it expects.
    """
    this = Run(changes or {}, record)
    values = {n: watched(np.array(a), set()) for n, a in point.items()}

    def given(name: str) -> Any:
        if name not in values:
            values[name] = watched(hand.program.evaluate(dict(point), (name,))[name], set())
        return values[name]

    with _running(this), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hand.paired(hand.call(given))
    this.results = {n: _reads(found[n]) for n in hand.names}
    return {n: np.array(plain(found[n]), dtype=float) for n in hand.names}, this


# -- the arrays -----------------------------------------------------------------------------------
class Probe(np.ndarray):
    """An array that reports what is done with it."""

    reads: set[Site]

    def __array_finalize__(self, parent: Any) -> None:
        self.reads = set(getattr(parent, "reads", ()))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        function = ufunc if method == "__call__" else getattr(ufunc, method)

        options = plain(options)

        def compute(*args: Any) -> Any:
            return function(*args, **options)

        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        if method == "at":
            return compute(*plain(inputs))
        value, reads = _told(name, inputs, options, compute, inputs)
        if out is None:
            return watched(value, reads)
        for target, part in zip(out, value if isinstance(value, tuple) else (value,), strict=True):
            if target is not None:
                plain(target)[...] = part
                _marked(target, reads)
        return watched(plain(out[0]), reads | _reads(out[0])) if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        options = plain(kwargs)

        def compute(*changed: Any) -> Any:
            return func(*changed, **options)

        value, reads = _told(func.__name__, args, options, compute, (args, kwargs))
        return watched(value, reads)

    def __getitem__(self, key: Any) -> Any:
        value, reads = _told("getitem", (self, key), {}, lambda a, k: a[k], (self, key))
        return watched(value, reads)

    def __setitem__(self, key: Any, value: Any) -> None:
        made, reads = _told("setitem", (value, key), {}, lambda a, k: a, (value, key))
        if isinstance(made, Elsewhere):
            made, key = made.value, made.key
        plain(self)[plain(key)] = made.value if isinstance(made, After) else made
        if isinstance(made, After):
            plain(self)[...] = made.change(plain(self))
        _marked(self, reads)

    @property
    def T(self) -> Any:  # type: ignore[override]
        value, reads = _told("T", (self,), {}, lambda a: a.T, self)
        return watched(value, reads)


def _method(name: str) -> Callable[..., Any]:
    def method(self: Probe, *args: Any, **options: Any) -> Any:
        given = plain(options)

        def compute(array: Any, *rest: Any) -> Any:
            return getattr(array, name)(*rest, **given)

        value, reads = _told(name, (self, *args), given, compute, (self, args, options))
        return watched(value, reads)

    return method


for _name in _METHODS:
    setattr(Probe, _name, _method(_name))


def _running_here() -> Run | None:
    return getattr(_STATE, "run", None)


def _told(name: str, args: tuple[Any, ...], options: Mapping[str, Any],
          compute: Callable[..., Any], sources: Any) -> tuple[Any, set[Site]]:
    this = _running_here()
    if this is None:
        return compute(*plain(args)), set()
    return this.operation(name, plain(args), options, compute, _reads(sources))


def plain(value: Any) -> Any:
    """The same arrays as NumPy's own class, inside sequences and dictionaries too."""
    if isinstance(value, Probe):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(plain(v) for v in value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


def watched(value: Any, reads: set[Site]) -> Any:
    """Arrays (and floating-point numbers) as probes; labels stay numbers that index."""
    if isinstance(value, np.ndarray) or (isinstance(value, np.generic) and value.dtype.kind == "f"):
        array = _plain_array(value).view(Probe)
        array.reads = set(reads)
        return array
    if isinstance(value, tuple | list) and any(isinstance(v, np.ndarray) for v in value):
        return type(value)(watched(v, reads) for v in value)
    return value


def _reads(value: Any) -> set[Site]:
    if isinstance(value, Probe):
        return value.reads
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return set().union(*(_reads(v) for v in value))
    return set()


def _marked(target: Any, reads: set[Site]) -> None:
    """What is written into an array is in all that it is a view of."""
    while isinstance(target, np.ndarray):
        if isinstance(target, Probe):
            target.reads |= reads
        target = target.base
