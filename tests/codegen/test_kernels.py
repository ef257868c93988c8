"""Emitted kernels against the reference evaluator, which shares no code with them.

Most run as plain Python (the very text that Numba would compile), so that many networks can be
tried; the compiled ones are in test_compiled.py.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import sympy

import derive as dr
from derive.program import Program
from tests.codegen.support import build, differences, interpreted, product_of, sample
from tests.networks import NETWORKS

ACTIVATIONS = ["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu",
               "silu"]
LOSSES = ["squared_error", "mean_squared_error", "binary_cross_entropy", "labels",
          "probabilities"]


def mlp(activation: str, loss: str, sizes: tuple[int, int, int] = (3, 5, 2)) -> Program:
    net = dr.Network(f"{activation} and {loss}")
    x = net.input("x", "B", sizes[0])
    z = dr.dense(dr.dense(x, sizes[1], getattr(dr, activation)), sizes[2])
    if loss == "labels":
        net.loss(dr.cross_entropy(z, net.input("t", "B", dtype=int)))
    elif loss == "probabilities":
        net.loss(dr.cross_entropy(z, net.input("t", "B", sizes[2], distribution=True)))
    else:
        net.loss(getattr(dr, loss)(z, net.input("t", "B", sizes[2])))
    return net.program()


def agrees(program: Program, folder: Path, tolerance: float, parts: int = 1, rows: int = 5,
           **options: str) -> None:
    with interpreted():
        model = build(program, folder, parts, **options)
        found = differences(model, sample(model.program, rows))
    wrong = {n: e for n, e in found.items() if not e < tolerance}
    assert not wrong, "\n".join(f"{model.program[n]}: off by {e:.2g}" for n, e in wrong.items())


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_the_reference(name, dtype, parts, tmp_path):
    agrees(NETWORKS[name](), tmp_path, 1e-10 if dtype == "float64" else 3e-4, parts, dtype=dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, tmp_path):
    agrees(mlp(activation, "mean_squared_error"), tmp_path, 1e-10, dtype="float64")


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, tmp_path):
    agrees(mlp("tanh", loss), tmp_path, 1e-10, dtype="float64")


@pytest.mark.parametrize("rows, parts, sizes", [
    (1, 1, (1, 1, 2)), (1, 4, (7, 1, 2)), (7, 2, (1, 11, 3)), (13, 4, (17, 7, 5)),
])
def test_sizes_one_odd_prime_and_rows_that_parts_do_not_divide(rows, parts, sizes, tmp_path):
    agrees(mlp("tanh", "labels", sizes), tmp_path, 1e-10, parts, rows, dtype="float64")


def test_every_convolution_remainder(tmp_path):
    for stride, pad, width in itertools.product((1, 2, 3), (0, 1), (2, 3)):
        out = (8 + 2 * pad - width) // stride + 1
        net = dr.Network("convolution")
        b, o, p, c, r = dr.indices(f"b:B o:2 p:{out} c:2 r:{width}")
        x, k = net.input("x", b, c, 8), net.parameter("K", o, c, r)
        h = net.define("h", (b, o, p),
                       dr.tanh(dr.sum(x[b, c, stride * p + r - pad] * k[o, c, r], c, r)))
        k2, q = net.parameter("K2", o, dr.indices("s:2")), dr.indices(f"q:{out}")
        s = dr.indices("s:2")
        y = net.define("y", (b, q), dr.sum(h[b, o, q + s - 1] * k2[o, s], o, s))
        net.loss(dr.mean(y[b, q] ** 2, b, q))
        agrees(net.program(), tmp_path, 1e-10, parts=2, dtype="float64")


def test_products_over_several_axes_batched_and_turned(tmp_path):
    """Matrix products in every arrangement of their indices are those of the equation."""
    for left, right, target in itertools.product(
        ("bmik", "mbki", "kbmi"), ("bkn", "nbk", "knb"), ("bmin", "nbmi", "mnbi"),
    ):
        agrees(product_of(left, right, target), tmp_path, 1e-10, parts=2, dtype="float64")


def test_two_gathers_scatter_into_one_table(tmp_path):
    net = dr.Network("pairs")
    b, s, v, w = dr.indices("b:B s:3 v:4 w:5")
    first, second = net.input("first", b, s, dtype=int), net.input("second", b, s, dtype=int)
    table = net.parameter("E", v, w)
    net.loss(dr.mean(dr.sin(table[first[b, s], second[b, s]]) * (s + 1), b, s))
    program = net.program()
    for parts in (1, 3):
        agrees(program, tmp_path, 1e-10, parts, rows=9, dtype="float64")


def test_a_masked_row_and_infinite_logits(tmp_path):
    """log-sum-exp of a row of -inf is -inf, of one with +inf is +inf, of one with NaN is NaN."""
    net = dr.Network("rows")
    b, k = dr.indices("b:B k:3")
    x, c = net.input("x", b, k), net.parameter("c", k, initial="zeros")
    net.define("y", (b,), dr.logsumexp(x[b, k] + c[k], k))
    net.loss(dr.mean(net["y"][b], b))
    with interpreted():
        model = build(net.program(), tmp_path, dtype="float64")
        model.flat[...] = 0
        rows = np.array([[-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [1000.0, 999, 0]])
        y = model._run.forward(x=rows)["y"]
    assert y[0] == -np.inf and y[1] == np.inf and np.isnan(y[2])
    np.testing.assert_allclose(y[3], 1000 + np.log1p(np.exp(-1)))


@pytest.mark.parametrize("parts", [1, 2])
def test_nothing_is_written_beyond_the_end(parts, tmp_path):
    with interpreted():
        model = build(mlp("relu", "labels", (7, 5, 3)), tmp_path, parts, optimizer=dr.adam())
        values, run = sample(model.program, 5), model._run
        need = model.kernels._ARENA["gradient"](5, parts)
        guarded = np.full(need + 16, 7.0, np.float32)
        run.w = guarded[:need]  # blocks of rows lie at its end
        for name in ("d", "p"):
            longer = np.full(getattr(run, name).size + 16, 7.0, np.float32)
            longer[:-16] = getattr(run, name)
            setattr(run, name, longer)
        run.moments = {n: np.r_[m, np.full(16, 7.0, np.float32)] for n, m in run.moments.items()}
        model.step(**values)
    for array in (guarded, run.d, run.p, *run.moments.values()):
        assert (array[-16:] == 7.0).all()




@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_optimizers_follow_their_published_formulas(name, tmp_path):
    optimizer = {"sgd": dr.sgd(lr=0.05), "momentum": dr.momentum(lr=0.05, beta=0.8),
                 "adam": dr.adam(lr=0.05, beta1=0.8, beta2=0.95)}[name]
    with interpreted():
        model = build(mlp("tanh", "squared_error"), tmp_path, dtype="float64", optimizer=optimizer)
        values = sample(model.program)
        p = model.flat.copy()
        m, v = np.zeros_like(p), np.zeros_like(p)
        for t in range(1, 12):
            model.gradients(**values)
            g = model._run.d.copy()
            if name == "sgd":
                p = p - 0.05 * g
            elif name == "momentum":
                m = 0.8 * m + g
                p = p - 0.05 * m
            else:
                m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
                hat = m / (1 - 0.8**t), v / (1 - 0.95**t)
                p = p - 0.05 * hat[0] / (np.sqrt(hat[1]) + 1e-8)
            model.step(**values)
            np.testing.assert_allclose(model.flat, p, rtol=1e-12, atol=1e-14)


def test_an_epoch_is_its_steps_with_the_last_smaller_batch(tmp_path):
    with interpreted():
        one = build(mlp("tanh", "labels"), tmp_path, dtype="float64", optimizer=dr.momentum())
        two = build(mlp("tanh", "labels"), tmp_path, dtype="float64", optimizer=dr.momentum())
        values = sample(one.program, 11)
        order = np.random.default_rng(1).permutation(11)
        mean = one.epoch(values, 4, order=order)
        losses = [two.step(**{n: a[order[f:f + 4]] for n, a in values.items()})
                  for f in (0, 4, 8)]
    np.testing.assert_array_equal(one.flat, two.flat)
    assert mean == pytest.approx((4 * losses[0] + 4 * losses[1] + 3 * losses[2]) / 11, rel=1e-14)


def test_rows_that_do_not_come_first(tmp_path):
    """The batch may be any dim: here the second, behind the time."""
    net = dr.Network("time first")
    t, b, i, j = dr.indices("t:T b:B i:2 j:3")
    x, w = net.input("x", t, b, i), net.parameter("W", i, j)
    h = net.define("h", (t, b, j), dr.tanh(dr.sum(x[t, b, i] * w[i, j], i)))
    net.loss(dr.mean(h[t, b, j] ** 2, t, b, j))
    with interpreted():
        one = build(net.program(), tmp_path, dtype="float64")
        two = build(net.program(), tmp_path, dtype="float64")
        x = np.random.default_rng(0).standard_normal((4, 7, 2))
        axis = one.kernels.INPUTS["x"][2]
        one.epoch({"x": x}, 3)
        parts = [np.take(x, range(f, min(f + 3, x.shape[axis])), axis)
                 for f in range(0, x.shape[axis], 3)]
        for part in parts:
            two.step(x=part)
    np.testing.assert_array_equal(one.flat, two.flat)


def test_a_guard_covers_what_it_is_multiplied_with(tmp_path):
    """Beside a guard an access may be out of bounds: there it must not be read at all."""
    net = dr.Network("guarded")
    i, j = dr.indices("i:3 j:4")
    a = net.parameter("A", i)
    y = net.define("y", (j,), dr.where(j < 2, a[j + 1] * dr.tanh(a[2 * j]), 0))
    net.loss(dr.sum(y[j] ** 2 * (j + 1), j))
    for parts in (1, 3):
        agrees(net.program(), tmp_path, 1e-10, parts, dtype="float64")


@pytest.mark.parametrize("power", [-3, -2, -1, sympy.Rational(-3, 2), sympy.Rational(-1, 2), 2, 3])
def test_quotients_and_powers_in_every_place(power, tmp_path):
    """Of an element, a scalar, a sum and a product; alone, behind a factor, under a sum."""
    net = dr.Network("quotients")
    i, j = dr.indices("i:3 j:4")
    a, s, c = net.parameter("a", i), net.parameter("s"), net.parameter("c", i, j)
    x, y, z = 2 + dr.tanh(a[i]), net.define("t", (), 2 + dr.tanh(s)), c[i, j]
    d = net.define("d", (i,), x)
    t, e = y.tensor.access, d[i]
    bodies = (e**power, t**power, z * e**power, -z / 3 * t**power, (z + t) * e**power / t**2,
              (e * t) ** power, (e + t) ** power / e, e**power * t**power * z**2, z / e**2 / t)
    total = sum(dr.sum((n + 1) * dr.sin(body), *(k for k in (i, j) if k in body.free_symbols))
                if body.free_symbols & {i, j} else dr.sin(body) for n, body in enumerate(bodies))
    net.loss(total)
    agrees(net.program(), tmp_path, 1e-11, parts=2, dtype="float64")


def test_text_of_quotients_and_remainders():
    from sympy import Eq, Mod

    from codegen.scalars import ScalarPrinter

    i = dr.indices("i:9")
    printer = ScalarPrinter({i: "i"})
    assert printer.index((i - 1) / 2) == "(i - 1) // 2"
    assert printer.index(Mod((i + 2) / 2, 2)) == "(i + 2) % 4 // 2"
    assert printer.condition(Eq(Mod(i / 2, 2, evaluate=False), 0)).startswith("(i) % 4 == 0")


def test_fractions_of_indices_are_compared_as_they_are(tmp_path):
    """(k/4 + 1/4)² < 3/4 - k/4: neither side is rounded to a whole number first."""
    net = dr.Network("n")
    (k,) = (dr.indices("k:5"),)
    w = net.parameter("w", k)
    quarter = (1 + k) / sympy.Integer(4)
    y = net.define("y", (k,), dr.where(quarter**2 < 1 - quarter, w[k], w[k] ** 2))
    net.loss(dr.sum(y[k], k))
    agrees(net.program(), tmp_path, 1e-10, dtype="float64")
