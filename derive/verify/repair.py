"""The one operation of a hand-written function that is wrong, found by changing it.

The function runs again and again with one operation changed (`derive.verify.changes`); a change
that makes every gradient right, at two points of different sizes, is what is wrong, in the user's
own text. Where the gradients are linear in an operation's result (all that comes back from the
loss is), a few runs give their derivative with respect to it, and thousands of changes are judged
without running anything; where no result at all would make the gradients right, none is tried.
Of several changes the one is named after which the most other operations have the values that the
derivation has.
"""

from __future__ import annotations

import linecache
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from derive.program import Program
from derive.verify.changes import Edit, There, is_values, own_edits
from derive.verify.changes_with import derived_edits, variable_edits
from derive.verify.hand import Hand
from derive.verify.library import Library
from derive.verify.probe import Change, Event, Record, Site, run
from derive.verify.report import difference

_CLOSE = 1e-9
_ROUNDING = 1e-12
_ELEMENTS = 400  # of an operation's results, whose derivative is still worth its runs
_FAILS = (ArithmeticError, AttributeError, IndexError, KeyError, LookupError, TypeError,
          ValueError, RuntimeError)


@dataclass(frozen=True)
class Point:
    """A point, the right gradients there, and what the derivation computes there."""

    given: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]
    there: There


@dataclass(frozen=True)
class Repair:
    """A change of one operation after which gradients are right: which, where, what is wrong
    there in words, the line as it is and as it should be ("": no text for it), and the lines that
    called the function that it is in."""

    mends: tuple[str, ...]
    file: str
    line: int
    words: str
    operation: str
    source: str
    corrected: str
    callers: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        said = f"line {self.line}: {self.source}"
        if self.callers:
            file, number = self.callers[0]
            said += f"   (called from line {number}: {linecache.getline(file, number).strip()})"
        of = f"`{self.operation}`: " if self.operation != self.source else ""
        said += f"\n            {of}{self.words}"
        if not self.corrected:
            return said
        marks = difference(self.source, self.corrected)
        return f"{said}\n    mended  {self.corrected}\n            {marks}"


def find_repairs(hand: Hand, derived: Program, points: Sequence[Mapping[str, np.ndarray]],
                 wrong: Sequence[str], seconds: float = 4.0) -> tuple[Repair, ...]:
    """What to change in a function so that its gradients become right.

    Args:
        hand: the function.
        derived: the derived program.
        points: two points of different sizes.
        wrong: the parameters whose gradients are wrong.
        seconds: of processor time.

    Returns:
        One change that makes all gradients right; else one after another that makes some right
        and none wrong; nothing where none was found.
    """
    deadline = time.process_time() + seconds
    library = Library(derived)
    there = [_point(derived, library, point) for point in points]
    changes: dict[Site, Change] = {}
    found: list[Repair] = []
    left = list(wrong)
    while left and time.process_time() < deadline:
        try:
            search = _Search(hand, derived, library, there, changes, left, deadline)
        except _FAILS:
            break
        best = None
        for goal in dict.fromkeys([tuple(left), *((p,) for p in left)]):
            best = search.best(goal, tuple(p for p in derived.gradients if p not in left))
            if best:
                break
        if best is None:
            break
        record, edit, mends = best
        changes[record.site] = partial(_make, edit, there[0].there)
        found.append(_repair(record, edit, mends, _spelled(hand, derived, record)))
        left = [p for p in left if p not in mends]
    return tuple(found)


def _make(edit: Edit, there: There, event: Event) -> Any:
    return edit.make(event, there)


def _point(derived: Program, library: Library, given: Mapping[str, np.ndarray]) -> Point:
    arrays, sizes, values = library.at(given)
    right = {p: arrays[g] for p, g in derived.gradients.items()}
    return Point(given, right, There(sizes, values))


def _spelled(hand: Hand, derived: Program, record: Record) -> dict[str, str]:
    """How the code at a place can write the sizes: ``len(x)`` for B."""
    there = record.events[0].names()
    found: dict[str, str] = {}
    for name in hand.arguments or ():
        for axis, size in enumerate(derived.tensors[name].shape):
            if size.is_Symbol and name in there and there[name].ndim > axis:
                found.setdefault(str(size), f"{name}.shape[{axis}]" if axis else f"len({name})")
    return found


def _repair(record: Record, edit: Edit, mends: tuple[str, ...], spelled: Mapping[str, str]
            ) -> Repair:
    site = record.site
    for size, text in spelled.items():
        words, code = (re.sub(rf"\b{re.escape(size)}\b(?!\()", text, part)
                       for part in (edit.words, edit.text))
        edit = replace(edit, words=words, text=code)
    first, start, last, end = site.span
    lines = [text.rstrip("\n") for text in
             linecache.getlines(site.code.co_filename)[first - 1:last]]
    source = " ".join(text.strip() for text in lines)
    corrected = ""
    if edit.text and start >= 0 and lines:
        head = lines[0].encode()[:start].decode()
        tail = lines[-1].encode()[end:].decode()
        corrected = (head + edit.text + tail).strip()
    return Repair(mends, site.code.co_filename, site.line, edit.words, site.text, source, corrected,
                  tuple(record.callers))


class _Search:
    """All changes of one operation, judged by the gradients that they lead to."""

    def __init__(self, hand: Hand, derived: Program, library: Library, points: Sequence[Point],
                 changes: Mapping[Site, Change], wrong: Sequence[str], deadline: float) -> None:
        self.hand, self.library, self.points, self.deadline = hand, library, points, deadline
        self.changes = dict(changes)
        self.names = tuple(derived.gradients)
        self.given, self.base = run(hand, points[0].given, self.changes, record=True)
        self.scales = _scales(points[0].right)
        self.off = {n: self._off(self.given, n, points[0]) for n in self.names}
        # a small mistake is mended only by what leaves much less of it
        self.tolerances = {n: min(_CLOSE, max(1e-3 * self.off[n], 1e-13)) if n in wrong
                           else max(_ROUNDING, 10 * self.off[n]) for n in self.names}

    # -- judging ----------------------------------------------------------------------------------
    def _off(self, given: Mapping[str, np.ndarray], name: str, point: Point) -> float:
        scale = _scales(point.right)[name]
        if given[name].shape != point.right[name].shape:
            return np.inf
        gap = float(np.max(np.abs(given[name] - point.right[name]), initial=0.0))
        return gap / scale if gap == gap else np.inf

    def _mended(self, changes: Mapping[Site, Change], point: Point) -> tuple[str, ...]:
        """The gradients that are right at a point after some changes."""
        try:
            given, _ = run(self.hand, point.given, {**self.changes, **changes})
        except _FAILS:
            return ()
        except Exception:  # the function's own, on values that it does not expect
            return ()
        return tuple(n for n in self.names if self._off(given, n, point) <= self.tolerances[n])

    # -- searching --------------------------------------------------------------------------------
    def best(self, goal: tuple[str, ...], keep: tuple[str, ...]
             ) -> tuple[Record, Edit, tuple[str, ...]] | None:
        """The best change of one operation that makes the goal right and keeps what is. Of the
        operations, those come first whose result is in nothing that the derivation has; that is
        no proof, since what a wrong value is added to may be another part of the derivation."""
        first, second = self.suspects(goal)
        slopes: dict[Site, _Slope | None] = {}
        for kinds in ((own_edits, variable_edits), (derived_edits,)):
            for records in (first, second):
                for kind in kinds:
                    found = self._found(kind, records, slopes, goal, keep)
                    if found:
                        return max(found, key=lambda f: self._score(*f))
        return None

    def _found(self, kind: Callable[[Record, There], Iterator[Edit]], records: list[Record],
               slopes: dict[Site, _Slope | None], goal: tuple[str, ...], keep: tuple[str, ...]
               ) -> list[tuple[Record, Edit, tuple[str, ...]]]:
        found = []
        for record in records:
            if time.process_time() > self.deadline:
                break
            if record.site not in slopes:
                slopes[record.site] = self._slope(record, (*goal, *keep))
            slope = slopes[record.site]
            if slope is not None and not slope.solvable:
                continue
            found += [(record, edit, mends) for edit in kind(record, self.points[0].there)
                      if (mends := self._judged(record, edit, slope, goal, keep))]
        return found

    def suspects(self, goal: tuple[str, ...]) -> tuple[list[Record], list[Record]]:
        """The operations that every gradient of the goal is computed from: those that no value
        is computed from which the derivation has, and the others."""
        records = self.base.records
        right: set[Site] = set()
        for record in records.values():
            if record.site not in self.changes and any(
                    self.library.knows(v, self.points[0].there) for v in record.results):
                right |= record.reads
        common = set.intersection(*(self.base.results[n] for n in goal)) - set(self.changes)
        wanted = [r for s, r in records.items() if s in common]
        return ([r for r in wanted if r.site not in right],
                [r for r in wanted if r.site in right])

    def _judged(self, record: Record, edit: Edit, slope: _Slope | None, goal: tuple[str, ...],
                keep: tuple[str, ...]) -> tuple[str, ...]:
        """The gradients of the goal that an edit makes right at both points; () if not all."""
        if time.process_time() > self.deadline:
            return ()
        if slope is not None:
            said = slope.judge(record, edit, self.points[0].there)
            if said is False:
                return ()
        for point in self.points:
            now = self._mended({record.site: partial(_make, edit, point.there)}, point)
            if self.changes:  # made for the first point; other sizes are another story
                return goal if set(goal) | set(keep) <= set(now) else ()
            if not set(goal) | set(keep) <= set(now):
                return ()
        return goal

    def _score(self, record: Record, edit: Edit, mends: tuple[str, ...]) -> float:
        """How many operations have values of the derivation after a change."""
        point = self.points[0]
        change = {record.site: partial(_make, edit, point.there)}
        try:
            _, after = run(self.hand, point.given, {**self.changes, **change}, record=True)
        except Exception:
            return 0.0
        return sum(float(self.library.knows(v, point.there))
                   for r in after.records.values() for v in r.results[-1:])

    # -- derivatives ------------------------------------------------------------------------------
    def _slope(self, record: Record, names: tuple[str, ...]) -> _Slope | None:
        """How the gradients depend on an operation's result; None where not linearly."""
        results = record.results
        if record.events[0].name == "setitem":  # the rest of the array may be changed too
            return None
        if not all(is_values(v) for v in results) or any(not np.isfinite(v).all() for v in results):
            return None
        sizes = [int(np.size(v)) for v in results]
        if sum(sizes) > _ELEMENTS:
            return None
        rng = np.random.default_rng(0)
        step = rng.normal(size=sum(sizes)) * max(float(np.max(np.abs(v), initial=0)) or 1.0
                                                 for v in results)
        base = self._flat(self.given, names)
        ends = [self._moved(record, c * step, names) for c in (1.0, -1.0, 2.0)]
        if any(e is None for e in ends):
            return None
        up, down, twice = (e - base for e in ends)
        largest = float(np.max(np.abs(up), initial=0))
        # what does not move may yet jump, as a comparison does
        if largest == 0 or not (np.max(np.abs(up + down)) <= 1e-9 * largest
                and np.max(np.abs(twice - 2 * up)) <= 1e-9 * largest):
            return None
        columns = []
        for n in range(sum(sizes)):
            unit = np.zeros(sum(sizes))
            unit[n] = 1.0
            moved = self._moved(record, unit, names)
            if moved is None:
                return None
            columns.append(moved - base)
        wanted = self._flat(self.points[0].right, names) - base
        return _Slope(np.array(columns).T, wanted,
                      max(min(self.tolerances[n] for n in names), 1e-12))

    def _moved(self, record: Record, step: np.ndarray, names: tuple[str, ...]
               ) -> np.ndarray | None:
        sizes = [int(np.size(v)) for v in record.results]
        parts = np.split(step, np.cumsum(sizes)[:-1])

        def change(event: Event) -> Any:
            value = event.result()
            return value + parts[event.number].reshape(np.shape(value))

        try:
            given, _ = run(self.hand, self.points[0].given, {**self.changes, record.site: change})
        except Exception:
            return None
        return self._flat(given, names)

    def _flat(self, given: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
        return np.concatenate([np.ravel(given[n]) / self.scales[n] for n in names])


def _scales(right: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest entry; a gradient that is zero by symmetry is compared with the others."""
    largest = {n: float(np.max(np.abs(a), initial=0.0)) for n, a in right.items()}
    most = max(largest.values(), default=0.0) or 1.0
    return {n: max(s, 1e-3 * most) for n, s in largest.items()}


class _Slope:
    """The gradients' derivative with respect to an operation's results, and what they lack."""

    def __init__(self, columns: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
        self.columns, self.wanted, self.tolerance = columns, wanted, tolerance
        self.solution, *_ = np.linalg.lstsq(columns, wanted, rcond=1e-11)
        self.solvable = self._fits(self.solution, 1e3)

    def _fits(self, step: np.ndarray, slack: float = 10.0) -> bool:
        rest = self.columns @ step - self.wanted
        return bool(np.max(np.abs(rest), initial=0.0) <= slack * self.tolerance)

    def judge(self, record: Record, edit: Edit, there: There) -> bool | None:
        """Whether an edit makes the gradients right; None where its shape is another."""
        parts = []
        for event, result in zip(record.events, record.results, strict=True):
            try:
                with np.errstate(all="ignore"):
                    value = np.asarray(edit.make(event, there))
            except Exception:
                return False
            if value.dtype.kind not in "fiub":
                return False
            if value.shape != np.shape(result):
                return None
            parts.append(np.ravel(value - result))
        step = np.concatenate(parts)
        return bool(np.isfinite(step).all()) and self._fits(step)
