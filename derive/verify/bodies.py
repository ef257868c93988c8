"""Bodies of traced equations: SymPy expressions and conditions, and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from sympy import Expr
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from derive.nodes import Index, Select, alpha_rename, rename


def put(body: Any, places: dict[Index, Expr]) -> Any:
    """A body with expressions in the place of its free indices; bound ones keep out of the way."""
    moved = {i: p for i, p in places.items() if p is not i and p != i}
    if not moved:
        return body
    taken = {s.name for p in moved.values() for s in p.free_symbols}
    taken |= {s.name for s in body.free_symbols}
    return rename(alpha_rename(body, taken), moved)


def apart(body: Any, indices: Iterable[Index]) -> Any:
    """A body whose bound indices bear other names than indices that it is going to meet."""
    return alpha_rename(body, {i.name for i in indices})


def as_number(body: Any) -> Expr:
    """A condition as 1 or 0."""
    return Select(body, sympy.S.One, sympy.S.Zero) if is_condition(body) else body


def is_condition(body: Any) -> bool:
    """Whether a body is true or false (a SymPy symbol claims to be a boolean too)."""
    return isinstance(body, Relational | BooleanFunction | BooleanAtom)


def exact(found: float) -> Expr:
    """An exact number: 0.1 is one tenth, 0.333… a third, 1.4142135623730951 the root of 2."""
    if not np.isfinite(found):
        return sympy.oo if found > 0 else -sympy.oo if found < 0 else sympy.nan
    written = Fraction(repr(found))
    if written.denominator <= 10**6:
        return sympy.Rational(written.numerator, written.denominator)
    simple = Fraction(found).limit_denominator(1000)
    if float(simple) == found:
        return sympy.Rational(simple.numerator, simple.denominator)
    for unit, root in ((1.0, sympy.S.One), (np.pi, sympy.pi)):
        for power in (1, -1):
            square = Fraction(found * found * unit**power).limit_denominator(1000)
            exact = sympy.sqrt(sympy.Rational(square.numerator, square.denominator) / root**power)
            if square and abs(float(exact) - abs(found)) <= 2 * np.spacing(abs(found)):
                return exact if found > 0 else -exact
    if found == np.pi:
        return sympy.pi
    return sympy.Rational(written.numerator, written.denominator)
