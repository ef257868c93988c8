"""Where a hand-derived gradient is compared: sizes and points that can tell it from a right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from derive.verify.precision import DOUBLE

_TRIED = 12
_NUDGED = 4  # runs on inputs that differ in their last bits
_SMALL = 1e-9  # of a gradient, beyond which nothing is taken for rounding
_ROUNDING = 1e-11  # what strays less is taken for rounding: a guess, which decides no verdict

Point = dict[str, np.ndarray]


def telling_sizes(program: Program, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Sizes that no axis of a fixed size has: with a batch of 3 rows of 3 features, ``len(x)`` and
    ``x.shape[1]`` would agree. Two rows are too few: a batch norm of them is ±1."""
    taken = {int(s) for t in program.tensors.values() for s in t.shape if s.is_Integer}
    found = default_sizes(program, sizes)
    for name in [n for n in found if n not in (sizes or {})]:
        free = (n for n in (found[name], *range(3, 3 + len(taken) + len(found)))
                if n > 2 and n not in taken)
        found[name] = next(free)
        taken.add(found[name])
    return found


def telling_point(program: Program, function: Callable[[Point], Mapping[str, Any]],
                  seed: int = 0, sizes: Mapping[str, int] | None = None,
                  eps: float = DOUBLE) -> Point:
    """Of several random points the one at which a function strays most from the derived gradient;
    the first where it strays nowhere.

    At a single point a dead unit or margins that are all active hide what is wrong. The derived
    program only says where to look: the verdict there is numeric differentiation's.

    Args:
        program: a derived program.
        function: the gradients under test at a point.
        seed, sizes: of the points.
        eps: of the precision in which the function's gradients come.
    """
    first, worst, most = None, None, _ROUNDING * eps / DOUBLE
    for point in _points(program, seed, sizes):
        first = point if first is None else first
        stray = _stray(program, function(point), point)
        if stray > most:
            worst, most = point, stray
    assert first is not None
    return first if worst is None else worst


def straying(program: Program, given: Mapping[str, Any], point: Point
             ) -> dict[str, tuple[int, ...]]:
    """The entry of each gradient that strays most from the derived one, at which numeric
    differentiation is to look: a single wrong entry of a large gradient is missed by chance."""
    right = evaluate(program, point, tuple(program.gradients.values()))
    gaps = {n: np.abs(np.asarray(given[n], dtype=float) - right[g])
            for n, g in program.gradients.items()}
    return {n: tuple(int(k) for k in np.unravel_index(int(np.argmax(gap)), gap.shape))
            for n, gap in gaps.items() if gap.ndim and np.any(gap > 0)}


def within_rounding(program: Program, function: Callable[[Point], Mapping[str, Any]], point: Point,
                    names: Sequence[str]) -> set[str]:
    """Those of some gradients that differ from the derived ones by no more than the function's own
    rounding: by what its result changes when its inputs change in their last bits. A gradient that
    is zero because terms cancel is nothing but rounding, and more of it where another is wrong."""
    right = evaluate(program, point, [program.gradients[n] for n in names])
    given = function(point)
    rng = np.random.default_rng(len(names))
    largest = {n: float(np.max(np.abs(given[n]), initial=0.0)) for n in program.gradients}
    gaps = {n: float(np.max(np.abs(given[n] - right[program.gradients[n]]), initial=0.0))
            for n in names}
    small = [n for n in names if gaps[n] <= _SMALL * max(largest.values())]
    noise = dict.fromkeys(small, 0.0)
    for _ in range(_NUDGED if small else 0):
        nudged = {n: a * (1 + 4 * np.finfo(float).eps * rng.integers(-1, 2, np.shape(a)))
                  if np.asarray(a).dtype.kind == "f" else a for n, a in point.items()}
        found = function(nudged)
        noise = {n: max(noise[n], float(np.max(np.abs(found[n] - given[n]), initial=0.0)))
                 for n in small}
    return {n for n in small if gaps[n] <= 8 * noise[n]}


def _points(program: Program, seed: int, sizes: Mapping[str, int] | None) -> Iterator[Point]:
    known = telling_sizes(program, sizes)
    grown = {n: s if n in (sizes or {}) else s + 2 for n, s in known.items()}
    for n in range(_TRIED):
        point = random_values(program, seed + 7919 * n, (known, grown)[n % 2])
        for tensor in program.parameters:  # larger ones reach the other sides of kinks
            point[tensor.name] = point[tensor.name] * (1, 2, 3)[n % 3]
        yield point


def _stray(program: Program, given: Mapping[str, Any], point: Point) -> float:
    """The largest difference of a gradient's entry, relative to the gradient's largest."""
    right = evaluate(program, point, tuple(program.gradients.values()))
    largest = max((float(np.max(np.abs(a))) for a in right.values() if np.size(a)), default=0.0)
    found = 0.0
    for name, gradient in program.gradients.items():
        a = right[gradient]
        if np.size(a) and np.isfinite(a).all():
            # a gradient that is zero by symmetry is compared with the others
            scale = max(float(np.max(np.abs(a))), 1e-3 * largest)
            gap = float(np.max(np.abs(np.asarray(given[name], dtype=float) - a)))
            found = max(found, gap / scale if scale else (np.inf if gap else 0.0))
    return found
