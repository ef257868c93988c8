"""Winograd's F(2×2, 3×3): the equations that it makes of a sum over windows, their kernels, what it
is not for, and when it is chosen. (Every tensor under it as under the other ways: test_windows.py.)
"""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy

import derive as dr
from codegen import pack as packing_module
from codegen import winograd
from codegen.memory import Storage
from codegen.module import load, render
from codegen.pack import Packing, pack
from codegen.pipeline import compile_program, show
from codegen.rates import RATES, Rates
from codegen.taps import single_taps
from derive.nodes import Index
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.support import interpreted, wrong_kernels
from tests.codegen.test_windows import convolution, derived

TILES = Storage(windows="winograd")
ROWS = 64  # for which ways are compared, where their number is known at run time only


def ways(program: Program, rates: Rates = RATES) -> tuple[dict[str, Any], dict[str, str]]:
    """The ways that there are for each sum, and those chosen."""
    packing = Packing(single_taps(program), rates=rates)
    packing.run()
    return packing.possible, packing.chosen


@pytest.mark.parametrize("matrix", [winograd.INPUT, winograd.KERNEL, winograd.OUTPUT])
def test_an_entry_is_the_matrixs_at_every_index(matrix: Any):
    row, column = Index("m", len(matrix)), Index("i", len(matrix[0]))
    entry = winograd.entry(matrix, row, column)
    for m, numbers in enumerate(matrix):
        for i, number in enumerate(numbers):
            assert entry.xreplace({row: sympy.Integer(m), column: sympy.Integer(i)}) == number


def test_the_matrices_give_the_sum_of_three_products_for_two_neighbours():
    """A (G g · B d) = (d₀g₀ + d₁g₁ + d₂g₂, d₁g₀ + d₂g₁ + d₃g₂), as polynomials."""
    d, g = sympy.symbols("d:4"), sympy.symbols("g:3")
    a, b, k = map(sympy.Matrix, (winograd.OUTPUT, winograd.INPUT, winograd.KERNEL))
    found = a*(k*sympy.Matrix(g)).multiply_elementwise(b*sympy.Matrix(d))
    want = [sum(d[p + u]*g[u] for u in range(3)) for p in range(2)]
    assert all(sympy.expand(x - y) == 0 for x, y in zip(found, want, strict=True))


@pytest.mark.parametrize("padding", [0, 1, 2, (2, 0)])
@pytest.mark.parametrize("size", [(3, 5), (6, 4), (7, 11)])
def test_the_equations_have_the_values_of_the_sum(size: tuple[int, int], padding: Any,
                                                  tmp_path: Path):
    """Results of 1, even, odd and prime sizes; every tensor of the rewritten program in the
    reference evaluator, and both gradients of its kernels, in double precision."""
    program = derived(convolution(2, size, 3, 3, padding=padding))
    packed = pack(single_taps(program), "winograd")
    assert any(name.startswith("_results_y") for name in packed.tensors)
    values = random_values(program, 1, {"B": 2})
    want, found = (evaluate(p, values, sizes={"B": 2}) for p in (program, packed))
    made = compile_program(program, sgd(), ("gradient",), storage=TILES)
    with interpreted():
        model = load(render(made, "float64", False), tmp_path).Model()
        model.w = np.full(100_000, np.nan)
        for name, view in model.parameters.items():
            view[...] = values[name]
        given = {t.name: values[t.name] for t in program.given if t.role == "input"}
        compiled = model.gradients(**given)
    for name, value in want.items():
        assert np.abs(found[name] - value).max() <= 1e-12*np.abs(value).max(), name
    for name, gradient in compiled.items():
        value = want[program.gradients[name]]
        assert np.abs(gradient - value).max() <= 1e-12*np.abs(value).max(), name


def test_kernels_by_tiles_agree_with_numeric_differentiation(tmp_path: Path):
    net = dr.Network("two")
    h = dr.tanh(dr.conv2d(net.input("x", "B", 2, 9, 10), 3, 3, padding=1))
    h = dr.conv2d(h, 2, 3)
    net.loss(dr.mean(h.tensor.access**2, *h.indices))
    made = compile_program(dr.derive(net), sgd(), storage=TILES)
    assert dict(made.windows) == dict.fromkeys(("y1", "y2", "_d_h1", "_d_K1", "_d_K2"), "winograd")
    with interpreted():
        rows = load(render(made, "float64", False), tmp_path).self_test()
    assert rows and all(count["pass"] and not count["fail"] for _, _, count, _ in rows)


@pytest.mark.parametrize("seed", range(8))
def test_random_convolutions_in_random_schedules(seed: int, tmp_path: Path):
    draw = random.Random(seed)
    channels, size = draw.randint(1, 5), (draw.randint(2, 9), draw.randint(2, 9))
    net = dr.Network("random")
    h = net.parameter("X", "B", channels, *size)
    for _ in range(2):
        h = dr.convolution(h, draw.randint(1, 9), draw.choice((3, 3, (3, 1))),
                           padding=draw.randint(1, 2), stride=draw.choice((1, 1, 1, 2)))
        h = draw.choice((dr.tanh, lambda one: one))(h)
    net.loss(dr.sum(dr.sin(h.tensor.access), *h.indices))
    program = derived(net.program())
    rows = draw.randint(1, 5)
    values = random_values(program, seed, {"B": rows})
    storage = Storage(windows="winograd", block=draw.choice((None, 1, 2)),
                      shares=draw.choice((None, True, False)), reuse=draw.choice((True, False)),
                      columns=draw.choice((True, False)))
    assert not wrong_kernels(program, values, tmp_path, draw.choice((1, 2, 3)), {"B": rows},
                             storage=storage)


@pytest.mark.parametrize("kernel, settings", [
    (3, {"stride": 2}), (3, {"dilation": 2}), (5, {"padding": 2}), ((3, 1), {}), (2, {}),
    (3, {"groups": 2}), (3, {"groups": 4, "padding": 1})])
def test_what_it_is_not_for_goes_another_way(kernel: Any, settings: dict[str, Any]):
    program = derived(convolution(4, (7, 8), 4, kernel, **settings))
    possible, _ = ways(program)
    assert possible and not any("winograd" in each for each in possible.values())
    made = compile_program(program, sgd(), ("gradient",), storage=TILES)
    assert set(dict(made.windows).values()) <= {"direct", "product"}


def test_it_is_for_two_dims_and_kernels_gradients_of_some_tiles():
    """Of fewer than 16, threads would not add up shares of the products."""
    for size, kernels in (((8, 8), True), ((6, 8), False)):
        possible, _ = ways(derived(convolution(4, size, 4, 3, padding=1)))
        assert {n: "winograd" in each for n, each in possible.items()} == {
            "y1": True, "_d_X": True, "_d_K1": kernels}
    possible, _ = ways(derived(convolution(4, (9,), 4, 3, padding=1)))
    assert not any("winograd" in each for each in possible.values())


def test_it_is_chosen_from_some_channels_on():
    few, many = (ways(derived(convolution(c, (14, 14), 2*c, 3, padding=1)))[1] for c in (4, 32))
    assert set(few.values()) == {"direct"} and set(many.values()) == {"winograd"}


def test_its_rate_decides():
    program = derived(convolution(32, (14, 14), 64, 3, padding=1))
    assert ways(program, Rates(transform=5.0))[1]["y1"] == "direct"
    assert ways(program, Rates(direct=5.0, patch=50.0, partial=50.0))[1]["y1"] == "winograd"


def test_what_it_costs(monkeypatch: pytest.MonkeyPatch):
    """16 tiles of 4×4 elements and 16 channels: what is transformed (inputs, results, the kernel),
    multiplied, copied (a border, the kernel turned, results), and calls."""
    free = Rates(*[0.0]*len(fields(Rates)))

    found: dict[str, Any] = {}
    choice = winograd.winograd_choice
    monkeypatch.setattr(packing_module, "winograd_choice", lambda packing, eq, w: found.setdefault(
        eq.name, choice(packing, eq, w)))

    def cost(rates: Rates, outs: int = 16) -> float:
        found.clear()
        ways(derived(convolution(16, (8, 8), outs, 3, padding=1)), rates)
        return found["y1"].cost

    calls = cost(free)
    assert calls == winograd.CALL*16*ROWS
    assert cost(replace(free, transform=1.0)) - calls == 2*16*16*16*ROWS + 16*16*16
    assert cost(replace(free, border=1.0)) - calls == (10*10*16 + 8*8*16)*ROWS + 16*16*9
    assert cost(replace(free, product=1.0)) - calls == 16*16*16*16*ROWS
    assert cost(replace(free, product=1.0), 17) - calls == 16*16*16*2*winograd.LANES*ROWS


def test_a_kernel_is_transformed_once_a_step_and_rows_wait_for_nothing_else():
    """In a phase in front, split over channels; then all rows in one phase, as without tiles."""
    net = dr.Network("two")
    h = dr.relu(dr.conv2d(net.input("x", "B", 1, 8, 8), 16, 3, padding=1))
    h = dr.relu(dr.conv2d(h, 16, 3, padding=1))
    net.loss(dr.mean(h.tensor.access**2, *h.indices))
    program = dr.derive(net)

    def phases(way: str) -> list[Any]:
        made = compile_program(program, sgd(), ("gradient",), storage=Storage(windows=(
            ("y1", "direct"), ("y2", way), ("_d_h1", way))))
        return list(made.entries["gradient"].schedule.phases)

    tiles = phases("winograd")
    made = [[t.group.equations[0].name for t in phase.tasks] for phase in tiles]
    assert {"_turned_y2", "_kernel_y2", "_kernel_d_h1"} <= set(made[0])
    assert [p.kind for p in tiles][:2] == ["pieces", "rows"] and "y2" in made[1]
    parts = {t.group.equations[0].name: t.part for t in tiles[0].tasks}
    assert parts["_kernel_y2"] is not None and parts["_kernel_y2"].size == 16
    assert sum(p.kind == "rows" for p in tiles) == sum(p.kind == "rows" for p in phases("direct"))


def test_a_kernels_gradient_is_added_up_in_shares_and_nothing_large_is_kept_for_it():
    """Tiles of a row live as long as the row is worked on; one border serves both."""
    program = derived(convolution(16, (8, 8), 16, 3, padding=1))
    made = compile_program(program, sgd(), ("gradient",), storage=TILES)
    schedule = made.entries["gradient"].schedule
    names = [eq.name for eq in schedule.program.equations]
    assert "_share__products_d_K1" in names and "_tiles_d_K1" in names
    assert "_border_y1" in names and "_border_d_K1" not in names
    last = [[t.group.equations[0].name for t in p.tasks] for p in schedule.phases][-2:]
    assert {"_products_d_K1", "_sum_d_K1"} <= set(last[0]) and last[1] == ["_d_K1"]


def test_products_are_matrix_products_and_transforms_nests_of_numbers():
    program = derived(convolution(8, (6, 6), 8, 3, padding=1))
    made = compile_program(program, sgd(), ("forward",), storage=TILES)
    text = render(made)
    kernels = text.partition("# -- kernels")[2].partition("# -- phases")[0]
    product = kernels.partition("k1_products_y1(")[2].partition("\ndef ")[0]
    assert "product_9x8x8_" in product and "(9, 8, at(" in product
    assert "(1, 0, -1, 0, 0, 1, 1, 0, 0, -1, 1, 0, 0, 1, 0, -1,)" in text
    assert "y1 winograd" in " ".join(text.split())
    assert max(map(len, text.partition('"""')[2].partition('"""')[0].splitlines())) <= 98
    assert "_results_y1" in show(derived(convolution(64, (14, 14), 64, 3, padding=1)), "packed")
