"""An ONNX file as plain data: nodes with their attributes, arrays, names of inputs and outputs.

In: a path. Out: a `Graph`. The only module that knows the `onnx` package; nothing outside the
file is opened (tensors kept in other files are refused), nothing in it is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from derive.errors import DataError, MissingError


@dataclass(frozen=True)
class Node:
    """One operator of a graph. An input that is left out has the name ""."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0

    def __str__(self) -> str:
        return f"{self.op} node {self.name!r}"


@dataclass(frozen=True)
class Entry:
    """An input of a graph: its dims are numbers, or names of sizes known at run time."""

    name: str
    dims: tuple[int | str, ...]
    whole: bool


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds, in an order of computation."""

    name: str
    inputs: tuple[Entry, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    nodes: tuple[Node, ...]


def read_graph(path: str | Path) -> Graph:
    """Read an ONNX file.

    Raises:
        MissingError: the `onnx` package is not installed.
        DataError: no such file, not an ONNX file, or tensors that lie in other files.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingError(
            "reading ONNX files needs the package onnx, which is not installed",
            mend='python -m pip install "chainrule[import]"',
        ) from error
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}", expected="an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds, and onnx ValueError and others
        raise DataError(f"{str(path)!r} is no ONNX file, or it is damaged",
                        got=str(error)[:200]) from None
    graph = model.graph
    if not graph.node:
        raise DataError(f"{str(path)!r} holds no operators", expected="an ONNX model")
    arrays = {t.name: _array(t, numpy_helper, onnx) for t in graph.initializer}
    opsets = {o.domain: int(o.version) for o in model.opset_import}
    nodes = tuple(
        Node(n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}.{n.op_type}",
             n.name or (n.output[0] if n.output else n.op_type), tuple(n.input), tuple(n.output),
             {a.name: _attribute(a, numpy_helper, onnx) for a in n.attribute},
             opsets.get("", opsets.get("ai.onnx", 0)))
        for n in graph.node
    )
    inputs = tuple(_entry(i, onnx) for i in graph.input if i.name not in arrays)
    return Graph(graph.name, inputs, tuple(o.name for o in graph.output), arrays, nodes)


def _array(tensor: Any, helper: Any, onnx: Any) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise DataError(
            f"the values of {tensor.name!r} lie in another file, which is not opened",
            expected="an ONNX file that holds its weights",
            mend="onnx.save_model(model, path, save_as_external_data=False)",
        )
    try:
        return np.asarray(helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise DataError(f"the values of {tensor.name!r} are damaged",
                        got=str(error)[:200]) from None


def _attribute(attribute: Any, helper: Any, onnx: Any) -> Any:
    kinds = onnx.AttributeProto
    if attribute.type in (kinds.GRAPH, kinds.GRAPHS):
        return None  # a branch or a loop body: its operator is refused by name
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == kinds.TENSOR:
        return _array(value, helper, onnx)
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == kinds.STRINGS:
        return [v.decode() for v in value]
    return list(value) if attribute.type in (kinds.INTS, kinds.FLOATS) else value


def _entry(info: Any, onnx: Any) -> Entry:
    kind = info.type.tensor_type
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    dims = tuple(
        int(d.dim_value) if d.dim_value else d.dim_param or f"{info.name}_{n}"
        for n, d in enumerate(kind.shape.dim)
    )
    return Entry(info.name, dims, kind.elem_type not in floats)
