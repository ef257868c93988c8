"""A network under construction from a graph: values by name, shapes, new tensors.

A value is a tensor of the network (a `Handle`) or an array known when the file is read. Arrays of
whole numbers may hold sizes that are known at run time only (their elements are then SymPy
expressions): that is how shapes are computed inside a graph.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from sympy import Expr, S

from derive.errors import DataError, nearest
from derive.importing.onnx_file import Node
from derive.layers.common import letters
from derive.network import Handle, Network
from derive.nodes import Index, exact

Value = Handle | np.ndarray
Result = Value | tuple[Value | None, ...]
Operator = Callable[["Builder", Node], Result]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Enter a function into `OPERATORS` under the names of the ONNX operators it stands for."""

    def enter(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return enter


def plain_name(name: str) -> str:
    """A name of the file as an identifier: ``/encoder/layer.0/MatMul_output_0`` becomes
    ``encoder_layer_0_MatMul``."""
    name = unicodedata.normalize("NFKC", name.removesuffix("_output_0"))
    plain = re.sub(r"\W+", "_", name).strip("_") or "v"
    return f"v_{plain}" if plain[0].isdigit() or keyword.iskeyword(plain) else plain


def number(value: Any) -> Expr:
    """A number as it was written: the float32 nearest to 0.1 is one tenth."""
    kind = getattr(value, "dtype", None)
    if isinstance(value, np.floating) and kind != np.float64:
        return exact(float(str(value)))
    return exact(value.item() if isinstance(value, np.generic) else value)


def setting(node: Node, name: str, default: float) -> Expr:
    """A float attribute (ONNX keeps them in single precision) as it was written."""
    return number(np.float32(node.attributes.get(name, default)))


class Builder:
    """The network, the values computed so far, and the weights by tensor name."""

    def __init__(self, name: str) -> None:
        self.net = Network(name)
        self.values: dict[str, Value] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.trained: set[int] = set()  # ids of the arrays that the file lists as weights
        self._array_names: dict[int, str] = {}
        self._handles: dict[int, Handle] = {}
        self._kept: list[np.ndarray] = []  # keeps ids unique
        self._taken: set[str] = set()

    # -- names ----------------------------------------------------------------------------------
    def reserve(self, name: str) -> str:
        """A new identifier for a name of the file."""
        plain, count = plain_name(name), 1
        new = plain
        while new in self._taken:
            count += 1
            new = f"{plain}_{count}"
        self._taken.add(new)
        return new

    # -- values ---------------------------------------------------------------------------------
    def keep(self, name: str, array: np.ndarray, trained: bool) -> None:
        """An array of the file under its name."""
        self.values[name] = array
        self._array_names.setdefault(id(array), name)
        self._kept.append(array)
        if trained:
            self.trained.add(id(array))

    def has(self, node: Node, position: int) -> bool:
        return len(node.inputs) > position and node.inputs[position] != ""

    def value(self, node: Node, position: int) -> Value:
        """An input of a node, as it is."""
        if not self.has(node, position):
            raise DataError(f"{node} has no input {position}")
        name = node.inputs[position]
        if name not in self.values:
            guess = nearest(name, self.values)
            raise DataError(f"{node} reads {name!r}, which nothing before it computes",
                            mend=f"did you mean {guess!r}?" if guess else None)
        return self.values[name]

    def array(self, node: Node, position: int) -> np.ndarray:
        """An input that must be known when the file is read, such as a shape."""
        value = self.value(node, position)
        if isinstance(value, Handle):
            raise DataError(
                f"{node}: input {position} ({node.inputs[position]!r}) is computed at run time",
                expected="a constant: shapes, axes and bounds are part of the equations",
            )
        return value

    def tensor(self, node: Node, position: int, role: str = "parameter") -> Handle:
        """An input as a tensor of the network. An array that the file lists as a weight becomes a
        parameter (or what ``role`` says), any other array a constant."""
        value = self.value(node, position)
        if isinstance(value, Handle):
            return value
        return self.declared(value, node.inputs[position], role)

    def declared(self, array: np.ndarray, name: str, role: str = "parameter") -> Handle:
        """The tensor of the network whose values an array holds, the same for the same array."""
        if id(array) in self._handles:
            return self._handles[id(array)]
        own = self.reserve(self._array_names.get(id(array), name))
        sizes = [int(n) for n in array.shape]
        if array.dtype.kind in "iub":
            handle = self.net.constant(own, *sizes, dtype=int)
            self.weights[own] = array.astype(np.int64)
        elif array.dtype.kind == "f":
            make = {"parameter": self.net.parameter, "state": self.net.state}
            declare = make[role] if id(array) in self.trained else self.net.constant
            handle = declare(own, *sizes)
            self.weights[own] = array.astype(np.float64)
        else:
            raise DataError(f"the values of {name!r} are no numbers", got=str(array.dtype))
        self._handles[id(array)] = handle
        self._kept.append(array)
        return handle

    def literal(self, value: Value) -> Expr | None:
        """The number that an array of one element holds, unless it is a weight with a dim."""
        if isinstance(value, Handle) or value.size != 1:
            return None
        if id(value) in self.trained and value.ndim:
            return None
        return number(value.reshape(-1)[0])

    # -- shapes ---------------------------------------------------------------------------------
    def shape(self, value: Value) -> tuple[Expr, ...]:
        return tuple(sympy.sympify(n) for n in value.shape)

    def broadcast(self, node: Node, *shapes: Sequence[Expr]) -> tuple[Expr, ...]:
        """The shape of an elementwise result, by NumPy's rule."""
        rank = max(map(len, shapes))
        padded = [(S.One,) * (rank - len(s)) + tuple(s) for s in shapes]
        out = []
        for sizes in zip(*padded):
            wide = list(dict.fromkeys(s for s in sizes if s != 1))
            if len(wide) > 1:
                raise DataError(f"{node}: the shapes do not broadcast",
                                got=" and ".join(str(tuple(s)) for s in shapes))
            out.append(wide[0] if wide else S.One)
        return tuple(out)

    def indices(self, shape: Sequence[Expr], prefer: str = "bijklmnopq",
                taken: Sequence[Index] = ()) -> tuple[Index, ...]:
        return letters(taken, prefer, *shape)

    def element(self, node: Node, position: int, free: Sequence[Index]) -> Expr:
        """An input at the indices of an elementwise result: dims of size 1 are repeated."""
        value = self.value(node, position)
        fixed = self.literal(value)
        if fixed is not None:
            return fixed
        tensor = self.tensor(node, position)
        own = free[len(free) - tensor.tensor.rank :]
        where = [S.Zero if size == 1 else i for i, size in zip(own, tensor.shape)]
        return tensor[tuple(where)] if where else tensor.tensor.access

    # -- equations ------------------------------------------------------------------------------
    def define(self, node: Node, free: Sequence[Index], body: Expr, output: int = 0,
               part: str = "") -> Handle:
        """The equation of an output of a node, or of a ``part`` on the way to it."""
        name = node.outputs[output] if output < len(node.outputs) else node.outputs[0]
        own = plain_name(name or node.name)
        return self.net.define(self.reserve(f"{own}_{part}" if part else name), tuple(free), body)
