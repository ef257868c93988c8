"""The matrix product of emitted modules: every layout, odd sizes, and nothing beyond its result."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit

import derive as dr
from codegen.module import load, render
from codegen.pipeline import compile_program
from derive.optimizers import sgd


@pytest.fixture(scope="module", params=["float32", "float64"])
def kernels(request, tmp_path_factory):
    net = dr.Network("product")
    net.loss(dr.mean_squared_error(dr.dense(net.input("x", "B", 512), 64), net.input("t", "B", 64)))
    made = compile_program(dr.derive(net), sgd(), ("gradient",))
    module = load(render(made, request.param, False), tmp_path_factory.mktemp("product"))
    gemm = module.gemm

    @njit
    def call(m, n, k, alpha, a, ar, ac, b, br, bc, beta, c, cr, cc):
        gemm(m, n, k, alpha, a, ar, ac, b, br, bc, beta, c, cr, cc)

    return SimpleNamespace(F=module.F, gemm=call, module=module)


def laid(matrix: np.ndarray, in_columns: bool, kind: type) -> tuple[np.ndarray, int, int]:
    """A matrix as an array with the strides of rows and columns, in elements."""
    array = np.ascontiguousarray(matrix.T if in_columns else matrix, kind)
    rows, columns = matrix.shape
    return (array, 1, rows) if in_columns else (array, columns, 1)


def product(kernels, left, right, start, beta, ways):
    """beta*start + left/2 @ right by the module, with guards around the result."""
    kind = kernels.F
    a, ar, ac = laid(left, ways[0], kind)
    b, br, bc = laid(right, ways[1], kind)
    c, cr, cc = laid(start, ways[2], kind)
    guarded = np.full(c.size + 64, 7, kind)
    guarded[32:-32] = c.reshape(-1)
    kernels.gemm(len(left), right.shape[1], left.shape[1], kind(0.5), a.ctypes.data, ar, ac,
                 b.ctypes.data, br, bc, kind(beta), guarded[32:].ctypes.data, cr, cc)
    assert (guarded[:32] == 7).all() and (guarded[-32:] == 7).all(), "written beside the result"
    own = guarded[32:-32].reshape(c.shape)
    return own.T if ways[2] else own


# the last ones are cut into pieces, and copied where their rows or columns lie far apart
SIZES = [*itertools.product((1, 3, 8, 13), (1, 5, 16, 33, 70), (1, 2, 17, 40)),
         (130, 70, 530), (40, 600, 300), (300, 600, 40), (600, 520, 7), (40, 560, 1100),
         (600, 520, 300)]


def test_every_layout_and_size(kernels):
    rng = np.random.default_rng(0)
    tolerance = 1e-5 if kernels.F is np.float32 else 1e-13
    for rows, columns, inner in SIZES:
        left, right = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
        start = rng.standard_normal((rows, columns))
        for ways in itertools.product((False, True), repeat=3):
            for beta in (0, 1):
                old = start if beta else np.full_like(start, np.nan)  # not to be read
                got = product(kernels, left, right, old, beta, ways)
                want = left @ right / 2 + (start if beta else 0)
                error = np.abs(got - want).max() / np.abs(want).max()
                assert error < tolerance * np.sqrt(inner), (rows, columns, inner, ways, beta)


def test_a_sum_of_nothing(kernels):
    got = product(kernels, np.ones((3, 0)), np.ones((0, 5)), np.full((3, 5), 2.0), 0, (0, 0, 0))
    assert (got == 0).all()
    got = product(kernels, np.ones((3, 0)), np.ones((0, 5)), np.full((3, 5), 2.0), 1, (0, 0, 0))
    assert (got == 2).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_row_and_column_alone(kernels, bad):
    left, right = np.ones((13, 20)), np.ones((20, 37))
    left[4, 3], right[7, 30] = bad, bad
    for ways in itertools.product((False, True), repeat=3):
        got = product(kernels, left, right, np.zeros((13, 37)), 0, ways)
        spoilt = np.zeros((13, 37), bool)
        spoilt[4], spoilt[:, 30] = True, True
        assert (np.isfinite(got) == ~spoilt).all()
        assert (got[~spoilt] == 10).all()


def test_the_same_bits_twice(kernels):
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((37, 300)), rng.standard_normal((300, 61))
    runs = [product(kernels, left, right, np.zeros((37, 61)), 0, (0, 1, 0)) for _ in range(2)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("n, k, deep, broad, high", [
    (96, 40, 48, 96, 20), (70, 100, 48, 32, 20), (64, 100, 48, 64, 8), (5, 7, 16, 5, 3)])
@pytest.mark.parametrize("in_columns", [False, True])
def test_what_is_fetched_is_what_is_copied_next(kernels, n, k, deep, broad, high, in_columns):
    module, start, m = kernels.module, 4096, 20
    br, bc = (1, k) if in_columns else (n, 1)
    wide, each = module._WIDE, module._ITEM
    copied = [(above, j, edge, min(edge + broad, n), i + high >= m)
              for edge in range(0, n, broad) for above in range(0, k, deep)
              for i in range(0, m, high) for j in range(edge, min(edge + broad, n), wide)]
    expected = [start + (above*br + j*bc)*each for above, j, *_ in copied][1:]
    for (above, j, edge, stop, last), there in zip(copied, [*expected, None], strict=True):
        at, apart, lines, runs = module._next.py_func(n, k, start, br, bc, above, j, edge, stop,
                                                      deep, last)
        if there is None:
            assert runs == 0
            continue
        assert at == there and apart == (bc if in_columns else br)
        above, j = divmod((at - start)//each, n) if not in_columns else divmod(
            (at - start)//each, k)[::-1]
        depth, columns = min(deep, k - above), min(wide, n - j)
        assert runs == (columns if in_columns else depth)
        assert lines == max(1, (depth if in_columns else wide)*each//module._LINE)
