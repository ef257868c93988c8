"""The order of the dims of intermediates: products as large as they can be, values the same."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from codegen.loops import Product, statements
from codegen.memory import Storage
from codegen.pipeline import compile_program
from derive.differentiate import derive
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from tests.codegen.support import wrong_kernels


def heads(tokens: int = 3, width: int = 4, context: bool = False) -> Program:
    net = dr.Network("heads")
    x = net.input("x", "B", tokens, width)
    y = dr.multi_head_attention(
        x, 2, context=net.input("c", "B", 5, width) if context else None, rotate=not context)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", tokens, width)))
    return derive(net.program())


def test_projections_to_heads_are_one_product():
    program = heads(7, 8)
    entry = compile_program(program, sgd(), ("gradient",)).entries["gradient"]
    assert [str(i.name) for i in entry.schedule.program.tensors["q1"].indices] == list("bihe")
    for phase in entry.phases:
        for kernel in phase:
            if any(n.startswith(("Wv", "_d_Wv", "Wk", "_d_Wk")) for n in kernel.tensors):
                around = [n for n in statements(kernel.body) if isinstance(n, Product)]
                assert around and all(n in kernel.body for n in around), kernel


def test_what_is_wanted_lies_as_declared():
    compiled = compile_program(heads(), sgd(), ("forward", "gradient"))
    tensors = compiled.entries["forward"].schedule.program.tensors
    assert tensors["q1"].indices == compiled.program.tensors["q1"].indices
    whole = compile_program(heads(), sgd(), ("gradient",), storage=Storage(reuse=False))
    assert whole.entries["gradient"].plan.slots["q1"].shape == \
        compiled.program.tensors["q1"].shape


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("parts, rows", [(1, 1), (3, 5)])
def test_gradients_are_the_same(context, parts, rows, tmp_path):
    program = heads(3, 4, context)
    assert not wrong_kernels(program, random_values(program, 0, {"B": rows}), tmp_path, parts,
                             {"B": rows}, storage=Storage())


def test_entry_points_with_different_layouts_compiled(tmp_path):
    """Dims of equal sizes (two heads, two tokens): kernels of one name that are not the same."""
    program = heads(2, 4)
    values = random_values(program, 0, {"B": 3})
    assert not wrong_kernels(program, values, tmp_path, 1, {"B": 3}, compiled=True,
                             storage=Storage())
    import codegen

    model = codegen.compile(program, directory=tmp_path, dtype="float64")
    for name, view in model.parameters.items():
        view[...] = values[name]
    given = {n: values[n] for n in ("x", "t")}
    want = program.evaluate(values)
    np.testing.assert_allclose(model.forward(x=given["x"])["y1"], want["y1"], rtol=1e-10)
    assert model.loss(**given) == pytest.approx(float(want["L"]), rel=1e-10)
    for name, gradient in model.gradients(**given).items():
        np.testing.assert_allclose(gradient, want[program.gradients[name]], rtol=1e-8, atol=1e-12)
