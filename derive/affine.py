"""Index expressions: affine forms, bounds, and solving ``g(i) = m`` exactly over the integers.

An adjoint is the sum over all points ``i`` with ``g(i) = m``. Each target dim gives one equation;
one index of it is eliminated, with divisibility and bounds kept as guards, and the indices that
are left are summed over. Division happens only under a divisibility guard, so it is exact, and
the solution is again affine: the derivative of an adjoint is solved by the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import lcm

import sympy
from sympy import Expr, Integer, Mod, S, Symbol
from sympy.core.relational import Relational

from derive.errors import DerivationError
from derive.nodes import Access, Index, IntegerAccess, contains, fresh


def coefficients(expr: Expr, indices: Iterable[Index]) -> dict[Index, Expr] | None:
    """Coefficient of each index that occurs in an affine expression, or None if not affine."""
    if whole_parts(expr):
        return None
    out = {}
    for index in indices:
        if index not in expr.free_symbols:
            continue
        slope = sympy.diff(_plain(expr), index)
        if slope.free_symbols & set(indices) or not slope.is_Rational:
            return None
        out[index] = slope
    return out


def _plain(expr: Expr) -> Expr:
    """The expression with gathers made opaque, so that SymPy treats them as constants."""
    gathers = expr.atoms(IntegerAccess)
    return expr.xreplace({g: sympy.Dummy(integer=True) for g in gathers}) if gathers else expr


def whole_parts(expr: Expr) -> list[Expr]:
    """The quotients ``floor(e/k)`` and remainders ``Mod(e, k)`` in an index expression; those of
    sizes alone, such as the bound ``floor((1 - T)/2)`` of another, are constants."""
    if not expr.has(sympy.floor, Mod):
        return []
    return [part for part in sympy.preorder_traversal(expr)
            if isinstance(part, sympy.floor | Mod) and part.has(Index, IntegerAccess)]


def quotient_parts(part: Expr) -> tuple[Expr, Expr]:
    """``(e, k)`` of ``floor(e/k)`` or ``Mod(e, k)``, both whole: what a kernel divides."""
    if isinstance(part, Mod):
        return part.args
    numerator, denominator = sympy.fraction(sympy.together(part.args[0]))
    return sympy.expand(numerator), denominator


def _part_bounds(part: Expr) -> tuple[Expr, Expr] | None:
    argument, divisor = quotient_parts(part)
    reach = bounds(argument)
    if reach is None:
        return None
    if isinstance(part, Mod):
        small = reach[0].is_nonnegative and (divisor - 1 - reach[1]).is_nonnegative
        return reach if small else (S.Zero, divisor - 1)
    return sympy.floor(reach[0] / divisor), sympy.floor(reach[1] / divisor)


def bounds(expr: Expr) -> tuple[Expr, Expr] | None:
    """Smallest and largest value of an affine expression over the ranges of its indices."""
    if isinstance(expr, Index):
        return S.Zero, expr.size - 1
    for part in whole_parts(expr)[:1]:  # each ranges like an index of its own, one after another
        reach = _part_bounds(part)
        if reach is None:
            return None
        taken = {i.name for i in expr.atoms(Index)}
        stand_in = fresh(Index("_b", reach[1] - reach[0] + 1), taken)
        return bounds(expr.xreplace({part: stand_in + reach[0]}))
    indices = [s for s in expr.free_symbols if isinstance(s, Index)]
    slopes = coefficients(expr, indices)
    if slopes is None or expr.atoms(IntegerAccess):
        return None
    low = high = expr.xreplace(dict.fromkeys(indices, S.Zero))
    for index, slope in slopes.items():
        reach = slope * (index.size - 1)
        low, high = (low, high + reach) if slope > 0 else (low + reach, high)
    return sympy.expand(low), sympy.expand(high)


def inside(expr: Expr, size: Expr) -> list[Expr]:
    """The conditions under which ``0 <= expr < size`` that the ranges do not already give."""
    scale = denominator(expr)  # whole on both sides, see `whole_conditions`
    expr, size = sympy.expand(scale * expr), scale * size
    reach = bounds(expr)
    conditions = []
    if reach is None or reach[0].is_nonnegative is not True:
        conditions.append(sympy.Ge(expr, 0))
    if reach is None or sympy.expand(size - 1 - reach[1]).is_nonnegative is not True:
        conditions.append(sympy.Lt(expr, size))
    return [c for c in conditions if c != True]  # noqa: E712  (SymPy's true)


def implied(condition: Expr, given: Iterable[Expr]) -> bool:
    """Whether one of the conditions ``given`` (or the ranges alone) makes ``condition`` true."""
    given = tuple(given)
    if condition in given:
        return True
    for need in nonnegative_forms(condition):
        if not _surely_nonnegative(need) and not any(
            _surely_nonnegative(sympy.expand(need - have))
            for known in given
            for have in nonnegative_forms(known)
        ):
            return False
    return bool(nonnegative_forms(condition))


def _surely_nonnegative(expr: Expr) -> bool:
    reach = bounds(expr)
    return reach is not None and reach[0].is_nonnegative is True


def nonnegative_forms(condition: Expr) -> tuple[Expr, ...]:
    """A comparison of whole numbers as expressions that are >= 0 exactly where it holds."""
    if not isinstance(condition, Relational):
        return ()
    difference = condition.lhs - condition.rhs
    if difference.is_integer is not True:
        return ()
    forms: dict[type, tuple[Expr, ...]] = {
        sympy.Ge: (difference,), sympy.Gt: (difference - 1,),
        sympy.Le: (-difference,), sympy.Lt: (-difference - 1,),
        sympy.Eq: (difference, -difference),
    }
    return forms.get(condition.func, ())


def denominator(expr: Expr) -> int:
    """The least whole number that makes every coefficient of an index expression whole."""
    return lcm(*(int(c.q) for c in expr.as_coefficients_dict().values()))


def _of_whole_numbers(expr: Expr) -> bool:
    """Whether an expression is a sum of products of whole numbers, but for its coefficients."""
    kinds = (Symbol, IntegerAccess, sympy.floor, sympy.Mod, sympy.Max, sympy.Min)
    return all(term == 1 or all(isinstance(f, kinds) for f in sympy.Mul.make_args(term))
               for term in expr.as_coefficients_dict())


def whole_conditions(expr: Expr) -> Expr:
    """Comparisons of index expressions with whole coefficients on both sides: (2i - 5)/3 < n
    becomes 2i - 5 < 3n, for a quotient compared as a float may round to the wrong side."""
    def scaled(relation: Expr) -> Expr:
        if not all(map(_of_whole_numbers, relation.args)):
            return relation
        scale = lcm(denominator(relation.lhs), denominator(relation.rhs))
        if scale == 1:
            return relation
        return relation.func(*(sympy.expand(scale * side) for side in relation.args))

    if not contains(expr, Relational):
        return expr
    there = {
        node: scaled(node) for node in expr.atoms(Relational)
        if all(isinstance(a, IntegerAccess) for a in node.atoms(Access))
    }
    return expr.xreplace({old: new for old, new in there.items() if old is not new})


@dataclass(frozen=True)
class Solution:
    """``values`` of eliminated indices (and of quotients and remainders) in terms of ``m`` and
    the rest; ``guards``; ``left``: the indices still to be summed over; ``scattered``: whether a
    guard compares with a gather."""

    values: dict[Expr, Expr]
    guards: tuple[Expr, ...]
    left: tuple[Index, ...]
    scattered: bool


def solve(where: Sequence[Expr], target: Sequence[Index], variables: Sequence[Index]) -> Solution:
    """Solve ``where[d] == target[d]`` for every d, over the integer ranges of ``variables``.

    The target indices must not occur in ``where``. Every solution is counted exactly once.
    """
    values: dict[Expr, Expr] = {}
    guards: list[Expr] = []
    parts, extra, links = _quotients(where)
    left = [*variables, *extra]
    pairs = [(e.xreplace(parts), m) for e, m in zip(where, target, strict=True)]
    # Plain indices first: they need no guard, and later equations then have fewer unknowns.
    todo = sorted(pairs, key=lambda pair: not isinstance(pair[0], Index)) + links
    for expr, m in todo:
        expr = expr.xreplace(values)
        if expr.atoms(IntegerAccess):  # a gather: no closed solution, a guard compares instead
            guards.append(sympy.Eq(m, expr))
            continue
        slopes = coefficients(expr, left)
        if not slopes:
            guards.append(sympy.Eq(m, expr))
            continue
        index = min(slopes, key=lambda i: _preference(i, slopes[i], left))
        value, divisible = _isolate(expr, m, index, slopes[index])
        guards += divisible
        guards += inside(value, index.size)
        left.remove(index)
        values = {i: v.xreplace({index: value}) for i, v in values.items()}
        values[index] = value
    guards = [whole_conditions(g.xreplace(values)) for g in guards]
    values.update({part: value.xreplace(values) for part, value in parts.items()})
    kept = tuple(dict.fromkeys(g for g in guards if g != True))  # noqa: E712
    scattered = any(
        gather.free_symbols & set(left) for g in kept for gather in g.atoms(IntegerAccess)
    )
    return Solution(values, kept, tuple(left), scattered)


def _quotients(
    where: Sequence[Expr],
) -> tuple[dict[Expr, Expr], list[Index], list[tuple[Expr, Expr]]]:
    """For each ``floor(e/k)`` or ``Mod(e, k)``: an index q and an index r in its place, and the
    equation ``e - k q - r = 0`` that ties them (Euclid: q and r are unique)."""
    parts: dict[Expr, Expr] = {}
    extra: list[Index] = []
    links: list[tuple[Expr, Expr]] = []
    found = dict.fromkeys(quotient_parts(part) for expr in where for part in whole_parts(expr))
    for number, (argument, divisor) in enumerate(found):
        if whole_parts(argument):
            raise DerivationError(
                f"the index expression {argument} nests quotients or remainders",
                mend="give the inner one an equation of its own",
            )
        low, high = _part_bounds(sympy.floor(argument / divisor, evaluate=False)) or (None, None)
        if low is None or high is None:
            raise DerivationError(f"the range of the index expression {argument} is not known")
        quotient = Index(f"_q{number}", high - low + 1)
        remainder = Index(f"_r{number}", divisor)
        parts[sympy.floor(argument / divisor)] = quotient + low
        parts[Mod(argument, divisor)] = remainder
        extra += [quotient, remainder]
        link = sympy.expand(argument - divisor * (quotient + low) - remainder)
        links.append((link, S.Zero))
    return parts, extra, links


def _preference(index: Index, slope: Expr, left: Sequence[Index]) -> tuple:
    """Eliminate the index with the largest range, so that the sum that is left is short; among
    equals one with slope ±1, which needs no divisibility guard."""
    size = index.size
    extent = (0, 0) if not size.is_Integer else (1, -int(size))
    return (*extent, abs(slope) != 1, left.index(index))


def _isolate(expr: Expr, m: Expr, index: Index, slope: Expr) -> tuple[Expr, list[Expr]]:
    """``expr == m`` solved for ``index``: its value and the guard that makes it whole."""
    rest = sympy.expand(expr - slope * index)
    numerator = sympy.expand((m - rest) * slope.q)  # slope = p/q
    p = Integer(slope.p)
    if p < 0:
        numerator, p = sympy.expand(-numerator), -p
    guards = []
    scale = denominator(numerator)
    if scale != 1:
        # m - rest is whole only under the guards that came with `rest`; scale to whole numbers
        numerator, p = sympy.expand(numerator * scale), p * scale
    if p != 1:
        guards.append(sympy.Eq(Mod(numerator, p), 0))
    return sympy.expand(numerator / p), guards
