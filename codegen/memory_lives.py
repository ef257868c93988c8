"""How long intermediates live, and where they lie meanwhile: lifetimes → offsets.

Time is counted in kernels, in the order in which they run. Two tensors may share a place if one is
no longer read when the other is written. Sizes are polynomials in the run-time sizes: a number
times a product of sizes. Tensors of the same product are laid out together, in units of that
product, so that offsets hold for every value of the sizes.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sympy import Expr, Integer, Mul, S

ALIGN = 16  # elements: a cache line in single precision


@dataclass(frozen=True)
class Life:
    """A tensor is written at time ``first`` and read at time ``last`` at the latest (None: it is
    wanted when all is done)."""

    name: str
    first: int
    last: int | None
    shape: tuple[Expr, ...]


def aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


@lru_cache(maxsize=65536)
def place_size(shape: tuple[Expr, ...]) -> tuple[int, Expr]:
    """Elements of a place: the fixed part rounded up, and the product of the run-time sizes."""
    fixed = Mul(*(s for s in shape if s.is_Integer))
    return aligned(int(fixed)), Mul(*(s for s in shape if not s.is_Integer))


def lay_out(lives: Sequence[Life]) -> tuple[dict[str, Expr], Expr]:
    """An offset for each tensor, and the length of all."""
    groups: dict[Expr, list[Life]] = {}
    for life in lives:
        groups.setdefault(place_size(life.shape)[1], []).append(life)
    offsets: dict[str, Expr] = {}
    start: Expr = S.Zero
    for unit, group in groups.items():
        counts, total = _pack(group)
        offsets |= {n: start + _times(c, unit) for n, c in counts.items()}
        start = start + _times(total, unit)  # in which this unit stood not yet
    return offsets, start


def _times(count: int, unit: Expr) -> Expr:
    """A product as SymPy would make it, which takes its time to find that nothing is to be done."""
    if count in (0, 1) or unit == 1:
        return Integer(count) * unit
    return Mul._from_args((Integer(count), *Mul.make_args(unit)))


def _pack(lives: Sequence[Life]) -> tuple[dict[str, int], int]:
    """Places in one dimension: what is wanted at the end lies in front, for the others the
    smallest gap that is free when they are written."""
    found: dict[str, int] = {}
    at = 0
    for life in lives:
        if life.last is None:
            found[life.name] = at
            at += place_size(life.shape)[0]
    free = _Gaps(at)
    ends: list[tuple[int, int, int]] = []  # last read, offset, length
    order = sorted((x for x in lives if x.last is not None), key=lambda x: x.first)
    for life in order:
        while ends and ends[0][0] < life.first:
            free.give(*ends.pop(0)[1:])
        length = place_size(life.shape)[0]
        found[life.name] = free.take(length)
        assert life.last is not None
        bisect.insort(ends, (life.last, found[life.name], length))
    return found, free.end


class _Gaps:
    """Free places below ``end``, and all above it."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.gaps: list[tuple[int, int]] = []  # offset, length, ascending

    def take(self, length: int) -> int:
        fits = [g for g in self.gaps if g[1] >= length]
        if fits:
            gap = min(fits, key=lambda g: (g[1], g[0]))
            self.gaps.remove(gap)
            if gap[1] > length:
                bisect.insort(self.gaps, (gap[0] + length, gap[1] - length))
            return gap[0]
        at = self.end
        if self.gaps and sum(self.gaps[-1]) == self.end:  # the last gap grows
            at = self.gaps.pop()[0]
        self.end = at + length
        return at

    def give(self, at: int, length: int) -> None:
        if length == 0:
            return
        place = bisect.bisect(self.gaps, (at, length))
        if place < len(self.gaps) and self.gaps[place][0] == at + length:
            length += self.gaps.pop(place)[1]
        if place and sum(self.gaps[place - 1]) == at:
            at, before = self.gaps.pop(place - 1)
            length += before
        bisect.insort(self.gaps, (at, length))
