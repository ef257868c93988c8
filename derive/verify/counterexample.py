"""A counterexample small enough to paste: a point at which a gradient is wrong, shrunk.

From the point at which a gradient was found wrong, sizes go down and numbers are rounded for as
long as every wrong gradient stays wrong, by numeric differentiation of the network's equations at
the entry that is shown. What is left is printed as a program of a few lines
(`derive.verify.snippet`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from derive.check import check
from derive.errors import ChainruleError
from derive.points import random_values
from derive.program import Program, Tensor
from derive.reference import evaluate
from derive.verify.precision import DOUBLE, rounding

Point = dict[str, np.ndarray]
Values = dict[str, "np.ndarray | Drawn"]
Gradients = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]
_LISTED = 60  # elements of an array that a person still reads
_SHARE = 0.02  # of the error at the first point that must be left at a smaller one
_DRAWS = 3


@dataclass(frozen=True)
class Entry:
    """One entry of a gradient: what was handed in and what numeric differentiation gives."""

    parameter: str
    place: tuple[int, ...]
    yours: float
    right: float

    def __str__(self) -> str:
        at = "".join(f"[{n}]" for n in self.place)
        return f"{self.parameter}{at}: yours {self.yours:.12g}, right {self.right:.12g}"


@dataclass(frozen=True)
class Drawn:
    """A large array by the draw that makes it: whole numbers of NumPy's frozen generator
    ``RandomState(seed)`` from ``low`` up to ``high`` (left out), divided by ``divisor``; rows that
    sum to 1 where ``shares``."""

    seed: int
    low: int
    high: int
    shape: tuple[int, ...]
    divisor: int = 1
    shares: bool = False

    @property
    def array(self) -> np.ndarray:
        found = np.random.RandomState(self.seed).randint(self.low, self.high, self.shape)
        if self.shares:
            return found / found.sum(axis=-1, keepdims=True)
        return found / self.divisor if self.divisor != 1 else found


@dataclass(frozen=True)
class Smaller:
    """A point at which gradients are wrong: every array as it is, or as it is drawn."""

    values: Mapping[str, np.ndarray | Drawn]
    entries: tuple[Entry, ...]

    @property
    def point(self) -> Point:
        return {n: v.array if isinstance(v, Drawn) else v for n, v in self.values.items()}


def smaller_point(program: Program, gradients: Gradients, point: Point, names: Sequence[str],
                  seconds: float = 2.0, eps: float = DOUBLE) -> Smaller:
    """The smallest point found at which the gradients of all ``names`` are wrong.

    Args:
        program: the derived program.
        gradients: those under test, at a point.
        point: where they were found wrong; it stays what it is.
        names: of the wrong ones.
        seconds: of processor time, after which what was found so far is it.
        eps: of the precision in which the gradients come.
    """
    search = _Search(program, gradients, tuple(names), time.process_time() + seconds, eps)
    first = search.entries(point)
    best = Smaller(dict(point), tuple(first[n] for n in names))
    search.least = {n: _SHARE * search.error(first[n]) for n in names}
    for candidate in search.shrunk(point):
        found = search.wrong_at(candidate)
        if found is not None:
            best = Smaller(candidate, found)
            search.accepted = candidate
    return best


class _Search:
    """Tries smaller points; ``accepted`` is the smallest so far."""

    def __init__(self, program: Program, gradients: Gradients, names: tuple[str, ...],
                 deadline: float, eps: float) -> None:
        self.program, self.gradients, self.names = program, gradients, names
        self.deadline, self.eps = deadline, eps
        self.tensors = {t.name: t for t in program.given}
        self.least: dict[str, float] = {}
        self.accepted: Values = {}

    # -- what is wrong at a point -----------------------------------------------------------------
    def entries(self, point: Point) -> dict[str, Entry]:
        """The worst entry of each wrong gradient, by the derived program."""
        right = evaluate(self.program, point, [self.program.gradients[n] for n in self.names])
        given = self.gradients(point)
        found = {}
        for name in self.names:
            exact, mine = right[self.program.gradients[name]], given[name]
            gap = np.abs(mine - exact)
            flat = int(np.argmax(np.where(np.isfinite(gap), gap, -1)))
            place = tuple(int(n) for n in np.unravel_index(flat, gap.shape))
            found[name] = Entry(name, place, float(mine[place]), float(exact[place]))
        return found

    @staticmethod
    def error(entry: Entry) -> float:
        """How wrong an entry is, as a share of its size."""
        size = max(abs(entry.right), abs(entry.yours))
        gap = abs(entry.yours - entry.right)
        return gap / size if size and np.isfinite(gap) else 0.0

    def wrong_at(self, values: Mapping[str, np.ndarray | Drawn]) -> tuple[Entry, ...] | None:
        """The wrong entries at a candidate, None where one gradient is not wrong beyond doubt."""
        point = Smaller(values, ()).point
        try:
            found = self.entries(point)
            if any(self.error(found[n]) < max(self.least[n], 1e-12) for n in self.names):
                return None
            limits = (rounding(self.program, point, self.eps, self.names)
                      if self.eps > DOUBLE else None)
            rows = check(self.program, point, gradients={n: self._only(found[n], point)
                                                         for n in self.names},
                         entries={n: found[n].place for n in self.names}, rounding=limits).rows
        except (ChainruleError, ArithmeticError, ValueError):  # it has no loss or gradient there
            return None
        if any(row.verdict != "fail" for row in rows):
            return None
        return tuple(replace(found[row.name], right=row.expected) for row in rows)

    def _only(self, entry: Entry, point: Point) -> np.ndarray:
        array = np.zeros_like(point[entry.parameter], dtype=np.float64)
        array[entry.place] = entry.yours
        return array

    # -- candidates -------------------------------------------------------------------------------
    def shrunk(self, point: Point) -> Iterator[Values]:
        """Candidates one after the other, each made from what was accepted before it."""
        self.accepted = dict(point)
        for candidate in (*self._sizes(), *self._numbers()):
            if time.process_time() > self.deadline:
                return
            made = candidate()
            if made is not None:
                yield made

    def _sizes(self) -> Iterator[Callable[[], Values | None]]:
        for size in self.program.sizes:
            now = self._size(size.name)
            for smaller in [n for n in (*range(1, 7), *range(8, now, max(1, now // 8))) if n < now]:
                for seed in range(_DRAWS):
                    yield partial(self._at_size, size.name, smaller, seed)

    def _size(self, name: str) -> int:
        """What a symbolic size is at the accepted point."""
        for tensor in self.program.given:
            for axis, expr in enumerate(tensor.shape):
                if str(expr) == name:
                    return int(np.shape(self._array(tensor.name))[axis])
        return 0

    def _array(self, name: str) -> np.ndarray:
        value = self.accepted[name]
        return value.array if isinstance(value, Drawn) else value

    def _at_size(self, name: str, n: int, seed: int) -> Values | None:
        """The point with one size smaller: its first rows, or a new draw."""
        if n >= self._size(name):
            return None  # a smaller one was accepted meanwhile
        if not seed:
            cut = {t.name: self._array(t.name)[tuple(
                slice(n) if str(size) == name else slice(None) for size in t.shape)]
                for t in self.program.given}
            return dict(cut)
        sizes = {s.name: self._size(s.name) for s in self.program.sizes} | {name: n}
        return dict(random_values(self.program, seed, {k: v for k, v in sizes.items() if v}))

    def _numbers(self) -> Iterator[Callable[[], Values | None]]:
        """All numbers with few decimals, then single arrays with fewer, or zero."""
        for digits in (0, 1, 2, 3):
            yield partial(self._rounded, tuple(self.tensors), digits)
        for name in self.tensors:
            yield partial(self._zero, name)
            for digits in (0, 1, 2):
                yield partial(self._rounded, (name,), digits)

    def _rounded(self, names: Sequence[str], digits: int) -> Values | None:
        seeds = {n: seed for seed, n in enumerate(self.tensors, 1)}
        made = {n: _shorter(self.tensors[n], self._array(n), digits, seeds[n]) for n in names}
        same = all(isinstance(self.accepted[n], Drawn) or (
            not isinstance(v, Drawn) and np.array_equal(v, self._array(n)))
            for n, v in made.items())
        return None if same else {**self.accepted, **made}

    def _zero(self, name: str) -> Values | None:
        """The point with zeros for an array that is not itself to be shown."""
        array = self._array(name)
        plain = self.tensors[name].distribution or not np.any(array)
        return None if plain else {**self.accepted, name: np.zeros_like(array)}


def _shorter(tensor: Tensor, array: np.ndarray, digits: int, seed: int) -> np.ndarray | Drawn:
    """An array with that many decimals, zeros as small numbers; a large one as it is drawn."""
    if array.size > _LISTED:
        return _drawn(tensor, array, seed)
    if array.dtype.kind != "f":
        return array
    if tensor.distribution:
        return _shares(array, 10 ** max(digits, 1))
    unit = 10.0**-digits
    kept = np.where(np.abs(array) < unit / 2, np.where(array < 0, -unit, unit) * (array != 0),
                    array)
    return np.round(kept, digits) + 0.0


def _shares(array: np.ndarray, parts: int) -> np.ndarray:
    """Rows that sum to 1 in whole parts."""
    whole = np.floor(array * parts)
    whole[..., -1] = parts - whole[..., :-1].sum(axis=-1)
    return whole / parts


def _drawn(tensor: Tensor, array: np.ndarray, seed: int) -> Drawn:
    if array.dtype.kind != "f":
        return Drawn(seed, 0, int(array.max()) + 1, array.shape)
    if tensor.distribution:
        return Drawn(seed, 1, 10, array.shape, shares=True)
    spread = float(np.std(array)) or 1.0
    return Drawn(seed, -9, 10, array.shape, max(2, round(5.5 / spread)))
