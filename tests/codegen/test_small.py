"""Small products as loops with constant bounds: where modules have them, and what they compute."""

from __future__ import annotations

from dataclasses import astuple
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import derive as dr
from codegen.loops import Product, statements
from codegen.module import load, render
from codegen.pipeline import Compiled, compile_program
from codegen.small import SMALL, Small, small
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.support import wrong_kernels


def layers(*sizes: int) -> Program:
    net = dr.Network("layers")
    h = net.input("x", "B", sizes[0])
    for size in sizes[1:]:
        h = dr.dense(h, size, dr.tanh)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", sizes[-1])))
    return net.program()


def compiled(*sizes: int) -> Compiled:
    return compile_program(dr.derive(layers(*sizes)), sgd(), ("gradient",))


def smalls(made: Compiled) -> list[Small | None]:
    return [small(node) for phase in made.entries["gradient"].phases for kernel in phase
            for node in statements(kernel.body) if isinstance(node, Product)]


def test_a_small_network_has_loops_with_constant_bounds_and_no_general_product():
    text = render(compiled(3, 3, 1))
    assert "gemm" not in text.partition("# -- kernels")[2] and "def gemm" not in text
    forward = text.partition("def k1_z1(")[2].partition("\ndef ")[0]
    assert "product_nx3x3_" in forward and "(hi - lo, 3, at(" in forward
    assert "= _small(3, 3, None, 1, 3, (3, 1), (3, 1), 0)" in text  # forward: any number of rows
    assert "= _small(3, None, 3, 1, 3, (1, 3), (3, 1), 0)" in text  # a gradient: any number summed


def test_beside_a_large_product_all_are_general():
    side = int(SMALL**0.5)
    assert "def gemm" not in render(compiled(side, side, 5))
    text = render(compiled(side + 1, side, 5))
    assert "def gemm" in text and "_small(" not in text


def test_a_rule_over_matrices_has_the_general_product():
    made = compile_program(dr.derive(layers(3, 3, 1)), dr.muon(lr=0.1), ("gradient",))
    assert "_small(" not in render(made)


def test_what_is_constant_and_what_is_told_at_run_time():
    found = smalls(compiled(5, 7, 2))
    assert Small(7, 5, None, 1, 7, (5, 1), (7, 1), 0) in found  # x @ W1
    assert Small(7, 2, None, 1, 7, (2, 1), (1, 2), 0) in found  # W2 by columns
    assert Small(7, None, 5, 1, 7, (1, 5), (7, 1), 0) in found  # x by columns
    net = dr.Network("gram")
    i, j, k = dr.indices("i:N j:N k:B")
    a = net.input("a", k, i)
    g = net.define("g", (i, j), dr.sum(a[k, i] * a[k, j], k))
    net.loss(dr.sum(g[i, j] ** 2, i, j))
    gram = compile_program(dr.derive(net, ["a"]), sgd(), ("gradient",))
    assert smalls(gram) and set(smalls(gram)) == {None}  # nothing of it is known at emission


@pytest.fixture(scope="module", params=["float32", "float64"])
def kernels(request, tmp_path_factory):
    own, general = (load(render(compiled(*sizes), request.param, False),
                         tmp_path_factory.mktemp("small")) for sizes in ((3, 3, 1), (512, 64)))
    gemm, kept = general.gemm, []

    @numba.njit
    def call_general(m, n, k, alpha, a, ar, ac, b, br, bc, beta, c, cr, cc):
        gemm(m, n, k, alpha, a, ar, ac, b, br, bc, beta, c, cr, cc)

    def made(told: Small):
        product = own._small(*astuple(told))

        @numba.cfunc(own._SMALL, **{**own.OPTIONS, "cache": False})
        def called(rows, deep, target, left, right, alpha):
            product(rows, deep, target, left, right, alpha)

        kept.append(called)
        address = own._symbol(f"tested_{len(kept)}", called, own._SMALL)

        @numba.njit
        def call(rows, deep, target, left, right, alpha):
            address(rows, deep, target, left, right, alpha)

        return call

    return SimpleNamespace(F=own.F, made=made, gemm=call_general)


def strides(array: np.ndarray) -> tuple[int, int]:
    return array.strides[0] // array.itemsize, array.strides[1] // array.itemsize


def by_columns(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T).T


# summed elements and columns; whether left and right lie in columns; what is known at run time only
CASES = [(1, 1, False, False, "rows"), (3, 3, False, False, "rows"), (7, 1, True, False, "rows"),
         (1, 5, True, True, "rows"), (13, 17, False, True, "rows"), (33, 3, False, True, "rows"),
         (10, 33, False, False, "rows"), (40, 10, False, True, "rows"),
         (1, 1, True, False, "summed"), (5, 3, True, False, "summed"),
         (17, 40, True, False, "summed")]


@pytest.mark.parametrize("adds", [0, 1])
def test_the_bits_of_the_general_product_and_nothing_beside(kernels, adds):
    rng, kind = np.random.default_rng(0), kernels.F
    for inner, columns, left, right, unknown in CASES:
        if adds and inner not in (3, 33, 17):
            continue  # each is compiled: a few will do
        told = None
        for rows in (13, 8, 1, 0):
            deep = inner if unknown == "rows" else inner + rows % 3
            a, b = (rng.standard_normal(shape).astype(kind) for shape in (
                (rows, deep), (deep, columns)))
            a = by_columns(np.vstack([a, np.zeros((13 - rows, deep), kind)]))[:rows] if left else a
            b = by_columns(b) if right else b
            start = rng.standard_normal((rows, columns)).astype(kind)
            c, want = (np.full((rows + 2, columns), 7, kind) for _ in range(2))
            c[1:-1] = want[1:-1] = start if adds else np.nan  # not to be read
            if told is None:
                told = Small(columns, inner if unknown == "rows" else None,
                             None if unknown == "rows" else 13, 1, columns, strides(a),
                             strides(b) if columns > 1 else (strides(b)[0], 1), adds)
                call = kernels.made(told)
            call(rows, deep, c[1:].ctypes.data, a.ctypes.data, b.ctypes.data, kind(0.5))
            kernels.gemm(rows, columns, deep, kind(0.5), a.ctypes.data, *strides(a),
                         b.ctypes.data, *strides(b), kind(adds), want[1:].ctypes.data, columns, 1)
            np.testing.assert_array_equal(c, want, err_msg=str((told, rows)))
            exact = a.astype(float) @ b.astype(float) / 2 + (start if adds else 0)
            np.testing.assert_allclose(c[1:-1], exact, atol=1e-5 if kind is np.float32 else 1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_row_and_column_alone(kernels, bad):
    kind = kernels.F
    a, b, c = np.ones((12, 10), kind), np.ones((10, 19), kind), np.empty((12, 19), kind)
    a[4, 3], b[7, 18] = bad, bad
    for right in (b, by_columns(b)):
        call = kernels.made(Small(19, 10, 12, 12, 19, (10, 1), strides(right), 0))
        call(12, 10, c.ctypes.data, a.ctypes.data, right.ctypes.data, kind(1))
        spoilt = np.zeros(c.shape, bool)
        spoilt[4], spoilt[:, 18] = True, True
        assert (np.isfinite(c) == ~spoilt).all() and (c[~spoilt] == 10).all()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 3, 1), (2, 7, 5), (13, 11, 3)])
def test_every_tensor_of_networks_of_odd_sizes(sizes, tmp_path):
    program = dr.derive(layers(*sizes))
    for rows, parts in ((1, 1), (7, 2), (5, 3)):
        values = random_values(program, 1, {"B": rows})
        assert not wrong_kernels(program, values, tmp_path, parts, {"B": rows})


def test_compiled_gradients_agree_with_the_reference(tmp_path):
    made = compiled(3, 17, 5, 1)
    module = load(render(made, "float32", False), tmp_path)
    assert hasattr(module, "_small") and not hasattr(module, "gemm")
    model = module.Model()
    for rows in (1, 7, 32):
        values = random_values(made.program, rows, {"B": rows})
        for name, view in model.parameters.items():
            view[...] = values[name]
        given = {n: np.asarray(values[n], np.float32) for n in ("x", "t")}
        want = evaluate(made.program, values)
        first, second = ({n: np.array(g) for n, g in model.gradients(**given).items()}
                         for _ in range(2))
        for name, gradient in first.items():
            exact = want[made.program.gradients[name]]
            assert np.abs(gradient - exact).max() <= 1e-5 * (1e-3 + np.abs(exact).max()), name
            np.testing.assert_array_equal(gradient, second[name])
