"""What people write in NumPy beside products and sums is traced, and its gradient proved."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

import derive as dr
from derive.verify.decide import decide
from derive.verify.hand import Hand
from derive.verify.trace import trace
from tests.derive.verify_gradients_sequences import attentive


def network(labels: bool = False) -> dr.Network:
    net = dr.Network("two layers")
    h = dr.dense(net.input("x", "B", 4), 5, dr.tanh if not labels else dr.relu)
    if labels:
        net.loss(dr.cross_entropy(dr.dense(h, 3), net.input("t", "B", dtype=int)))
    else:
        net.loss(dr.mean_squared_error(dr.dense(h, 3), net.input("t", "B", 3)))
    return net


def bias_as_a_column(x, t, W1, c1, W2, c2):
    n = x.shape[0]
    xs = np.c_[x, np.ones(n)]
    h = np.tanh(xs @ np.r_[W1, c1[None, :]])
    hs = np.column_stack((h, np.ones(n)))
    d = 2 * (hs @ np.vstack([W2, c2]) - t) / t.size
    below = hs.T @ d
    above = xs.T @ (np.inner(d, W2) * (1 - np.square(h)))
    dW1, dc1 = np.split(above, [4])
    return {"W1": dW1, "c1": dc1.squeeze(), "W2": below[:-1], "c2": below[-1]}


def sizes_by_ufuncs(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    d = np.multiply(h @ W2 + c2 - t, 2) / np.multiply(t.shape[1], x.shape[0])
    d = d.reshape(np.multiply(len(x), 3)).reshape(np.subtract(t.shape[0], 0), -1)
    dh = np.multiply(d @ W2.T, 1 - h * h)
    return x.T @ dh, dh.sum(0), h.T @ d, d.sum(0)


def labels_as_a_list(x, t, W1, c1, W2, c2):
    n = x.shape[0]
    h = np.maximum(0, x.dot(W1) + c1)
    s = h.dot(W2) + c2
    p = np.exp(s) / np.sum(np.exp(s), axis=1).reshape(-1, 1)
    p[range(n), list(t)] += -1
    p /= n
    dh = (h > 0) * p.dot(W2.T)
    return x.T.dot(dh), np.sum(dh, axis=0), h.T.dot(p), np.sum(p, axis=0)


def along_an_axis(x, t, W1, c1, W2, c2):
    h = np.maximum(x @ W1 + c1, 0)
    s = h @ W2 + c2
    p = scipy.special.expit(s) / scipy.special.expit(-s)
    p = p / np.sum(p, 1, keepdims=True)
    at = t[:, None]
    np.put_along_axis(p, at, np.take_along_axis(p, at, axis=1) - 1, axis=1)
    p = p / len(t)
    dh = p @ np.take(W2, np.arange(3), axis=1).T
    dh[:, c1 * 0 > 1] = 7.0  # a mask of one dim, which holds nowhere
    dh = dh * np.heaviside(h, 0)
    return x.T @ dh, dh.sum(0), h.T @ p, p.sum(0)


@pytest.mark.parametrize(("function", "labels"), [
    (bias_as_a_column, False), (sizes_by_ufuncs, False), (labels_as_a_list, True),
    (along_an_axis, True)])
def test_idioms_are_proved(function, labels):
    derived = dr.derive(network(labels))
    for decision in decide(trace(Hand(function, derived), derived), derived):
        assert decision.verdict == "proved", decision


def test_joining_is_numpys_own_again_after_a_trace():
    before = np.c_, np.r_
    derived = dr.derive(network())
    trace(Hand(bias_as_a_column, derived), derived)
    assert (np.c_, np.r_) == before
    assert np.r_[1:3, 5].tolist() == [1, 2, 5]


def gelu(x, t, W1, c1):
    z = x @ W1 + c1
    cdf = (1 + scipy.special.erf(z / 2**0.5)) / 2
    d = (z * cdf - t) / len(x)
    dz = d * (cdf + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
    return x.T @ dz, dz.sum(0)


def test_scipys_erf_is_proved():
    net = dr.Network("gelu")
    net.loss(dr.squared_error(dr.dense(net.input("x", "B", 3), 2, dr.gelu), net.input("t", "B", 2)))
    derived = dr.derive(net)
    decisions = decide(trace(Hand(gelu, derived), derived), derived)
    assert [d.verdict for d in decisions] == ["proved", "proved"], decisions


def masked(by_assignment: bool, last: int = 1):
    """Causal attention as GPTs in NumPy have it: -∞ where a position lies ahead."""
    def attention(x, t, W1, W2, W3):
        n, steps, width = x.shape
        q, k, v = x @ W1, x @ W2, x @ W3
        s = q @ np.swapaxes(k, -1, -2) / np.sqrt(k.shape[-1])
        if by_assignment:
            s[:, np.triu(np.ones((steps, steps)), k=last).astype(bool)] = -np.inf
        else:
            s = np.where(np.tril(np.ones((steps, steps))) == 0, -np.inf, s)
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        dy = (p @ v - t) / (n * steps)
        dp = dy @ v.swapaxes(-2, -1)
        ds = p * (dp - np.sum(dp * p, -1, keepdims=True)) / k.shape[-1] ** 0.5
        flat = x.reshape(-1, width)
        return {"W1": flat.T @ (ds @ k).reshape(-1, 3),
                "W2": flat.T @ (ds.swapaxes(-1, -2) @ q).reshape(-1, 3),
                "W3": flat.T @ (p.swapaxes(1, 2) @ dy).reshape(-1, 2)}

    return attention


@pytest.mark.parametrize(("function", "verdict"), [
    (masked(True), "proved"), (masked(False), "proved"), (masked(True, last=2), "differs")])
def test_a_mask_by_minus_infinity(function, verdict):
    derived = dr.derive(attentive(causal=True))
    decisions = decide(trace(Hand(function, derived), derived), derived)
    assert {d.verdict for d in decisions} == {verdict}, decisions
    assert not any(d.sizes for d in decisions)
