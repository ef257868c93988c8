"""From an ONNX file to a network of index equations: one operator at a time, in the file's order.

In: a path. Out: a `Network` without a loss, and its weights. What depends on constants only
(shapes, axes) is computed at once (`folding`); every other operator is looked up in `OPERATORS`,
and one that is not there is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from derive.errors import DataError, DeclarationError, nearest
from derive.importing import contractions, elementwise, normalisation, recurrent, shapes
from derive.importing.builder import OPERATORS, Builder, plain_name
from derive.importing.folding import fold
from derive.importing.onnx_file import Graph, Node, read_graph
from derive.network import Handle, Network

_ROOMS = (contractions, elementwise, normalisation, recurrent, shapes)  # each enters its operators


def from_onnx(
    path: str | Path, sizes: Mapping[str, int] | None = None
) -> tuple[Network, dict[str, np.ndarray]]:
    """An ONNX file as a network of index equations, with its weights.

    Args:
        path: the file.
        sizes: numbers for dims that the file leaves open, by the file's name for them; the others
            stay sizes known at run time (a convolution needs numbers for its spatial dims).

    Returns:
        The network, to which a loss can be added, and a float64 (or int64) array for each of its
        parameters, states and constants by tensor name. Inputs and outputs have the file's names,
        with an underscore for whatever an identifier cannot hold. Weights are parameters, the
        running moments of batch normalisation are states, arrays written into the graph itself
        are constants. The network is the one for inference: dropout is the identity.

    Raises:
        MissingError: the package `onnx` is not installed.
        DataError: the file is damaged, or an operator or a setting is not supported (the node is
            named).
    """
    graph = read_graph(path)
    builder = Builder(graph.name or Path(path).stem)
    known = dict(sizes or {})
    _declare_inputs(builder, graph, known)
    for name, array in graph.arrays.items():
        builder.keep(name, array, trained=array.dtype.kind == "f")
    for node in graph.nodes:
        _add(builder, node)
    for name in graph.outputs:
        _expose(builder, name)
    return builder.net, builder.weights


def _declare_inputs(builder: Builder, graph: Graph, sizes: dict[str, int]) -> None:
    names = {d for entry in graph.inputs for d in entry.dims if isinstance(d, str)}
    for name in sizes:
        if name not in names:
            guess = nearest(name, names)
            raise DataError(f"the file has no open size {name!r}",
                            expected="one of " + ", ".join(sorted(names)) if names else "none",
                            mend=f"did you mean {guess!r}?" if guess else None)
    for entry in graph.inputs:
        dims = [sizes.get(d, plain_name(d)) if isinstance(d, str) else d for d in entry.dims]
        kind = int if entry.whole else float
        builder.values[entry.name] = builder.net.input(
            builder.reserve(entry.name), *dims, dtype=kind)


def _add(builder: Builder, node: Node) -> None:
    constant = fold(builder, node)
    if constant is not None:
        for name, array in zip(node.outputs, constant):
            builder.keep(name, array, trained=id(array) in builder.trained)
        return
    if node.op not in OPERATORS:
        guess = nearest(node.op, OPERATORS)
        raise DataError(
            f"the ONNX operator {node.op!r} is not known (node {node.name!r})",
            expected="one of " + ", ".join(sorted(OPERATORS)),
            mend=f"the nearest known one is {guess!r}" if guess else None,
        )
    try:
        result = OPERATORS[node.op](builder, node)
    except DeclarationError as error:
        raise DataError(f"{node} cannot be written as an equation: {error.what}",
                        expected=error.expected, got=error.got, mend=error.mend) from error
    results = result if isinstance(result, tuple) else (result,)
    for name, value in zip(node.outputs, results):
        if name and value is not None:
            builder.values[name] = value
    missing = [n for n in node.outputs[len(results):] if n]
    if missing:
        raise DataError(f"{node} has an output that is not supported", got=missing[0])


def _expose(builder: Builder, name: str) -> None:
    """An output of the file under its own name, also where it is another tensor's alias."""
    value = builder.values.get(name)
    if value is None:
        raise DataError(f"the output {name!r} of the graph is not computed by any node")
    if not isinstance(value, Handle):
        value = builder.declared(value, f"{name}_values")
    own = plain_name(name)
    if value.name != own and own not in builder.net._handles:
        builder.net.define(own, value.indices, value.tensor.access)
