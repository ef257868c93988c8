"""The one operation of a hand-written function that is wrong, found by changing it.

The function runs again and again with one operation changed (`derive.verify.changes`); a change
that makes every gradient right, at two points of different sizes, is what is wrong, in the user's
own text. Changes are judged on a tape of one run (`derive.verify.tape`): where the gradients are
linear in an operation's result (all that comes back from the loss is), by their derivative with
respect to it, and where no result at all would make the gradients right, none is tried; elsewhere
by following the change. Only what passes there is run. Of several changes the one is named after
which the most other operations have the values that the derivation has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from derive.program import Program
from derive.verify.changes import Edit, There, is_values, own_edits
from derive.verify.changes_with import derived_edits, scaled_edits, variable_edits
from derive.verify.deadline import Deadline
from derive.verify.events import Change, Event, Record, Site, Step
from derive.verify.hand import Hand
from derive.verify.library import Library
from derive.verify.mend import Mend, Mender, cost, mender
from derive.verify.probe import Run, run
from derive.verify.repaired import Repair, repaired, reworded, spelled
from derive.verify.tape import Linear, NotReplayed, Tape, linear_at

_CLOSE = 1e-9
_ROUNDING = 1e-12
Kind = Callable[..., Iterator[Edit]]

_UNWRITTEN = 6  # the cost of a change that has no text
_ANY = 1000
_REWORDED = 1.3  # seconds for changes of the text, so that some are left for those of arrays
_EACH = 3  # changes of one operation that are kept
_SCORED = 12  # changes among which the best is chosen
_FAILS = (ArithmeticError, AttributeError, IndexError, KeyError, LookupError, TypeError,
          ValueError, RuntimeError)


@dataclass(frozen=True)
class Point:
    """A point, the right gradients there, and what the derivation computes there."""

    given: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]
    there: There


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
    deadline = Deadline(seconds)
    library = Library(derived)
    there = [_point(derived, library, point) for point in points]
    changes: dict[Site, Change] = {}
    found: list[Repair] = []
    left = list(wrong)
    tool = mender(hand, derived, [p.given for p in there])
    while left and not deadline.passed():
        try:
            search = _Search(hand, derived, library, there, changes, left, deadline,
                             tool)
        except _FAILS:
            break
        best = None
        for goal in dict.fromkeys([tuple(left), *((p,) for p in left)]):
            best = search.best(goal, tuple(p for p in derived.gradients if p not in left))
            if best:
                break
        if best is None:
            break
        if isinstance(best, Mend):
            hand = best.hand(hand)
            tool = tool.after(best) if tool else None
            found.append(reworded(best, goal))
        else:
            record, edit = best
            changes[record.site] = partial(_make, edit, there[0].there)
            found.append(repaired(record, edit, goal, spelled(hand, derived, record)))
        left = [p for p in left if p not in goal]
    return tuple(found)


def _cost(record: Record, edit: Edit) -> int:
    site = record.site
    return cost(site.text, edit.text, site.code.co_filename) if edit.text else _UNWRITTEN


def _make(edit: Edit, there: There, event: Event) -> Any:
    return edit.make(event, there)


def _point(derived: Program, library: Library, given: Mapping[str, np.ndarray]) -> Point:
    arrays, sizes, values = library.at(given)
    right = {p: arrays[g] for p, g in derived.gradients.items()}
    return Point(given, right, There(sizes, values))


class _Search:
    """All changes of one operation, judged by the gradients that they lead to."""

    def __init__(self, hand: Hand, derived: Program, library: Library, points: Sequence[Point],
                 changes: Mapping[Site, Change], wrong: Sequence[str], deadline: Deadline,
                 tool: Mender | None) -> None:
        self.hand, self.library, self.points, self.deadline = hand, library, points, deadline
        self.changes = dict(changes)
        self.names = tuple(derived.gradients)
        self.given, self.base, self.tape = _recorded(hand, points[0], self.changes)
        self.rows = None if self.tape is None else self.tape.derivative(
            [self.tape.gradients[n].ids for n in self.names])
        self.scales = _scales(points[0].right)
        self.off = {n: self._off(self.given, n, points[0]) for n in self.names}
        # a small mistake is mended only by what leaves much less of it
        self.tolerances = {n: min(_CLOSE, max(1e-3 * self.off[n], 1e-13)) if n in wrong
                           else max(_ROUNDING, 10 * self.off[n]) for n in self.names}
        self.judges: dict[Site, Linear | None] = {}
        self.known: set[Site] = set()  # operations whose values the derivation has
        self.right: set[Site] = set()  # operations from which such values are computed
        self.lines: dict[int, int] = {}
        self.mender = tool

    # -- judging ----------------------------------------------------------------------------------
    def _off(self, given: Mapping[str, np.ndarray], name: str, point: Point) -> float:
        scale = _scales(point.right)[name]
        if given[name].shape != point.right[name].shape:
            return np.inf
        gap = float(np.max(np.abs(given[name] - point.right[name]), initial=0.0))
        return gap / scale if gap == gap else np.inf

    def _right(self, given: Mapping[str, np.ndarray], point: Point, names: Sequence[str]) -> bool:
        return all(self._off(given, n, point) <= self.tolerances[n] for n in names)

    def _mends(self, record: Record, edit: Edit, names: tuple[str, ...]) -> bool:
        """Whether the gradients are right at both points after an edit, in the function itself."""
        for point in self.points[:1] if self.changes else self.points:
            # with changes made before, for the first point: other sizes are another story
            change = {record.site: partial(_make, edit, point.there)}
            try:
                given, _ = run(self.hand, point.given, {**self.changes, **change})
            except Exception:  # the function's own, on values that it does not expect
                return False
            if not self._right(given, point, names):
                return False
        return True

    def _judged(self, record: Record, edit: Edit, names: tuple[str, ...], looked: bool) -> bool:
        """Whether an edit makes some gradients right: on the tape first, then in the function."""
        if self.deadline.passed():
            return False
        make = partial(_make, edit, self.points[0].there)
        judge = self.judges[record.site]
        said = (judge.judge(make) if judge is not None
                else self._replayed(record.site, make, names, looked))
        return said is not False and self._mends(record, edit, names)

    def _replayed(self, site: Site, make: Change, names: tuple[str, ...], looked: bool
                  ) -> bool | None:
        """What the tape says of a change; None where it does not lead there."""
        if self.tape is None:
            return None
        try:
            with np.errstate(all="ignore"):
                values = self.tape.replay(site, make, self._gained if looked else None)
        except NotReplayed:
            return None
        except Exception:
            return False
        if values is None:
            return False
        given = self.tape.read(values)
        return all(self._off(given, n, self.points[0]) <= 10 * self.tolerances[n] for n in names)

    def _gained(self, step: Step, value: Any) -> bool:
        """Whether a value is one of the derivation's after a change, and was not before."""
        return step.event.site not in self.known and self.library.knows(value,
                                                                        self.points[0].there)

    # -- searching --------------------------------------------------------------------------------
    def best(self, goal: tuple[str, ...], keep: tuple[str, ...]
             ) -> tuple[Record, Edit] | Mend | None:
        """The best change of one operation, or of the text, that makes the goal right and keeps
        what is. Where the gradients are not linear, first only such changes after which a value
        nearby is the derivation's are followed to the end."""
        names = (*goal, *keep)
        self.judges = {}
        suspects = self.suspects(goal)
        for record in suspects:
            self.judges[record.site] = self._linear(record.site, names)
        own: tuple[Kind, ...] = (own_edits, scaled_edits, variable_edits)
        derived: tuple[Kind, ...] = (derived_edits,)
        linear, other = ([r for r in records if (self.judges[r.site] is not None) == straight]
                         for records, straight in ((suspects, True), (suspects, False)))
        found = self._found(own, linear, names, False)
        if found:  # it may mend what went wrong before
            before = set().union(*(record.reads for _, record, _ in found))
            found += self._found(own, [r for r in other if r.site in before
                                       and r.site not in self.right | self.known], names, True)
        reworded = self._reworded(names, (1, 2), found)
        if reworded or found:
            return reworded or self._chosen(found)
        found = self._found(own, other, names, True)
        if not found:
            found = [f for records, looked in ((linear, False), (other, True)) for f in self._found(
                derived, [r for r in records if not self._handed(r, goal)], names, looked)]
        if not found:
            reworded = self._reworded(names, (3,), found)
        if not found and not reworded:
            found = self._found(own, other, names, False)
        return reworded or (self._chosen(found) if found else None)

    def _chosen(self, found: list[tuple[int, Record, Edit]]) -> tuple[Record, Edit]:
        """Of changes that mend the same the one that a person would write with the fewest words,
        of these that after which the most values are right, of these the simplest."""
        found = sorted(found, key=lambda f: (_cost(*f[1:]), f[0]))[:_SCORED]
        _, record, edit = min(
            found, key=lambda f: (_cost(*f[1:]) + self._odd_after(f[1], f[2]), f[0]))
        # of a line's operations the outermost one, if that makes no difference
        alike = [f for f in found if f[1].site.line == record.site.line and f[2].words == edit.words
                 and _cost(*f[1:]) == _cost(record, edit)]
        _, record, edit = max(alike, key=lambda f: len(f[1].site.text))
        return record, edit

    def _reworded(self, names: tuple[str, ...], sizes: Sequence[int],
                  found: Sequence[tuple[int, Record, Edit]]) -> Mend | None:
        """A change of the function's text, if there is one that is smaller than what was found on
        its arrays; of the smallest ones that after which the most values are right."""
        if self.mender is None or self.changes:
            return None

        def right(given: Mapping[str, np.ndarray], at: int) -> bool:
            return self._right(given, self.points[at], names)

        below = min((_cost(record, edit) for _, record, edit in found), default=_ANY)
        best: tuple[float, Mend] | None = None
        deadline = self.deadline.part(_REWORDED)
        for size in sizes:
            if size > below or best is not None:
                break
            for mend in self.mender.mends(right, size, self._suspicion, deadline):
                total = mend.cost + self._odd(self.mender.run(mend.function))
                if mend.cost <= below and (best is None or total < best[0]):
                    best = total, mend
        return None if best is None else best[1]

    def _suspicion(self, line: int) -> int:
        """0 of lines that may be wrong, more of those that are surely right."""
        if not self.lines:
            for site in self.base.records:
                rank = 2 if site in self.right else 1 if site in self.known else 0
                for n in range(site.span[0], site.span[2] + 1):
                    self.lines[n] = min(rank, self.lines.get(n, rank))
        return self.lines.get(line, 0)

    def _handed(self, record: Record, goal: tuple[str, ...]) -> bool:
        """Whether an operation's result is one of the wrong gradients: the right one in its place
        would mend it and say nothing."""
        last = record.results[-1]
        return any(np.shape(last) == self.given[n].shape and np.array_equal(last, self.given[n])
                   for n in goal)

    def _found(self, kinds: Sequence[Kind], records: list[Record], names: tuple[str, ...],
               looked: bool) -> list[tuple[int, Record, Edit]]:
        """The changes of some operations that mend some gradients, with their order."""
        found: list[tuple[int, Record, Edit]] = []
        for (later, kind), record in itertools.product(enumerate(kinds), records):
            if self.deadline.passed():
                break
            judge = self.judges[record.site]
            # what is assigned to elements says nothing of the rest of the array
            assigned = record.events[0].name == "setitem"
            if judge is not None and not assigned and not judge.solvable:
                continue
            edits = (scaled_edits(record, judge) if kind is scaled_edits
                     else kind(record, self.points[0].there))
            here = ((100 * later + n, record, edit) for n, edit in enumerate(edits)
                    if self._judged(record, edit, names, looked))
            found += itertools.islice(here, _EACH)
        return found

    def suspects(self, goal: tuple[str, ...]) -> list[Record]:
        """The operations that every gradient of the goal is computed from. Those come first that
        no value is computed from which the derivation has; that is no proof, since what a wrong
        value is added to may be another part of the derivation. Of these, those whose own value
        the derivation does not have, the first ones computed before the others."""
        records, there = self.base.records, self.points[0].there
        right, known = self.right, self.known
        for record in records.values():
            if record.site not in self.changes and any(
                    self.library.knows(v, there) for v in record.results):
                right |= record.reads
                known.add(record.site)
        common = set.intersection(*(self.base.results[n] for n in goal)) - set(self.changes)
        wanted = [r for s, r in records.items() if s in common]
        return sorted(wanted, key=lambda r: (r.site in right, r.site in known))

    def _linear(self, site: Site, names: tuple[str, ...]) -> Linear | None:
        """How the gradients depend on an operation's result; None where not linearly."""
        if self.tape is None or self.rows is None or site not in self.tape.sites:
            return None
        parts, wanted, tolerances, start = [], [], [], 0
        for n in self.names:
            size = self.given[n].size
            if n in names:
                parts.append(self.rows[start:start + size] / self.scales[n])
                gap = self.points[0].right[n] - self.given[n]
                wanted.append(np.ravel(gap) / self.scales[n])
                tolerances.append(np.full(size, self.tolerances[n]))
            start += size
        return linear_at(self.tape, site, np.concatenate(parts), np.concatenate(wanted),
                         np.concatenate(tolerances))

    def _odd_after(self, record: Record, edit: Edit) -> float:
        change = {record.site: partial(_make, edit, self.points[0].there)}
        return self._odd(self.hand, {**self.changes, **change})

    def _odd(self, hand: Hand, changes: Mapping[Site, Change] | None = None) -> float:
        """How many operations of a run have values that the derivation has not."""
        point = self.points[0]
        try:
            _, after = run(hand, point.given, changes, record=True)
        except Exception:
            return np.inf
        return sum(not self.library.knows(v, point.there) for r in after.records.values()
                   for v in r.results[-1:] if is_values(v) and np.size(v) > 2)


def _recorded(hand: Hand, point: Point, changes: Mapping[Site, Change]
              ) -> tuple[dict[str, np.ndarray], Run, Tape | None]:
    """The function's gradients at a point, its records, and the tape, if it can have one."""
    truth, _ = run(hand, point.given, changes)
    given, taped = run(hand, point.given, changes, record=True, tape=True)
    if all(np.array_equal(truth[n], given[n], equal_nan=True) for n in truth):
        tape = Tape.of(taped, taped.leaves, given) if set(taped.leaves) == set(truth) else None
        return given, taped, tape
    return *run(hand, point.given, changes, record=True), None


def _scales(right: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest entry; a gradient that is zero by symmetry is compared with the others."""
    largest = {n: float(np.max(np.abs(a), initial=0.0)) for n, a in right.items()}
    most = max(largest.values(), default=0.0) or 1.0
    return {n: max(s, 1e-3 * most) for n, s in largest.items()}
