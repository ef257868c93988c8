"""Reductions over axes, softmax and the normalisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Expr, Mul, S

from derive.errors import DataError
from derive.functions import absolute
from derive.importing.builder import Builder, Value, operator, setting
from derive.importing.folding import axes_of
from derive.importing.onnx_file import Node
from derive.importing.shapes import axis_of
from derive.network import Handle
from derive.nodes import Index, LogSumExpOver, MaxOver, MinOver, ProdOver, SumOver, fresh
from derive.operations import softmax

_REDUCE: dict[str, Callable[[Expr, Sequence[Index]], Expr]] = {
    "ReduceSum": lambda x, over: SumOver(x, *over),
    "ReduceMean": lambda x, over: SumOver(x, *over) / Mul(*(i.size for i in over)),
    "ReduceMax": lambda x, over: MaxOver(x, *over),
    "ReduceMin": lambda x, over: MinOver(x, *over),
    "ReduceProd": lambda x, over: ProdOver(x, *over),
    "ReduceL1": lambda x, over: SumOver(absolute(x), *over),
    "ReduceL2": lambda x, over: sympy.sqrt(SumOver(x**2, *over)),
    "ReduceSumSquare": lambda x, over: SumOver(x**2, *over),
    "ReduceLogSumExp": lambda x, over: LogSumExpOver(x, *over),
}


@operator(*_REDUCE)
def _reduce(builder: Builder, node: Node) -> Value:
    x, rank = builder.tensor(node, 0), builder.tensor(node, 0).tensor.rank
    later = [builder.array(node, 1)] if builder.has(node, 1) else []
    axes = axes_of(node, [*later], 0)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(rank))
    over = {a % rank for a in axes}
    body = _REDUCE[node.op](x.tensor.access, [x.indices[d] for d in sorted(over)])
    if not node.attributes.get("keepdims", 1):
        return builder.define(node, [i for d, i in enumerate(x.indices) if d not in over], body)
    ones = list(builder.indices([S.One] * len(over), "pquvw", x.indices))
    free = [ones.pop(0) if d in over else i for d, i in enumerate(x.indices)]
    return builder.define(node, free, body)


@operator("Softmax", "LogSoftmax")
def _softmax(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    rank = x.tensor.rank
    axis = axis_of(node, rank, -1 if node.opset >= 13 else 1)
    if node.opset < 13 and axis != rank - 1:
        raise DataError(f"{node}: before opset 13 a softmax flattens the dims from axis {axis} on",
                        expected="the last axis", mend="convert the file to opset 13 or later")
    over = x.indices[axis]
    if node.op == "Softmax":
        return builder.define(node, x.indices, softmax(x.tensor.access, over))
    other = fresh(over, {i.name for i in x.indices})
    where = [other if i == over else i for i in x.indices]
    return builder.define(node, x.indices,
                          x.tensor.access - LogSumExpOver(x[tuple(where)], other))


@operator("BatchNormalization")
def _batch_norm(builder: Builder, node: Node) -> Value:
    """Inference: the running moments, which are states of the network."""
    x = builder.tensor(node, 0)
    if node.attributes.get("training_mode", 0):
        raise DataError(f"{node} is in training mode", expected="a file exported for inference")
    c = x.indices[1]
    gain, bias = builder.tensor(node, 1)[c], builder.tensor(node, 2)[c]
    mean, variance = (builder.tensor(node, n, "state")[c] for n in (3, 4))
    body = gain * (x.tensor.access - mean) / sympy.sqrt(
        variance + setting(node, "epsilon", 1e-5)) + bias
    return builder.define(node, x.indices, body)


@operator("LayerNormalization")
def _layer_norm(builder: Builder, node: Node) -> tuple[Value, ...]:
    x = builder.tensor(node, 0)
    over = x.indices[axis_of(node, x.tensor.rank, -1):]
    body = _standard(builder, node, x, over) * builder.element(node, 1, x.indices)
    if builder.has(node, 2):
        body += builder.element(node, 2, x.indices)
    return (builder.define(node, x.indices, body),)


@operator("InstanceNormalization")
def _instance_norm(builder: Builder, node: Node) -> Value:
    x = builder.tensor(node, 0)
    c = x.indices[1]
    body = _standard(builder, node, x, x.indices[2:]) * builder.tensor(node, 1)[c]
    return builder.define(node, x.indices, body + builder.tensor(node, 2)[c])


def _standard(builder: Builder, node: Node, x: Handle, over: Sequence[Index]) -> Expr:
    """x less its mean, divided by its deviation, over some dims."""
    rest = [i for i in x.indices if i not in over]
    count = Mul(*(i.size for i in over))
    mean = builder.define(node, rest, SumOver(x.tensor.access, *over) / count, part="mean")
    off = x.tensor.access - mean.tensor.access
    variance = builder.define(node, rest, SumOver(off**2, *over) / count, part="variance")
    return off / sympy.sqrt(variance.tensor.access + setting(node, "epsilon", 1e-5))
