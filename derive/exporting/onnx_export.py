"""From a program to an ONNX file: one equation after the other, weights inside.

In: a program and values. Out: a file that onnxruntime (or anything else that reads ONNX) runs to
the same outputs. Whatever an equation says is said by general operators (`expressions`), so there
is no list of layers; what ONNX has no operator for is refused with the equation. A recurrence
becomes a Loop that carries the last values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from sympy import Symbol

from derive.data import check_values
from derive.errors import DataError, DeclarationError
from derive.exporting.expressions import Scope
from derive.exporting.graph import Graph, Value, refusal
from derive.files import write_atomically
from derive.inference import inference
from derive.nodes import Index, accesses
from derive.program import Equation, Group, Program, as_program
from derive.randomness import uniform

OPSET = 17


def to_onnx(network: Program | Any, values: Mapping[str, Any], path: str | Path,
            outputs: str | Iterable[str] | None = None, dtype: str = "float32") -> Path:
    """Write the network for inference as an ONNX file, with its weights.

    Args:
        network: a program or a network, derived or not.
        values: an array for each parameter, state and constant that the outputs need; others are
            passed over.
        path: the file; inputs and outputs have the tensors' names, run-time sizes keep theirs.
        outputs: names of tensors; by default those that the loss reads and that need no label.
        dtype: "float32" or "float64", of everything but whole numbers (which are int64).

    Raises:
        DerivationError: an equation that ONNX has no operators for (it is shown).
        DeclarationError: an unknown output, or a network that is not one for inference.
        DataError: a value is missing or does not fit.
        MissingError: the package `onnx` is not installed.
    """
    if dtype not in ("float32", "float64"):
        raise DeclarationError(f"unknown dtype {dtype!r}", expected="float32 or float64")
    program, names = inference(as_program(network), outputs)
    _refuse_random(program)
    graph = Graph(program, dtype, _sizes(program))
    arrays = _arrays(program, values)
    for group in program.groups:
        if group.recurrent:
            _loop(graph, group)
        else:
            _equation(graph, group.equations[0])
    model = _model(graph, arrays, names)
    path = Path(path)
    write_atomically(path, model.SerializeToString())
    return path


def _refuse_random(program: Program) -> None:
    for eq in program.equations:
        if eq.body.atoms(uniform):
            raise refusal(eq, "random numbers; build the network with training=False")


def _sizes(program: Program) -> dict[Symbol, tuple[str, int]]:
    found: dict[Symbol, tuple[str, int]] = {}
    for tensor in program.inputs:
        for axis, size in enumerate(tensor.shape):
            if size.is_Symbol:
                found.setdefault(size, (tensor.name, axis))
    return found


def _arrays(program: Program, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    kept = {t.name: t for t in program.given if t.role != "input"}
    missing = [n for n in kept if n not in values]
    if missing:
        raise DataError(f"no value is given for {', '.join(missing[:5])}",
                        expected="an array for each parameter, state and constant of the network",
                        got=", ".join(list(values)[:8]) or "nothing")
    sizes = [s for t in kept.values() for s in t.shape if not s.is_Integer]
    if sizes:
        raise DataError(f"a weight has the size {sizes[0]}, known at run time only")
    own = Program(program.name, kept, ())
    return check_values(own, {n: values[n] for n in kept})


def _equation(graph: Graph, eq: Equation, name: str | None = None) -> None:
    """The nodes of an equation; the last has the target's name."""
    value = _whole(graph, eq)
    graph.node("Identity", value, output=name or eq.name)


def _whole(graph: Graph, eq: Equation, without: Index | None = None) -> str:
    """The array of an equation over all of its indices (but the one that a loop runs over)."""
    scope = Scope(graph, eq, eq.indices)
    indices = tuple(i for i in eq.indices if i != without)
    value = graph.cast(scope.value(eq.body), "float")
    return graph.full(value, indices)


# -- recurrences ----------------------------------------------------------------------------------
def _lags(group: Group) -> dict[str, set[int]]:
    """For each target the shifts at which the equations of its recurrence read it."""
    found: dict[str, set[int]] = {eq.name: set() for eq in group.equations}
    for eq in group.equations:
        t = eq.indices[group.axis[eq.name]]
        for access in accesses(eq.body):
            if access.name in found:
                lag = sympy.expand(access.where[group.axis[access.name]] - t)
                if not lag.is_Integer:
                    raise refusal(eq, f"the recurrence {access}")
                found[access.name].add(int(lag))
    return found


def _loop(graph: Graph, group: Group) -> None:
    """A Loop over the steps: values at earlier steps are carried, each step's are stacked."""
    helper, lags = graph.onnx.helper, _lags(group)
    reach = {n: max((abs(lag) for lag in found), default=0) for n, found in lags.items()}
    first = group.equations[0]
    time = first.indices[group.axis[first.name]]
    length = graph.size(time.size)
    carried = [(eq, back) for eq in group.equations for back in range(1, reach[eq.name] + 1)]
    inputs = [length, ""]  # no condition but the number of steps
    for eq, _ in carried:
        zero = helper.make_tensor("zero", graph.float_type, [1], [0.0])
        inputs.append(graph.node("ConstantOfShape", graph.shape(_rest(eq, group)), value=zero))
    body, stacked = _body(graph, group, carried, length, time)
    names = [graph.new_name("carried") for _ in carried]
    news = {eq.name: graph.new_name("steps") for eq in stacked}
    graph.nodes.append(helper.make_node("Loop", inputs, [*names, *news.values()], body=body))
    for eq in stacked:
        name = news[eq.name]
        if group.step < 0:
            first_to_last = [np.array([n]) for n in (-1, -(2**62), 0, -1)]  # from, to, axis, step
            name = graph.node("Slice", name, *map(graph.constant, first_to_last))
        axis, rank = group.axis[eq.name], len(eq.indices)
        order = [n + 1 for n in range(rank - 1)]
        order.insert(axis, 0)
        graph.node("Transpose", name, output=eq.name, perm=order)


def _rest(eq: Equation, group: Group) -> tuple[Index, ...]:
    axis = group.axis[eq.name]
    return eq.indices[:axis] + eq.indices[axis + 1 :]


def _body(graph: Graph, group: Group, carried: list[tuple[Equation, int]], length: str,
          time: Index) -> tuple[Any, tuple[Equation, ...]]:
    """The graph of one step, and the equations whose values it stacks."""
    helper, kinds = graph.onnx.helper, graph.onnx.TensorProto
    step, go = graph.new_name("step"), graph.new_name("go")
    names = {(eq.name, back): graph.new_name("last") for eq, back in carried}
    with graph.body() as nodes:
        now = step
        if group.step < 0:
            now = graph.node("Sub", graph.node("Sub", length, graph.constant(1)), step)
        for eq, back in carried:
            graph.locals[eq.name, -back * group.step] = Value(
                names[eq.name, back], _rest(eq, group))
        for eq in group.equations:
            t = eq.indices[group.axis[eq.name]]
            graph.loop = (t, Value(now, (), "int"), dict(group.axis))
            here = _whole(graph, eq, without=t)
            graph.locals[eq.name, 0] = Value(here, _rest(eq, group))
        outputs = [graph.node("Identity", go, output=graph.new_name("on"))]
        for eq, back in carried:
            source = names[eq.name, back - 1] if back > 1 else graph.locals[eq.name, 0].name
            outputs.append(graph.node("Identity", source, output=graph.new_name("next")))
        outputs += [graph.node("Identity", graph.locals[eq.name, 0].name,
                               output=graph.new_name("now")) for eq in group.equations]
        graph.loop = None
        graph.locals.clear()
        entries = [helper.make_tensor_value_info(step, kinds.INT64, []),
                   helper.make_tensor_value_info(go, kinds.BOOL, [])]
        entries += [_info(graph, names[eq.name, back], _rest(eq, group)) for eq, back in carried]
        exits = [helper.make_tensor_value_info(outputs[0], kinds.BOOL, [])]
        every = [*(eq for eq, _ in carried), *group.equations]
        exits += [_info(graph, n, _rest(eq, group)) for eq, n in zip(every, outputs[1:])]
        return helper.make_graph(list(nodes), "step", entries, exits), group.equations


def _read(nodes: Iterable[Any]) -> set[str]:
    """The names that nodes read, those in the bodies of loops included."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            found |= _read(attribute.g.node)
    return found


# -- the file -------------------------------------------------------------------------------------
def _info(graph: Graph, name: str, indices: Iterable[Index], whole: bool = False) -> Any:
    """What the file says of an array: its kind of number and its sizes, by name where open."""
    kind = graph.onnx.TensorProto.INT64 if whole else graph.float_type
    shape = [int(i.size) if i.size.is_Integer else str(i.size) for i in indices]
    return graph.onnx.helper.make_tensor_value_info(name, kind, shape)


def _model(graph: Graph, arrays: Mapping[str, np.ndarray], outputs: Iterable[str]) -> Any:
    onnx, program = graph.onnx, graph.program
    helper = onnx.helper

    def info(name: str) -> Any:
        tensor = program.tensors[name]
        return _info(graph, name, tensor.indices, tensor.dtype == "int")

    kept = {n: a if a.dtype.kind == "i" else a.astype(graph.dtype) for n, a in arrays.items()}
    used = _read(graph.nodes)
    kept |= {n: a for n, a in graph.constants.items() if n in used}
    weights = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), n)
               for n, a in kept.items()]
    needed = helper.make_graph(
        graph.nodes, program.name, [info(t.name) for t in program.inputs],
        [info(n) for n in outputs], weights)
    model = helper.make_model(needed, producer_name="chainrule",
                              opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
