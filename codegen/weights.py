"""Numbers that stand where a factor would: recognising them in the summand of a sum.

``V[m,n,c] = sum over i, j of ( B(m,i) * B(n,j) * X[i,j,c] )``, where B is an expression of indices
alone, reads one tensor. Each such expression is a *table* of numbers known when the sum is
lowered, so that a nest of loops (direct.py) has them as constants: products with 0 and 1 vanish,
and of several tables one is applied after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sympy import Expr, Integer, Mul, S

from derive.nodes import Access, Index, IntegerAccess

MOST = 256  # numbers of all tables together: the code for them is written out


@dataclass(frozen=True)
class Table:
    """The numbers at all values of some indices, those of the last one next to each other."""

    indices: tuple[Index, ...]
    numbers: tuple[float, ...]

    def along(self, order: Sequence[Index]) -> tuple[float, ...]:
        """The numbers with the indices in another order."""
        known = dict(zip(_points(self.indices), self.numbers, strict=True))
        places = [order.index(i) for i in self.indices]
        return tuple(known[tuple(at[p] for p in places)] for at in _points(order))


def weighted(summand: Expr, factor: Expr) -> tuple[tuple[Table, ...], Access] | None:
    """The tables and the access whose product, with a number ``factor``, a summand is; or None
    where it is anything else, two tables share an index, or there are too many numbers."""
    parts = Mul.make_args(summand)
    read = [p for p in parts if isinstance(p, Access)]
    number = Mul(factor, *(p for p in parts if p.is_number))
    found = [p for p in parts if p not in read and not p.is_number]
    indices = [i for p in found for i in _own(p)]
    if (len(read) != 1 or isinstance(read[0], IntegerAccess) or not found
            or not number.is_Rational or any(p.has(Access) for p in found)
            or any(not isinstance(s, Index) for p in found for s in p.free_symbols)
            or len(set(indices)) < len(indices)
            or any(not i.size.is_Integer for i in indices)
            or prod(int(i.size) for i in indices) > MOST):
        return None
    tables: list[Table] = []
    for part in found:
        numbers = _numbers(part, S.One if tables else number)
        if numbers is None:
            return None
        tables.append(Table(_own(part), numbers))
    return tuple(tables), read[0]


def _numbers(expr: Expr, factor: Expr) -> tuple[float, ...] | None:
    own = _own(expr)
    values = [factor*expr.xreplace(dict(zip(own, map(Integer, at), strict=True)))
              for at in _points(own)]
    return tuple(map(float, values)) if all(v.is_Rational for v in values) else None


def _own(expr: Expr) -> tuple[Index, ...]:
    return tuple(sorted(expr.atoms(Index), key=lambda i: i.name))


def _points(indices: Sequence[Index]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(int(i.size)) for i in indices)))
