"""Reductions and products as ONNX nodes, on values that are already in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from derive.exporting.graph import Graph, Value
from derive.nodes import Index


def reduced(op: str, value: Value, bound: Sequence[Index], graph: Graph, keep: bool = False
            ) -> Value:
    """One of ONNX's reductions over some axes; ``keep`` leaves them there with size 1."""
    numbers = [value.axes.index(i) for i in bound]
    if op == "ReduceSum":  # the only one that takes its axes as an input since operator set 13
        name = graph.node(op, value.name, graph.constant(np.array(numbers)), keepdims=int(keep))
    else:
        name = graph.node(op, value.name, axes=numbers, keepdims=int(keep))
    axes = value.axes if keep else tuple(i for i in value.axes if i not in bound)
    return Value(name, axes, value.kind)


def logsumexp(value: Value, bound: Sequence[Index], graph: Graph) -> Value:
    """Around the largest value; a row without any gives minus infinity, not NaN."""
    top = reduced("ReduceMax", value, bound, graph, keep=True)
    infinite = graph.node("IsInf", top.name)
    shift = graph.node("Where", infinite, graph.constant(0.0), top.name)
    powers = Value(graph.node("Exp", graph.node("Sub", value.name, shift)), value.axes)
    total = reduced("ReduceSum", powers, bound, graph, keep=True)
    name = graph.node("Add", graph.node("Log", total.name), shift)
    numbers = graph.constant(np.array([value.axes.index(i) for i in bound]))
    return Value(graph.node("Squeeze", name, numbers),
                 tuple(i for i in value.axes if i not in bound))


def matmul(values: Sequence[Value], bound: Sequence[Index], axes: tuple[Index, ...],
           graph: Graph) -> str | None:
    """``A[…, k] B[k, j]`` is a MatMul."""
    for first, second in (values, values[::-1]):
        if len(bound) == 1 and first.axes and first.axes[-1] == bound[0] \
                and len(second.axes) == 2 and second.axes[0] == bound[0] \
                and axes == (*first.axes[:-1], second.axes[1]):
            return graph.node("MatMul", first.name, second.name)
    return None
