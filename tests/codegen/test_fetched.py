"""Products whose factors are no matrices in memory: convolutions and the weights of a recurrence on
a GPU, as products in tiles that compute where their elements lie."""

from __future__ import annotations

import re

import numpy as np
import pytest

import derive as dr
from codegen.launches import Launch, split
from codegen.loops import Matrix, Product, Store, Window, statements
from codegen.module import render_cuda
from codegen.pipeline import Compiled, compile_program
from codegen.races import conflicts
from codegen.shared_memory import shared_conflicts
from derive.differentiate import derive
from derive.points import default_sizes, random_values
from derive.program import Program
from tests.codegen.cuda_support import emitted, wrong_launches
from tests.codegen.support import sample


def convolution(channels: int, filters: int, size: int, kernel: int, stride: int = 1,
                padding: int = 0, dilation: int = 1) -> Program:
    """A convolution of what a bias has been added to, so that there is an input gradient."""
    net = dr.Network("convolution")
    x = net.input("x", "B", channels, size, size)
    b, c, i, j = x.indices
    shift = net.parameter("shift", c)
    h = net.define("h", (b, c, i, j), x[b, c, i, j] + shift[c])
    y = dr.conv2d(h, filters, kernel, stride=stride, padding=padding, dilation=dilation)
    net.loss(dr.mean(dr.tanh(y[y.indices]), *y.indices))
    return derive(net.program())


def recurrence(steps: int = 5, width: int = 6) -> Program:
    net = dr.Network("recurrence")
    h = dr.elman(net.input("x", "B", steps, 3), width)
    b, s, i = h.indices
    net.loss(dr.mean(h[b, s, i]**2, b, s, i))
    return derive(net.program())


def compiled(program: Program) -> Compiled:
    return compile_program(program, dr.sgd(), ("gradient",), device=True)


def launches(program: Program) -> list[Launch]:
    made = compiled(program)
    shapes = {n: t.shape for n, t in made.packed.tensors.items()}
    return [launch for kernels in made.entries["gradient"].phases for kernel in kernels
            for launch in split(kernel, shapes)]


def target(launch: Launch) -> str:
    return launch.product.places[0].name


def test_forward_and_both_gradients_of_a_convolution_fetch_windows():
    """No windows are stored, and what stands behind a product is done in registers."""
    found = launches(convolution(4, 5, 6, 3, padding=1))
    made = {target(one): one for one in found if one.windows}
    assert len(made) == 3
    forward = next(one for name, one in made.items() if name.startswith("y"))
    assert isinstance(forward.product.left, Matrix)  # the kernel: its rows are loaded by fours
    assert isinstance(forward.product.right, Window)
    stores = {n.target.name for n in statements(forward.behind)
              if isinstance(n, Store)}
    assert len(stores) > 1  # the bias, and tanh of it
    assert not any(name.startswith("_pa") for one in found for name in one.tensors)
    assert all(one.total is not None for name, one in made.items() if name.startswith("_d_K"))


def test_a_step_of_the_input_gradient_that_is_mostly_zeros_is_not_fetched():
    """With a stride of 2, three of four windows of an input's place hold nothing."""
    names = {target(one) for one in launches(convolution(8, 32, 15, 3, stride=2)) if one.windows}
    assert {n[:3] for n in names} == {"y1", "_d_"} and len(names) == 2


@pytest.mark.parametrize("channels, filters, size, kernel, options", [
    (1, 1, 3, 1, {}), (1, 7, 5, 3, {}), (5, 1, 5, 3, {"padding": 1}),
    (3, 5, 7, 3, {"stride": 2, "padding": 1}), (2, 5, 7, 3, {"dilation": 2}),
    (5, 4, 4, 2, {"stride": 3})])
@pytest.mark.parametrize("rows", [1, 3])
def test_convolutions_agree_with_the_reference(channels, filters, size, kernel, options, rows,
                                               tmp_path):
    program = convolution(channels, filters, size, kernel, **options)
    sizes = dict.fromkeys(default_sizes(program), rows)
    assert not wrong_launches(program, random_values(program, 3, sizes), tmp_path, sizes)


@pytest.mark.parametrize("make", [lambda: convolution(2, 3, 5, 3), lambda: recurrence(3, 4)])
def test_an_empty_batch_has_no_gradient_and_each_launch_the_same_bits(make, tmp_path):
    """`codegen.Model` refuses a loss of no rows, as on the CPU; the module by itself has NaN."""
    program = make()
    kernels = emitted(program, tmp_path)
    model, values = kernels.Model(), sample(program, 3)
    model.initialize(1)
    with np.errstate(all="ignore"):
        empty = {n: v[:0] for n, v in values.items()}
        assert np.isnan(model.loss(**empty))
        assert all((g == 0).all() for g in model.gradients(**empty).values())
    first, again = ({n: g.copy() for n, g in model.gradients(**values).items()} for _ in range(2))
    assert all((first[n] == again[n]).all() and first[n].any() for n in first)


def test_the_gradient_of_a_recurrences_weights_is_one_product():
    """Its sum over steps and rows, guarded where no step is before, may be cut into parts."""
    (one,) = (one for one in launches(recurrence()) if one.windows)
    assert target(one).startswith("_d_V") and isinstance(one.body[0], Product)
    assert one.total is not None
    assert conflicts(one) == ()


@pytest.mark.parametrize("steps, width, rows", [(1, 4, 2), (5, 7, 3)])
def test_recurrences_agree_with_the_reference(steps, width, rows, tmp_path):
    program = recurrence(steps, width)
    sizes = dict.fromkeys(default_sizes(program), rows)
    assert not wrong_launches(program, random_values(program, 3, sizes), tmp_path, sizes)


def test_what_a_rounding_of_16_bits_stores_is_scaled_back_when_fetched():
    text = render_cuda(compile_program(convolution(3, 5, 6, 3), dr.sgd(), device=True,
                                       half="float16"))
    fetched = re.search(r"def one_factor_a_k\d+_d_K1.*?return (.*?)\n", text, re.DOTALL)
    assert fetched is not None and "*down" in fetched[1]


def test_a_barrier_left_out_of_its_tiles_is_seen():
    program = convolution(4, 5, 6, 3)
    lines = render_cuda(compile_program(program, dr.sgd(), device=True)).splitlines()
    assert shared_conflicts("\n".join(lines), rows=2, entries=("loss",)) == ()
    start = next(n for n, line in enumerate(lines) if line.startswith("def _windows_of_4"))
    end = next(n for n, line in enumerate(lines) if line.startswith("def windowed"))
    barriers = [n for n in range(start, end) if lines[n].strip() == "cuda.syncthreads()"]
    assert len(barriers) == 4
    for at in barriers:
        assert shared_conflicts("\n".join([*lines[:at], *lines[at + 1:]]), rows=2,
                                entries=("loss",)), lines[at - 1]
