"""Recurrences: values against loops, back-propagation through time from the general rule."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.errors import DeclarationError
from derive.network import Handle
from derive.points import random_values
from derive.reference import evaluate
from tests.derive.test_conv import closed, new, wrong

SIZES = {"B": 3, "T": 4}


def sequence() -> Handle:
    return new("B", "T", 2)


LAYERS = {
    "elman": lambda x, **s: dr.elman(x, 3, **s),
    "gru": lambda x, **s: dr.gru(x, 3, **s),
    "lstm": lambda x, **s: dr.lstm(x, 3, **s),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients(layer: str, reverse: bool):
    assert wrong(LAYERS[layer](sequence(), reverse=reverse)) is None


def test_two_layers_and_both_directions():
    assert wrong(dr.bidirectional(dr.lstm, dr.gru(sequence(), 3), 2)) is None


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sequence_keeps_its_last_value_beyond_its_length(layer: str):
    x = new("B", "T", 2)
    h = LAYERS[layer](x, lengths=x.network.input("n", "B", dtype=int))
    program = closed(h).program()
    point = {**random_values(program, 0, SIZES), "n": np.array([1, 3, 4])}
    out = evaluate(program, point)[h.name]
    for row, length in enumerate(point["n"]):
        alone = {**point, "X": point["X"][row : row + 1, :length], "n": np.array([length]),
                 "w": point["w"][:1, :length]}
        short = evaluate(program, alone)[h.name]
        np.testing.assert_allclose(out[row, :length], short[0])
        np.testing.assert_array_equal(out[row, length:], out[row, length - 1 : length].repeat(
            4 - length, axis=0))


def test_padding_has_no_gradient():
    x = new("B", "T", 2)
    h = dr.bidirectional(dr.lstm, x, 2, lengths=x.network.input("n", "B", dtype=int))
    derived = dr.derive(closed(h))
    point = {**random_values(derived, 0, SIZES), "n": np.array([1, 3, 4])}
    gradient = evaluate(derived, point)[derived.gradients["X"]]
    assert not gradient[0, 1:].any() and not gradient[1, 3:].any()
    assert gradient[0, :1].all() and gradient[1, :3].all()


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_lstm_computes_the_published_equations():
    h = dr.lstm(sequence(), 3)
    program = closed(h).program()
    point = random_values(program, 2, SIZES)
    x, u, v, c = (point[n] for n in ("X", "U1", "V1", "c1"))
    state, out = np.zeros((3, 3)), np.zeros((3, 3))
    for t in range(4):
        z = (np.einsum("bi,igj->bgj", x[:, t], u) + np.einsum("bk,kgj->bgj", out, v) + c)
        i, f, g, o = sigma(z[:, 0]), sigma(z[:, 1]), np.tanh(z[:, 2]), sigma(z[:, 3])
        state = f * state + i * g
        out = o * np.tanh(state)
        np.testing.assert_allclose(evaluate(program, point)[h.name][:, t], out)


def test_back_propagation_through_time_is_a_reversed_recurrence():
    derived = dr.derive(closed(dr.elman(sequence(), 3)))
    recurrences = [g for g in derived.groups if g.recurrent]
    assert [g.step for g in recurrences] == [1, -1]
    assert {eq.name for eq in recurrences[1].equations} == {"_d_h1", "_d_u_h1"}


def test_mutually_recurrent_equations():
    net = dr.Network("two")
    t, j = dr.indices("t:T j:2")
    a, x = net.parameter("a", j), net.parameter("x", t, j)
    p, q = net.declare("p", t, j, initial=0), net.declare("q", t, j, initial=a)
    net.define(p, (t, j), dr.tanh(q[t - 1, j] + x[t, j]))
    net.define(q, (t, j), p[t, j] * p[t - 1, 1 - j] + a[j])
    assert wrong(net["q"]) is None


def test_a_first_value_that_is_a_tensor_has_a_gradient_without_a_sum_over_time():
    net = dr.Network("n")
    t, j = dr.indices("t:T j:2")
    start, x = net.parameter("start", j), net.input("x", t, j)
    h = net.declare("h", t, j, initial=start)
    net.define(h, (t, j), dr.tanh(h[t - 1, j] + x[t, j]))
    derived = dr.derive(closed(h))
    assert t not in derived["start"].body.atoms(type(t))
    assert "start" in derived.gradients


def test_a_recurrence_by_hand_may_say_its_first_value_in_the_equation():
    net = dr.Network("n")
    t, j = dr.indices("t:T j:2")
    x = net.parameter("x", t, j)
    h = net.declare("h", t, j)
    net.define(h, (t, j), dr.where(t >= 1, dr.sin(h[t - 1, j]), x[t, j]) + x[t, j])
    assert wrong(h) is None


def test_without_a_first_value():
    net = dr.Network("n")
    t, j = dr.indices("t:T j:2")
    h = net.declare("h", t, j)
    with pytest.raises(DeclarationError, match=r"recurrence h.* has no first value"):
        net.define(h, (t, j), dr.tanh(h[t - 1, j]))


def test_a_cycle_that_is_no_recurrence():
    net = dr.Network("n")
    t, j = dr.indices("t:T j:2")
    p, q = net.declare("p", t, j), net.declare("q", t, j)
    net.define(p, (t, j), dr.tanh(q[t, j]))
    net.define(q, (t, j), dr.sin(p[t, j]))
    with pytest.raises(DeclarationError, match="p, q form a cycle that is no recurrence"):
        net.program()


def test_forwards_and_backwards_at_once_is_no_recurrence():
    net = dr.Network("n")
    t, j = dr.indices("t:T j:2")
    h = net.declare("h", t, j, initial=0)
    net.define(h, (t, j), dr.tanh(h[t - 1, j] + h[t + 1, j]))
    with pytest.raises(DeclarationError, match="cycle that is no recurrence"):
        net.program()
