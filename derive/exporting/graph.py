"""An ONNX graph under construction: nodes, constants, names; values that know their indices.

A `Value` is an array of the graph together with the indices that its axes run over, in the order
of the scope around. What does not depend on any tensor is computed here and becomes a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Symbol

from derive.errors import DerivationError, MissingError
from derive.nodes import Index
from derive.program import Equation, Program


@dataclass(frozen=True)
class Value:
    """An array of the graph. ``axes``: the index of each of its axes; ``kind``: float, int, bool.
    """

    name: str
    axes: tuple[Index, ...]
    kind: str = "float"


def onnx_package() -> Any:
    """The package, imported where it is needed.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingError(
            "writing ONNX files needs the package onnx, which is not installed",
            mend='python -m pip install "chainrule[import]"',
        ) from error
    return onnx


class Graph:
    """Nodes and constants of a graph (and of the loop bodies inside it)."""

    def __init__(self, program: Program, dtype: str, sizes: Mapping[Symbol, tuple[str, int]]
                 ) -> None:
        """``sizes``: for each run-time size an input and the axis of it that has it."""
        self.onnx = onnx_package()
        self.program, self.dtype, self.sizes = program, np.dtype(dtype), dict(sizes)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.locals: dict[tuple[str, int], Value] = {}  # a loop's own tensors, by their lag
        self.loop: tuple[Index, Value, dict[str, int]] | None = None
        self._known: dict[tuple, str] = {}
        self._taken = set(program.tensors)
        self._count = 0

    @property
    def float_type(self) -> int:
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype))

    def new_name(self, stem: str) -> str:
        self._count += 1
        name = f"{stem.lower()}_{self._count}"
        return name if name not in self._taken else self.new_name(stem)

    # -- nodes ------------------------------------------------------------------------------
    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node's first output; equal nodes of one graph are one."""
        key = (op, inputs, repr(sorted(attributes.items())))
        if output is None and key in self._known:
            return self._known[key]
        name = output or self.new_name(op)
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        if "body" not in attributes:
            self._known[key] = name
        return name

    @contextmanager
    def body(self) -> Iterator[list[Any]]:
        """Nodes inside are those of a loop's body."""
        outer, known = self.nodes, dict(self._known)
        self.nodes = []
        try:
            yield self.nodes
        finally:
            self.nodes, self._known = outer, known

    def constant(self, array: np.ndarray | float | int) -> str:
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(self.dtype)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self.new_name("c")
            self.constants[name] = array
        return self._known[key]

    # -- sizes ------------------------------------------------------------------------------
    def size(self, expr: Expr) -> str:
        """A size as an int64 scalar."""
        expr = sympy.sympify(expr)
        if expr.is_Integer:
            return self.constant(int(expr))
        if expr in self.sizes:
            name, axis = self.sizes[expr]
            return self.node("Gather", self.node("Shape", name), self.constant(axis))
        if isinstance(expr, sympy.Add | sympy.Mul):
            op = "Add" if isinstance(expr, sympy.Add) else "Mul"
            total = self.size(expr.args[0])
            for part in expr.args[1:]:
                total = self.node(op, total, self.size(part))
            return total
        raise DerivationError(f"the size {expr} is not told by the shape of an input")

    def shape(self, indices: Sequence[Index]) -> str:
        """Sizes as an int64 vector."""
        if all(i.size.is_Integer for i in indices):
            return self.constant(np.array([int(i.size) for i in indices], np.int64))
        zero = self.constant(np.array([0]))
        return self.node("Concat", *(self.node("Unsqueeze", self.size(i.size), zero)
                                     for i in indices), axis=0)

    # -- axes -------------------------------------------------------------------------------
    def aligned(self, value: Value, axes: Sequence[Index]) -> str:
        """The array with these axes, those that it lacks of length 1 (in front left out)."""
        have = [a for a in axes if a in value.axes]
        order = [value.axes.index(a) for a in have]
        name = value.name
        if order != sorted(order):
            name = self.node("Transpose", name, perm=order)
        first = axes.index(have[0]) if have else len(axes)
        missing = [n - first for n, a in enumerate(axes) if n > first and a not in have]
        if missing:
            name = self.node("Unsqueeze", name, self.constant(np.array(missing)))
        return name

    def full(self, value: Value, axes: Sequence[Index]) -> str:
        """The array with all of these axes at their full lengths."""
        name = self.aligned(value, axes)
        if len(value.axes) < len(axes):
            name = self.node("Expand", name, self.shape(axes))
        return name

    def joined(self, op: str, values: Sequence[Value], scope: Sequence[Index],
               kind: str | None = None) -> Value:
        """An elementwise operator over values that broadcast."""
        axes = tuple(i for i in scope if any(i in v.axes for v in values))
        names = [self.aligned(v, axes) for v in values]
        return Value(self.node(op, *names), axes, kind or values[-1].kind)

    def cast(self, value: Value, kind: str) -> Value:
        if value.kind == kind:
            return value
        to = self.float_type if kind == "float" else int(self.onnx.TensorProto.INT64)
        return Value(self.node("Cast", value.name, to=to), value.axes, kind)


def refusal(eq: Equation, what: str) -> DerivationError:
    """The error for what ONNX has no words for."""
    return DerivationError(f"ONNX cannot say the equation of {eq.name!r}: {what}", got=str(eq),
                           where=eq.where)
