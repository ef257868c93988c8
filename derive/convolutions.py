"""Convolutions and cross-correlations, recognised exactly: a sum over products of an element read
at affine places and one read at the place of the sum, as one ∗ or ⋆ of slices.

``(x ⋆ K)[p] = sum over u of x[a p + d u + c] K[u]`` slides K over x; ``(y ∗ K)[m] = sum over u of
y[(m - d u + c)/a] K[u]`` runs against the index: K is flipped. What lies outside reads 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Integer, Mul

from derive import notation as n
from derive.nodes import Access, Index, IntegerAccess, Select, SumOver
from derive.notate import Builder, statement
from derive.program import Equation, Tensor

_MOST = 4096  # places at which a condition is compared


@dataclass(frozen=True)
class Convolution:
    """An equation as ``left = right`` with one ∗ or ⋆ inside, and what that sign means:
    ``meaning`` defines it by indices, ``flipped`` names the kernel of a convolution."""

    statement: n.Statement
    meaning: n.Statement
    kernel: str
    flipped: bool
    strided: bool


@dataclass(frozen=True)
class _Dim:
    """A spatial dim: the index expression, the index that is free and the one that is summed."""

    where: Expr
    free: Index
    bound: Index


def convolution_form(eq: Equation, tensors: Mapping[str, Tensor]) -> Convolution | None:
    """The equation as a convolution or cross-correlation, or None where it is none."""
    terms = Add.make_args(eq.body)
    sums = [t for t in terms if isinstance(t, SumOver)]
    if len(sums) != 1:
        return None
    (total,) = sums
    guard, factors = _factors(total.body)
    if len(factors) != 2 or not all(_is_plain(f) for f in factors):
        return None
    for over, kernel in (factors, factors[::-1]):
        dims = _spatial(over, kernel, eq.indices, total.bound)
        if dims and _only_bounds(guard, dims, tensors[over.name], over):
            return _made(eq, total, over, kernel, dims)
    return None


def _factors(body: Expr) -> tuple[Expr, list[Expr]]:
    """Conditions and factors of a product, guards opened."""
    guard: Expr = sympy.true
    found: list[Expr] = []
    stack = [body]
    while stack:
        expr = stack.pop()
        if isinstance(expr, Select) and expr.no == 0:
            guard = sympy.And(guard, expr.condition)
            stack.append(expr.yes)
        elif isinstance(expr, Mul):
            stack.extend(expr.args)
        elif expr != 1:
            found.append(expr)
    return guard, found


def _is_plain(expr: Expr) -> bool:
    return isinstance(expr, Access) and not expr.has(IntegerAccess)


def _spatial(over: Expr, kernel: Expr, free: tuple[Index, ...], bound: tuple[Index, ...]
             ) -> list[_Dim] | None:
    """The dims of ``over`` that mix a free and a summed index of the kernel; None where anything
    else is mixed."""
    dims = []
    for where in over.where:
        if isinstance(where, Index):
            continue
        inside = where.free_symbols
        mine, summed = inside & set(free), inside & set(bound)
        if len(mine) != 1 or len(summed) != 1 or len(inside) != 2:
            return None
        (f,), (g,) = mine, summed
        if kernel.where.count(g) != 1 or kernel.has(f) or where.coeff(f) <= 0:
            return None
        dims.append(_Dim(where, f, g))
    if not all(isinstance(w, Index) for w in kernel.where):
        return None
    turned = {d.where.coeff(d.bound) < 0 for d in dims}
    spatial = {d.free for d in dims} | {d.bound for d in dims}
    others = [w for a in (over, kernel) for w in a.where if isinstance(w, Index)]
    if len(turned) != 1 or len(spatial) != 2 * len(dims):
        return None
    alone = [w for w in others if w in spatial and w not in kernel.where]
    return None if alone else dims


def _only_bounds(guard: Expr, dims: list[_Dim], tensor: Tensor, over: Expr) -> bool:
    """Whether the condition says only that each place is whole and inside the tensor: compared
    at every pair of indices of every dim."""
    parts = sympy.And.make_args(guard) if guard != sympy.true else ()
    for dim in dims:
        pair = {dim.free, dim.bound}
        own = [p for p in parts if p.free_symbols <= pair]
        extents = [dim.free.size, dim.bound.size, tensor.shape[over.where.index(dim.where)]]
        if not all(e.is_Integer for e in extents) or extents[0] * extents[1] > _MOST:
            return False
        for f, g in itertools.product(range(int(extents[0])), range(int(extents[1]))):
            env = {dim.free: Integer(f), dim.bound: Integer(g)}
            place = dim.where.xreplace(env)
            inside = place.is_Integer and 0 <= place < extents[2]
            if inside != all(p.xreplace(env) == sympy.true for p in own):
                return False
    known = [{d.free, d.bound} for d in dims]
    return all(any(p.free_symbols <= pair for pair in known) for p in parts)


def _made(eq: Equation, total: SumOver, over: Expr, kernel: Expr, dims: list[_Dim]
          ) -> Convolution | None:
    builder = Builder((*eq.indices, *total.bound))
    spatial = {d.free for d in dims} | {d.bound for d in dims}
    flipped = bool(dims[0].where.coeff(dims[0].bound) < 0)

    def cut(access: Expr) -> n.Whole:
        return n.Whole(n.Name(access.name, "array"), tuple(
            None if w.free_symbols & spatial else builder.index(w) for w in access.where))

    places = tuple(builder.index(d.where) for d in dims)
    product: n.Node = n.Convolved("∗" if flipped else "⋆", cut(over), cut(kernel), places,
                                  tuple(n.Name(d.bound.name, "index") for d in dims),
                                  tuple(n.Name(d.free.name, "index") for d in dims))
    rest = [i for i in total.bound if i not in spatial]
    if rest:
        product = n.Big("sum", tuple(n.Name(i.name, "index") for i in rest), product)
    terms: list[tuple[bool, n.Node]] = [(False, product)]
    for term in Add.make_args(eq.body):
        if term == total:
            continue
        if term.free_symbols & spatial or term.has(SumOver):
            return None
        terms.append((False, builder.build(term)))
    left = cut(eq.target)
    right = terms[0][1] if len(terms) == 1 else n.Sum(tuple(terms))
    plain = [Index(d.free.name, d.free.size) for d in dims]
    body = SumOver(Mul(Access(over.name, *(d.where for d in dims)),
                       Access(kernel.name, *(d.bound for d in dims))), *(d.bound for d in dims))
    meaning = statement(Access(eq.name, *plain), plain, body)
    strided = any(abs(d.where.coeff(d.free)) != 1 for d in dims)
    return Convolution(n.Statement(left, right), meaning, kernel.name, flipped, strided)
