"""Softmax between two products, tile by tile: what is computed together.

    s[b,h,i,u] = sum over e of ( q[b,h,i,e] * k[b,h,u,e] )
    l[b,h,i]   = logsumexp over u of ( s[b,h,i,u] )
    p[b,h,i,u] = exp(s[b,h,i,u] - l[b,h,i])
    o[b,h,i,a] = sum over u of ( p[b,h,i,u] * v[b,h,u,a] )

What has a row i and a column u (s, p, and their adjoints) is *wide*: it grows with the product of
two lengths. A *sweep* is a set of such equations and those that sum over the row or the column; it
goes over tiles of some rows and columns, and keeps the wide tensors of one tile (tile_loops.py).
The forward sweep carries the logsumexp of the columns so far from tile to tile (the running softmax
of Milakov and Gimelshein 2018, with results that are normalised at each step); the backward sweep
computes s and p again from the logsumexp (Dao et al. 2022). For that, one sum over columns is
exchanged with one over features, where the program has the result of the inner one:

    sum over u of ( p[i,u] * sum over a of ( g[i,a] * v[u,a] ) ) = sum over a of ( g[i,a] * o[i,a] )

All of this is read off the equations (tile_search.py): masks, further wide terms (a bias of
positions), several products behind one softmax. What does not fit (a wide tensor that is wanted, or
read by an equation of another kind) stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import sympy
from sympy import Add, Expr

from codegen.contraction import factor_and_sum, factors_of
from derive.nodes import Access, Index, LogSumExpOver, Reduction, Select, accesses
from derive.program import Equation

Wanted = tuple[int, int] | bool | None


@dataclass(frozen=True)
class Sweep:
    """Equations that are computed tile by tile, in order, in the indices of the softmax.

    ``outer`` are looped over around the tiles, the batch first; ``tiles`` names for each wide
    tensor the one in whose tile it lies; ``size`` are a tile's rows and columns; on a ``device``
    tiles lie in shared memory, where rows are of an odd length: no two rows of a column are in
    one bank.
    """

    equations: tuple[Equation, ...]
    outer: tuple[Index, ...]
    row: Index
    column: Index
    tiles: Mapping[str, str]
    size: tuple[int, int]
    device: bool = False

    @property
    def shapes(self) -> dict[str, tuple[Expr, ...]]:
        """What is stored of each wide tensor."""
        rows, columns = self.extents
        shape: tuple[Expr, ...] = (self.outer[0].size, rows, columns)
        if self.device:
            shape = (rows, columns + (columns + 1) % 2)
        return dict.fromkeys(self.tiles, shape)

    @property
    def extents(self) -> tuple[Expr, Expr]:
        """Rows and columns of a tile, no more than there are."""
        rows, columns = (min(n, int(i.size)) if i.size.is_Integer else n
                         for n, i in zip(self.size, (self.row, self.column), strict=True))
        return sympy.Integer(rows), sympy.Integer(columns)


def product_terms(eq: Equation, wide: Collection[str]
                  ) -> tuple[list[tuple[Expr, Index, Access, Access]], Expr] | None:
    """The terms of an equation that are products with a wide tensor (a factor, the index that is
    summed, the two accesses, the wide one first if there is one), and the rest; None where a wide
    tensor stands elsewhere."""
    products, rest = [], []
    for term in Add.make_args(eq.body):
        if not any(a.name in wide for a in accesses(term)):
            rest.append(term)
            continue
        found = product_of(term)
        if found is None:
            return None
        factor, index, left, right = found
        if right.name in wide:
            left, right = right, left
        if right.name in wide:
            return None
        products.append((factor, index, left, right))
    return products, Add(*rest)


def product_of(term: Expr) -> tuple[Expr, Index, Access, Access] | None:
    """``factor * sum over one index of ( left * right )``, both read at plain indices."""
    whole = factor_and_sum(term)
    if whole is None:
        return None
    factor, node = whole
    if len(node.bound) != 1 or accesses(factor) or factor.atoms(Index):
        return None
    found = factors_of(node.body)
    if found is None:
        return None
    number, left, right = found
    index = node.bound[0]
    if not all(isinstance(e, Index) for a in (left, right) for e in a.where):
        return None
    if not all(index in a.where and len(set(a.where)) == len(a.where) for a in (left, right)):
        return None
    return factor * number, index, left, right


def shared_tiles(group: Sequence[Equation], order: Collection[str]) -> dict[str, str]:
    """For each wide tensor the one in whose tile it lies: what is read for the last time by an
    equation of the same indices gives its tile to that one's result (which begins as zeros where
    the equation is guarded, and then needs a tile of its own)."""
    last = {r: n for n, eq in enumerate(group) for r in eq.reads}
    found: dict[str, str] = {}
    for number, eq in enumerate(group):
        if eq.name not in order:
            continue
        free = [r for r in eq.reads if r in found and last[r] == number
                and not eq.body.has(Reduction, Select)]
        found[eq.name] = found[free[0]] if free else eq.name
    return found


Kind = Literal["product", "softmax", "wide", "out"]


def kind(eq: Equation, sweep: Sweep) -> Kind | None:
    """How an equation of a sweep is computed (None: the logsumexp, which the softmax carries)."""
    if isinstance(eq.body, LogSumExpOver):
        return None
    if eq.name not in sweep.tiles:
        return "out"
    if product_of(eq.body) is not None:
        return "product"
    logs = {e.name for e in sweep.equations if isinstance(e.body, LogSumExpOver)}
    return "softmax" if logs & set(eq.reads) else "wide"


def factors(eq: Equation) -> tuple[Expr, Index, Access, Access]:
    """The product that makes a tile."""
    found = product_of(eq.body)
    assert found is not None
    return found
