"""What depends on constants only is computed when the file is read: shapes, axes, bounds.

Weights stay out of it: an equation that reads them must keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy

from derive.errors import DataError
from derive.importing.builder import Builder, Value
from derive.importing.onnx_file import Node
from derive.network import Handle

Arrays = list[np.ndarray]


def fold(builder: Builder, node: Node) -> tuple[np.ndarray, ...] | None:
    """The outputs of a node as arrays, or None where it must become an equation."""
    if node.op == "Constant":
        return (_constant(node),)
    if node.op == "Shape":
        return (_shape(builder, node),)
    given: list[Value] = [builder.value(node, n) for n, name in enumerate(node.inputs) if name]
    arrays = [v for v in given if not isinstance(v, Handle)]
    if len(arrays) < len(given) or node.op not in _FOLD:
        return None
    if node.op in ("Identity", "Cast", "Dropout") and id(arrays[0]) in builder.trained:
        return (arrays[0],)
    if any(id(a) in builder.trained and a.ndim for a in arrays):
        return None
    return (_settled(np.asarray(_FOLD[node.op](node, arrays))),)


def _constant(node: Node) -> np.ndarray:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            value = node.attributes[name]
            return np.asarray(value, np.float32 if "float" in name else None)
    raise DataError(f"{node} holds no numbers", got=", ".join(node.attributes) or "nothing")


def _shape(builder: Builder, node: Node) -> np.ndarray:
    shape = builder.shape(builder.value(node, 0))
    chosen = shape[node.attributes.get("start", 0):node.attributes.get("end", len(shape))]
    return _settled(np.array(chosen, dtype=object))


def _settled(array: np.ndarray) -> np.ndarray:
    """Whole numbers as int64 where every element is a number."""
    if array.dtype != object:
        return array
    if all(sympy.sympify(v).is_Integer for v in array.reshape(-1)):
        return array.astype(np.int64)
    return array


def axes_of(node: Node, arrays: Arrays, position: int = 1) -> list[int] | None:
    """Axes, which older files keep as an attribute and newer ones as an input."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"])
    if len(arrays) > position:
        return [int(a) for a in arrays[position].reshape(-1)]
    return None


def _squeeze(node: Node, arrays: Arrays) -> np.ndarray:
    axes = axes_of(node, arrays)
    return np.squeeze(arrays[0], None if axes is None else tuple(axes))


def _unsqueeze(node: Node, arrays: Arrays) -> np.ndarray:
    return np.expand_dims(arrays[0], tuple(axes_of(node, arrays) or ()))


def _gather(node: Node, arrays: Arrays) -> np.ndarray:
    return np.take(arrays[0], arrays[1].astype(int), axis=node.attributes.get("axis", 0))


def _slice(node: Node, arrays: Arrays) -> np.ndarray:
    starts, ends, axes, steps = slice_bounds(node, arrays, arrays[0].ndim)
    where: list[slice] = [slice(None)] * arrays[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last = int(start), int(end)
        before = step < 0 and last < -arrays[0].shape[axis]
        where[axis] = slice(first, None if before else last, step)
    return arrays[0][tuple(where)]


def slice_bounds(node: Node, arrays: Arrays, rank: int) -> tuple[list, list, list, list]:
    """Starts, ends, axes and steps of a Slice, old or new."""
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes = node.attributes.get("axes", list(range(len(starts))))
        return list(starts), list(ends), [a % rank for a in axes], [1] * len(starts)
    starts, ends = list(arrays[1].reshape(-1)), list(arrays[2].reshape(-1))
    axes = [int(a) % rank for a in arrays[3].reshape(-1)] if len(arrays) > 3 else list(
        range(len(starts)))
    steps = [int(s) for s in arrays[4].reshape(-1)] if len(arrays) > 4 else [1] * len(starts)
    return starts, ends, axes, steps


def _reshape(node: Node, arrays: Arrays) -> np.ndarray:
    shape = [int(n) for n in arrays[1]]
    return arrays[0].reshape([arrays[0].shape[d] if n == 0 else n for d, n in enumerate(shape)])


def _cast(node: Node, arrays: Arrays) -> np.ndarray:
    if arrays[0].dtype == object:
        return arrays[0]
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    return arrays[0].astype(kind)


def _filled(node: Node, arrays: Arrays) -> np.ndarray:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    return np.full([int(n) for n in arrays[0]], value)


def _divide(node: Node, arrays: Arrays) -> np.ndarray:
    a, b = arrays
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return a / b


def _plain(function: Callable[..., Any]) -> Callable[[Node, Arrays], np.ndarray]:
    return lambda node, arrays: function(*arrays)


_FOLD: dict[str, Callable[[Node, Arrays], Any]] = {
    "Identity": _plain(lambda a: a), "Dropout": _plain(lambda a, *_: a), "Cast": _cast,
    "Add": _plain(np.add), "Sub": _plain(np.subtract), "Mul": _plain(np.multiply),
    "Div": _divide, "Neg": _plain(np.negative), "Sqrt": _plain(np.sqrt),
    "Floor": _plain(np.floor), "Ceil": _plain(np.ceil), "Pow": _plain(np.power),
    "Max": _plain(lambda *a: np.maximum.reduce(a)), "Min": _plain(lambda *a: np.minimum.reduce(a)),
    "Equal": _plain(np.equal), "Greater": _plain(np.greater), "Less": _plain(np.less),
    "Not": _plain(np.logical_not), "And": _plain(np.logical_and), "Or": _plain(np.logical_or),
    "Where": _plain(np.where), "Range": _plain(np.arange),
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Gather": _gather, "Slice": _slice,
    "Reshape": _reshape, "ConstantOfShape": _filled,
    "Concat": lambda node, arrays: np.concatenate(arrays, axis=node.attributes["axis"]),
    "Transpose": lambda node, arrays: np.transpose(arrays[0], node.attributes.get("perm")),
    "Expand": lambda node, arrays: arrays[0] * np.ones([int(n) for n in arrays[1]],
                                                       arrays[0].dtype),
    "ReduceProd": lambda node, arrays: np.prod(arrays[0], keepdims=bool(
        node.attributes.get("keepdims", 1))),
    "Trilu": lambda node, arrays: (np.triu if node.attributes.get("upper", 1) else np.tril)(
        arrays[0], int(arrays[1]) if len(arrays) > 1 else 0),
}
