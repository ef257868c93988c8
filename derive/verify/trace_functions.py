"""NumPy functions on symbolic arrays: reductions, products, elements, making; `trace_shaping` has
those of shapes and joining."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Mul

from derive.errors import ChainruleError
from derive.nodes import MaxOver, MinOver, ProdOver, Select, SumOver
from derive.verify import trace_shaping  # noqa: F401  (it fills the table)
from derive.verify.bodies import as_number, is_condition
from derive.verify.trace_ops import (
    axes_of,
    call_ufunc,
    contract,
    dot,
    elementwise,
    reduced,
)
from derive.verify.trace_shapes import reshape
from derive.verify.trace_table import TABLE, array_of, implements, kind_of, new_array
from derive.verify.traced import Dim, NotTraced, Traced


def call_function(function: Any, args: Any, options: dict[str, Any]) -> Any:
    """What NumPy's ``__array_function__`` protocol asks for."""
    make = TABLE.get(function)
    if make is None:
        from derive.verify.trace import active

        raise NotTraced(f"np.{function.__name__} has no equation here", where=active().here())
    out = options.pop("out", None)
    try:
        made = make(*args, **options)
    except TypeError as error:
        if isinstance(error, ChainruleError) or "argument" not in str(error):
            raise
        raise NotTraced(f"np.{function.__name__} with these arguments: {error}") from None
    if out is not None:
        out[...] = made
        return out
    return made


# -- elements by their numbers --------------------------------------------------------------------
@implements(np.take)
def _take(a: Any, indices: Any, axis: Any = None, mode: str = "raise") -> Any:
    array = array_of(a)
    if axis is None:
        return array.ravel()[indices]
    return array[(*(slice(None) for _ in range(int(axis) % array.ndim)), indices)]


def _along(array: Traced, indices: Any, axis: int) -> tuple[Any, ...]:
    """The key of the elements at numbers along one axis, all others as they stand."""
    numbers = array_of(indices)
    if numbers.ndim != array.ndim:
        raise ValueError("the indices have another number of dims than the array")
    key: list[Any] = []
    for n, index in enumerate(array.indices):
        spread = tuple(slice(None) if k == n else None for k in range(array.ndim))
        key.append(numbers if n == int(axis) % array.ndim else
                   Traced(array._tracer, (index,), index, "int")[spread])
    return tuple(key)


@implements(np.take_along_axis)
def _take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    return array_of(arr)[_along(array_of(arr), indices, axis)]


@implements(np.put_along_axis)
def _put_along_axis(arr: Any, indices: Any, values: Any, axis: Any) -> None:
    arr[_along(arr, indices, axis)] = values


# -- reductions -----------------------------------------------------------------------------------
@implements(np.sum)
def _sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    return reduced(SumOver, array_of(a), axis, bool(keepdims))


@implements(np.mean)
def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    array = array_of(a)
    count = Mul(*(array.indices[n].size for n in axes_of(array, axis)))
    return reduced(SumOver, array, axis, bool(keepdims)) / Traced.scalar(count)


@implements(np.max, np.amax)
def _max(a: Any, axis: Any = None, keepdims: Any = False) -> Traced:
    return reduced(MaxOver, array_of(a), axis, bool(keepdims))


@implements(np.min, np.amin)
def _min(a: Any, axis: Any = None, keepdims: Any = False) -> Traced:
    return reduced(MinOver, array_of(a), axis, bool(keepdims))


@implements(np.prod)
def _prod(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    return reduced(ProdOver, array_of(a), axis, bool(keepdims))


@implements(np.var)
def _var(a: Any, axis: Any = None, dtype: Any = None, ddof: int = 0,
         keepdims: Any = False) -> Traced:
    array = array_of(a)
    count = Mul(*(array.indices[n].size for n in axes_of(array, axis))) - ddof
    squares = (array - _mean(array, axis, keepdims=True)) ** 2
    return reduced(SumOver, squares, axis, bool(keepdims)) / Traced.scalar(count)


@implements(np.std)
def _std(a: Any, axis: Any = None, dtype: Any = None, ddof: int = 0,
         keepdims: Any = False) -> Traced:
    return _var(a, axis, dtype, ddof, keepdims) ** 0.5


@implements(np.average)
def _average(a: Any, axis: Any = None) -> Traced:
    return _mean(a, axis)


@implements(np.linalg.norm)
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Traced:
    array = array_of(x)
    if ord not in (None, 2, "fro") or (ord == 2 and axis is None and array.ndim > 1):
        raise NotTraced(f"np.linalg.norm with ord={ord!r}")
    return reduced(SumOver, array**2, axis, bool(keepdims)) ** 0.5


@implements(np.cumsum)
def _cumsum(a: Any, axis: Any = None) -> Traced:
    array = array_of(a)
    if axis is None and array.ndim > 1:
        array, axis = reshape(array, (-1,)), 0
    (n,) = axes_of(array, 0 if axis is None else axis)
    index = array.indices[n]
    before = array._tracer.fresh_index(index.size, index.name, {i.name for i in array.indices})
    there = [before if i is index else i for i in array.indices]
    body = SumOver(Select(sympy.Le(before, index), as_number(array.at(*there))), before)
    return Traced(array._tracer, array.indices, body)


# -- products -------------------------------------------------------------------------------------
@implements(np.dot)
def _dot(a: Any, b: Any) -> Traced:
    return dot(array_of(a), array_of(b))


@implements(np.vdot, np.inner)
def _inner(a: Any, b: Any) -> Traced:
    one, two = array_of(a), array_of(b)
    left = [f"a{n}" for n in range(one.ndim - 1)] + ["k"]
    right = [f"b{n}" for n in range(two.ndim - 1)] + ["k"]
    return contract([one, two], [left, right], [*left[:-1], *right[:-1]])


@implements(np.outer)
def _outer(a: Any, b: Any) -> Traced:
    return contract([reshape(array_of(a), (-1,)), reshape(array_of(b), (-1,))], ["i", "j"], "ij")


@implements(np.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Traced:
    one, two = array_of(a), array_of(b)
    if isinstance(axes, int):
        axes = (list(range(one.ndim - axes, one.ndim)), list(range(axes)))
    first, second = ([x] if isinstance(x, int) else list(x) for x in axes)
    left = [f"a{n}" for n in range(one.ndim)]
    right = [f"b{n}" for n in range(two.ndim)]
    for n, (i, j) in enumerate(zip(first, second, strict=True)):
        left[i] = right[j] = f"k{n}"
    return contract([one, two], [left, right],
                    [x for x in (*left, *right) if not x.startswith("k")])


@implements(np.einsum)
def _einsum(subscripts: Any, *operands: Any, optimize: Any = None) -> Traced:
    arrays = [array_of(x) for x in operands]
    if not isinstance(subscripts, str):
        raise NotTraced("np.einsum without a string of subscripts")
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    groups = left.split(",")
    if "..." in subscripts:
        spare = [c for c in "ZYXWVUTS" if c not in subscripts]
        most = max(a.ndim - len(g) + 3 for g, a in zip(groups, arrays, strict=True) if "..." in g)
        dots = "".join(spare[:most])
        groups = [g.replace("...", dots[most - (a.ndim - len(g) + 3):])
                  for g, a in zip(groups, arrays, strict=True)]
        right = right.replace("...", dots)
    if not arrow:
        every = "".join(groups)
        right = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    for group, array in zip(groups, arrays, strict=True):
        if len(group) != array.ndim:
            raise ValueError(f"einsum: {group!r} for an array of {array.ndim} dims")
    return contract(arrays, groups, right)


@implements(np.trace)
def _trace(a: Any) -> Traced:
    return _einsum("ii->", a)


# -- elements -------------------------------------------------------------------------------------
@implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Traced:
    if x is None or y is None:
        raise NotTraced("np.where with a condition alone")
    def choose(c: Any, a: Any, b: Any) -> Any:
        test = c if is_condition(c) else sympy.Ne(c, 0)
        return Select(test, as_number(a), as_number(b))

    return elementwise(choose, condition, x, y, kind="logic")


@implements(np.clip)
def _clip(a: Any, a_min: Any = None, a_max: Any = None, **options: Any) -> Traced:
    made, low, high = array_of(a), options.get("min", a_min), options.get("max", a_max)
    if low is not None:
        made = call_ufunc(np.maximum, "__call__", (made, low), {})
    return made if high is None else call_ufunc(np.minimum, "__call__", (made, high), {})


@implements(np.copy)
def _copy(a: Any, **options: Any) -> Traced:
    return array_of(a).copy()


@implements(np.diag, np.diagflat)
def _diag(v: Any, k: int = 0) -> Traced:
    array = array_of(v)
    if k:
        raise NotTraced("np.diag with an offset")
    if array.ndim == 2:
        return _diagonal(array)
    i = array.indices[0]
    j = array._tracer.fresh_index(i.size, i.name, {i.name})
    return Traced(array._tracer, (i, j), Select(sympy.Eq(i, j), as_number(array.at(i))))


@implements(np.diagonal)
def _diagonal(a: Any, **options: Any) -> Traced:
    if options:
        raise NotTraced("np.diagonal of chosen axes")
    return _einsum("ii->i", a)


def _triangle(compare: Any) -> Callable[..., Traced]:
    def make(m: Any, k: int = 0) -> Traced:
        array = array_of(m)
        i, j = array.indices[-2:]
        body = Select(compare(j - i, k), as_number(array.at(*array.indices)), sympy.S.Zero)
        return Traced(array._tracer, array.indices, body)

    return make


implements(np.tril)(_triangle(sympy.Le))
implements(np.triu)(_triangle(sympy.Ge))


@implements(np.shape)
def _shape(a: Any) -> Any:
    return array_of(a).shape


@implements(np.ndim)
def _ndim(a: Any) -> int:
    return array_of(a).ndim


@implements(np.size)
def _size(a: Any, axis: Any = None) -> Any:
    return array_of(a).size if axis is None else array_of(a).shape[axis]


# -- making ---------------------------------------------------------------------------------------
def _like(value: Expr) -> Callable[..., Traced]:
    def make(a: Any, dtype: Any = None, **options: Any) -> Traced:
        array = array_of(a)
        return Traced(array._tracer, array.indices, value, kind_of(dtype))

    return make


implements(np.zeros_like)(_like(sympy.S.Zero))
implements(np.empty_like)(_like(sympy.nan))
implements(np.ones_like)(_like(sympy.S.One))


@implements(np.full_like)
def _full_like(a: Any, fill_value: Any, **options: Any) -> Traced:
    array = array_of(a)
    return Traced(array._tracer, array.indices, array_of(fill_value).at())


def _eye(plain: Any, N: Any, M: Any = None, **options: Any) -> Traced:
    base = new_array(None, (N, N if M is None else M), sympy.S.Zero)
    base.body = Select(sympy.Eq(*base.indices), sympy.S.One)
    return base


def _arange(plain: Any, *args: Any, **options: Any) -> Any:
    if len(args) != 1 or not isinstance(args[0], int | Dim) or options.get("dtype") is not None:
        return plain(*args, **options)
    base = new_array(None, args[0], sympy.S.Zero, "int")
    base.body = base.indices[0]
    return base


def _from_list(plain: Any, value: Any, *args: Any, **options: Any) -> Any:
    if isinstance(value, Traced):
        return value if plain.__name__ != "array" else value.copy()
    if isinstance(value, list | tuple) and _holds(value):
        return array_of(value)
    return plain(value, *args, **options)


def _holds(value: Any) -> bool:
    return any(isinstance(v, Traced) or (isinstance(v, list | tuple) and _holds(v)) for v in value)


def creators() -> dict[str, Callable[..., Any]]:
    """Functions of NumPy's that make arrays of nothing, for the time of a trace."""
    def filled(value: Expr) -> Callable[..., Any]:
        def make(plain: Any, shape: Any, dtype: Any = None, *args: Any, **options: Any) -> Any:
            kind = kind_of(dtype)
            filling = sympy.false if kind == "bool" and value == 0 else value
            return new_array(None, shape, filling, kind)

        return make

    def full(plain: Any, shape: Any, fill_value: Any, *args: Any, **options: Any) -> Any:
        return new_array(None, shape, array_of(fill_value).at())

    return {"zeros": filled(sympy.S.Zero), "ones": filled(sympy.S.One),
            "empty": filled(sympy.nan), "full": full, "eye": _eye, "identity": _eye,
            "arange": _arange, "array": _from_list, "asarray": _from_list,
            "ascontiguousarray": _from_list}
