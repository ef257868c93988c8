"""The reference evaluator: a program's equations in NumPy, float64, slow and obviously right.

Every index of an equation, free or bound, gets an axis; an access is read at broadcast index
arrays; a reduction runs over its axes; a recurrence loops over its index. Nothing is recognised,
fused or reordered: what stands in the equation is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, singledispatch
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy
from scipy import special
from sympy import Expr, Symbol
from sympy.codegen.cfunctions import expm1, log1p
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from derive.data import check_values, resolve_sizes
from derive.errors import DerivationError, unknown_name
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    bound_indices,
)
from derive.program import Equation, Group, Program
from derive.randomness import uniform, uniform_value

Array = np.ndarray
_CHUNK = 20_000_000  # points of one equation that are held in memory at once


def evaluate(
    program: Program,
    values: Mapping[str, Any],
    outputs: Iterable[str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Evaluate the equations of a program.

    Args:
        values: an array (or number) for each tensor that no equation defines.
        outputs: names of the tensors wanted; by default every one that an equation defines.
        sizes: symbolic sizes that no array determines.

    Returns:
        float64 arrays by name (int64 for integer tensors).

    Raises:
        DataError: a value does not fit its declaration.
        DeclarationError: an output is not defined.
    """
    names = tuple(outputs) if outputs is not None else tuple(program.defined)
    for name in names:
        if name not in program.tensors:
            raise unknown_name("tensor", name, program.tensors)
    needed = program.only(*names)
    checked = check_values(needed, values, sizes, finite=False)
    shapes = {n: v for n, v in values.items() if n in program.tensors}  # others may tell a size
    known = resolve_sizes(program, {**shapes, **checked}, sizes, needed.sizes)
    arrays = dict(checked)
    with np.errstate(all="ignore"):
        for group in needed.groups:
            evaluate_group(group, arrays, known)
    return {name: arrays[name] for name in names}


def evaluate_group(group: Group, arrays: dict[str, Array], sizes: Mapping[Symbol, int]) -> None:
    """Put the targets of an equation, or of a recurrence's equations, among the arrays."""
    if not group.recurrent:
        eq = group.equations[0]
        arrays[eq.name] = evaluate_equation(eq, arrays, sizes, {})
        return
    for eq in group.equations:
        arrays[eq.name] = np.full([_size(i, sizes) for i in eq.indices], np.nan)
    first = group.equations[0]
    steps = range(_size(first.indices[group.axis[first.name]], sizes))
    for t in steps if group.step > 0 else reversed(steps):
        for eq in group.equations:
            axis = group.axis[eq.name]
            now = {eq.indices[axis]: np.array([t])}
            place = (slice(None),) * axis + (slice(t, t + 1),)
            arrays[eq.name][place] = evaluate_equation(eq, arrays, sizes, now)


def _size(index: Index, sizes: Mapping[Symbol, int]) -> int:
    return int(index.size.xreplace(dict(sizes)))


def evaluate_equation(
    eq: Equation, arrays: Mapping[str, Array], sizes: Mapping[Symbol, int],
    ranges: Mapping[Index, Array] = MappingProxyType({}),
) -> Array:
    """The target's array, over the given values of some indices and all values of the others."""
    every = {i: ranges.get(i, np.arange(_size(i, sizes))) for i in eq.indices}
    inner = np.prod([float(_size(i, sizes)) for i in _bound(eq.body)] or [1.0])
    points = inner * np.prod([float(len(v)) for v in every.values()] or [1.0])
    shape = tuple(len(v) for v in every.values())
    if points <= _CHUNK or not eq.indices or shape[0] == 1:
        scope = _Scope(arrays, sizes, every)
        return np.array(np.broadcast_to(scope.value(eq.body), shape), dtype=np.float64)
    pieces = min(shape[0], int(points // _CHUNK) + 1)
    first = eq.indices[0]
    parts = [
        evaluate_equation(eq, arrays, sizes, {**every, first: part})
        for part in np.array_split(every[first], pieces)
    ]
    return np.concatenate(parts)


_bound = lru_cache(maxsize=4096)(bound_indices)  # one equation is evaluated many times


class _Scope:
    """Expressions over some indices: each index is an axis, in the order of ``every``."""

    def __init__(self, arrays: Mapping[str, Array], sizes: Mapping[Symbol, int],
                 every: Mapping[Index, Array]) -> None:
        self.arrays, self.sizes, self.every = arrays, sizes, every
        self.axes = {index: n for n, index in enumerate(every)}
        self.known: dict[Expr, Array] = {}

    def within(self, bound: tuple[Index, ...]) -> _Scope:
        """The scope inside a reduction: its indices are axes at the end."""
        more = {i: np.arange(_size(i, self.sizes)) for i in bound}
        return _Scope(self.arrays, self.sizes, {**self.every, **more})

    def value(self, expr: Expr) -> Array:
        """A float (or boolean) array that broadcasts over the axes."""
        if expr not in self.known:
            self.known[expr] = _value(expr, self)
        return self.known[expr]

    def index(self, index: Index) -> Array:
        shape = [1] * len(self.axes)
        shape[self.axes[index]] = -1
        return self.every[index].reshape(shape)

    def whole(self, expr: Expr) -> Array:
        """An int64 array; a quotient that is not whole is floored (no guard lets it through)."""
        if isinstance(expr, Index):
            return self.index(expr)
        if expr.is_Integer:
            return np.array(int(expr)).reshape([1] * len(self.axes))
        if isinstance(expr, IntegerAccess):
            return self.read(expr)
        if expr.is_Symbol:
            return np.array(self.sizes[expr]).reshape([1] * len(self.axes))
        if isinstance(expr, sympy.floor):
            return self.whole(expr.args[0])
        if isinstance(expr, sympy.Mod):
            return np.mod(self.whole(expr.args[0]), self.whole(expr.args[1]))
        if isinstance(expr, Select):
            yes, no = self.whole(expr.yes), self.whole(expr.no)
            return np.where(self.value(expr.condition), yes, no)
        terms = expr.as_coefficients_dict()
        denominator = int(sympy.ilcm(1, *(c.q for c in terms.values())))
        if denominator != 1:
            return self.whole(sympy.expand(expr * denominator)) // denominator
        if isinstance(expr, sympy.Add | sympy.Mul):
            return _fold(np.add if isinstance(expr, sympy.Add) else np.multiply,
                         [self.whole(a) for a in expr.args])
        if isinstance(expr, sympy.Max | sympy.Min):
            return _fold(np.maximum if isinstance(expr, sympy.Max) else np.minimum,
                         [self.whole(a) for a in expr.args])
        raise DerivationError(f"cannot evaluate the index expression {expr}")

    def read(self, access: Access) -> Array:
        """The elements of a tensor; outside its bounds NaN, which a guard keeps from sight."""
        array = self.arrays[access.name]
        outside: Array | bool = False
        places = []
        for where, size in zip(access.where, array.shape, strict=True):
            place = self.whole(where)
            if isinstance(where, Index) and place.size and \
                    0 <= place.flat[0] <= place.flat[-1] < size:  # its values ascend
                places.append(place)
                continue
            outside = outside | (place < 0) | (place >= size)
            places.append(np.clip(place, 0, size - 1))
        found = array[tuple(places)] if places else array.reshape([1] * len(self.axes))
        if not np.any(outside):
            return found
        return np.where(outside, 0 if array.dtype.kind == "i" else np.nan, found)


def _fold(combine: Callable[[Array, Array], Array], parts: list[Array]) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = combine(total, part)
    return total


# -- one entry for each kind of node --------------------------------------------------------------
@singledispatch
def _value(expr: Any, scope: _Scope) -> Array:
    raise DerivationError(f"cannot evaluate {type(expr).__name__}: {expr}")


@_value.register
def _(expr: sympy.Number, scope: _Scope) -> Array:
    return np.array(float(expr)).reshape([1] * len(scope.axes))


@_value.register
def _(expr: sympy.NumberSymbol, scope: _Scope) -> Array:
    return np.array(float(expr)).reshape([1] * len(scope.axes))


@_value.register
def _(expr: sympy.Symbol, scope: _Scope) -> Array:
    return scope.whole(expr).astype(np.float64)


@_value.register
def _(expr: Access, scope: _Scope) -> Array:
    return scope.read(expr).astype(np.float64)


@_value.register
def _(expr: sympy.Add, scope: _Scope) -> Array:
    return _fold(np.add, [scope.value(a) for a in expr.args])


@_value.register
def _(expr: sympy.Mul, scope: _Scope) -> Array:
    """A factor that is a guard is a strong zero: where it does not hold, the product is 0 whatever
    the others are (0·inf would be NaN)."""
    guards = [a for a in expr.args if isinstance(a, Select) and a.no == 0]
    if not guards:
        return _fold(np.multiply, [scope.value(a) for a in expr.args])
    product = _fold(np.multiply, [scope.value(a.yes if a in guards else a) for a in expr.args])
    holds = _fold(np.logical_and, [scope.value(g.condition) for g in guards])
    return np.where(holds, product, 0.0)


@_value.register
def _(expr: sympy.Pow, scope: _Scope) -> Array:
    base = scope.value(expr.base)
    if abs(expr.exp) == sympy.S.Half:
        root = np.sqrt(base)
        return root if expr.exp > 0 else 1 / root
    return np.power(base, scope.value(expr.exp))


@_value.register
def _(expr: Select, scope: _Scope) -> Array:
    return np.where(
        scope.value(expr.condition), scope.value(expr.yes), scope.value(expr.no)
    )


@_value.register
def _(expr: sympy.Piecewise, scope: _Scope) -> Array:
    result = np.array(np.nan).reshape([1] * len(scope.axes))
    for value, condition in reversed(expr.args):
        result = np.where(scope.value(condition), scope.value(value), result)
    return result


@_value.register
def _(expr: BooleanAtom, scope: _Scope) -> Array:
    return np.array(bool(expr)).reshape([1] * len(scope.axes))


_COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal,
    ">": np.greater, ">=": np.greater_equal,
}


@_value.register
def _(expr: Relational, scope: _Scope) -> Array:
    whole = expr.lhs.is_integer and expr.rhs.is_integer
    read = scope.whole if whole else scope.value
    return _COMPARE[expr.rel_op](read(expr.lhs), read(expr.rhs))


@_value.register
def _(expr: sympy.And, scope: _Scope) -> Array:
    return _fold(np.logical_and, [scope.value(a) for a in expr.args])


@_value.register
def _(expr: sympy.Or, scope: _Scope) -> Array:
    return _fold(np.logical_or, [scope.value(a) for a in expr.args])


@_value.register
def _(expr: sympy.Not, scope: _Scope) -> Array:
    return np.logical_not(scope.value(expr.args[0]))


@_value.register
def _(expr: Elementary, scope: _Scope) -> Array:
    return scope.value(type(expr).stable(*expr.args))


@_value.register
def _(expr: uniform, scope: _Scope) -> Array:
    places = np.broadcast_arrays(*(scope.whole(a) for a in expr.args))
    return uniform_value(*places).astype(np.float64)


_KNOWN: dict[type, Callable[..., Array]] = {
    sympy.exp: np.exp, sympy.log: np.log, sympy.tanh: np.tanh, sympy.sinh: np.sinh,
    sympy.cosh: np.cosh, sympy.sin: np.sin, sympy.cos: np.cos, sympy.tan: np.tan,
    sympy.asin: np.arcsin, sympy.acos: np.arccos, sympy.atan: np.arctan,
    sympy.asinh: np.arcsinh, sympy.acosh: np.arccosh, sympy.atanh: np.arctanh,
    sympy.atan2: np.arctan2, sympy.erf: special.erf, sympy.erfc: special.erfc,
    sympy.gamma: special.gamma, sympy.loggamma: special.gammaln,
    sympy.Abs: np.abs, sympy.sign: np.sign, log1p: np.log1p, expm1: np.expm1,
}


@_value.register
def _(expr: sympy.Function, scope: _Scope) -> Array:
    if isinstance(expr, sympy.floor | sympy.Mod):
        return scope.whole(expr).astype(np.float64)
    if isinstance(expr, sympy.Max | sympy.Min):
        return _fold(np.maximum if isinstance(expr, sympy.Max) else np.minimum,
                     [scope.value(a) for a in expr.args])
    function = None if isinstance(expr, AppliedUndef) else _KNOWN.get(type(expr))
    if function is None:
        raise DerivationError(
            f"the reference evaluator does not know the function {type(expr).__name__}",
            expected="a function of derive.functions or " + ", ".join(
                sorted(f.__name__ for f in _KNOWN)),
        )
    return function(*(scope.value(a) for a in expr.args))


@_value.register
def _(expr: Reduction, scope: _Scope) -> Array:
    inner = scope.within(expr.bound)
    values = inner.value(expr.body)
    lengths = tuple(len(inner.every[i]) for i in expr.bound)
    outer = values.shape[: len(scope.axes)]
    values = np.broadcast_to(values, outer + lengths)
    return _REDUCE[type(expr)](values, tuple(range(len(outer), values.ndim)))


def _logsumexp(values: Array, axes: tuple[int, ...]) -> Array:
    top = values.max(axis=axes, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    return (np.log(np.exp(values - shift).sum(axis=axes, keepdims=True)) + shift).reshape(
        values.shape[: values.ndim - len(axes)]
    )


_REDUCE: dict[type, Callable[[Array, tuple[int, ...]], Array]] = {
    SumOver: lambda v, axes: v.sum(axis=axes),
    MaxOver: lambda v, axes: v.max(axis=axes),
    MinOver: lambda v, axes: v.min(axis=axes),
    ProdOver: lambda v, axes: v.prod(axis=axes),
    LogSumExpOver: _logsumexp,
}
