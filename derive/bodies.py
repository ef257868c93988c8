"""The body of an equation while it is declared: indices that are bound, accesses within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import sympy
from sympy import Expr, S

from derive.affine import bounds, coefficients, implied, inside
from derive.errors import DeclarationError, nearest
from derive.naming import names_text, shape_text
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    accesses,
    contains,
)
from derive.program import Tensor


def check_binding(name: str, expr: Expr, scope: dict[str, Index]) -> None:
    """Every index is free in the target or bound exactly once around its use."""
    if isinstance(expr, Index):
        known = scope.get(expr.name)
        if known is None:
            guess = nearest(expr.name, scope)
            raise DeclarationError(
                f"index {expr.name!r} in the equation of {name!r} is neither free nor bound",
                expected=f"the free indices {', '.join(scope) or 'none'}, or a reduction over "
                f"{expr.name}",
                mend=f"sum over it, dr.sum(…, {expr.name}), or add it to the target"
                + (f"; did you mean {guess!r}?" if guess else ""),
            )
        if known != expr:
            raise DeclarationError(
                f"index {expr.name!r} has two sizes in the equation of {name!r}",
                expected=f"{known.size}", got=f"{expr.size}",
            )
        return
    if isinstance(expr, Reduction):
        inner = dict(scope)
        for index in expr.bound:
            if index.name in inner:
                raise DeclarationError(
                    f"index {index.name!r} is bound twice in the equation of {name!r}",
                    expected="a reduction over an index that is not in use around it",
                    got=f"{expr.op} over {index.name}, which is already "
                    + ("free" if scope.get(index.name) == index else "bound"),
                    mend="use an index of another name for one of them",
                )
            inner[index.name] = index
            if index not in expr.body.free_symbols:
                raise DeclarationError(
                    f"{expr.op} over {index.name!r} in the equation of {name!r}, but "
                    f"{index.name!r} does not occur in what is reduced",
                    mend=f"multiply by the size {index.size} if that is what you mean",
                )
        check_binding(name, expr.body, inner)
        return
    for arg in expr.args:
        check_binding(name, arg, scope)


Outside = Callable[[Tensor, Access, int], Expr]


def guarded(
    expr: Expr, tensors: Mapping[str, Tensor], outside: Outside, given: tuple[Expr, ...] = ()
) -> Expr:
    """A body in which every access that can leave its bounds is a selection.

    Args:
        outside: the value that an access has beyond the bounds of one of its dims.
        given: conditions that hold around ``expr``; what they imply is not guarded again.
    """
    again = partial(guarded, tensors=tensors, outside=outside)
    if isinstance(expr, Access):
        value: Expr = expr
        for access in reversed(accesses(expr)):  # a gather inside guards the whole
            value = _guarded_access(access, value, tensors[access.name], outside, given)
        return value
    if isinstance(expr, Select):
        holds = sympy.And.make_args(expr.condition)
        fails = sympy.And.make_args(sympy.Not(expr.condition))
        return Select(
            again(expr.condition, given=given),
            again(expr.yes, given=(*given, *holds)),
            again(expr.no, given=(*given, *fails)),
        )
    if not contains(expr, Access):
        return expr
    new = [again(arg, given=given) for arg in expr.args]
    if isinstance(expr, Reduction):
        return _reduced(type(expr), *new)
    return expr if all(a is n for a, n in zip(expr.args, new, strict=True)) else expr.func(*new)


def _guarded_access(
    access: Access, value: Expr, tensor: Tensor, outside: Outside, given: tuple[Expr, ...]
) -> Expr:
    for axis, conditions in enumerate(_open_conditions(access, tensor, given)):
        if conditions:
            value = Select(sympy.And(*conditions), value, outside(tensor, access, axis))
    return value


def _open_conditions(access: Access, tensor: Tensor, given: tuple[Expr, ...]) -> list[list[Expr]]:
    """For each dim of an access the conditions of its bounds that nothing around it implies."""
    return [
        [] if isinstance(where, IntegerAccess) or (isinstance(where, Index) and where.size == size)
        else [c for c in inside(where, size) if not implied(c, given)]
        for where, size in zip(access.where, tensor.shape, strict=True)
    ]


def selected(expr: Expr, tensors: Mapping[str, Tensor]) -> Expr:
    """A body in normal form that is 0, each term as a whole, where an access in it would leave its
    bounds: for what nobody reads there. (A guard on the access alone would divide by the 0 beyond
    the bounds, and 0·inf is no 0 in the derivative.)"""
    if isinstance(expr, sympy.Add):
        return sympy.Add(*(selected(term, tensors) for term in expr.args))
    if isinstance(expr, Reduction):
        return type(expr)(selected(expr.body, tensors), *expr.bound)
    if isinstance(expr, sympy.Mul) and any(isinstance(f, SumOver) for f in expr.args):
        return sympy.Mul(*(selected(f, tensors) if isinstance(f, SumOver) else f
                           for f in expr.args))
    conditions = dict.fromkeys(_needed(expr, tensors, ()))
    return Select(sympy.And(*conditions), expr, S.Zero) if conditions else expr


def _needed(expr: Expr, tensors: Mapping[str, Tensor], given: tuple[Expr, ...]) -> list[Expr]:
    """The conditions under which no access that is read in a scalar leaves its bounds."""
    if isinstance(expr, Access):
        return [c for access in accesses(expr)
                for dim in _open_conditions(access, tensors[access.name], given) for c in dim]
    if isinstance(expr, Select):
        holds, fails = expr.condition, sympy.Not(expr.condition)
        parts = [(expr.yes, holds, fails), (expr.no, fails, holds)]
        return _needed(expr.condition, tensors, given) + [
            sympy.Or(otherwise, c) for branch, known, otherwise in parts
            for c in _needed(branch, tensors, (*given, *sympy.And.make_args(known)))]
    return [c for arg in expr.args for c in _needed(arg, tensors, given)]


def _reduced(node: type[Reduction], body: Expr, *bound: Index) -> Expr:
    """A reduction whose body lost an index, because it reads nothing but what lies outside."""
    used = [i for i in bound if i in body.free_symbols]
    count = sympy.Mul(*(i.size for i in bound if i not in used))
    inner = node(body, *used)
    if count == 1 or node in (MaxOver, MinOver):
        return inner
    if node is SumOver:
        return count * inner
    return inner**count if node is ProdOver else inner + sympy.log(count)


def check_reach(name: str, expr: Expr, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an access that lies outside its tensor for every value of its indices: it would
    always read what stands beyond the bounds."""
    for access in (a for a in accesses(expr) if a.name in tensors):
        shape = tensors[access.name].shape
        missed = [(dim, where, size) for dim, (where, size) in
                  enumerate(zip(access.where, shape, strict=True)) if misses(where, size)]
        if not missed and _some_place(access, shape):
            continue
        asked = missed or [(dim, where, size) for dim, (where, size) in
                           enumerate(zip(access.where, shape, strict=True))]
        names = sorted({i.name for _, where, _ in asked for i in where.atoms(Index)})
        raise DeclarationError(
            f"{access} in the equation of {name!r} never lies within {access.name!r}",
            expected=f"whole numbers {', '.join(names)} with "
            + " and ".join(f"0 <= {where} < {size}" for _, where, size in asked),
            got="no solution", mend=f"{access.name} has shape {shape_text(shape)}",
        )


def misses(where: Expr, size: Expr) -> bool:
    """Whether an index expression is outside of a dim for every value of its indices."""
    reach = bounds(where)
    return reach is not None and bool(reach[1].is_negative or (reach[0] - size).is_nonnegative)


_PLACES = 100_000  # points that are tried


def _some_place(access: Access, shape: tuple[Expr, ...]) -> bool:
    """Whether some point is inside in all dims at once; True where that is not known."""
    indices = sorted(access.free_symbols, key=str)
    slopes = [coefficients(where, indices) for where in access.where]
    numbers = all(isinstance(i, Index) and i.size.is_Integer for i in indices) \
        and all(s.is_Integer for s in shape)
    if None in slopes or not numbers or access.atoms(IntegerAccess) \
            or math.prod(int(i.size) for i in indices) > _PLACES:
        return True
    points = dict(zip(indices, np.indices([int(i.size) for i in indices]), strict=True))
    inside: Any = np.array(True)
    for where, size, slope in zip(access.where, shape, slopes, strict=True):
        assert slope is not None
        place = float(where.xreplace(dict.fromkeys(indices, S.Zero))) + sum(
            float(factor) * points[index] for index, factor in slope.items())
        inside = inside & (place >= 0) & (place < int(size))
    return bool(inside.any())


def no_fit(tensor: Tensor, index: Index, dim: int) -> DeclarationError:
    """The error for an index of one size on a dim of another."""
    return DeclarationError(
        f"index {index.name!r} does not fit dim {dim} of {tensor.name!r}",
        expected=f"size {tensor.shape[dim]}: {tensor.name} has shape {shape_text(tensor.shape)}",
        got=f"{index.name} ranges over {index.size}",
    )


def no_scalar(name: str, free: Sequence[Index]) -> DeclarationError:
    """The error for a loss that has indices left."""
    return DeclarationError(
        f"the loss {name!r} is not a scalar",
        expected="no free index",
        got=f"free: {names_text(free)} of shape {shape_text([i.size for i in free])}",
        mend=f"average or sum it: dr.mean(…, {names_text(free)})",
    )
