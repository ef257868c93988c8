"""A hand-written function run on arrays that see every operation, one of which may be changed.

The arguments are NumPy arrays of a class of their own, so whatever runs on arrays runs here:
ufuncs, functions and methods report to a `Run` before their result goes on. An operation is known
by its place in the function's code, which is the text between two columns of a line; one that runs
many times (a loop, a helper called twice) is one operation with many events, and is changed in all.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from derive.verify.branches import OWN
from derive.verify.events import (
    After,
    Change,
    Elsewhere,
    Event,
    Leaf,
    Record,
    Site,
    Step,
    instruction,
)
from derive.verify.hand import Hand

_STATE = threading.local()
_METHODS = ("all", "any", "astype", "clip", "copy", "cumprod", "cumsum", "diagonal", "dot",
            "flatten", "max", "mean", "min", "prod", "ravel", "repeat", "reshape", "round",
            "squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var")
_MAKERS = ("array", "asarray", "ascontiguousarray", "empty", "eye", "full", "identity", "ones",
           "zeros")
_EVENTS = 100_000
_plain_array = np.asarray  # NumPy's own, also while a function runs


class TooLong(Exception):
    """The function runs more operations than are worth a search."""


class Run:
    """One call of the function; `changes` are made, `records` are kept if asked for, and so is a
    tape, for which views are copies."""

    def __init__(self, changes: Mapping[Site, Change], record: bool = False, tape: bool = False
                 ) -> None:
        self.changes, self.record, self.tape = changes, record, tape
        self.steps: list[Step] = []
        self.elements = 0
        self.unseen: set[Site] = set()  # what decides where something is written
        self.records: dict[Site, Record] = {}
        self.numbers: dict[Site, int] = {}
        self.results: dict[str, set[Site]] = {}  # what each gradient is computed from
        self.leaves: dict[str, Leaf] = {}  # each gradient on the tape
        self.events = 0

    def operation(self, name: str, raw: tuple[Any, ...], options: Mapping[str, Any],
                  compute: Callable[..., Any], reads: set[Site]) -> tuple[Any, Origin]:
        """The result of an operation, and what it is computed from."""
        self.events += 1
        if self.events > _EVENTS:
            raise TooLong
        frame = sys._getframe(2)
        while frame.f_code.co_filename.startswith(OWN) and frame.f_back is not None:
            frame = frame.f_back
        site = Site(frame.f_code, instruction(frame.f_code, frame.f_lasti))
        number = self.numbers[site] = self.numbers.get(site, -1) + 1
        args, change = plain(raw), self.changes.get(site)
        if change is not None:
            plainly, names = compute, self.names(frame)

            def compute(*args: Any) -> Any:
                return change(Event(site, name, args, options, plainly, names, number))

        value = compute(*args)
        origin = Origin(reads | {site})
        if self.record:
            event = Event(site, name, _copied(args), options, compute, self.names(frame), number)
            self._keep(event, value, reads, frame)
            if self.tape:
                origin.ids = self._step(event, raw, value, frame)
        return value, origin

    def names(self, frame: FrameType) -> Callable[[], dict[str, np.ndarray]]:
        """The arrays that the code can name, as they are now."""
        if not self.record:
            return lambda: _named(frame)
        named = _copied(_named(frame))
        return lambda: named

    def _step(self, event: Event, raw: tuple[Any, ...], value: Any, frame: FrameType) -> Any:
        """Another step of the tape; the numbers of its result's elements."""
        start, ids = self.elements, _numbered(value, self.elements)
        if ids is None:
            return None
        self.elements += sum(np.size(i) for i in (ids if isinstance(ids, tuple) else (ids,)))
        named = tuple((n, Leaf((), np.array(v.ids), event.names()[n]))
                      for n, v in frame.f_locals.items()
                      if isinstance(v, Probe) and v.ids is not None and n in event.names())
        leaves = tuple(Leaf(path, np.array(a.ids), np.array(plain(a)))
                       for path, a in _leaves(raw, ()) if a.ids is not None)
        self.steps.append(Step(event, leaves, start, self.elements, _copied(value), named))
        if event.name in ("setitem", "add.at"):
            self.unseen |= _reads(raw[1])
        return ids

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


def _numbered(value: Any, start: int) -> Any:
    """Numbers for the elements of a result: as arrays like it; None for what is no numbers."""
    if isinstance(value, tuple | list):
        parts = []
        for v in value:
            part = _numbered(v, start)
            if part is None:
                return None
            parts.append(part)
            start += part.size
        return tuple(parts)
    array = _plain_array(value)
    if array.dtype.kind not in "fiub":
        return None
    return np.arange(start, start + array.size).reshape(array.shape)


def _leaves(value: Any, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Probe]]:
    if isinstance(value, Probe):
        yield path, value
    elif isinstance(value, tuple | list):
        for n, part in enumerate(value):
            yield from _leaves(part, (*path, n))


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
            if ours or not _running_here():
                return value
            return watched(value, Origin(_reads(args), _moved(args, value)))

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
        record: bool = False, tape: bool = False) -> tuple[dict[str, np.ndarray], Run]:
    """The function's gradients at a point with some operations changed.

    Raises:
        whatever the function raises on arrays that are no longer what it expects.
    """
    this = Run(changes or {}, record, tape)
    values = {n: watched(np.array(a), Origin()) for n, a in point.items()}

    def given(name: str) -> Any:
        if name not in values:
            values[name] = watched(hand.program.evaluate(dict(point), (name,))[name], Origin())
        return values[name]

    with _running(this), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hand.paired(hand.call(given))
    this.results = {n: _reads(found[n]) for n in hand.names}
    this.leaves = {n: Leaf((), np.array(a.ids), np.array(plain(a))) for n, a in found.items()
                   if isinstance(a, Probe) and a.ids is not None}
    return {n: np.array(plain(found[n]), dtype=float) for n in hand.names}, this


# -- the arrays -----------------------------------------------------------------------------------
class Probe(np.ndarray):
    """An array that reports what is done with it."""

    reads: set[Site]
    ids: np.ndarray | None  # the number of what was last written into each element

    def __array_finalize__(self, parent: Any) -> None:
        self.reads, self.ids = set(getattr(parent, "reads", ())), None

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(len(self)))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        function = ufunc if method == "__call__" else getattr(ufunc, method)

        options = plain(options)

        def compute(*args: Any) -> Any:
            return function(*args, **options)

        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        if method == "at":
            return self._at(ufunc, name, inputs)
        value, origin = _told(name, inputs, options, compute, inputs)
        if out is None:
            return watched(value, origin)
        values = value if isinstance(value, tuple) else (value,)
        for target, part in zip(out, values, strict=True):
            if target is not None:
                plain(target)[...] = part
                _marked(target, origin.reads)
        if len(out) > 1:
            return out
        if isinstance(out[0], Probe) and origin.ids is not None:
            out[0].write(..., origin.ids)
        now = plain(out[0]).view(Probe)
        now.reads, now.ids = origin.reads | _reads(out[0]), getattr(out[0], "ids", None)
        return now

    def _at(self, ufunc: np.ufunc, name: str, inputs: tuple[Any, ...]) -> None:
        """np.add.at and the like: the array after it is the result."""
        def compute(array: Any, *rest: Any) -> Any:
            new = np.array(array)
            ufunc.at(new, *rest)
            return new

        value, origin = _told(name, inputs, {}, compute, inputs)
        plain(inputs[0])[...] = value
        _marked(inputs[0], origin.reads)
        if isinstance(inputs[0], Probe) and origin.ids is not None:
            inputs[0].write(..., origin.ids)

    def write(self, key: Any, ids: Any) -> None:
        """Remember what was written into some elements."""
        if self.ids is None:
            self.ids = np.full(self.shape, -1)
        self.ids[key] = ids

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        options = plain(kwargs)

        def compute(*changed: Any) -> Any:
            return func(*changed, **options)

        return watched(*_told(func.__name__, args, options, compute, (args, kwargs)))

    def __getitem__(self, key: Any) -> Any:
        return watched(*_told("getitem", (self, key), {}, lambda a, k: a[k], (self, key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        made, origin = _told("setitem", (value, key), {}, lambda a, k: a, (value, key))
        if isinstance(made, Elsewhere):
            made, key = made.value, made.key
        plain(self)[plain(key)] = made.value if isinstance(made, After) else made
        if isinstance(made, After):
            plain(self)[...] = made.change(plain(self))
        elif origin.ids is not None:
            self.write(plain(key), origin.ids)
        _marked(self, origin.reads)

    @property
    def T(self) -> Any:  # type: ignore[override]
        return watched(*_told("T", (self,), {}, lambda a: a.T, self))


def _method(name: str) -> Callable[..., Any]:
    def method(self: Probe, *args: Any, **options: Any) -> Any:
        given = plain(options)

        def compute(array: Any, *rest: Any) -> Any:
            return getattr(array, name)(*rest, **given)

        return watched(*_told(name, (self, *args), given, compute, (self, args, options)))

    return method


for _name in _METHODS:
    setattr(Probe, _name, _method(_name))


def _running_here() -> Run | None:
    return getattr(_STATE, "run", None)


@dataclass
class Origin:
    """What a result is computed from, and the numbers of its elements on the tape."""

    reads: set[Site] = field(default_factory=set)
    ids: Any = None


def _told(name: str, args: tuple[Any, ...], options: Mapping[str, Any],
          compute: Callable[..., Any], sources: Any) -> tuple[Any, Origin]:
    this = _running_here()
    if this is None:
        return compute(*plain(args)), Origin()
    return this.operation(name, args, options, compute, _reads(sources))


def _moved(args: tuple[Any, ...], value: Any) -> np.ndarray | None:
    """The numbers of the elements of an array that is made of others, one after the other."""
    parts = [np.full(a.shape, -1) if a.ids is None else a.ids for _, a in _leaves(args, ())]
    if all(a.ids is None for _, a in _leaves(args, ())) or sum(p.size for p in parts) != value.size:
        return None
    return np.concatenate([p.ravel() for p in parts]).reshape(value.shape)


def plain(value: Any) -> Any:
    """The same arrays as NumPy's own class, inside sequences and dictionaries too."""
    if isinstance(value, Probe):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(plain(v) for v in value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


def watched(value: Any, origin: Origin) -> Any:
    """Arrays (and floating-point numbers) as probes; labels stay numbers that index."""
    if isinstance(value, np.ndarray) or (isinstance(value, np.generic) and value.dtype.kind == "f"):
        array = _plain_array(value)
        this = _running_here()
        if this is not None and this.tape and array.base is not None:
            array = array.copy()
        probe = array.view(Probe)
        probe.reads, probe.ids = set(origin.reads), origin.ids
        return probe
    if isinstance(value, tuple | list) and any(isinstance(v, np.ndarray) for v in value):
        ids = origin.ids or [None] * len(value)
        return type(value)(watched(v, Origin(origin.reads, i))
                           for v, i in zip(value, ids, strict=True))
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
