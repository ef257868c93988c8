"""The same networks in HIPS autograd (NumPy, float64): another program's gradient, not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import derive as dr
from derive.network import Network
from derive.points import random_values
from derive.reference import evaluate

autograd = pytest.importorskip("autograd")
anp = pytest.importorskip("autograd.numpy")

Point = dict[str, Any]
SIZES = {"B": 5, "T": 4}


def log_softmax(z: Any) -> Any:
    top = anp.max(z, axis=-1, keepdims=True)
    return z - top - anp.log(anp.sum(anp.exp(z - top), axis=-1, keepdims=True))


def picked(z: Any, t: Any) -> Any:
    return -anp.mean(log_softmax(z)[anp.arange(len(t)), t])


def sigma(x: Any) -> Any:
    return 1 / (1 + anp.exp(-x))


def perceptron() -> Network:
    net = Network("perceptron")
    x, t = net.input("x", "B", 6), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 7, dr.tanh), 3), t))
    return net


def perceptron_loss(p: Point) -> Any:
    h = anp.tanh(p["x"] @ p["W1"] + p["c1"])
    return picked(h @ p["W2"] + p["c2"], p["t"])


def normalised() -> Network:
    net = Network("normalised")
    x, y = net.input("x", "B", 3), net.input("y", "B", 2)
    n = dr.layer_norm(dr.batch_norm(dr.dense(x, 4)))
    net.loss(dr.mean_squared_error(dr.dense(n, 2), y))
    return net


def normalised_loss(p: Point) -> Any:
    z = p["x"] @ p["W1"] + p["c1"]
    for gain, bias, axis in (("g1", "c2", 0), ("g2", "c3", 1)):
        centred = z - anp.mean(z, axis=axis, keepdims=True)
        spread = anp.mean(centred**2, axis=axis, keepdims=True)
        z = centred / anp.sqrt(spread + 1e-5) * p[gain] + p[bias]
    return anp.mean((z @ p["W2"] + p["c4"] - p["y"]) ** 2)


def attentive() -> Network:
    net = Network("attentive")
    x = net.input("x", "B", "T", 4)
    y = dr.multi_head_attention(x, 2, causal=True)
    net.loss(dr.mean(y.tensor.access**2, *y.indices))
    return net


def attentive_loss(p: Point) -> Any:
    q, k, v = (
        anp.einsum("btd,dhe->bhte", p["x"], p[f"W{s}1"]) + p[f"c{s}1"][None, :, None, :]
        for s in "qkv")
    scores = anp.einsum("bhte,bhue->bhtu", q, k) / anp.sqrt(2.0)
    steps = scores.shape[-1]
    scores = scores + anp.where(anp.tril(anp.ones((steps, steps))) > 0, 0.0, -1e30)
    weights = anp.exp(log_softmax(scores))
    out = anp.einsum("bhtu,bhue->bhte", weights, v)
    y = anp.einsum("bhte,hed->btd", out, p["Wo1"]) + p["co1"]
    return anp.mean(y**2)


def remembering() -> Network:
    net = Network("remembering")
    x, t = net.input("x", "B", 4, 3), net.input("t", "B", dtype=int)
    h = dr.lstm(x, 3)
    b, _, j = h.indices
    last = net.define("last", (b, j), h[b, 3, j])
    net.loss(dr.cross_entropy(dr.dense(last, 2), t))
    return net


def remembering_loss(p: Point) -> Any:
    out = state = anp.zeros((len(p["x"]), 3))
    for t in range(4):
        z = (anp.einsum("bi,igj->bgj", p["x"][:, t], p["U1"]) + p["c1"]
             + anp.einsum("bk,kgj->bgj", out, p["V1"]))
        state = sigma(z[:, 1]) * state + sigma(z[:, 0]) * anp.tanh(z[:, 2])
        out = sigma(z[:, 3]) * anp.tanh(state)
    return picked(out @ p["W1"] + p["c2"], p["t"])


def convolving() -> Network:
    net = Network("convolving")
    x, t = net.input("x", "B", 2, 9), net.input("t", "B", dtype=int)
    y = dr.conv1d(x, 3, 3, dr.tanh, stride=2, padding=1, dilation=2)
    net.loss(dr.cross_entropy(dr.dense(dr.max_pool(y, 2), 2, dims=2), t))
    return net


def convolving_loss(p: Point) -> Any:
    x = anp.concatenate([p["x"][:, :, :1] * 0, p["x"], p["x"][:, :, :1] * 0], axis=2)
    y = anp.stack([
        anp.einsum("bcr,ocr->bo", x[:, :, 2 * n : 2 * n + 5 : 2], p["K1"]) + p["c1"]
        for n in range(4)], axis=2)
    pooled = anp.max(anp.tanh(y).reshape((len(x), 3, 2, 2)), axis=3)
    return picked(anp.einsum("bop,opj->bj", pooled, p["W1"]) + p["c2"], p["t"])


PAIRS: dict[str, tuple[Callable[[], Network], Callable[[Point], Any]]] = {
    "perceptron": (perceptron, perceptron_loss),
    "batch and layer norm": (normalised, normalised_loss),
    "attention": (attentive, attentive_loss),
    "lstm": (remembering, remembering_loss),
    "convolution": (convolving, convolving_loss),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_autograd_agrees(pair: str):
    network, loss = PAIRS[pair]
    derived = dr.derive(network())
    point = random_values(derived, 7, SIZES)
    out = evaluate(derived, point, ["L", *derived.gradients.values()])
    assert np.isclose(out["L"], loss(point), rtol=1e-12)
    for name, gradient in derived.gradients.items():
        theirs = autograd.grad(lambda v, name=name: loss({**point, name: v}))(point[name])
        np.testing.assert_allclose(out[gradient], theirs, rtol=1e-9, atol=1e-13, err_msg=name)
