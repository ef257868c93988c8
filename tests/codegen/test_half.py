"""Intermediates in 16 bits, thread by thread, against the kernels of single precision."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.memory import HALF
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from derive.bounds import gradient_magnitudes
from derive.differentiate import derive
from derive.errors import DeclarationError
from derive.loss_scale import INTERVAL, loss_scale
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.cuda_support import stepped
from tests.codegen.support import sample

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of a rounding
BOUND = 1  # units of the largest magnitude: what a tensor would be if nothing cancelled


def deep(factor: float = 1.0) -> Program:
    net = dr.Network("three layers")
    x, t = net.input("x", "B", 12), net.input("t", "B", dtype=int)
    h = dr.dense(dr.dense(x, 16, dr.tanh), 8, dr.gelu)
    net.loss(factor*dr.cross_entropy(dr.dense(h, 3), t))
    return derive(net.program())


def attended() -> Program:
    net = dr.Network("one attention")
    x = net.input("x", "B", 4, 8)
    y = dr.layer_norm(dr.multi_head_attention(x, 2))
    b, i, d = y.indices
    net.loss(dr.mean(dr.sin(y[b, i, d]), b, i, d))
    return derive(net.program())


def rows(program: Program, count: int = 10) -> dict[str, np.ndarray]:
    return {n: v.astype(np.float32) if v.dtype == float else v
            for n, v in sample(program, count).items()}


def module(program: Program, folder: Path, half: str | None) -> ModuleType:
    compiled = compile_program(program, dr.adam(lr=0.01), device=True, half=half)
    return stepped(render_cuda(compiled, "float32"), folder, f"stepped_{half}_{program.hash}")


@pytest.mark.parametrize("storage", UNIT)
@pytest.mark.parametrize("network", [deep, attended])
def test_losses_and_gradients_are_those_of_single_precision(network, storage, tmp_path):
    program = network()
    values = rows(program)
    found = []
    for half in (None, storage):
        model = module(program, tmp_path, half).Model()
        model.initialize(1)
        found.append({"loss": np.array(model.loss(**values)),
                      **{n: g.copy() for n, g in model.gradients(**values).items()}})
    point = {n: v.astype(np.float64) for n, v in model.parameters.items()}
    size = gradient_magnitudes(program, {**values, **point}) | {"loss": found[0]["loss"]}
    for name, want in found[0].items():
        off = np.abs(found[1][name] - want).max() / np.abs(size[name]).max()
        assert off < BOUND*UNIT[storage], (name, off/UNIT[storage])
    assert any((found[0][n] != found[1][n]).any() for n in found[0])  # they are rounded


def test_what_is_stored_in_16_bits():
    """Not parameters, nor their gradients, nor a number of a row, nor what is wanted."""
    plan = compile_program(deep(), dr.sgd(), device=True, half="float16").entries["gradient"].plan
    small = {n for n, slot in plan.slots.items() if slot.buffer == HALF}
    assert {"z1", "h1", "_d_h1", "_d_z1"} <= small
    assert all(len(plan.slots[n].shape) > 1 for n in small)
    assert not small & {"L", "_d_W1", "W1", "x", "t"}
    assert plan.halves != 0


@pytest.mark.parametrize("storage", UNIT)
def test_an_epoch_learns_as_in_single_precision(storage, tmp_path):
    program = deep()
    values, totals = rows(program, 12), []
    for half in (None, storage):
        model = module(program, tmp_path, half).Model()
        model.initialize(1)
        totals.append([model.epoch(values, 4, np.arange(12)) for _ in range(3)])
    np.testing.assert_allclose(totals[1], totals[0], rtol=4*UNIT[storage])
    assert model.steps == 9 and model.skipped == 0


def test_small_adjoints_survive_by_the_scale(tmp_path):
    """A loss of 1e-6 has adjoints that float16 rounds to 0 where they are stored as they are."""
    program = deep(1e-6)
    values = rows(program)
    exact = module(program, tmp_path, None).Model()
    exact.initialize(1)
    want = exact.gradients(**values)["W1"].copy()
    model = module(program, tmp_path, "float16").Model()
    model.initialize(1)

    def off() -> float:
        return float(np.abs(model.gradients(**values)["W1"] - want).max() / np.abs(want).max())

    assert off() < 4*UNIT["float16"]
    model.states["loss_scale"][...] = 1
    assert off() > 0.05


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(tmp_path):
    program = deep()
    values = rows(program, 4)
    model = module(program, tmp_path, "float16").Model()
    model.initialize(1)
    before = model.p.copy()
    model.states["loss_scale"][...] = 2.0**30
    model.states["good_steps"][...] = 5
    model.step(**values)
    np.testing.assert_array_equal(model.p, before)
    assert (model.skipped, model.steps) == (1, 0)
    assert float(model.states["loss_scale"]) == 2.0**29
    assert float(model.states["good_steps"]) == 0
    model.epoch(values, 1, np.arange(4))
    assert model.skipped == 4 and model.steps == 0
    for _ in range(4):
        model.epoch(values, 1, np.arange(4))
    assert model.steps > 0 and np.isfinite(model.p).all() and (model.p != before).any()


def test_the_first_step_after_one_left_out_is_the_first_of_the_rule(tmp_path):
    """Adam's corrections count steps that were made."""
    program = deep()
    values = rows(program, 1)
    found = []
    for start in (2.0**15, 2.0**34):
        model = module(program, tmp_path, "float16").Model()
        model.initialize(1)
        model.states["loss_scale"][...] = start
        while model.steps < 1:
            model.epoch(values, 1, np.arange(1))
        found.append(model.p.copy())
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


def test_a_gradient_that_is_never_finite_ends_the_run(tmp_path):
    """The loss is finite and its slope is not: no scale mends that."""
    net = dr.Network("root")
    b, i = dr.indices("b:B i:4")
    x, w = net.input("x", b, i), net.parameter("W", i, initial="zeros")
    y = net.define("y", (b, i), x[b, i]*w[i])
    net.loss(dr.mean(dr.sqrt(y[b, i]), b, i))
    program = derive(net.program())
    kernels = module(program, tmp_path, "float16")
    model = kernels.Model()
    model.initialize(0)
    model.states["loss_scale"][...] = 2.0**-19
    with pytest.raises(kernels.NotFinite):
        model.epoch(rows(program, 6), 1, np.arange(6))
    np.testing.assert_array_equal(model.p, 0)


def test_the_equations_of_the_scale():
    program = loss_scale("float16")

    def after(scale: float, good: int, bad: int) -> tuple[float, float]:
        found = evaluate(program, {"loss_scale": np.array(scale), "good_steps": np.array(good),
                                   "bad": np.array(bad)})
        return float(found["loss_scale_next"]), float(found["good_steps_next"])

    assert after(1024, 7, 0) == (1024, 8)
    assert after(1024, INTERVAL - 1, 0) == (2048, 0)
    assert after(2**24, INTERVAL - 1, 0) == (2**24, 0)
    assert after(1024, 7, 3) == (512, 0)


@pytest.mark.parametrize("storage", UNIT)
def test_rounding_is_to_the_nearest_even(storage, tmp_path):
    """float16 as NumPy's; bfloat16 as the upper half of single precision."""
    values = [1, 1 + 2**-11, 1 + 3*2**-11, 65519, 65520, 6e-8, 2.9e-8, -0.0, np.inf, np.nan,
              1 + 2**-8, 1 + 3*2**-8, 3.39e38]
    want = np.array([1, 1, 1, 65536, 65536, 6.0070306e-08, 2.8987419e-08, -0.0, np.inf, np.nan,
                     1, 1 + 2**-6, 3.3895314e38], np.float32)
    kernels = module(deep(), tmp_path, storage)
    held = kernels.cuda.to_device(np.zeros(1, np.uint16))
    with np.errstate(over="ignore"):
        if storage == "float16":
            want = np.array(values, np.float32).astype(np.float16).astype(np.float32)
        for value, right in zip(values, want, strict=True):
            kernels.put(held, 0, np.float32(value))
            got = np.float32(kernels.take(held, 0))
            assert got == pytest.approx(right, rel=1e-7, nan_ok=True), value
            assert np.signbit(got) == np.signbit(right)


def test_the_cpu_has_no_such_storage():
    with pytest.raises(DeclarationError, match="bfloat16"):
        codegen.compile(deep(), dtype="bfloat16")
    with pytest.raises(DeclarationError, match="float16"):
        codegen.emit(deep(), "never.py", dtype="float16")


def test_a_name_that_is_taken():
    net = dr.Network("taken")
    x = net.input("x", "B", 2)
    w = net.parameter("loss_scale", 2)
    b, i = x.indices
    net.loss(dr.mean(x[b, i]*w[i], b, i))
    with pytest.raises(DeclarationError, match="'loss_scale' is taken"):
        compile_program(derive(net.program()), dr.sgd(), device=True, half="float16")
