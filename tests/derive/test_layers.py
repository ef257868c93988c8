"""Layers and losses: what they compute, and gradients that no one wrote, numerically."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import derive as dr
from derive.layers.common import feature_index
from derive.network import Handle, Network
from derive.points import random_values
from derive.reference import evaluate
from tests.derive.test_conv import closed, new, wrong
from tests.judge import disagreement

SIZES = {"B": 3, "T": 4, "U": 5}


def lengths(x: Handle) -> Handle:
    return x.network.input("n", "B", dtype=int)


def seed(x: Handle) -> Handle:
    return x.network.random("seed")


LAYERS = {
    "dense over three dims": lambda: dr.dense(new("B", 2, 3, 2), 4, dr.tanh, dims=3),
    "tied weights": lambda: (lambda x: dr.dense(
        dr.dense(x, 3, dr.tanh), weight=x.network["W1"]))(new("B", 5)),
    "concatenate": lambda: (lambda x: dr.concatenate(x, dr.dense(x, 3)))(new("B", 5)),
    "residual": lambda: (lambda x: dr.add(x, dr.dense(x, 5, dr.relu)))(new("B", 5)),
    "layer norm": lambda: dr.layer_norm(new("B", 2, 5)),
    "layer norm over two dims": lambda: dr.layer_norm(new("B", 2, 5), 2),
    "rms norm": lambda: dr.rms_norm(new("B", 5)),
    "group norm": lambda: dr.group_norm(new("B", 4, 3), 2),
    "instance norm": lambda: dr.instance_norm(new("B", 4, 3)),
    "batch norm": lambda: dr.batch_norm(new("B", 5)),
    "batch norm of images": lambda: dr.batch_norm(new("B", 5, 2, 3)),
    "batch norm in evaluation": lambda: dr.batch_norm(new("B", 5, 2), training=False),
    "dropout": lambda: (lambda x: dr.dropout(x, 0.3, seed(x)))(new("B", 5)),
    "noise": lambda: (lambda x: dr.gaussian_noise(x, 0.3, seed(x)))(new("B", 5)),
    "reparametrise": lambda: (lambda x: dr.reparametrise(x, dr.dense(x, 5), seed(x)))(new("B", 5)),
    "attention": lambda: (lambda x: dr.attention(x, dr.dense(x, 2), dr.dense(x, 3)))(
        new("B", "T", 2)),
    "causal attention": lambda: (lambda x: dr.attention(x, x, x, causal=True))(new("B", "T", 2)),
    "heads, padding": lambda: (lambda x: dr.multi_head_attention(x, 2, lengths=lengths(x)))(
        new("B", "T", 4)),
    "heads, rotary": lambda: dr.multi_head_attention(new("B", "T", 4), 2, rotate=True),
    "sinusoidal positions": lambda: dr.sinusoidal_positions(new("B", "T", 4)),
    "learned positions": lambda: dr.learned_positions(new("B", 3, 4)),
    "encoder, pre-norm": lambda: dr.encoder_block(new("B", "T", 4), 2, 3),
    "encoder, post-norm, dropout": lambda: (lambda x: dr.encoder_block(
        x, 2, 3, order="post", rate=0.2, seed=seed(x)))(new("B", "T", 4)),
    "decoder": lambda: (lambda x: dr.decoder_block(
        x, x.network.input("context", "B", "U", 3), 2, 3))(new("B", "T", 4)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients(layer: str):
    assert wrong(LAYERS[layer]()) is None


def value(y: Handle, **given: np.ndarray) -> tuple[dict, np.ndarray]:
    """A random point (with some values given), and y at it."""
    program = y.network.program()
    point = {**random_values(program, 3, SIZES), **given}
    return point, evaluate(program, point, [y.name], SIZES)[y.name]


# -- embedding, take, one-hot ---------------------------------------------------------------------
def test_a_token_that_stands_twice_is_counted_twice():
    net = Network("n")
    e = dr.embedding(net.input("tokens", 4, dtype=int), 3, 2)
    w = net.input("w", *e.shape)
    net.loss(dr.sum(w[e.indices] * e.tensor.access, *e.indices))
    derived = dr.derive(net)
    tokens, w_value = np.array([1, 0, 1, 1]), np.arange(8.0).reshape(4, 2)
    got = evaluate(derived, {"tokens": tokens, "w": w_value, "E1": np.zeros((3, 2))})["_d_E1"]
    want = np.zeros((3, 2))
    np.add.at(want, tokens, w_value)
    np.testing.assert_array_equal(got, want)


def test_take_and_one_hot_agree():
    net = Network("n")
    x, q = net.parameter("x", "B", 5), net.input("q", "B", dtype=int)
    y = dr.take(x, q)
    b, i = x.indices
    z = net.define("z", (b,), dr.sum(x[b, i] * dr.one_hot(q[b], i), i))
    net.loss(dr.sum((y[b] + 2 * z[b]) ** 2, b))
    program = net.program()
    out = evaluate(program, random_values(program, 0))
    np.testing.assert_array_equal(out["z"], out[y.name])
    assert disagreement(program, dr.derive(program)) is None


# -- norms ----------------------------------------------------------------------------------------
def test_batch_norm_keeps_running_moments():
    y = dr.batch_norm(new("B", 5, 2), momentum=0.25)
    program = y.network.program()
    point = random_values(program, 0, SIZES)
    out = evaluate(program, point)
    x = point["X"]
    mean, variance = x.mean((0, 2)), x.var((0, 2), ddof=1)
    np.testing.assert_allclose(
        out[program.updates["running_mean1"]], 0.75 * point["running_mean1"] + 0.25 * mean)
    np.testing.assert_allclose(
        out[program.updates["running_variance1"]],
        0.75 * point["running_variance1"] + 0.25 * variance)


def test_batch_norm_has_the_same_names_in_evaluation():
    names = [{t.name for t in dr.batch_norm(new("B", 5), training=t).network.program().given}
             for t in (True, False)]
    assert names[0] == names[1]


def test_batch_norm_has_no_gradient_under_a_plain_sum():
    """What every sample adds alike is taken out again: the sum of the outputs does not change."""
    y = dr.batch_norm(new("B", 5), affine=False)
    y.network.loss(dr.sum(y.tensor.access, *y.indices))
    derived = dr.derive(y.network)
    out = evaluate(derived, random_values(derived, 0, {"B": 7}))
    assert abs(out["_d_X"]).max() < 1e-12


@pytest.mark.parametrize("layer, over", [
    (lambda x: dr.layer_norm(x, affine=False), -1),
    (dr.instance_norm, -1),
])
def test_norms_have_mean_0_and_variance_1(layer, over: int):
    _, y = value(layer(new("B", 4, 6)))
    np.testing.assert_allclose(y.mean(over), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(over), 1, rtol=1e-3)


def test_group_norm_with_one_group_for_each_channel_is_instance_norm():
    x = new("B", 4, 6)
    both = dr.group_norm(x, 4, affine=False), dr.instance_norm(x)
    program = x.network.program()
    out = evaluate(program, random_values(program, 0))
    np.testing.assert_allclose(out[both[0].name], out[both[1].name])


# -- attention ------------------------------------------------------------------------------------
def test_attention_with_a_mask_ignores_what_is_masked():
    x = new("B", "T", 2)
    y = dr.attention(x, x, x, lengths=lengths(x))
    point, out = value(y, n=np.array([2, 4, 1]))
    short = dr.attention(*(3 * [new(1, 2, 2)]))
    alone = evaluate(short.network.program(), {"X": point["X"][:1, :2]})[short.name]
    np.testing.assert_allclose(out[0, :2], alone[0])


def test_an_all_masked_row_is_zero_and_has_no_gradient():
    x = new("B", "T", 2)
    y = dr.attention(x, x, x, lengths=lengths(x))
    derived = dr.derive(closed(y))
    point = {**random_values(derived, 0, SIZES), "n": np.array([0, 4, 1])}
    out = evaluate(derived, point)
    assert not out[y.name][0].any()
    assert not out["_d_X"][0].any()
    assert np.isfinite(out["_d_X"]).all() and out["_d_X"][1].all()


def test_products_of_rotated_vectors_depend_on_their_distance():
    x = Network("n").input("x", 6, 4)
    y = dr.rotary(x)
    out = evaluate(x.network.program(), {"x": np.tile([1.0, 2.0, -1.0, 0.5], (6, 1))})[y.name]
    products = out @ out.T
    for step in range(6):
        np.testing.assert_allclose(np.diag(products, step), products[0, step])


def test_sinusoidal_positions_are_the_published_ones():
    x = Network("n").input("x", 7, 6)
    got = evaluate(dr.sinusoidal_positions(x).network.program(), {"x": np.zeros((7, 6))})["x1"]
    t, d = np.arange(7)[:, None], np.arange(0, 6, 2)[None, :]
    np.testing.assert_allclose(got[:, 0::2], np.sin(t / 10000 ** (d / 6)))
    np.testing.assert_allclose(got[:, 1::2], np.cos(t / 10000 ** (d / 6)))


# -- random layers --------------------------------------------------------------------------------
def test_dropout_keeps_the_share_and_the_mean_and_is_new_with_each_seed():
    x = Network("n").input("x", 200, 50)
    y = dr.dropout(x, 0.3, seed(x))
    program = x.network.program()
    first, second = (evaluate(program, {"x": np.ones((200, 50)), "seed": s})[y.name]
                     for s in (1, 2))
    assert abs((first == 0).mean() - 0.3) < 0.015
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.7])
    assert 0.4 < ((first == 0) == (second == 0)).mean() < 0.75


def test_the_mask_is_recomputed_in_the_backward_pass():
    x = new(20, 10)
    y = dr.dropout(x, 0.5, seed(x))
    x.network.loss(dr.sum(y.tensor.access, *y.indices))
    derived = dr.derive(x.network)
    out = evaluate(derived, {"X": np.ones((20, 10)), "seed": 3})
    np.testing.assert_array_equal(out["_d_X"], out[y.name])
    assert len(derived.equations) == 3, "no tensor holds the mask"


def test_two_dropouts_differ_and_evaluation_has_none():
    x = Network("n").input("x", 20, 10)
    s = seed(x)
    a, b = dr.dropout(x, 0.5, s), dr.dropout(x, 0.5, s)
    out = evaluate(x.network.program(), {"x": np.ones((20, 10)), "seed": 3})
    assert (out[a.name] != out[b.name]).any()
    assert dr.dropout(x, 0.5, s, training=False) is x


def test_noise_is_normal():
    x = Network("n").input("x", 300, 100)
    y = dr.gaussian_noise(x, 2, seed(x))
    out = evaluate(x.network.program(), {"x": np.zeros((300, 100)), "seed": 3})[y.name]
    assert abs(out.mean()) < 0.05 and abs(out.std() - 2) < 0.05
    assert abs((np.abs(out) < 2).mean() - special.erf(np.sqrt(0.5))) < 0.01


# -- losses ---------------------------------------------------------------------------------------
def scores() -> tuple[Handle, Network]:
    net = Network("n")
    return dr.dense(net.input("x", "B", 3), 4), net


def labels(net: Network) -> Handle:
    return net.input("t", "B", dtype=int)


def like(net: Network, **settings: bool) -> Handle:
    return net.input("t", "B", 4, **settings)


LOSSES = {
    "squared error": lambda z, net: dr.squared_error(z, like(net)),
    "mean squared error": lambda z, net: dr.mean_squared_error(z, like(net)),
    "absolute error": lambda z, net: dr.absolute_error(z, like(net)),
    "huber": lambda z, net: dr.huber(z, like(net), 0.5),
    "hinge": lambda z, net: dr.hinge(z, like(net)),
    "hinge on labels": lambda z, net: dr.hinge(z, labels(net)),
    "binary cross-entropy": lambda z, net: dr.binary_cross_entropy(z, like(net)),
    "cross-entropy": lambda z, net: dr.cross_entropy(z, labels(net)),
    "cross-entropy, smoothed": lambda z, net: dr.cross_entropy(z, labels(net), 0.1),
    "cross-entropy, smoothed probabilities": lambda z, net: dr.cross_entropy(
        z, like(net, distribution=True), 0.1),
    "focal": lambda z, net: dr.focal(z, labels(net), 1.5),
    "KL": lambda z, net: dr.kl_divergence(z, like(net, distribution=True)),
    "Gaussian KL": lambda z, net: dr.gaussian_kl(z, dr.dense(net["x"], 4)),
    "InfoNCE": lambda z, net: dr.info_nce(z, dr.dense(net["x"], 4)),
    "cosine": lambda z, net: dr.cosine_loss(z, like(net)),
    "penalties": lambda z, net: dr.squared_error(z, like(net)) + 0.1 * dr.l1(net["W1"])
    + 0.2 * dr.l2(net["W1"], net["c1"]) + dr.elastic(net["c1"], share=0.3),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_losses(loss: str):
    z, net = scores()
    net.loss(LOSSES[loss](z, net))
    program = net.program()
    assert disagreement(program, dr.derive(program)) is None


def loss_value(loss: str) -> tuple[float, np.ndarray, np.ndarray]:
    z, net = scores()
    net.loss(LOSSES[loss](z, net))
    program = net.program()
    point = random_values(program, 3)
    out = evaluate(program, point)
    return float(out["L"]), out[z.name], point.get("t")


def test_values_of_losses():
    value, z, t = loss_value("focal")
    p = special.softmax(z, axis=1)[np.arange(len(z)), t]
    assert np.isclose(value, np.mean(-((1 - p) ** 1.5) * np.log(p)))
    value, z, t = loss_value("hinge on labels")
    margins = np.maximum(0, 1 + z - z[np.arange(len(z)), t][:, None])
    assert np.isclose(value, np.mean(margins.sum(1) - 1))
    value, z, t = loss_value("huber")
    r = np.abs(z - t)
    assert np.isclose(value, np.mean(np.where(r <= 0.5, r**2 / 2, 0.5 * (r - 0.25))))
    value, z, t = loss_value("KL")
    assert np.isclose(value, np.mean(np.sum(t * (np.log(t) - special.log_softmax(z, 1)), 1)))
    value, z, t = loss_value("cosine")
    cosine = np.sum(z * t, 1) / np.linalg.norm(z, axis=1) / np.linalg.norm(t, axis=1)
    assert np.isclose(value, np.mean(1 - cosine))
    value, z, t = loss_value("cross-entropy, smoothed")
    target = 0.9 * np.eye(4)[t] + 0.025
    assert np.isclose(value, np.mean(-np.sum(target * special.log_softmax(z, 1), 1)))


def test_kl_divergence_from_a_certain_distribution_is_finite():
    z, net = scores()
    net.loss(dr.kl_divergence(z, like(net, distribution=True)))
    program = net.program()
    point = {**random_values(program, 0), "t": np.eye(4)[[0, 2, 1]]}
    assert np.isfinite(evaluate(program, point)["L"])


def test_kl_and_cross_entropy_have_the_same_gradient():
    derived = []
    for loss in (dr.kl_divergence, dr.cross_entropy):
        z, net = scores()
        net.loss(loss(z, like(net, distribution=True)))
        derived.append(dr.derive(net))
    assert derived[0]["_d_z1"].body == derived[1]["_d_z1"].body


def test_a_feature_index_is_the_next_free_letter():
    assert feature_index(new("B", 3), 4).name == "j"
