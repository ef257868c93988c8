"""Convolutions and cross-correlations, recognised exactly: a sum over products of an element read
at affine places and one read at the place of the sum, as one ∗ or ⋆ of slices.

``(x ⋆ K)[p] = sum over u of x[a p + d u + c] K[u]`` slides K over x; ``(y ∗ K)[m] = sum over u of
y[(m - d u + c)/a] K[u]`` runs against the index: K is flipped. What lies outside reads 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import sympy
from sympy import Add, Expr, Mul

from derive import notation as n
from derive.nodes import Access, Index, IntegerAccess, Select, SumOver
from derive.notate import Builder, statement
from derive.program import Equation, Tensor

_MOST = 1_000_000  # places at which a condition is compared


@dataclass(frozen=True)
class Sign:
    """One ∗ or ⋆ and what it means: ``meaning`` defines it by indices, ``kernel`` is what slides
    or, where it is ``flipped``, runs against the index."""

    node: n.Convolved
    meaning: n.Statement
    kernel: str
    flipped: bool
    strided: bool


@dataclass(frozen=True)
class Convolution:
    """An equation as ``left = right`` with a ∗ or ⋆ for each of its sums."""

    statement: n.Statement
    signs: tuple[Sign, ...]


@dataclass(frozen=True)
class _Dim:
    """A spatial dim: the index expression, the index that is free and the one that is summed."""

    where: Expr
    free: Index
    bound: Index


@dataclass(frozen=True)
class _Slides:
    """A sum over products of an element of ``over``, in ``dims``, and of one of ``kernel``."""

    total: SumOver
    over: Expr
    kernel: Expr
    dims: tuple[_Dim, ...]


def convolution_form(eq: Equation, tensors: Mapping[str, Tensor]) -> Convolution | None:
    """The equation as sums of convolutions, cross-correlations and tensors of its own places, or
    None where it is none."""
    terms = Add.make_args(eq.body)
    found = [_slides(eq, t, tensors) for t in terms if isinstance(t, SumOver)]
    slides = [s for s in found if s is not None]
    if not slides or len(slides) < len(found) \
            or len({frozenset(d.free for d in s.dims) for s in slides}) > 1:
        return None
    return _made(eq, slides, [t for t in terms if not isinstance(t, SumOver)])


def _slides(eq: Equation, total: SumOver, tensors: Mapping[str, Tensor]) -> _Slides | None:
    guard, factors = _factors(total.body)
    if len(factors) != 2 or not all(_is_plain(f) for f in factors):
        return None
    for over, kernel in (factors, factors[::-1]):
        dims = _spatial(over, kernel, eq.indices, total.bound)
        if dims and _only_bounds(guard, dims, tensors[over.name], over):
            return _Slides(total, over, kernel, tuple(dims))
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
        if not _is_affine(where, (f, g)):
            return None
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
        extents = [dim.free.size, dim.bound.size, tensor.shape[over.where.index(dim.where)]]
        if not all(e.is_Integer for e in extents) or extents[0] * extents[1] > _MOST:
            return False
        grid = np.meshgrid(np.arange(int(extents[0])), np.arange(int(extents[1])), indexing="ij")
        env = dict(zip((dim.free, dim.bound), grid, strict=True))
        place, below = _scaled(dim.where, env)
        inside = (place % below == 0) & (place >= 0) & (place < int(extents[2]) * below)
        allowed = np.ones_like(inside)
        for part in parts:
            if part.free_symbols <= pair:
                holds = _holds(part, env)
                if holds is None:
                    return False
                allowed &= holds
        if not (inside == allowed).all():
            return False
    known = [{d.free, d.bound} for d in dims]
    return all(any(p.free_symbols <= pair for pair in known) for p in parts)


def _is_affine(expr: Expr, over: Iterable[Index]) -> bool:
    """Whether an expression is a sum of rational multiples of these indices and a constant."""
    coefficients = {index: sympy.expand(expr).coeff(index) for index in over}
    rest = sympy.expand(expr - sum(c * index for index, c in coefficients.items()))
    return rest.is_Rational is True and all(c.is_Rational for c in coefficients.values())


def _scaled(expr: Expr, env: Mapping[Index, np.ndarray]) -> tuple[np.ndarray, int]:
    """An affine expression times its denominator, on a grid, and that denominator."""
    constant, *_ = expr.as_coeff_Add()
    found = {index: expr.coeff(index) for index in env}
    below = sympy.ilcm(1, *(sympy.Rational(c).q for c in (constant, *found.values())))
    total = np.full(next(iter(env.values())).shape, int(constant * below))
    for index, coefficient in found.items():
        total = total + int(coefficient * below) * env[index]
    return total, int(below)


_COMPARE = {
    sympy.Ge: np.greater_equal, sympy.Gt: np.greater, sympy.Le: np.less_equal, sympy.Lt: np.less,
    sympy.Eq: np.equal,
}  # fmt: skip


def _holds(condition: Expr, env: Mapping[Index, np.ndarray]) -> np.ndarray | None:
    """Where a comparison of affine expressions, or of a remainder, holds on a grid."""
    compare = _COMPARE.get(type(condition))
    if compare is None:
        return None
    if isinstance(condition.lhs, sympy.Mod) and condition.rhs.is_Integer:
        inner, modulus = condition.lhs.args
        if not modulus.is_Integer or not _is_affine(inner, env):
            return None
        value, below = _scaled(sympy.expand(inner), env)
        return compare(value % (int(modulus) * below), int(condition.rhs) * below)
    difference = sympy.expand(condition.lhs - condition.rhs)
    if not _is_affine(difference, env):
        return None
    return compare(_scaled(difference, env)[0], 0)


def _made(eq: Equation, slides: list[_Slides], others: list[Expr]) -> Convolution | None:
    free = {d.free for d in slides[0].dims}
    builder = Builder((*eq.indices, *(i for s in slides for i in s.total.bound)))
    signs = [_sign(eq, one, builder) for one in slides]
    terms: list[tuple[bool, n.Node]] = []
    for one, sign in zip(slides, signs, strict=True):
        rest = [i for i in one.total.bound if i not in {d.bound for d in one.dims}]
        product: n.Node = sign.node
        if rest:
            product = n.Big("sum", tuple(n.Name(i.name, "index") for i in rest), product)
        terms.append((False, product))
    places = [i for i in eq.indices if i in free]
    for term in others:
        if term.has(SumOver):
            return None
        if not term.free_symbols & free:
            terms.append((False, builder.build(term)))
        elif _is_plain(term) and [w for w in term.where if w.free_symbols & free] == places:
            terms.append((False, _cut(term, free, builder)))  # an element of the same place
        else:
            return None
    right = terms[0][1] if len(terms) == 1 else n.Sum(tuple(terms))
    return Convolution(n.Statement(_cut(eq.target, free, builder), right), tuple(signs))


def _cut(access: Expr, spatial: set[Index], builder: Builder) -> n.Whole:
    """What is left of a tensor where its spatial dims are open."""
    return n.Whole(n.Name(access.name, "array"), tuple(
        None if w.free_symbols & spatial else builder.index(w) for w in access.where))


def _sign(eq: Equation, one: _Slides, builder: Builder) -> Sign:
    dims, spatial = one.dims, {i for d in one.dims for i in (d.free, d.bound)}
    flipped = bool(dims[0].where.coeff(dims[0].bound) < 0)
    node = n.Convolved(
        "∗" if flipped else "⋆", _cut(one.over, spatial, builder),
        _cut(one.kernel, spatial, builder), tuple(builder.index(d.where) for d in dims),
        tuple(n.Name(d.bound.name, "index") for d in dims),
        tuple(n.Name(d.free.name, "index") for d in dims))
    plain = [Index(d.free.name, d.free.size) for d in dims]
    body = SumOver(Mul(Access(one.over.name, *(d.where for d in dims)),
                       Access(one.kernel.name, *(d.bound for d in dims))),
                   *(d.bound for d in dims))
    strided = any(abs(d.where.coeff(d.free)) != 1 for d in dims)
    return Sign(node, statement(Access(eq.name, *plain), plain, body), one.kernel.name, flipped,
                strided)
