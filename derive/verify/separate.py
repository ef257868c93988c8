"""Axes that were joined, taken apart: an index n of size 4·B is 4·b + s.

Code that flattens a batch of patches (``cols.reshape(n * 4, -1)``) has tensors with such an axis. A
proof that writes the patches out number by number would have to write the batch out with them, and
would hold for one batch size alone. Program → Program: every such axis of a claimed tensor becomes
two, every such index in a sum too; the values are the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import sympy
from sympy import Expr, Integer, S

from derive.affine import bounds, quotient_parts
from derive.nodes import Access, Index, Reduction, fresh
from derive.program import Equation

Axes = dict[str, tuple[int | None, ...]]  # of each axis of a tensor the number to divide by


def separated(equations: Iterable[Equation], kept: Iterable[str] = ()) -> list[Equation]:
    """Equations in which no tensor has an axis of a number times a size, except those ``kept``."""
    found = list(equations)
    whole = set(kept)
    axes: Axes = {}
    for eq in found:
        counts = tuple(_count(i.size) for i in eq.tensor.indices)
        if eq.name not in whole and any(counts):
            axes[eq.name] = counts
    return [_equation(eq, axes) for eq in found]


def _count(size: Expr) -> int | None:
    """The number in a size that is a number times a symbol."""
    number, rest = size.as_coeff_Mul()
    return int(number) if rest.is_Symbol and number.is_Integer and number > 1 else None


def _equation(eq: Equation, axes: Axes) -> Equation:
    taken = {i.name for i in eq.body.atoms(Index)} | {i.name for i in eq.indices}
    counts = axes.get(eq.name, (None,) * len(eq.indices))
    pairs: dict[Index, Expr] = {}
    indices: list[Index] = []
    for index, count in zip(eq.indices, counts, strict=True):
        indices += _parts(index, count, pairs, taken) if count else [index]
    body = _read(eq.body, axes, pairs, taken)
    return replace(eq, tensor=replace(eq.tensor, indices=tuple(indices)), indices=tuple(indices),
                   body=body)


def _parts(index: Index, count: int, pairs: dict[Index, Expr], taken: set[str]) -> list[Index]:
    """The quotient and the remainder that an index is put together from."""
    made = []
    for size in (index.size / count, Integer(count)):
        part = fresh(Index(index.name, size), taken)
        taken.add(part.name)
        made.append(part)
    pairs[index] = count * made[0] + made[1]
    return made


def _read(expr: Expr, axes: Axes, pairs: Mapping[Index, Expr], taken: set[str]) -> Expr:
    """A body with the parts in the place of every index that has some."""
    if isinstance(expr, Index):
        return pairs.get(expr, expr)
    if not expr.args or not (expr.has(Access) or expr.has(Index)):
        return expr
    if isinstance(expr, Reduction):
        inner = dict(pairs)
        bound: list[Index] = []
        for index in expr.bound:
            count = _count(index.size)
            bound += _parts(index, count, inner, taken) if count else [index]
        return expr.func(_read(expr.body, axes, inner, taken), *bound)
    if isinstance(expr, Access):
        where: list[Expr] = []
        counts = axes.get(expr.name, (None,) * len(expr.where))
        for place, count in zip(expr.where, counts, strict=True):
            new = _read(place, axes, pairs, taken)
            where += [_quotient(new, count), _remainder(new, count)] if count else [new]
        return expr.func(expr.name, *where)
    if isinstance(expr, sympy.floor | sympy.Mod):
        inner_expr, divisor = quotient_parts(expr)
        if divisor.is_Integer:
            made = _quotient if isinstance(expr, sympy.floor) else _remainder
            return made(_read(inner_expr, axes, pairs, taken), int(divisor))
    return expr.func(*map(partial(_read, axes=axes, pairs=pairs, taken=taken), expr.args))


def _halves(place: Expr, count: int) -> tuple[Expr, Expr]:
    """``(p, s)`` with ``place = count·p + s``, s with as few terms as may be."""
    whole, rest = S.Zero, S.Zero
    for term in sympy.Add.make_args(sympy.expand(place)):
        number, varying = term.as_coeff_Mul()
        if number.is_Integer and number % count == 0 and varying.is_integer:
            whole += number / count * varying
        elif varying == 1 and number.is_Integer:
            whole, rest = whole + number // count, rest + number % count
        else:
            rest += term
    return whole, rest


def _within(rest: Expr, count: int) -> bool:
    """Whether what is left is surely in 0 … count - 1."""
    ends = bounds(rest) if rest.free_symbols else (rest, rest)
    return ends is not None and all(e.is_Integer for e in ends) and 0 <= ends[0] \
        and ends[1] < count


def _quotient(place: Expr, count: int) -> Expr:
    whole, rest = _halves(place, count)
    return whole if _within(rest, count) else whole + sympy.floor(rest / count)


def _remainder(place: Expr, count: int) -> Expr:
    _, rest = _halves(place, count)
    return rest if _within(rest, count) else sympy.Mod(rest, count)
