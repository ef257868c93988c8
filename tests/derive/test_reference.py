"""The reference evaluator against NumPy written by hand, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.errors import DataError
from derive.nodes import Select
from derive.reference import evaluate

RNG = np.random.default_rng(0)


def test_a_dense_layer_is_a_matrix_product():
    net = dr.Network("n")
    x = net.input("x", "B", 3)
    y = dr.dense(x, 5, dr.tanh)
    values = {"x": RNG.normal(size=(7, 3)), "W1": RNG.normal(size=(3, 5)),
              "c1": RNG.normal(size=5)}
    found = evaluate(net.program(), values)[y.name]
    np.testing.assert_allclose(found, np.tanh(values["x"] @ values["W1"] + values["c1"]),
                               rtol=1e-14)


def test_large_equations_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch):
    net = dr.Network("n")
    dr.dense(net.input("x", "B", 3), 5)
    values = {"x": RNG.normal(size=(11, 3)), "W1": RNG.normal(size=(3, 5)),
              "c1": RNG.normal(size=5)}
    whole = evaluate(net.program(), values)["z1"]
    monkeypatch.setattr("derive.reference._CHUNK", 20)
    assert np.array_equal(evaluate(net.program(), values)["z1"], whole)


@pytest.mark.parametrize("op", ["sum", "max", "min", "prod", "logsumexp", "mean"])
def test_reductions(op: str):
    net = dr.Network("n")
    i, j = dr.indices("i:3 j:4")
    a = net.input("a", i, j)
    net.define("y", (i,), getattr(dr, op)(a[i, j], j))
    value = RNG.normal(size=(3, 4))
    expected = (np.log(np.exp(value).sum(1)) if op == "logsumexp"
                else getattr(np, op)(value, axis=1))
    np.testing.assert_allclose(evaluate(net.program(), {"a": value})["y"], expected, rtol=1e-14)


def test_logsumexp_neither_overflows_nor_loses_an_empty_row():
    net = dr.Network("n")
    i, j = dr.indices("i:3 j:2")
    a = net.input("a", i, j)
    net.define("y", (i,), dr.logsumexp(a[i, j], j))
    value = np.array([[1e4, 1e4], [-1e4, -1e4], [-np.inf, -np.inf]])
    found = evaluate(net.program(), {"a": value})["y"]
    np.testing.assert_allclose(found, [1e4 + np.log(2), -1e4 + np.log(2), -np.inf])


def test_a_guard_hides_what_lies_outside():
    """Neither an element out of bounds nor an infinity in the other branch comes through."""
    net = dr.Network("n")
    p = dr.indices("p:4")
    x = net.input("x", 3)
    net.define("shifted", (p,), x[p - 1])
    net.define("safe", (p,), Select(p > 0, 1 / (p * dr.indices("p:4")), 0))
    found = evaluate(net.program(), {"x": np.array([1.0, 2.0, 3.0])})
    assert found["shifted"].tolist() == [0, 1, 2, 3]
    assert np.isfinite(found["safe"]).all()


@pytest.mark.parametrize("back", [False, True])
def test_a_recurrence_runs_both_ways(back: bool):
    net = dr.Network("n")
    t = dr.indices("t:5")
    x = net.input("x", t)
    h = net.declare("h", t, initial=2.0)
    net.define(h, (t,), x[t] + h[t + 1 if back else t - 1] / 2)
    value = RNG.normal(size=5)
    expected, carry = np.zeros(5), 2.0
    for step in reversed(range(5)) if back else range(5):
        expected[step] = carry = value[step] + carry / 2
    np.testing.assert_allclose(evaluate(net.program(), {"x": value})["h"], expected, rtol=1e-15)


def test_mutual_recurrences_are_one_loop():
    net = dr.Network("rotation")
    t = dr.indices("t:6")
    u, v = net.declare("u", t, initial=1.0), net.declare("v", t, initial=0.0)
    net.define(u, (t,), 0.6 * u[t - 1] - 0.8 * v[t - 1])
    net.define(v, (t,), 0.8 * u[t - 1] + 0.6 * v[t - 1])
    found = evaluate(net.program(), {})
    turn = np.linalg.matrix_power(np.array([[0.6, -0.8], [0.8, 0.6]]), 6) @ [1, 0]
    np.testing.assert_allclose([found["u"][-1], found["v"][-1]], turn, rtol=1e-14)


def test_a_gather_reads_by_an_integer_tensor():
    net = dr.Network("n")
    b, v, d = dr.indices("b:B v:4 d:2")
    token, table = net.input("token", b, dtype=int), net.parameter("E", v, d)
    net.define("e", (b, d), table[token[b], d])
    table_value = RNG.normal(size=(4, 2))
    found = evaluate(net.program(), {"token": [3, 0, 3], "E": table_value})["e"]
    assert np.array_equal(found, table_value[[3, 0, 3]])


def small() -> dr.Program:
    net = dr.Network("n")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 2), t))
    return net.program()


GOOD = {"x": np.zeros((4, 3)), "t": np.zeros(4, int), "W1": np.zeros((3, 2)), "c1": np.zeros(2)}
BAD = [
    ({"W1": None}, ("'W1'", "no value")),
    ({"x": np.zeros((4, 5))}, ("'x'", "(B, 3)", "(4, 5)")),
    ({"x": np.zeros(3)}, ("'x'", "(B, 3)", "(3,)")),
    ({"t": np.zeros(5, int)}, ("B", "4", "5", "'t'")),
    ({"t": np.array([0, 1, 2, 0])}, ("'t'", "0 to 1", "[2]", "'z1'")),
    ({"t": np.array([0, -1, 0, 0])}, ("'t'", "-1")),
    ({"t": np.array([0.0, 0.5, 0, 0])}, ("'t'", "0.5", "whole")),
    ({"x": np.full((4, 3), "a")}, ("'x'", "float numbers")),
]


@pytest.mark.parametrize(("change", "parts"), BAD, ids=[p[0] + str(n) for n, (_, p) in
                                                        enumerate(BAD)])
def test_values_that_do_not_fit_are_refused(change: dict, parts: tuple[str, ...]):
    values = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(DataError) as caught:
        evaluate(small(), values)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_non_contiguous_and_single_precision_arrays_are_converted():
    values = {**GOOD, "x": np.asfortranarray(RNG.normal(size=(4, 3))).astype(np.float32)}
    assert evaluate(small(), values)["L"].dtype == np.float64
