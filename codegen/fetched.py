"""Matrix products whose factors are no matrices in memory: a sum of two accesses → `Product`.

    y[b,o,p,q] = sum over c, r, s of ( X[b, c, 2*p + r - 1, 2*q + s - 1] * K[o,c,r,s] )

is a product of rows o, columns (b, p, q) and summands (c, r, s), if the element of a factor at a
row and a column may be computed: which indices these are, where the access points, and 0 where a
guard does not hold. So are the gradients of a convolution with respect to its kernel (summands b,
p, q) and its input, and a recurrence's weight gradient, whose sum over steps and rows of the batch
stands under the guard that there is a step before. No layer has a case of its own: an index of
both the target and one factor is a row or a column, one of both factors and the target is a loop
around, all others are summed. Nothing is copied; a GPU's tiles fetch elements so (`Window`). Where
most summands are 0 (the input gradient of a convolution with a stride), the product is packed, or
its loops are narrowed, as on a CPU.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import sympy
from sympy import Add, Expr, Integer, Mul, S

from codegen.contraction import MANY, Shapes, conjuncts, count, factors_of, strides
from codegen.loops import Loop, Matrix, Product, Statement, Window
from derive.nodes import Access, Index, Select, SumOver

FEW = 4  # rows or columns below which tiles do not pay, but for the parts of a long sum
DENSE = 0.3  # of the summands, how many must be there at least: tiles multiply zeros, too
SAMPLE = 48


@dataclass(frozen=True)
class Windowed:
    """A product inside loops over ``outer``; as `codegen.contraction.Contraction` is used."""

    product: Product
    outer: tuple[Index, ...]
    needs_start = False

    def statements(self, accumulate: bool) -> tuple[Statement, ...]:
        out: tuple[Statement, ...] = (replace(self.product, beta=1 if accumulate else 0),)
        for index in reversed(self.outer):
            out = (Loop(index, Integer(0), index.size, out),)
        return out


def windowed(target: Access, factor: Expr, node: SumOver, shapes: Shapes,
             guard: Sequence[Expr] = ()) -> Windowed | None:
    """The product that ``target = factor * node`` is, or None."""
    conditions, body = list(guard), node.body
    while isinstance(body, Select) and body.no == 0:
        conditions += conjuncts(body.condition)
        body = body.yes
    found = factors_of(body)
    if found is None or factor.has(Access) or factor.atoms(Index):
        return None
    number, left, right = found
    free = target.where
    if not free or not all(isinstance(e, Index) for e in free) or len(set(free)) < len(free):
        return None
    if target.name in (left.name, right.name) or any(
            e.has(Access) for e in (*left.where, *right.where, *conditions)):
        return None
    if free[-1] in _own(left):  # the target lies in rows
        left, right = right, left
    one, other = _own(left), _own(right)
    rows = tuple(i for i in free if i in one and i not in other)
    columns = tuple(i for i in free if i in other and i not in one)
    outer = tuple(i for i in free if i in one and i in other)
    if len(rows) + len(columns) + len(outer) < len(free) or free[-1] in rows:
        return None
    few = min(count(rows), count(columns)) if rows and columns else 0
    if not few or (few < FEW and count(rows)*count(columns) >= count(node.bound)):
        return None
    if density(tuple(conditions)) < DENSE:
        return None
    inside = {*node.bound, *outer}
    guards: list[list[Expr]] = [[], []]
    for condition in conditions:
        own = condition.atoms(Index)
        sides = [n for n, side in enumerate((rows, columns)) if own <= {*side, *inside}]
        for n in sides:
            guards[n].append(condition)
        if not sides:
            return None
    inner = _order(node.bound, left, right)
    made = (_factor(left, guards[0], rows, inner, shapes),
            _factor(right, guards[1], inner, columns, shapes, turned=True))
    size = [Mul(*(i.size for i in side)) for side in (rows, columns)]
    place = Matrix(target.name, S.Zero, size[0], size[1], size[1], S.One)
    return Windowed(Product(place, *made, factor*number, 0, (target, left, right), rows, columns),
                    outer)


@lru_cache(maxsize=1024)
def density(conditions: tuple[Expr, ...]) -> float:
    """The share of the values of indices for which all conditions hold, by a sample (the same one
    each time); sizes known at run time only count as many."""
    indices = sorted({i for c in conditions for i in c.atoms(Index)}, key=str)
    draw, hits = random.Random(0), 0
    for _ in range(SAMPLE if conditions else 0):
        values = {i: Integer(draw.randrange(count([i]))) for i in indices}
        sizes = {s: Integer(MANY) for c in conditions for s in c.free_symbols - set(indices)}
        hits += all(c.xreplace(values | sizes) == True for c in conditions)  # noqa: E712
    return hits/SAMPLE if conditions else 1.0


def _own(access: Access) -> set[Index]:
    return {i for e in access.where for i in e.atoms(Index)}


def _order(bound: Sequence[Index], left: Access, right: Access) -> tuple[Index, ...]:
    """Summed indices as they lie in a factor all of whose dims are plain, so that it is a matrix
    if it can be one."""
    plain = [a for a in (left, right) if all(isinstance(e, Index) for e in a.where)]
    places = {e: n for n, e in enumerate(plain[0].where)} if plain else {}
    return tuple(sorted(bound, key=lambda i: places.get(i, -1)))


def _factor(access: Access, guards: Sequence[Expr], down: tuple[Index, ...],
            across: tuple[Index, ...], shapes: Shapes, turned: bool = False) -> Matrix | Window:
    """A factor as a matrix in memory where it is one, else as what computes its elements. It is
    known beforehand which way four neighbours lie: along the sum (whose places are rows where a
    factor is ``turned``), or not."""
    value: Expr = Select(sympy.And(*guards), access, S.Zero) if guards else access
    window = Window(access.name, value, down, across)
    steps = dict(zip(access.where, strides(shapes[access.name]), strict=True))
    moving = {*down, *across}
    if guards or len(steps) < len(access.where) or not moving <= set(steps) or any(
            moving & e.atoms(Index) for e in steps if e not in moving):
        return window
    for group in (down, across):
        if any(sympy.expand(steps[a] - steps[b]*b.size) != 0 for a, b in pairwise(group)):
            return window
    row, column = steps[down[-1]], steps[across[-1]]
    own, inner = (column, row) if turned else (row, column)
    if inner != 1 and not (own == 1 and inner.is_Integer):
        return window
    start = Add(*(e*s for e, s in steps.items() if e not in moving))
    return Matrix(access.name, sympy.expand(start), window.rows, window.columns, row, column)


def along_sum(factor: Matrix | Window, turned: bool, shapes: Shapes) -> bool:
    """Whether four neighbours of a factor, as they lie in memory, follow each other along the sum
    (whose places are its rows where it is ``turned``)."""
    if isinstance(factor, Matrix):
        return (factor.row if turned else factor.column) == 1
    access = next(iter(factor.value.atoms(Access)))
    place = sympy.expand(Add(*(e*s for e, s in zip(access.where, strides(shapes[access.name]),
                                                   strict=True))))
    own, inner = factor.down[-1], factor.across[-1]
    own, inner = (inner, own) if turned else (own, inner)
    return abs(place.coeff(inner)) == 1 and abs(place.coeff(own)) != 1
