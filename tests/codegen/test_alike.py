"""Kernels that differ in the names of their tensors only are lowered once, and cited briefly."""

from __future__ import annotations

import pytest

import derive as dr
from codegen import lower, pipeline
from codegen.alike import FEW, cited_lines
from codegen.loops import written
from codegen.module import render
from codegen.pipeline import compile_program
from derive.program import Program


def deep(depth: int) -> Program:
    net = dr.Network(f"deep {depth}")
    h = net.input("x", "B", 4)
    for _ in range(depth):
        h = dr.dense(h, 4, dr.tanh)
    net.loss(dr.mean_squared_error(dr.dense(h, 2), net.input("t", "B", 2)))
    return dr.derive(net)


@pytest.fixture
def lowered(monkeypatch):
    """How many trees were made."""
    made = []

    def counted(*args):
        made.append(lower.lower_tasks(*args))
        return made[-1]

    monkeypatch.setattr(pipeline, "lower_tasks", counted)
    return made


def test_a_deeper_network_of_the_same_layers_needs_no_more_trees(lowered):
    compile_program(deep(4), dr.sgd())
    few = len(lowered)
    compile_program(deep(12), dr.sgd())
    assert len(lowered) - few == few


def test_a_kernel_is_about_its_own_tensors(lowered):
    """Each equation is computed by one kernel, which reads and writes that equation's tensors."""
    entry = compile_program(deep(6), dr.sgd()).entries["gradient"]
    kernels = [k for phase in entry.phases for k in phase]
    assert any(k.handed for k in kernels)
    for kernel in kernels:
        equations = [eq for _, eq in kernel.cites]
        assert written(kernel) == {eq.name for eq in equations}, kernel.name
        assert set(kernel.arguments) == {n for eq in equations for n in (eq.name, *eq.reads)}


def test_tensors_of_other_shapes_are_not_alike(lowered):
    net = dr.Network("narrowing")
    h = net.input("x", "B", 6)
    for size in (5, 4, 3):
        h = dr.dense(h, size, dr.tanh)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 3)))
    entry = compile_program(dr.derive(net), dr.sgd()).entries["forward"]
    assert not any(k.handed for phase in entry.phases for k in phase)


def test_a_tensor_read_twice_is_not_like_two():
    net = dr.Network("products")
    b, i = dr.indices("b:B i:4")
    x, y = net.input("x", b, i), net.input("y", b, i)
    u = net.define("u", (b, i), x[b, i]*y[b, i])
    v = net.define("v", (b, i), x[b, i]*x[b, i])
    w = net.parameter("w", i)
    net.loss(dr.mean(dr.sum((u[b, i] + v[b, i])*w[i], i)**2, b))
    compiled = compile_program(dr.derive(net), dr.sgd())
    text = render(compiled)
    assert all(str(eq) in text for eq in compiled.packed.equations if eq.name in ("u", "v"))
    assert not any(k.handed for p in compiled.entries["gradient"].phases for k in p)


def test_of_many_equations_that_are_alike_the_first_is_printed_and_the_numbers_of_all():
    program = deep(12)
    layers = {n: eq for n, eq in enumerate(program.equations, 1) if eq.name.startswith("h")}
    numbers = sorted(layers)
    lines = cited_lines(layers)
    assert lines[0] == f"# ({numbers[0]}) {layers[numbers[0]]}"
    assert lines[1:] == [f"#     and alike: ({numbers[1]}), ({numbers[2]}), … ({numbers[-1]})"]
    assert len(cited_lines({n: layers[n] for n in numbers[:FEW]})) == FEW
