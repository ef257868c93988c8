"""Sums over windows, each way that they can be computed: every tensor against the reference.

Sizes of 1, odd and prime; every stride, padding and dilation; guards around results, poisoned work
space (`wrong_kernels`), NaN and infinity; and the compiled nests against the definition.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import derive as dr
from codegen.memory import Storage
from codegen.module import load, render
from codegen.pipeline import compile_program, show
from codegen.rates import WAYS
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.support import interpreted, with_fixed_parameters, wrong_kernels
from tests.derive.test_conv import closed

FORCED = [way for way in WAYS if way != "auto"]


def convolution(channels: int, size: tuple[int, ...], out: int, kernel: Any, **settings: Any
                ) -> Program:
    """A convolution and the square of its output: with gradients of its input and its kernel."""
    net = dr.Network("convolution")
    x = net.parameter("X", "B", channels, *size)
    return closed(dr.convolution(x, out, kernel, **settings)).program()


def derived(program: Program) -> Program:
    return dr.derive(with_fixed_parameters(program), list(dr.derive(program).gradients))


# channels, size, channels out, kernel, settings
CASES = {
    "3x3": (2, (5, 7), 3, 3, {"padding": 1}),
    "sizes of 1": (1, (1, 1), 1, 1, {}),
    "one channel, one column": (1, (3, 1), 5, (3, 1), {"padding": (1, 0)}),
    "prime": (5, (7, 11), 13, 3, {"padding": 1}),
    "without padding": (3, (5, 6), 2, 3, {}),
    "more padding than kernel": (2, (3, 4), 3, 2, {"padding": 2}),
    "stride": (2, (7, 6), 3, 3, {"stride": 2, "padding": 1}),
    "stride in one dim": (2, (7, 5), 3, 3, {"stride": (2, 1), "padding": 1}),
    "dilation": (2, (9, 8), 3, 3, {"padding": 2, "dilation": 2}),
    "unequal kernel": (2, (5, 6), 3, (3, 2), {"padding": (1, 0), "dilation": (1, 3)}),
    "one dim": (3, (9,), 4, 5, {"padding": 2}),
    "three dims": (2, (3, 4, 3), 3, 2, {"padding": 1}),
    "groups": (4, (5, 5), 6, 3, {"padding": 1, "groups": 2}),
    "wide": (2, (3, 37), 2, 3, {"padding": 1}),
}


@pytest.mark.parametrize("way", FORCED)
@pytest.mark.parametrize("name", CASES)
def test_every_way_gives_every_tensor(name: str, way: str, tmp_path):
    channels, size, out, kernel, settings = CASES[name]
    program = derived(convolution(channels, size, out, kernel, **settings))
    for rows, parts, storage in ((3, 2, Storage(reuse=False, windows=way)),
                                 (1, 3, Storage(block=1, shares=True, windows=way))):
        sizes = {"B": rows}
        values = random_values(program, 1, sizes)
        assert not wrong_kernels(program, values, tmp_path, parts, sizes, storage=storage)


def test_a_way_is_what_is_asked_for():
    program = derived(convolution(2, (5, 7), 3, 3, padding=1))

    def ways(asked: Any) -> set[str]:
        made = compile_program(program, sgd(), ("gradient",), storage=Storage(windows=asked))
        return {word for word in ("_patches", "_partial", "_border")
                if any(word in name for name in made.packed.tensors)}

    assert ways("direct") == {"_border"} and "_border" not in ways("product")
    y = next(eq.name for eq in program.equations if eq.name.startswith("y"))
    assert ways(((y, "direct"),)) >= {"_border"}
    assert "_border" in show(program, "packed") or "_patches" in show(program, "packed")


def test_all_settings_in_one_dim_directly(tmp_path):
    """As in the tests of derivation, every (kernel, stride, padding, dilation), remainders too."""
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3), (1, 2), (0, 2), (1, 2)):
        program = derived(convolution(2, (7,), 3, kernel, stride=stride, padding=padding,
                                      dilation=dilation))
        values = random_values(program, 2, {"B": 2})
        assert not wrong_kernels(program, values, tmp_path, 2, {"B": 2},
                                 storage=Storage(windows="direct", reuse=False))


def compiled(program: Program, folder: Any, way: str, dtype: str = "float32") -> Any:
    made = compile_program(program, sgd(), ("gradient",), storage=Storage(windows=way))
    return load(render(made, dtype, False), folder)


def gradients(kernels: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = kernels.Model()
    model.w = np.full(100_000, np.nan, kernels.F)
    for name, view in model.parameters.items():
        view[...] = values[name]
    given = {n: np.ascontiguousarray(v, kernels.F) for n, v in values.items()
             if n not in model.parameters}
    return {n: np.array(v) for n, v in model.gradients(**given).items()}


@pytest.mark.parametrize("way", [w for w in FORCED if w != "product"])
def test_compiled_in_single_precision_within_its_rounding(way: str, tmp_path):
    """Vectors that are whole and cut, rows that leave a rest; against double precision as plain
    Python. The bound is that of all kernels here: 1e-5 of the largest element, for sums of up to
    some hundred products."""
    net = dr.Network("two")
    h = net.input("x", "B", 3, 6, 19)
    h = dr.conv2d(dr.tanh(dr.conv2d(h, 13, 3, padding=1)), 5, 3, padding=1)
    net.loss(dr.mean(h.tensor.access**2, *h.indices))
    program = dr.derive(net)
    values = random_values(program, 4, {"B": 3})
    got = gradients(compiled(program, tmp_path, way), values)
    with interpreted():
        want = gradients(compiled(program, tmp_path, "product", "float64"), values)
    for name, gradient in got.items():
        assert np.abs(gradient - want[name]).max() <= 1e-5*np.abs(want[name]).max(), name
    again = gradients(compiled(program, tmp_path, way), values)
    assert all((got[n] == again[n]).all() for n in got)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("way", FORCED)
def test_what_is_not_finite_stays_so(way: str, bad: float, tmp_path):
    """A border is of zeros, and 0 times infinity is NaN: more may be NaN than by the guards."""
    net = dr.Network("n")
    y = dr.convolution(net.input("x", "B", 4, 5, 7), 5, 3, padding=1)
    net.loss(dr.sum(y.tensor.access**2, *y.indices))
    program = dr.derive(net)
    values = random_values(program, 1, {"B": 2})
    values["x"][1, 0, 4, 6] = bad
    with interpreted(), np.errstate(invalid="ignore"):
        got = gradients(compiled(program, tmp_path, way, "float64"), values)
        want = evaluate(program, values)
    for name, gradient in got.items():
        assert not np.isfinite(gradient[~np.isfinite(want[program.gradients[name]])]).any()
        assert not np.isfinite(gradient).all()


def test_shares_of_a_kernels_gradient_are_added_up_where_they_are_copied_to():
    program = derived(convolution(16, (8, 8), 16, 3, padding=1))
    made = compile_program(program, sgd(), ("gradient",), storage=Storage(windows="direct"))
    entry = made.entries["gradient"]
    assert "_share__sum_d_K1" in entry.program["K1"].reads
    assert "_sum_d_K1" not in entry.program.tensors
    assert {t.group.equations[0].name for t in entry.schedule.phases[-1].tasks} == {
        "L", "_d_K1", "_d_c1"}
