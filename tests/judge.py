"""Whether a derived gradient is right at a random point, by numeric differentiation.

Quick: central differences of the forward program in float64 along a random direction. Where these
do not agree, or say too little because the slope is tiny, the 50-digit reading of `derive.numeric`
decides. A verdict is "agrees", "wrong" or "undecided" (a kink, or nothing finite, at that point).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import sympy

from derive.custom import hold_stopped
from derive.lift import name_reductions
from derive.numeric import Slopes
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from derive.scalar import DIGITS, Elements, fifty_digits

_EPS = float(np.finfo(np.float64).eps)
_NEAR = sympy.Rational(1, 10**12)
LARGEST = 1e8  # the cosine of more has lost half its digits


@dataclass(frozen=True)
class Judgement:
    """A verdict on a program, and the first thing to say about it."""

    verdict: str
    note: str = ""


def largest(program: Program, point: dict[str, Any], sizes: dict[str, int]) -> float:
    """The largest value on the way, in absolute terms; what is reduced has a name of its own."""
    found = evaluate(name_reductions(program), point, None, sizes).values()
    return max(float(np.nanmax(np.abs(a), initial=0.0)) for a in found)


def ties(derived: Program, point: dict[str, Any], sizes: dict[str, int], name: str) -> bool:
    """Whether ``name`` counts the elements that tie in a max or min, and some do, but for
    rounding: a b c and a c b may be equal or not, by the order of multiplication."""
    eq = derived[name]
    if eq.tensor.origin is None or eq.tensor.origin[0] != "ties":
        return False
    near = replace(eq, body=eq.body.replace(sympy.Eq, _nearly))
    others = tuple(near if e is eq else e for e in derived.equations)
    counts = evaluate(replace(derived, equations=others), point, [name], sizes)[name]
    return bool((counts > 1).any())


def _nearly(left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
    return sympy.And(left - right <= _NEAR * abs(right), right - left <= _NEAR * abs(right))


def disagreement(program: Program, derived: Program, seed: int = 0, of: str | None = None,
                 **options: Any) -> str | None:
    """Where a derived gradient is wrong, or None; the arguments are those of `judge`."""
    found = judge(program, derived, seed, of, **options)
    return found.note if found.verdict == "wrong" else None


def judge(program: Program, derived: Program, seed: int = 0, of: str | None = None,
          sizes: dict[str, int] | None = None, directions: int = 1,
          values: dict[str, Any] | None = None) -> Judgement:
    """Each gradient of ``derived`` along random directions, against slopes of the forward
    ``program``."""
    of = of or program.losses[0]
    sizes = default_sizes(derived, sizes)
    point = {**random_values(derived, seed, sizes), **(values or {})}
    forward, point = hold_stopped(program.only(of), point)
    wrt = [n for n in derived.gradients if n in forward.tensors]
    found = evaluate(derived, point, list(derived.gradients.values()), sizes)
    rng = np.random.default_rng(seed)
    undecided = Judgement("agrees")
    for name in wrt:
        gradient = found[derived.gradients[name]]
        for _ in range(directions):
            way = rng.normal(size=np.shape(point[name]))
            line = _Line(forward, point, of, sizes, name, way)
            one = _along(line, gradient)
            if one.verdict == "wrong" and _rounded(line, derived):
                one = Judgement("agrees")
            if one.verdict == "wrong":
                return Judgement("wrong", f"{name}: {one.note}, seed {seed}")
            if one.verdict == "undecided":
                undecided = one
    return undecided


@dataclass(frozen=True)
class _Line:
    """A scalar of a program on a line through a point."""

    program: Program
    point: dict[str, Any]
    of: str
    sizes: dict[str, int]
    name: str
    way: np.ndarray

    def at(self, step: float) -> float:
        moved = {**self.point, self.name: self.point[self.name] + step * self.way}
        return float(evaluate(self.program, moved, [self.of], self.sizes)[self.of])

    def slopes(self) -> Iterator[tuple[float, float]]:
        """Slopes from ever smaller steps, each with the rounding in it."""
        for h in (1e-3, 1e-4, 1e-5):
            near, far = [(self.at(s * h), self.at(-s * h)) for s in (1, 2)]
            rounding = 16 * _EPS * max(map(abs, (*near, *far))) / h
            yield (2 * (near[0] - near[1]) - (far[0] - far[1]) / 4) / (3 * h), rounding


def _rounded(line: _Line, derived: Program) -> bool:
    """Whether a derived gradient differs from the slope by rounding alone: by what is left of
    larger terms that cancel, as in 1 - tanh², forward or backward. At 50 digits it does not."""
    values = {n: v if np.asarray(v).dtype.kind == "i" else np.asarray(v, dtype=object)
              for n, v in line.point.items()}
    known = {s: line.sizes[s.name] for s in derived.sizes}
    exact = Slopes(line.program, line.of, line.point, line.sizes, digits=DIGITS)
    estimate = exact.along(line.name, line.way)
    with fifty_digits():
        elements, gradient = Elements(derived, values, known), derived.gradients[line.name]
        got = mpmath.fsum(elements.element(gradient, place) * mpmath.mpf(float(line.way[place]))
                          for place in np.ndindex(*line.way.shape))
        return bool(abs(got - estimate.value) <= 8 * estimate.error + 1e-9 * abs(got))


def _along(line: _Line, gradient: np.ndarray) -> Judgement:
    got, size = float(np.sum(gradient * line.way)), float(np.sum(np.abs(gradient * line.way)))
    if np.isfinite(got):
        for slope, rounding in line.slopes():
            bar = 1e-6 * (size + abs(slope)) + rounding
            telling = got == slope == 0 or bar <= 1e-3 * max(abs(got), abs(slope))
            if telling and abs(got - slope) <= bar:
                return Judgement("agrees")
    if largest(line.program, line.point, line.sizes) > LARGEST:
        return Judgement("undecided", "values so large that rounding decides")
    exact, quick = (Slopes(line.program, line.of, line.point, line.sizes, digits=digits)
                    for digits in (50, 15))
    estimate = exact.along(line.name, line.way)
    if any(wide < 3 and (fine + 1) % 256 != wide
           for fine, wide in zip(quick.base[1], exact.base[1], strict=True)):
        return Judgement("undecided", "on a kink, but for rounding")
    if not np.isfinite(estimate.value):
        return Judgement("undecided", estimate.trouble)
    if abs(got - estimate.value) <= 8 * estimate.error + 1e-9 * size:
        return Judgement("agrees")
    return Judgement("wrong", f"derived {got:.12g}, numeric {estimate.value:.12g}")
