"""How far rounding may take a computed gradient from the exact one: a running error bound.

The magnitude of a gradient is its equation with every term replaced by its absolute value, down
through the adjoints: what it would be if nothing cancelled. A gradient computed in any sensible
order differs from the exact one by a modest multiple of eps times that (Higham 2002, section 3.3:
running error analysis). A gradient that is zero by symmetry, as before a batch norm, has a
magnitude all the same, and so an honest error bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
import sympy
from sympy import Abs, Expr

from derive.nodes import Access, IntegerAccess, Reduction, Select, SumOver
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate

_PREFIX = "_size_of"


def gradient_magnitudes(
    program: Program, values: Mapping[str, Any], sizes: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """The magnitude of each gradient of a derived program, an array of the gradient's shape."""
    adjoints = {t.name for t in program.role("gradient")}
    new = []
    for eq in program.equations:
        if eq.name in adjoints:
            tensor = Tensor(_PREFIX + eq.name, eq.tensor.indices)
            new.append(Equation(tensor, eq.indices, _magnitude(eq.body, frozenset(adjoints)),
                                "magnitude"))
    wanted = {name: _PREFIX + grad for name, grad in program.gradients.items()}
    larger = replace(program.with_equations(new), gradients={}, jacobians={})
    found = evaluate(larger, values, tuple(wanted.values()), sizes)
    return {name: found[size] for name, size in wanted.items()}


def magnitude(body: Expr) -> Expr:
    """A body with every term of its sums taken absolutely."""
    return _magnitude(body, frozenset())


@singledispatch
def _magnitude(expr: Expr, adjoints: frozenset[str]) -> Expr:
    return Abs(expr)


@_magnitude.register
def _(expr: sympy.Number, adjoints: frozenset[str]) -> Expr:
    return abs(expr)


@_magnitude.register
def _(expr: Access, adjoints: frozenset[str]) -> Expr:
    if expr.name in adjoints:
        return Access(_PREFIX + expr.name, *expr.where)
    return expr if isinstance(expr, IntegerAccess) else Abs(expr)


@_magnitude.register
def _(expr: sympy.Add, adjoints: frozenset[str]) -> Expr:
    return sympy.Add(*(_magnitude(a, adjoints) for a in expr.args))


@_magnitude.register
def _(expr: sympy.Mul, adjoints: frozenset[str]) -> Expr:
    return sympy.Mul(*(_magnitude(a, adjoints) for a in expr.args))


@_magnitude.register
def _(expr: SumOver, adjoints: frozenset[str]) -> Expr:
    return SumOver(_magnitude(expr.body, adjoints), *expr.bound)


@_magnitude.register
def _(expr: Reduction, adjoints: frozenset[str]) -> Expr:
    return Abs(expr)


@_magnitude.register
def _(expr: Select, adjoints: frozenset[str]) -> Expr:
    return Select(
        expr.condition, _magnitude(expr.yes, adjoints), _magnitude(expr.no, adjoints)
    )
