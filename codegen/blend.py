"""Choices without a branch, where both sides may be computed: tree → tree, same results.

A branch that depends on data costs a misprediction now and then, and keeps a loop from becoming
vectors. Where every place that either side reads is certain to be in bounds, both sides are
computed and one is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import sympy
from sympy import Expr, Function

from codegen.loops import If, Let, Loop, Statement, Store
from derive.nodes import Access, Index, Select, accesses, contains

Shapes = Mapping[str, tuple[Expr, ...]]


class Blend(Function):
    """``Blend(condition, yes, no)``: both sides are computed."""

    nargs = 3


def blend(body: Iterable[Statement], shapes: Shapes) -> tuple[Statement, ...]:
    """The statements with choices between what is certain to be in bounds as `Blend`."""
    out: list[Statement] = []
    for node in body:
        if isinstance(node, Loop):
            node = replace(node, body=blend(node.body, shapes))
        elif isinstance(node, If):
            node = replace(node, yes=blend(node.yes, shapes), no=blend(node.no, shapes))
        elif isinstance(node, Let | Store):
            node = replace(node, value=_blended(node.value, shapes))
        out.append(node)
    return tuple(out)


def _blended(expr: Expr, shapes: Shapes) -> Expr:
    if not contains(expr, Select) or isinstance(expr, Access):
        return expr
    if isinstance(expr, Select):
        yes, no = _blended(expr.yes, shapes), _blended(expr.no, shapes)
        safe = all(in_bounds(a, shapes) for e in (expr.condition, yes, no) for a in accesses(e))
        return Blend(expr.condition, yes, no) if safe else Select(expr.condition, yes, no)
    return expr.func(*(_blended(a, shapes) if isinstance(a, Expr) else a for a in expr.args))


def in_bounds(access: Access, shapes: Shapes) -> bool:
    """Whether a place exists for every value of its indices."""
    return all(_within(e, size) for e, size in zip(access.where, shapes[access.name], strict=True))


def _within(place: Expr, size: Expr) -> bool:
    if isinstance(place, Index):
        return bool(place.size == size)
    ends = extent(place)
    return ends is not None and size.is_Integer and bool(ends[0] >= 0 and ends[1] < size)


def extent(expr: Expr) -> tuple[Expr, Expr] | None:
    """The least and the largest value of an index expression, or bounds of them; None where they
    are not known beforehand."""
    if expr.is_Integer:
        return expr, expr
    if isinstance(expr, Index):
        return (sympy.S.Zero, expr.size - 1) if expr.size.is_Integer else None
    if isinstance(expr, sympy.floor):
        inner = extent(sympy.expand(expr.args[0]))
        return (sympy.floor(inner[0]), sympy.floor(inner[1])) if inner is not None else None
    if isinstance(expr, sympy.Mod) and expr.args[1].is_Integer:
        return sympy.S.Zero, expr.args[1] - 1
    if expr.is_Mul and expr.args[0].is_Rational and len(expr.args) == 2:
        inner = extent(expr.args[1])
        if inner is None:
            return None
        ends = (expr.args[0] * inner[0], expr.args[0] * inner[1])
        return min(ends), max(ends)
    if expr.is_Rational:
        return expr, expr
    if expr.is_Add:
        parts = [extent(a) for a in expr.args]
        if any(p is None for p in parts):
            return None
        return (sympy.Add(*(p[0] for p in parts if p)), sympy.Add(*(p[1] for p in parts if p)))
    return None
