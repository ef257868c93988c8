"""The Gauss-Newton product against numeric differences of the network's output alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import derive as dr
from derive.errors import DeclarationError, DerivationError
from derive.optimizers import make_optimizer
from derive.points import random_values
from derive.reference import evaluate

STEP = 1e-5


def network(kind: str) -> dr.Network:
    net = dr.Network(kind)
    h = dr.dense(net.input("x", "B", 3), 4, dr.tanh)
    z = dr.dense(h, 2, dr.tanh if kind == "bent output" else None)
    if kind == "cross-entropy":
        net.loss(dr.cross_entropy(z, net.input("t", "B", dtype=int)))
        return net
    loss = dr.mean_squared_error(z, net.input("t", "B", 2))
    net.loss(loss + 0.3 * dr.l2(net["W1"]) if kind == "weight decay" else loss)
    return net


def softmax_curve(z: np.ndarray, v: np.ndarray) -> np.ndarray:
    s = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return (s * v - s * (s * v).sum(axis=1, keepdims=True)) / len(z)


CURVES: dict[str, Callable] = {
    "squared error": lambda z, v: 2 * v / v.size, "bent output": lambda z, v: 2 * v / v.size,
    "weight decay": lambda z, v: 2 * v / v.size, "cross-entropy": softmax_curve}


@pytest.mark.parametrize("kind", CURVES)
def test_the_product_is_jacobian_curvature_jacobian(kind: str):
    net = network(kind)
    product, output = dr.gauss_newton_vector(net), "h2" if kind == "bent output" else "z2"
    point = random_values(product, 1, {"B": 5})
    found = evaluate(product, point, list(product.gradients.values()))

    def z(**changed: np.ndarray) -> np.ndarray:
        return evaluate(net.program(), {**point, **changed}, [output])[output]

    names = list(product.gradients)
    ends = [z(**{n: point[n] + s * STEP * point[f"v_{n}"] for n in names}) for s in (1, -1)]
    curved = CURVES[kind](z(), (ends[0] - ends[1]) / (2 * STEP))
    for name in names:
        want = np.zeros_like(point[name])
        for place in np.ndindex(want.shape):
            move = np.zeros_like(want)
            move[place] = STEP
            slope = (z(**{name: point[name] + move}) - z(**{name: point[name] - move})) / (2 * STEP)
            want[place] = (slope * curved).sum()
        if kind == "weight decay" and name == "W1":
            want += 0.3 * point["v_W1"]
        np.testing.assert_allclose(found[product.gradients[name]], want, atol=1e-8)


def test_the_product_makes_no_matrix():
    product = dr.gauss_newton_vector(network("cross-entropy"))
    assert max(t.rank for t in product.tensors.values()) == 2


def test_the_hessians_product_of_several_tensors_is_that_of_the_whole():
    net = network("cross-entropy")
    product = dr.hessian_vector(net, ["W1", "c1", "W2", "c2"])
    derived = dr.derive(net)
    point = random_values(product, 2, {"B": 5})

    def slope(sign: int) -> dict[str, np.ndarray]:
        moved = {n: point[n] + sign * STEP * point[f"v_{n}"] for n in derived.gradients}
        values = evaluate(derived, {**point, **moved}, list(derived.gradients.values()))
        return {n: values[g] for n, g in derived.gradients.items()}

    up, down = slope(1), slope(-1)
    values = evaluate(product, point, list(product.gradients.values()))
    for name, found in product.gradients.items():
        np.testing.assert_allclose(values[found], (up[name] - down[name]) / (2 * STEP), atol=1e-8)


def test_a_loss_without_curvature_is_refused():
    net = dr.Network("flat")
    z = dr.dense(net.input("x", "B", 3), 1)
    net.loss(dr.mean(z.tensor.access, *z.indices))
    with pytest.raises(DerivationError, match="linear in 'z1'"):
        dr.gauss_newton_vector(net)


@pytest.mark.parametrize(("settings", "says"), [
    ({"damping": 0}, "larger than 0"), ({"iterations": 0}, "at least one"),
    ({"clip_norm": 1.0}, "setting of gauss_newton")])
def test_settings_that_make_no_sense_are_refused(settings: dict, says: str):
    with pytest.raises(DeclarationError, match=says):
        make_optimizer({"rule": "gauss_newton", **settings})


def test_a_scalar_that_is_linear_in_a_tensor_has_no_hessian_there():
    net = dr.Network("line")
    i = dr.indices("i:3")
    a, b = net.parameter("a", i), net.parameter("b", i)
    net.loss(dr.sum(a[i] * b[i] + b[i], i))
    assert set(dr.hessian_vector(net, ["a", "b"]).gradients) == {"a", "b"}
    with pytest.raises(DerivationError, match="gradient of 'L' does not depend on 'b'"):
        dr.hessian_vector(net, "b")
