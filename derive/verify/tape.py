"""A run of a hand-written function as a tape: what each element of each result is computed from.

Every operation's result gets numbers for its elements, arrays carry the numbers of what was last
written into them (`derive.verify.probe`), and a step knows the numbers that it reads. So a change
of one operation is followed without the function (`replay`), and one sweep back over the steps
gives the derivative of every gradient with respect to every result. The derivative of one step is
taken from its arrays alone: for elementwise operations by the chain rule, for others by the
operation itself on unit steps, which is exact where it is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import sympy
from sympy import Expr

from derive.flow.quadrature import compiled
from derive.verify.events import Change, Event, Leaf, Site, Step
from derive.verify.probe import Run
from derive.verify.trace_ops import ELEMENTWISE
from derive.verify.traced import NotTraced

_SUMS = {"add", "subtract", "concatenate", "stack", "vstack", "hstack", "setitem", "negative",
         "positive", "array", "block"}
_PRODUCTS = {"multiply", "matmul", "dot", "outer", "inner", "tensordot", "einsum", "kron",
             "convolve", "vdot"}
_LINEAR = {"sum", "mean", "add.reduce", "transpose", "T", "swapaxes", "reshape", "ravel", "flatten",
           "getitem", "copy", "repeat", "tile", "squeeze", "expand_dims", "moveaxis", "diagonal",
           "trace", "cumsum", "flip", "fliplr", "flipud", "rot90", "roll", "pad", "broadcast_to",
           "diag", "take", "split", "atleast_1d", "atleast_2d", "tril", "triu", "rollaxis",
           "sliding_window_view", "trim_zeros", "add.at", "array_split", "delete", "insert"}
_ROUNDING = 4 * np.finfo(float).eps
_WINDOW = 12  # values behind a change, one of which the derivation should have
_MOST = 4_000_000  # entries of a derivative that are kept in memory


_X, _Y = sympy.symbols("x y", real=True)


@cache
def _slope(name: str, argument: int) -> Callable[..., np.ndarray] | None:
    """The derivative of an elementwise operation with respect to one of its arguments, a function
    of all of them: of the expression by which a function is read. None for other operations."""
    ufunc = getattr(np, name, None)
    if ufunc is None or ufunc not in ELEMENTWISE or argument >= ufunc.nin:
        return None
    arguments = (_X, _Y)[:ufunc.nin]
    try:
        body = ELEMENTWISE[ufunc](*arguments)
    except NotTraced:  # of whole numbers alone
        return None
    if not isinstance(body, Expr):
        return None
    # x**y*y/x has no value at 0, y*x**(y - 1) has one
    return compiled(sympy.powsimp(body.diff(arguments[argument])), *arguments)


class NotReplayed(Exception):
    """A change leads where the tape cannot follow: another shape, another place to write to."""


@dataclass
class Tape:
    """The steps of a run, the value of each element, and where the gradients are read."""

    steps: list[Step]
    values: np.ndarray
    gradients: Mapping[str, Leaf]
    unseen: set[Site]  # operations that decide where something is written
    _after: dict[Site, list[Step]] = field(default_factory=dict)
    _slopes: dict[int, list[tuple[Leaf, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, gradients: Mapping[str, Leaf], given: Mapping[str, np.ndarray]
           ) -> Tape | None:
        """The tape of a recorded run; None if it does not lead to the run's gradients."""
        values = np.zeros(run.elements)
        for step in run.steps:
            values[step.start:step.stop] = step.flat(step.value)
        tape = cls(run.steps, values, gradients, run.unseen)
        same = all(np.array_equal(np.asarray(leaf.read(values), dtype=float), given[n],
                                  equal_nan=True) for n, leaf in gradients.items())
        return tape if same else None

    # -- what depends on what -----------------------------------------------------------------
    @cached_property
    def sites(self) -> dict[Site, int]:
        return {s: n for n, s in enumerate(dict.fromkeys(t.event.site for t in self.steps))}

    @cached_property
    def _depends(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each site, the elements that depend on it; and whether linearly, all of them."""
        reach = np.zeros((len(self.sites), len(self.values)), dtype=bool)
        linear = np.ones(len(self.sites), dtype=bool)
        used = self._used
        for n, step in enumerate(self.steps):
            through = [np.any(reach[:, leaf.known], axis=1) for leaf in step.leaves]
            into = np.any(through, axis=0) if through else np.zeros(len(self.sites), dtype=bool)
            if used[n]:
                linear &= ~(into & ~_linear(step, through))
            reach[:, step.start:step.stop] = into[:, None]
            reach[self.sites[step.event.site], step.start:step.stop] = True
        return reach, linear

    @cached_property
    def _used(self) -> list[bool]:
        """The steps that a gradient is computed from."""
        wanted = np.zeros(len(self.values), dtype=bool)
        for leaf in self.gradients.values():
            wanted[leaf.known] = True
        used = [False] * len(self.steps)
        for n in range(len(self.steps) - 1, -1, -1):
            step = self.steps[n]
            if wanted[step.start:step.stop].any():
                used[n] = True
                for leaf in step.leaves:
                    wanted[leaf.known] = True
        return used

    def linear(self, site: Site) -> bool:
        """Whether the gradients are linear in what an operation adds to its results."""
        return site not in self.unseen and bool(self._depends[1][self.sites[site]])

    def feeds(self, site: Site, leaf: Leaf) -> bool:
        return bool(self._depends[0][self.sites[site], leaf.known].any())

    def elements(self, site: Site) -> np.ndarray:
        """The numbers of an operation's results."""
        return np.concatenate([np.arange(t.start, t.stop) for t in self.steps
                               if t.event.site == site])

    # -- following a change -------------------------------------------------------------------
    def replay(self, site: Site, change: Change,
               look: Callable[[Step, Any], bool] | None = None) -> np.ndarray | None:
        """The elements' values after a change of an operation; None where ``look`` finds nothing
        in the first values that change.

        Raises:
            NotReplayed: the result has another shape, or the tape does not know what follows.
            whatever the change raises.
        """
        if site in self.unseen:
            raise NotReplayed
        values, seen = self.values.copy(), look is None
        for n, step in enumerate(self._behind(site)):
            own = step.event.site == site
            value = change(step.at(values)) if own else step.event.compute(*step.args(values))
            if not _alike(value, step.value):
                raise NotReplayed
            values[step.start:step.stop] = step.flat(value)
            if look is not None and not seen:
                seen = look(step, value)
                if n >= _WINDOW and not seen:
                    return None
        return values

    def _behind(self, site: Site) -> list[Step]:
        """The steps that an operation's result is in, and from which gradients are computed."""
        if site not in self._after:
            reach = self._depends[0][self.sites[site]]
            self._after[site] = [
                step for step, used in zip(self.steps, self._used, strict=True)
                if used and reach[step.start:step.stop].any()]
        return self._after[site]

    def read(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """The gradients among the elements' values."""
        return {n: np.asarray(leaf.read(values), dtype=float)
                for n, leaf in self.gradients.items()}

    # -- derivatives --------------------------------------------------------------------------
    def derivative(self, rows: Sequence[np.ndarray], before: int | None = None
                   ) -> np.ndarray | None:
        """The derivative of some elements (numbers; -1: a constant) with respect to what is added
        to each element, by the steps before one; None where it is too large."""
        wanted = np.concatenate([np.ravel(r) for r in rows])
        if len(wanted) * len(self.values) > _MOST:
            return None
        found = np.zeros((len(wanted), len(self.values)))
        known = wanted >= 0
        found[np.flatnonzero(known), wanted[known]] = 1.0
        for n in range((len(self.steps) if before is None else before) - 1, -1, -1):
            step = self.steps[n]
            block = found[:, step.start:step.stop]
            if not block.any():
                continue
            for leaf, slope in self._slope(n):
                part, ids = slope(block), leaf.ids.ravel()
                known = ids >= 0
                if leaf.distinct:
                    found[:, ids[known]] += part[:, known]
                else:
                    np.add.at(found.T, ids[known], part.T[known])
        return found if np.isfinite(found).all() else None

    def _slope(self, n: int) -> list[tuple[Leaf, Callable[[np.ndarray], np.ndarray]]]:
        if n not in self._slopes:
            step = self.steps[n]
            with np.errstate(all="ignore"):
                self._slopes[n] = [(leaf, _slope_of(step, leaf)) for leaf in step.leaves
                                   if leaf.base.dtype.kind == "f" and leaf.known.size]
        return self._slopes[n]


def _alike(value: Any, other: Any) -> bool:
    if isinstance(other, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(other) and all(
            map(_alike, value, other))
    return np.shape(value) == np.shape(other) and np.asarray(value).dtype.kind in "fiub"


def _linear(step: Step, through: Sequence[np.ndarray]) -> np.ndarray:
    """Of each site, whether a step is linear in what comes from it."""
    name = step.event.name
    count = np.sum(through, axis=0)
    if name in _SUMS or name in _LINEAR or name in _PRODUCTS:
        # an integer array says where, a boolean one whether: no derivative goes through it
        indices = [t for t, leaf in zip(through, step.leaves, strict=True)
                   if leaf.base.dtype.kind != "f"]
        free = ~np.any(indices, axis=0) if indices else np.ones_like(count, dtype=bool)
        return np.asarray(free & ((count <= 1) | (name in _SUMS)))
    if name == "divide" and step.leaves[0].path == (0,):
        return ~np.any(through[1:], axis=0) if through[1:] else np.ones_like(count, dtype=bool)
    if name == "where" and step.leaves:
        return ~through[0] if step.leaves[0].path == (0,) else np.ones_like(count, dtype=bool)
    return np.zeros_like(count, dtype=bool)


def _slope_of(step: Step, leaf: Leaf) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a derivative with respect to a step's results to one with respect to one of
    its arguments."""
    event = step.event
    derivative = _slope(event.name, leaf.path[0]) if len(leaf.path) == 1 else None
    if derivative is not None:
        args = [np.asarray(a, dtype=float) for a in event.args[:getattr(np, event.name).nin]]
        shape = np.shape(step.value)
        slope = np.ravel(np.broadcast_to(derivative(*args), shape))
        where = np.ravel(np.broadcast_to(np.arange(leaf.base.size).reshape(leaf.base.shape), shape))
        if leaf.base.size == len(where):
            return lambda block: block * slope

        def scattered(block: np.ndarray) -> np.ndarray:
            found = np.zeros((leaf.base.size, len(block)))
            np.add.at(found, where, (block * slope).T)
            return found.T

        return scattered
    columns = np.array(list(_columns(step, leaf)))
    return lambda block: block @ columns.T


def _columns(step: Step, leaf: Leaf) -> Iterator[np.ndarray]:
    """The derivative of a step's results by each element of an argument."""
    exact = step.event.name in _SUMS | _PRODUCTS | _LINEAR | {"where", "divide"}
    size = float(np.max(np.abs(leaf.base), initial=0.0)) or 1.0
    h = size if exact else 1e-6 * size
    for n in range(leaf.base.size):
        ends = []
        for sign in (1.0, 0.0) if exact else (1.0, -1.0):
            moved = np.array(leaf.base)
            moved.flat[n] += sign * h
            ends.append(step.flat(step.event.compute(*step.filled(leaf, moved))))
        yield (ends[0] - ends[1]) / (h if exact else 2 * h)


@dataclass(frozen=True)
class Linear:
    """The gradients as a linear function of what is added to one operation's results.

    ``columns`` is the derivative of the gradients (rows) with respect to the results of all its
    events; ``wanted`` what the gradients lack; ``inside`` the derivative of what each event reads
    with respect to what is added at the events before it (of a recurrence).
    """

    steps: tuple[Step, ...]
    columns: np.ndarray
    wanted: np.ndarray
    tolerances: np.ndarray
    inside: tuple[tuple[tuple[Any, Leaf, np.ndarray], ...], ...]

    @cached_property
    def solvable(self) -> bool:
        """Whether any results at all would make the gradients right."""
        solution, *_ = np.linalg.lstsq(self.columns, self.wanted, rcond=1e-11)
        return self._fits(self.columns @ solution, self._rounding(solution), 1e3)

    def _rounding(self, step: np.ndarray) -> np.ndarray:
        return np.asarray(_ROUNDING * (np.abs(self.columns) @ np.abs(step)))

    def _fits(self, given: np.ndarray, rounding: np.ndarray, slack: float = 10.0) -> bool:
        return bool(np.all(np.abs(given - self.wanted) <= slack * (self.tolerances + rounding)))

    def factor(self) -> float | None:
        """The number by which all results are to be multiplied, if one makes the gradients right.
        Of a recurrence it is taken to first order, and wrong unless its events are apart."""
        along = self.columns @ np.concatenate([t.flat(t.value) for t in self.steps])
        size = float(along @ along)
        more = float(along @ self.wanted) / size if size else 0.0
        rounding = self._rounding(more * np.concatenate([t.flat(t.value) for t in self.steps]))
        return 1.0 + more if more and self._fits(more * along, rounding) else None

    def judge(self, make: Change) -> bool | None:
        """Whether a change makes the gradients right; None where its results have another shape
        or are written elsewhere."""
        added: list[np.ndarray] = []
        for step, inside in zip(self.steps, self.inside, strict=True):
            try:
                with np.errstate(all="ignore"):
                    event = _moved(step, inside, added) if inside and added else step.event
                    value, plain = make(event), event.result() if inside and added else step.value
            except Exception:
                return False
            if not _alike(value, step.value):
                return None
            added.append(step.flat(value) - step.flat(plain))
        step_ = np.concatenate(added)
        return bool(np.isfinite(step_).all()) and self._fits(self.columns @ step_,
                                                             self._rounding(step_))


def _moved(step: Step, inside: Sequence[tuple[Any, Leaf, np.ndarray]], added: list[np.ndarray]
           ) -> Event:
    """An event with what it reads as it is after what was added before."""
    shift = np.concatenate(added)
    args, names = step.event.args, dict(step.event.names())
    for key, leaf, slope in inside:
        new = leaf.base + (slope[:, :len(shift)] @ shift).reshape(leaf.base.shape)
        if isinstance(key, str):
            names[key] = new
        else:
            args = tuple(step.filled(leaf, new, args))
    return replace(step.event, args=args, names=lambda: names)


def linear_at(tape: Tape, site: Site, rows: np.ndarray, wanted: np.ndarray,
              tolerances: np.ndarray) -> Linear | None:
    """How the gradients depend on an operation's results; None where not linearly.

    Args:
        tape: of the run.
        site: the operation.
        rows: the derivative of the gradients with respect to every element.
        wanted: what the gradients lack.
        tolerances: of the comparison.
    """
    if not tape.linear(site):
        return None
    here = [(n, t) for n, t in enumerate(tape.steps) if t.event.site == site]
    steps = tuple(t for _, t in here)
    if any(np.asarray(t.value).dtype.kind != "f" or not np.isfinite(t.flat(t.value)).all()
           for t in steps):
        return None
    columns = rows[:, tape.elements(site)]
    inside: list[tuple[tuple[Any, Leaf, np.ndarray], ...]] = []
    for n, step in here:
        fed = [(k, leaf) for k, leaf in step.readable() if tape.feeds(site, leaf)]
        if not fed:
            inside.append(())
            continue
        slopes = tape.derivative([leaf.ids for _, leaf in fed], n)
        if slopes is None:
            return None
        slopes = slopes[:, tape.elements(site)]
        ends = np.cumsum([leaf.base.size for _, leaf in fed])
        inside.append(tuple((k, leaf, part) for (k, leaf), part in
                            zip(fed, np.split(slopes, ends[:-1]), strict=True)))
    return Linear(steps, columns, wanted, tolerances, tuple(inside))
