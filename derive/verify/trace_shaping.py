"""NumPy functions on symbolic arrays that change shapes, and that join arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy
from sympy import Integer

from derive.nodes import Select
from derive.verify.bodies import apart, as_number
from derive.verify.trace_ops import axes_of, broadcast
from derive.verify.trace_shapes import reshape
from derive.verify.trace_table import array_of, implements, new_array
from derive.verify.traced import NotTraced, Traced, number


# -- shapes ---------------------------------------------------------------------------------------
def _view(array: Traced, make: Callable[[Traced], Traced]) -> Traced:
    made = make(array)
    made.base, made.base_version, made.again = array, array.version, lambda: make(array)
    return made


@implements(np.transpose)
def _transpose(a: Any, axes: Any = None) -> Traced:
    array = array_of(a)
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


@implements(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Traced:
    order = list(range(array_of(a).ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return _transpose(a, order)


@implements(np.moveaxis)
def _moveaxis(a: Any, source: Any, destination: Any) -> Traced:
    rank = array_of(a).ndim
    source, destination = ([x] if isinstance(x, int) else list(x) for x in (source, destination))
    source, destination = [s % rank for s in source], [d % rank for d in destination]
    order = [n for n in range(rank) if n not in source]
    for there, here in sorted(zip(destination, source, strict=True)):
        order.insert(there, here)
    return _transpose(a, order)


@implements(np.reshape)
def _reshape(a: Any, shape: Any = None, order: str = "C", **options: Any) -> Traced:
    if order != "C":
        raise NotTraced(f"reshape with order={order!r}")
    wanted = options.get("newshape", shape)
    return _view(array_of(a), lambda base: reshape(base, wanted))


@implements(np.ravel)
def _ravel(a: Any, order: str = "C") -> Traced:
    return _reshape(a, (-1,), order)


@implements(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Traced:
    array = array_of(a)
    axes = [n for n, i in enumerate(array.indices) if i.size == 1] if axis is None else axes_of(
        array, axis)
    return array[tuple(0 if n in axes else slice(None) for n in range(array.ndim))]


@implements(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Traced:
    array = array_of(a)
    axes = [axis] if isinstance(axis, int) else list(axis)
    rank = array.ndim + len(axes)
    chosen = {n % rank for n in axes}
    return array[tuple(None if n in chosen else slice(None) for n in range(rank))]


@implements(np.atleast_2d)
def _atleast_2d(a: Any) -> Traced:
    array = array_of(a)
    return array if array.ndim > 1 else array[None] if array.ndim else reshape(array, (1, 1))


@implements(np.broadcast_to)
def _broadcast_to(array: Any, shape: Any) -> Traced:
    target = new_array(None, shape, sympy.S.Zero)
    indices, (body, _) = broadcast([array_of(array), target])
    return Traced(target._tracer, indices, body, array_of(array).kind)


@implements(np.flip)
def _flip(m: Any, axis: Any = None) -> Traced:
    array = array_of(m)
    axes = axes_of(array, axis)
    return array[tuple(slice(None, None, -1 if n in axes else None) for n in range(array.ndim))]


@implements(np.rot90)
def _rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Traced:
    if k % 4 == 2:
        return _flip(m, axes)
    if k % 4 == 0:
        return array_of(m).copy()
    return _flip(_swapaxes(m, *axes), axes[0] if k % 4 == 1 else axes[1])


@implements(np.repeat)
def _repeat(a: Any, repeats: int, axis: Any = None) -> Traced:
    array = array_of(a)
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


@implements(np.tile)
def _tile(A: Any, reps: Any) -> Traced:
    array = array_of(A)
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


@implements(np.concatenate)
def _concatenate(arrays: Any, axis: Any = 0) -> Traced:
    parts = [array_of(a) for a in arrays]
    if axis is None:
        return concatenated([reshape(p, (-1,)) for p in parts], 0)
    return concatenated(parts, axis)


def stacked(arrays: Sequence[Traced], axis: int) -> Traced:
    rank = max(a.ndim for a in arrays) + 1
    key = tuple(None if n == axis % rank else slice(None) for n in range(rank))
    return concatenated([a[key] for a in arrays], axis % rank)


@implements(np.stack)
def _stack(arrays: Any, axis: int = 0) -> Traced:
    return stacked([array_of(a) for a in arrays], axis)


@implements(np.vstack)
def _vstack(tup: Any) -> Traced:
    return concatenated([_atleast_2d(a) for a in tup], 0)


@implements(np.hstack)
def _hstack(tup: Any) -> Traced:
    return concatenated([array_of(a) for a in tup], 0 if array_of(tup[0]).ndim == 1 else 1)


@implements(np.column_stack)
def _column_stack(tup: Any) -> Traced:
    return concatenated([a[:, None] if a.ndim == 1 else a for a in map(array_of, tup)], 1)


class Joiner:
    """``np.c_`` or ``np.r_`` for the time of a trace: joins symbolic arrays, and is NumPy's own
    where there are none."""

    def __init__(self, plain: Any, columns: bool) -> None:
        self.plain, self.columns = plain, columns

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if not any(isinstance(p, Traced) for p in parts):
            return self.plain[key]
        if any(isinstance(p, str | slice) for p in parts):
            raise NotTraced(f"np.{'c' if self.columns else 'r'}_ with a text or a range")
        arrays = [a[None] if a.ndim == 0 else a for a in map(array_of, parts)]
        if not self.columns:
            return concatenated(arrays, 0)
        return concatenated([a[:, None] if a.ndim == 1 else a for a in arrays], -1)


@implements(np.split, np.array_split)
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Traced]:
    array = array_of(ary)
    size = int(array.shape[axis])
    cuts = indices_or_sections
    if isinstance(cuts, int):
        if size % cuts:
            raise ValueError("array split does not result in an equal division")
        cuts = [size // cuts * n for n in range(1, cuts)]
    ends = [0, *map(int, cuts), size]
    front = (slice(None),) * (axis % array.ndim)
    return [array[(*front, slice(a, b))] for a, b in pairwise(ends)]


@implements(np.pad)
def _pad(array: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Traced:
    if mode != "constant":
        raise NotTraced(f"np.pad with mode={mode!r}")
    made = array_of(array)
    widths = np.broadcast_to(np.asarray(pad_width), (made.ndim, 2))
    for axis, (before, after) in enumerate(widths):
        parts = [made]
        for side, width in ((0, int(before)), (1, int(after))):
            if width:
                shape = tuple(width if n == axis else s for n, s in enumerate(made.shape))
                parts.insert(0 if side == 0 else len(parts),
                             new_array(None, shape, number(constant_values)))
        made = concatenated(parts, axis) if len(parts) > 1 else made
    return made
