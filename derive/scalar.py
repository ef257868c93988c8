"""The forward program element by element at 50 digits: a second reading of the equations.

Shares no code with `derive.reference`: plain recursion over elements in mpmath, every elementary
function by its definition (not its stable form). Slow, and therefore for small programs only.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import singledispatchmethod
from typing import Any

import mpmath
import numpy as np
import sympy
from mpmath import mpf
from sympy import Symbol
from sympy.codegen.cfunctions import expm1, log1p
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from derive.errors import DerivationError
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
)
from derive.program import Program
from derive.randomness import uniform, uniform_value

DIGITS = 50
Point = dict[Index, int]


@contextmanager
def fifty_digits() -> Iterator[None]:
    """What `Elements` needs around it: a chain of layers is a chain of calls."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20_000))
    try:
        with mpmath.workdps(DIGITS):
            yield
    finally:
        sys.setrecursionlimit(limit)


class Elements:
    """The elements of a program's tensors, computed when asked for, each once.

    Args:
        values: for each given tensor an object array of mpf (or an int array).
        sizes: the value of each symbolic size.
    """

    def __init__(self, program: Program, values: Mapping[str, np.ndarray],
                 sizes: Mapping[Symbol, int]) -> None:
        self.program, self.values, self.sizes = program, values, dict(sizes)
        self.known: dict[tuple[str, tuple[int, ...]], Any] = {}
        vars(self)["at"] = self.at  # bound once: it is asked for at every node

    def element(self, name: str, place: tuple[int, ...] = ()) -> Any:
        """One element of a tensor; None outside its bounds."""
        if name in self.values:
            array = self.values[name]
            inside = all(0 <= p < n for p, n in zip(place, array.shape, strict=True))
            return array[place] if inside else None
        key = (name, place)
        if key not in self.known:
            eq = self.program.defined[name]
            sizes = [self.size(i) for i in eq.indices]
            inside = all(0 <= p < n for p, n in zip(place, sizes, strict=True))
            point = dict(zip(eq.indices, place, strict=True))
            self.known[key] = self.at(eq.body, point) if inside else None
        return self.known[key]

    def size(self, index: Index) -> int:
        return int(index.size.xreplace(self.sizes))

    def points(self, bound: tuple[Index, ...], point: Point) -> list[Point]:
        """The point extended by every value of the bound indices."""
        ranges = [range(self.size(i)) for i in bound]
        return [{**point, **dict(zip(bound, c, strict=True))} for c in itertools.product(*ranges)]

    # -- one case for each kind of node -----------------------------------------------------
    @singledispatchmethod
    def at(self, expr: Any, point: Point) -> Any:
        """The value of an expression at one value of every index; None where undefined."""
        raise DerivationError(f"cannot evaluate {type(expr).__name__}: {expr}")

    @at.register
    def _(self, expr: sympy.Rational, point: Point) -> Any:
        return mpf(int(expr.p)) / mpf(int(expr.q))

    @at.register
    def _(self, expr: sympy.Number, point: Point) -> Any:
        return mpmath.mpmathify(expr.evalf(DIGITS)._to_mpmath(mpmath.mp.prec))

    @at.register
    def _(self, expr: sympy.NumberSymbol, point: Point) -> Any:
        return mpmath.mpmathify(expr._to_mpmath(mpmath.mp.prec))

    @at.register
    def _(self, expr: sympy.Symbol, point: Point) -> Any:
        return mpf(point[expr]) if isinstance(expr, Index) else mpf(self.sizes[expr])

    @at.register
    def _(self, expr: Access, point: Point) -> Any:
        place = []
        for where in expr.where:
            value = point[where] if isinstance(where, Index) else self.at(where, point)
            if value is None or value != int(value):
                return None  # between two elements: a guard keeps it from being used
            place.append(int(value))
        found = self.element(expr.name, tuple(place))
        return None if found is None else mpmath.mpmathify(found)

    @at.register
    def _(self, expr: sympy.Add, point: Point) -> Any:
        parts = [self.at(a, point) for a in expr.args]
        return None if None in parts else mpmath.fsum(parts)

    @at.register
    def _(self, expr: sympy.Mul, point: Point) -> Any:
        parts = [self.at(a, point) for a in expr.args]
        return None if None in parts else mpmath.fprod(parts)

    @at.register
    def _(self, expr: sympy.Pow, point: Point) -> Any:
        base, power = self.at(expr.base, point), self.at(expr.exp, point)
        if base is None or power is None:
            return None
        if base == 0 and power < 0:
            return mpmath.inf
        return base ** int(power) if power == int(power) else mpmath.power(base, power)

    @at.register
    def _(self, expr: Select, point: Point) -> Any:
        return self.at(expr.yes if self.at(expr.condition, point) else expr.no, point)

    @at.register
    def _(self, expr: sympy.Piecewise, point: Point) -> Any:
        for value, condition in expr.args:
            if self.at(condition, point):
                return self.at(value, point)
        return None

    @at.register
    def _(self, expr: BooleanAtom, point: Point) -> bool:
        return bool(expr)

    @at.register
    def _(self, expr: Relational, point: Point) -> bool:
        left, right = self.at(expr.lhs, point), self.at(expr.rhs, point)
        if left is None or right is None:
            return False
        return {
            "==": left == right, "!=": left != right, "<": left < right,
            "<=": left <= right, ">": left > right, ">=": left >= right,
        }[expr.rel_op]

    @at.register
    def _(self, expr: sympy.And, point: Point) -> bool:
        return all(self.at(a, point) for a in expr.args)

    @at.register
    def _(self, expr: sympy.Or, point: Point) -> bool:
        return any(self.at(a, point) for a in expr.args)

    @at.register
    def _(self, expr: sympy.Not, point: Point) -> bool:
        return not self.at(expr.args[0], point)

    @at.register
    def _(self, expr: Elementary, point: Point) -> Any:
        return self.at(type(expr).define(*expr.args), point)

    @at.register
    def _(self, expr: uniform, point: Point) -> Any:
        whole = [self.at(a, point) for a in expr.args]
        return None if None in whole else mpf(float(uniform_value(*(int(w) for w in whole))))

    @at.register
    def _(self, expr: Reduction, point: Point) -> Any:
        parts = [self.at(expr.body, p) for p in self.points(expr.bound, point)]
        return None if None in parts else _REDUCE[type(expr)](parts)

    @at.register
    def _(self, expr: sympy.Function, point: Point) -> Any:
        args = [self.at(a, point) for a in expr.args]
        if None in args:
            return None
        function = _FUNCTIONS.get(type(expr)) or getattr(mpmath, type(expr).__name__, None)
        if function is None:
            raise DerivationError(f"mpmath does not know the function {type(expr).__name__}")
        return function(*args)


def _logsumexp(parts: list[Any]) -> Any:
    return mpmath.log(mpmath.fsum(mpmath.exp(p) for p in parts))


_REDUCE: dict[type, Any] = {
    SumOver: mpmath.fsum, MaxOver: max, MinOver: min, ProdOver: mpmath.fprod,
    LogSumExpOver: _logsumexp,
}
_FUNCTIONS: dict[type, Any] = {
    sympy.Abs: abs, sympy.Max: max, sympy.Min: min, sympy.Mod: lambda a, b: a % b,
    log1p: lambda x: mpmath.log(1 + x), expm1: lambda x: mpmath.exp(x) - 1,
}
