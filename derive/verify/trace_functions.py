"""NumPy functions on symbolic arrays: reductions, products, shapes, joining, making."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Integer, Mul

from derive.errors import ChainruleError
from derive.nodes import Index, MaxOver, MinOver, ProdOver, Select, SumOver
from derive.verify.trace_ops import (
    axes_of,
    broadcast,
    call_ufunc,
    contract,
    dot,
    elementwise,
    reduced,
)
from derive.verify.trace_shapes import reshape
from derive.verify.traced import Dim, NotTraced, Traced, apart, as_number, is_condition, number

_TABLE: dict[Any, Callable[..., Any]] = {}


def _implements(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(make: Callable[..., Any]) -> Callable[..., Any]:
        _TABLE.update(dict.fromkeys(functions, make))
        return make

    return register


def call_function(function: Any, args: Any, options: dict[str, Any]) -> Any:
    """What NumPy's ``__array_function__`` protocol asks for."""
    make = _TABLE.get(function)
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


def _array(value: Any) -> Traced:
    from derive.verify.trace import active

    return active().array(value)


# -- reductions -----------------------------------------------------------------------------------
@_implements(np.sum)
def _sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    return reduced(SumOver, _array(a), axis, bool(keepdims))


@_implements(np.mean)
def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    array = _array(a)
    count = Mul(*(array.indices[n].size for n in axes_of(array, axis)))
    return reduced(SumOver, array, axis, bool(keepdims)) / Traced.scalar(count)


@_implements(np.max, np.amax)
def _max(a: Any, axis: Any = None, keepdims: Any = False) -> Traced:
    return reduced(MaxOver, _array(a), axis, bool(keepdims))


@_implements(np.min, np.amin)
def _min(a: Any, axis: Any = None, keepdims: Any = False) -> Traced:
    return reduced(MinOver, _array(a), axis, bool(keepdims))


@_implements(np.prod)
def _prod(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Traced:
    return reduced(ProdOver, _array(a), axis, bool(keepdims))


@_implements(np.var)
def _var(a: Any, axis: Any = None, dtype: Any = None, ddof: int = 0,
         keepdims: Any = False) -> Traced:
    array = _array(a)
    count = Mul(*(array.indices[n].size for n in axes_of(array, axis))) - ddof
    squares = (array - _mean(array, axis, keepdims=True)) ** 2
    return reduced(SumOver, squares, axis, bool(keepdims)) / Traced.scalar(count)


@_implements(np.std)
def _std(a: Any, axis: Any = None, dtype: Any = None, ddof: int = 0,
         keepdims: Any = False) -> Traced:
    return _var(a, axis, dtype, ddof, keepdims) ** 0.5


@_implements(np.average)
def _average(a: Any, axis: Any = None) -> Traced:
    return _mean(a, axis)


@_implements(np.linalg.norm)
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Traced:
    array = _array(x)
    if ord not in (None, 2, "fro") or (ord == 2 and axis is None and array.ndim > 1):
        raise NotTraced(f"np.linalg.norm with ord={ord!r}")
    return reduced(SumOver, array**2, axis, bool(keepdims)) ** 0.5


@_implements(np.cumsum)
def _cumsum(a: Any, axis: Any = None) -> Traced:
    array = _array(a)
    if axis is None and array.ndim > 1:
        array, axis = reshape(array, (-1,)), 0
    (n,) = axes_of(array, 0 if axis is None else axis)
    index = array.indices[n]
    before = array._tracer.fresh_index(index.size, index.name, {i.name for i in array.indices})
    there = [before if i is index else i for i in array.indices]
    body = SumOver(Select(sympy.Le(before, index), as_number(array.at(*there))), before)
    return Traced(array._tracer, array.indices, body)


# -- products -------------------------------------------------------------------------------------
@_implements(np.dot)
def _dot(a: Any, b: Any) -> Traced:
    return dot(_array(a), _array(b))


@_implements(np.vdot, np.inner)
def _inner(a: Any, b: Any) -> Traced:
    one, two = _array(a), _array(b)
    left = [f"a{n}" for n in range(one.ndim - 1)] + ["k"]
    right = [f"b{n}" for n in range(two.ndim - 1)] + ["k"]
    return contract([one, two], [left, right], [*left[:-1], *right[:-1]])


@_implements(np.outer)
def _outer(a: Any, b: Any) -> Traced:
    return contract([reshape(_array(a), (-1,)), reshape(_array(b), (-1,))], ["i", "j"], "ij")


@_implements(np.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Traced:
    one, two = _array(a), _array(b)
    if isinstance(axes, int):
        axes = (list(range(one.ndim - axes, one.ndim)), list(range(axes)))
    first, second = ([x] if isinstance(x, int) else list(x) for x in axes)
    left = [f"a{n}" for n in range(one.ndim)]
    right = [f"b{n}" for n in range(two.ndim)]
    for n, (i, j) in enumerate(zip(first, second, strict=True)):
        left[i] = right[j] = f"k{n}"
    return contract([one, two], [left, right],
                    [x for x in (*left, *right) if not x.startswith("k")])


@_implements(np.einsum)
def _einsum(subscripts: Any, *operands: Any, optimize: Any = None) -> Traced:
    arrays = [_array(x) for x in operands]
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


@_implements(np.trace)
def _trace(a: Any) -> Traced:
    return _einsum("ii->", a)


# -- shapes ---------------------------------------------------------------------------------------
def _view(array: Traced, make: Callable[[Traced], Traced]) -> Traced:
    made = make(array)
    made.base, made.base_version, made.again = array, array.version, lambda: make(array)
    return made


@_implements(np.transpose)
def _transpose(a: Any, axes: Any = None) -> Traced:
    array = _array(a)
    order = list(range(array.ndim))[::-1] if axes is None else [
        int(n) % array.ndim for n in axes]

    def make(base: Traced) -> Traced:
        made = Traced(base._tracer, tuple(base.indices[n] for n in order),
                      base.at(*base.indices), base.kind)
        return made

    made = _view(array, make)
    back = [order.index(n) for n in range(len(order))]
    made.back = lambda value: array.change(
        Traced(array._tracer, tuple(value.indices[n] for n in back), value.body, value.kind))
    return made


@_implements(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Traced:
    order = list(range(_array(a).ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return _transpose(a, order)


@_implements(np.moveaxis)
def _moveaxis(a: Any, source: Any, destination: Any) -> Traced:
    rank = _array(a).ndim
    source, destination = ([x] if isinstance(x, int) else list(x) for x in (source, destination))
    source, destination = [s % rank for s in source], [d % rank for d in destination]
    order = [n for n in range(rank) if n not in source]
    for there, here in sorted(zip(destination, source, strict=True)):
        order.insert(there, here)
    return _transpose(a, order)


@_implements(np.reshape)
def _reshape(a: Any, shape: Any = None, order: str = "C", **options: Any) -> Traced:
    if order != "C":
        raise NotTraced(f"reshape with order={order!r}")
    wanted = options.get("newshape", shape)
    return _view(_array(a), lambda base: reshape(base, wanted))


@_implements(np.ravel)
def _ravel(a: Any, order: str = "C") -> Traced:
    return _reshape(a, (-1,), order)


@_implements(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Traced:
    array = _array(a)
    axes = [n for n, i in enumerate(array.indices) if i.size == 1] if axis is None else axes_of(
        array, axis)
    return array[tuple(0 if n in axes else slice(None) for n in range(array.ndim))]


@_implements(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Traced:
    array = _array(a)
    axes = [axis] if isinstance(axis, int) else list(axis)
    rank = array.ndim + len(axes)
    chosen = {n % rank for n in axes}
    return array[tuple(None if n in chosen else slice(None) for n in range(rank))]


@_implements(np.atleast_2d)
def _atleast_2d(a: Any) -> Traced:
    array = _array(a)
    return array if array.ndim > 1 else array[None] if array.ndim else reshape(array, (1, 1))


@_implements(np.broadcast_to)
def _broadcast_to(array: Any, shape: Any) -> Traced:
    target = _made(None, shape, sympy.S.Zero)
    indices, (body, _) = broadcast([_array(array), target])
    return Traced(target._tracer, indices, body, _array(array).kind)


@_implements(np.flip)
def _flip(m: Any, axis: Any = None) -> Traced:
    array = _array(m)
    axes = axes_of(array, axis)
    return array[tuple(slice(None, None, -1 if n in axes else None) for n in range(array.ndim))]


@_implements(np.rot90)
def _rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Traced:
    if k % 4 == 2:
        return _flip(m, axes)
    if k % 4 == 0:
        return _array(m).copy()
    return _flip(_swapaxes(m, *axes), axes[0] if k % 4 == 1 else axes[1])


@_implements(np.repeat)
def _repeat(a: Any, repeats: int, axis: Any = None) -> Traced:
    array = _array(a)
    if axis is None:
        array, axis = reshape(array, (-1,)), 0
    return reshape(_tiled(array, int(repeats), axes_of(array, axis)[0] + 1),
                   tuple(n * (int(repeats) if k == axes_of(array, axis)[0] else 1)
                         for k, n in enumerate(array.shape)))


def _tiled(array: Traced, times: int, axis: int) -> Traced:
    index = array._tracer.fresh_index(Integer(times), "r", {i.name for i in array.indices})
    body = array.at(*array.indices)
    return Traced(array._tracer, (*array.indices[:axis], index, *array.indices[axis:]), body,
                  array.kind)


@_implements(np.tile)
def _tile(A: Any, reps: Any) -> Traced:
    array = _array(A)
    times = [reps] if isinstance(reps, int) else list(reps)
    while array.ndim < len(times):
        array = array[None]
    times = [1] * (array.ndim - len(times)) + times
    for axis, n in enumerate(times):
        if n != 1:
            array = concatenated([array] * int(n), axis)
    return array


# -- joining --------------------------------------------------------------------------------------
def concatenated(arrays: Sequence[Traced], axis: int) -> Traced:
    tracer = arrays[0]._tracer
    axis = axis % arrays[0].ndim
    total = sympy.expand(sum(a.indices[axis].size for a in arrays))
    first = arrays[0].indices
    index = tracer.fresh_index(total, first[axis].name, {i.name for i in first if i != first[axis]})
    indices = (*first[:axis], index, *first[axis + 1:])
    end, body = total, None
    for array in reversed(arrays):
        if [i.size for n, i in enumerate(array.indices) if n != axis] != [
                i.size for n, i in enumerate(indices) if n != axis]:
            raise ValueError("all the input array dimensions except for the concatenation axis "
                             "must match exactly")
        start = sympy.expand(end - array.indices[axis].size)
        piece = apart(as_number(array.at(*(index - start if n == axis else i
                                           for n, i in enumerate(indices)))), indices)
        body = piece if body is None else Select(sympy.Lt(index, end), piece, body)
        end = start
    return Traced(tracer, indices, body, arrays[0].kind)


@_implements(np.concatenate)
def _concatenate(arrays: Any, axis: Any = 0) -> Traced:
    parts = [_array(a) for a in arrays]
    if axis is None:
        return concatenated([reshape(p, (-1,)) for p in parts], 0)
    return concatenated(parts, axis)


def stacked(arrays: Sequence[Traced], axis: int) -> Traced:
    rank = max(a.ndim for a in arrays) + 1
    key = tuple(None if n == axis % rank else slice(None) for n in range(rank))
    return concatenated([a[key] for a in arrays], axis % rank)


@_implements(np.stack)
def _stack(arrays: Any, axis: int = 0) -> Traced:
    return stacked([_array(a) for a in arrays], axis)


@_implements(np.vstack)
def _vstack(tup: Any) -> Traced:
    return concatenated([_atleast_2d(a) for a in tup], 0)


@_implements(np.hstack, np.column_stack)
def _hstack(tup: Any) -> Traced:
    return concatenated([_array(a) for a in tup], 0 if _array(tup[0]).ndim == 1 else 1)


@_implements(np.split, np.array_split)
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Traced]:
    array = _array(ary)
    size = int(array.shape[axis])
    cuts = indices_or_sections
    if isinstance(cuts, int):
        if size % cuts:
            raise ValueError("array split does not result in an equal division")
        cuts = [size // cuts * n for n in range(1, cuts)]
    ends = [0, *map(int, cuts), size]
    front = (slice(None),) * (axis % array.ndim)
    return [array[(*front, slice(a, b))] for a, b in pairwise(ends)]


@_implements(np.pad)
def _pad(array: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Traced:
    if mode != "constant":
        raise NotTraced(f"np.pad with mode={mode!r}")
    made = _array(array)
    widths = np.broadcast_to(np.asarray(pad_width), (made.ndim, 2))
    for axis, (before, after) in enumerate(widths):
        parts = [made]
        for side, width in ((0, int(before)), (1, int(after))):
            if width:
                shape = tuple(width if n == axis else s for n, s in enumerate(made.shape))
                parts.insert(0 if side == 0 else len(parts),
                             _made(None, shape, number(constant_values)))
        made = concatenated(parts, axis) if len(parts) > 1 else made
    return made


# -- elements -------------------------------------------------------------------------------------
@_implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Traced:
    if x is None or y is None:
        raise NotTraced("np.where with a condition alone")
    def choose(c: Any, a: Any, b: Any) -> Any:
        test = c if is_condition(c) else sympy.Ne(c, 0)
        return Select(test, as_number(a), as_number(b))

    return elementwise(choose, condition, x, y, kind="logic")


@_implements(np.clip)
def _clip(a: Any, a_min: Any = None, a_max: Any = None, **options: Any) -> Traced:
    made, low, high = _array(a), options.get("min", a_min), options.get("max", a_max)
    if low is not None:
        made = call_ufunc(np.maximum, "__call__", (made, low), {})
    return made if high is None else call_ufunc(np.minimum, "__call__", (made, high), {})


@_implements(np.copy)
def _copy(a: Any, **options: Any) -> Traced:
    return _array(a).copy()


@_implements(np.diag, np.diagflat)
def _diag(v: Any, k: int = 0) -> Traced:
    array = _array(v)
    if k:
        raise NotTraced("np.diag with an offset")
    if array.ndim == 2:
        return _diagonal(array)
    i = array.indices[0]
    j = array._tracer.fresh_index(i.size, i.name, {i.name})
    return Traced(array._tracer, (i, j), Select(sympy.Eq(i, j), as_number(array.at(i))))


@_implements(np.diagonal)
def _diagonal(a: Any, **options: Any) -> Traced:
    if options:
        raise NotTraced("np.diagonal of chosen axes")
    return _einsum("ii->i", a)


def _triangle(compare: Any) -> Callable[..., Traced]:
    def make(m: Any, k: int = 0) -> Traced:
        array = _array(m)
        i, j = array.indices[-2:]
        body = Select(compare(j - i, k), as_number(array.at(*array.indices)), sympy.S.Zero)
        return Traced(array._tracer, array.indices, body)

    return make


_implements(np.tril)(_triangle(sympy.Le))
_implements(np.triu)(_triangle(sympy.Ge))


@_implements(np.shape)
def _shape(a: Any) -> Any:
    return _array(a).shape


@_implements(np.ndim)
def _ndim(a: Any) -> int:
    return _array(a).ndim


@_implements(np.size)
def _size(a: Any, axis: Any = None) -> Any:
    return _array(a).size if axis is None else _array(a).shape[axis]


# -- making ---------------------------------------------------------------------------------------
def _made(like: Any, shape: Any, value: Expr, kind: str = "float") -> Traced:
    from derive.verify.trace import active

    tracer = active()
    indices: list[Index] = []
    for n in (shape if isinstance(shape, tuple | list) else (shape,)):
        size = number(n)
        indices.append(tracer.fresh_index(size, "n", {i.name for i in indices}))
    return Traced(tracer, tuple(indices), value, kind)


def _kind(dtype: Any, default: str = "float") -> str:
    if dtype is None:
        return default
    return {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(np.dtype(dtype).kind, "float")


def _like(value: Expr) -> Callable[..., Traced]:
    def make(a: Any, dtype: Any = None, **options: Any) -> Traced:
        array = _array(a)
        return Traced(array._tracer, array.indices, value, _kind(dtype))

    return make


_implements(np.zeros_like)(_like(sympy.S.Zero))
_implements(np.empty_like)(_like(sympy.nan))
_implements(np.ones_like)(_like(sympy.S.One))


@_implements(np.full_like)
def _full_like(a: Any, fill_value: Any, **options: Any) -> Traced:
    array = _array(a)
    return Traced(array._tracer, array.indices, _array(fill_value).at())


def _eye(plain: Any, N: Any, M: Any = None, **options: Any) -> Traced:
    base = _made(None, (N, N if M is None else M), sympy.S.Zero)
    base.body = Select(sympy.Eq(*base.indices), sympy.S.One)
    return base


def _arange(plain: Any, *args: Any, **options: Any) -> Any:
    if len(args) != 1 or not isinstance(args[0], int | Dim) or options.get("dtype") is not None:
        return plain(*args, **options)
    base = _made(None, args[0], sympy.S.Zero, "int")
    base.body = base.indices[0]
    return base


def _from_list(plain: Any, value: Any, *args: Any, **options: Any) -> Any:
    if isinstance(value, Traced):
        return value if plain.__name__ != "array" else value.copy()
    if isinstance(value, list | tuple) and _holds(value):
        return _array(value)
    return plain(value, *args, **options)


def _holds(value: Any) -> bool:
    return any(isinstance(v, Traced) or (isinstance(v, list | tuple) and _holds(v)) for v in value)


def creators() -> dict[str, Callable[..., Any]]:
    """Functions of NumPy's that make arrays of nothing, for the time of a trace."""
    def filled(value: Expr) -> Callable[..., Any]:
        def make(plain: Any, shape: Any, dtype: Any = None, *args: Any, **options: Any) -> Any:
            kind = _kind(dtype)
            filling = sympy.false if kind == "bool" and value == 0 else value
            return _made(None, shape, filling, kind)

        return make

    def full(plain: Any, shape: Any, fill_value: Any, *args: Any, **options: Any) -> Any:
        return _made(None, shape, _array(fill_value).at())

    return {"zeros": filled(sympy.S.Zero), "ones": filled(sympy.S.One),
            "empty": filled(sympy.nan), "full": full, "eye": _eye, "identity": _eye,
            "arange": _arange, "array": _from_list, "asarray": _from_list,
            "ascontiguousarray": _from_list}
