"""Numeric differentiation with an error bar: the leg that knows no derivative.

Small programs: the forward equations at 50 digits (`derive.scalar`) and central differences with
h = 1e-20, whose error lies far below double precision. Larger ones: float64 and Richardson
extrapolation over halved steps (as in Ridders 1982), with truncation, sharpness and rounding in
the error bar; the spread of Ridders' table alone calls right gradients wrong near a sharp bend. A
step never crosses a kink: the sign pattern of everything that can jump is compared at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import mpmath
import numpy as np

from derive.data import check_values, resolve_sizes
from derive.points import kink_program
from derive.program import Group, Program
from derive.reference import evaluate, evaluate_group
from derive.scalar import DIGITS, Elements, fifty_digits

_STEP = mpmath.mpf(10) ** -20
_LEVELS = 24
_UNDEFINED = 4  # in a pattern of signs: what has none
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Estimate:
    """A directional derivative: its value, a bound on its error, and what stood in the way."""

    value: float
    error: float
    trouble: str = ""


class Slopes:
    """Directional derivatives of a scalar of a program at one point.

    Args:
        of: the scalar tensor.
        values: everything that must be given (arrays by name).
        sizes: symbolic sizes that no array determines.
        digits: 50 for the high-precision reading, 15 for extrapolation in float64; by default
            the first where the program is small enough.
    """

    def __init__(self, program: Program, of: str, values: Mapping[str, np.ndarray],
                 sizes: Mapping[str, int] | None = None, *, digits: int | None = None,
                 directions: int = 1) -> None:
        self.program, self.kinks = kink_program(program.only(of))
        self.of = of
        self.values = check_values(self.program, values, sizes, finite=False)
        self.sizes = resolve_sizes(self.program, self.values, sizes)
        self.given_sizes = {s.name: n for s, n in self.sizes.items()}
        self.digits = digits or (DIGITS if 2 * directions * self._points() < 60_000 else 15)
        self.behind: dict[tuple[str, ...], list[Group]] = {}
        self.arrays: dict[str, np.ndarray] = {}
        if self.digits != DIGITS:
            self.arrays = {**self.values, **evaluate(self.program, self.values,
                                                     sizes=self.given_sizes)}
        self.base = self._at({})

    @property
    def method(self) -> str:
        return "50 digits" if self.digits == DIGITS else "Richardson"

    def _points(self) -> float:
        """Elements that one evaluation of the forward program visits."""
        from derive.nodes import bound_indices

        return sum(
            float(np.prod([float(i.size.xreplace(self.sizes))
                           for i in (*eq.indices, *bound_indices(eq.body))] or [1.0]))
            for eq in self.program.equations
        )

    def along(self, name: str, direction: np.ndarray) -> Estimate:
        """The derivative with respect to one tensor along a direction of its shape."""
        if not np.isfinite(float(self.base[0])):
            return Estimate(float("nan"), float("inf"), "the scalar is not finite here")
        if self.digits == DIGITS:
            if _UNDEFINED in self.base[1]:
                return Estimate(float("nan"), float("inf"), "inf - inf on the way to the scalar")
            return self._central(name, direction)
        return self._richardson(name, direction)

    # -- evaluations --------------------------------------------------------------------------
    def _at(self, moved: Mapping[str, np.ndarray]) -> tuple[mpmath.mpf | float, bytes]:
        """The scalar, and the sign pattern of the kinks, with some tensors replaced."""
        if self.digits != DIGITS:
            got = {**self.arrays, **moved}
            with np.errstate(all="ignore"):
                for group in self._behind(tuple(moved)):
                    evaluate_group(group, got, self.sizes)
            signs = [np.sign(got[k]).astype(np.int8).tobytes() for k in self.kinks]
            return float(got[self.of]), b"".join(signs)
        values = {**self.values, **moved}
        with fifty_digits():
            elements = Elements(self.program, values, self.sizes)
            signs = [self._signs(elements, k) for k in self.kinks]
            return elements.element(self.of), b"".join(signs)

    def _behind(self, moved: tuple[str, ...]) -> list[Group]:
        """What is computed from some tensors, in order: nothing else changes with them."""
        if moved not in self.behind:
            reached, found = set(moved), []
            for group in self.program.groups if moved else ():
                if any(reached & set(eq.reads) for eq in group.equations):
                    reached |= {eq.name for eq in group.equations}
                    found.append(group)
            self.behind[moved] = found
        return self.behind[moved]

    def _signs(self, elements: Elements, kink: str) -> bytes:
        shape = [elements.size(i) for i in self.program.tensors[kink].indices]
        found = (elements.element(kink, tuple(place)) for place in np.ndindex(*shape))
        return bytes(3 if f is None else _UNDEFINED if mpmath.isnan(f)
                     else int(mpmath.sign(f)) + 1 for f in found)

    # -- the two methods ----------------------------------------------------------------------
    def _central(self, name: str, direction: np.ndarray) -> Estimate:
        with mpmath.workdps(DIGITS):
            start = np.vectorize(mpmath.mpf, otypes=[object])(self.values[name])
            ends = []
            for sign in (1, -1):
                step = np.vectorize(mpmath.mpf, otypes=[object])(direction) * (sign * _STEP)
                ends.append(self._at({name: np.asarray(start + step, dtype=object)}))
            if any(pattern != self.base[1] for _, pattern in ends):
                return Estimate(float("nan"), float("inf"), "on a kink")
            value = (ends[0][0] - ends[1][0]) / (2 * _STEP)
            # h² times a third derivative, and 1e-50 relative rounding over h: far below double
            # precision, also beside a bend as sharp as 1e-12
            error = float(abs(value)) * 1e-24 + float(abs(self.base[0])) * 1e-30
            # where the slope is 0, only the second difference tells how large the third one may be
            error += 1e3 * float(abs(ends[0][0] + ends[1][0] - 2 * self.base[0]))
            return Estimate(float(value), error)

    def _richardson(self, name: str, direction: np.ndarray) -> Estimate:
        norm = float(np.max(np.abs(direction)))
        if norm == 0:
            return Estimate(0.0, 0.0)
        h = 2.0**-5 * max(1.0, float(np.max(np.abs(self.values[name])))) / norm
        middle, best = float(self.base[0]), Estimate(float("nan"), float("inf"), "a kink is near")
        levels: list[_Level] = []  # of steps halved one after the other
        for _ in range(_LEVELS):
            ends = [self._at({name: self.values[name] + s * h * direction}) for s in (1, -1)]
            up, down = float(ends[0][0]), float(ends[1][0])
            if not np.isfinite(up - down):  # beyond the domain: a smaller step may be within it
                levels.clear()
                if not np.isfinite(best.error):
                    best = Estimate(float("nan"), float("inf"), "not finite nearby")
            elif any(pattern != self.base[1] for _, pattern in ends):
                levels.clear()
            else:
                noise = 2 * self._rounding() * max(abs(up), abs(down), abs(middle)) / h
                levels.append(_Level(h, (up - down) / (2 * h), up - 2 * middle + down, noise))
                if noise > best.error:  # smaller steps can only have wider bars
                    break
            h /= 2
            if len(levels) >= 4:
                best = min(best, _extrapolate(levels[-4:]), key=lambda e: e.error)
        return best

    def _rounding(self) -> float:
        """Relative rounding of one evaluation: grows with the length of the chain of equations."""
        return _EPS * (4 + np.sqrt(len(self.program.equations)))


@dataclass(frozen=True)
class _Level:
    """Central and second difference at one step, and the rounding of the first."""

    step: float
    slope: float
    second: float
    noise: float


def _extrapolate(levels: list[_Level]) -> Estimate:
    """One Richardson step on neighbours of four halved steps, and a bar that holds their spread,
    rounding, and sharpness: where a function bends within a step, the second difference does not
    fall to a quarter when the step is halved. Spread alone is no bound there: far outside of the
    bend of sqrt(a² + b²) the central differences agree with each other on a wrong slope."""
    better = [(4 * b.slope - a.slope) / 3 for a, b in pairwise(levels)]
    spread = max(abs(b - a) for a, b in pairwise(better))
    sharp = max(abs(a.second - 4 * b.second) / a.step
                for a, b in pairwise(levels))
    return Estimate(better[-1], spread + sharp + levels[-1].noise)
