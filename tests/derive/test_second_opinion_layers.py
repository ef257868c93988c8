"""Every kind of layer and loss in HIPS autograd (NumPy, float64), written from its definition by
loops and slices: values and gradients of another program, not ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import derive as dr
from derive.network import Handle, Network
from derive.points import random_values
from derive.reference import evaluate
from tests.derive.test_conv import closed, new
from tests.derive.test_layers import LOSSES as OURS
from tests.derive.test_layers import scores

autograd = pytest.importorskip("autograd")
anp = pytest.importorskip("autograd.numpy")

Point = dict[str, Any]
SIZES = {"B": 4, "T": 5, "U": 3}


def sigma(x: Any) -> Any:
    return 1 / (1 + anp.exp(-x))


def softmax(z: Any) -> Any:
    e = anp.exp(z - anp.max(z, axis=-1, keepdims=True))
    return e / anp.sum(e, axis=-1, keepdims=True)


# -- windows --------------------------------------------------------------------------------------
def padded(x: Any, by: Sequence[int], mode: str = "zero") -> Any:
    """Padding as a choice of elements, one dim after the other."""
    for axis, n in enumerate(by, start=2):
        size = x.shape[axis]
        at = np.arange(-n, size + n)
        inside = (at >= 0) & (at < size)
        if mode == "reflect":
            at = np.where(at < 0, -at, np.where(at >= size, 2 * (size - 1) - at, at))
        elif mode == "circular":
            at = at % size
        chosen = anp.moveaxis(anp.moveaxis(x, axis, 0)[np.clip(at, 0, size - 1)], 0, axis)
        if mode == "zero":
            shape = [1] * x.ndim
            shape[axis] = len(at)
            chosen = chosen * inside.reshape(shape)
        x = chosen
    return x


def windows(x: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
            ) -> list[tuple[tuple[int, ...], Any]]:
    """For each tap what it sees: (place in the kernel, an array over all windows)."""
    counts = [(n - d * (k - 1) - 1) // s + 1
              for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]
    found = []
    for tap in itertools.product(*map(range, kernel)):
        cut = tuple(slice(d * t, d * t + s * (c - 1) + 1, s)
                    for t, d, s, c in zip(tap, dilation, stride, counts))
        found.append((tap, x[(slice(None), slice(None), *cut)]))
    return found


def convolved(p: Point, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
              groups: int = 1, mode: str = "zero") -> Any:
    x, k = padded(p["X"], padding, mode), p["K1"]
    out, own = k.shape[0] // groups, k.shape[1]
    parts = []
    for g in range(groups):
        total: Any = 0
        for tap, seen in windows(x[:, g * own:(g + 1) * own], k.shape[2:], stride, dilation):
            weight = k[(slice(g * out, (g + 1) * out), slice(None), *tap)]
            total = total + anp.einsum("bc...,oc->bo...", seen, weight)
        parts.append(total)
    y = anp.concatenate(parts, axis=1)
    return y + p["c1"].reshape((1, -1) + (1,) * (y.ndim - 2))


def transposed(p: Point, stride: int, padding: int, dilation: int, extra: int) -> Any:
    """Each element of x puts a kernel into the output, which is cut by the padding."""
    x, k = p["X"], p["K1"]
    size = (x.shape[2] - 1) * stride - 2 * padding + dilation * (k.shape[2] - 1) + 1 + extra
    rows = []
    for place in range(size):
        total: Any = p["c1"][None, :] * np.ones((len(x), 1))
        for i, r in itertools.product(range(x.shape[2]), range(k.shape[2])):
            if stride * i + dilation * r - padding == place:
                total = total + x[:, :, i] @ k[:, :, r]
        rows.append(total)
    return anp.stack(rows, axis=2)


def pooled(x: Any, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
           reduce: Callable[[Any], Any]) -> Any:
    seen = [w for _, w in windows(padded(x, padding), kernel, stride, (1,) * len(kernel))]
    return reduce(anp.stack(seen))


def highest(x: Any) -> Any:
    """Max pooling 3, stride 2, padding 1, with nothing where padding is."""
    shape = (1, 1, *x.shape[2:])
    there = padded(np.ones(shape), (1, 1)) > 0
    wide = padded(x, (1, 1)) + np.where(there, 0.0, -1e9)
    return anp.max(anp.stack([w for _, w in windows(wide, (3, 3), (2, 2), (1, 1))]), axis=0)


def bilinear(x: Any, factor: int) -> Any:
    size = x.shape[2]
    place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    return x[:, :, low] * (1 - (place - low)) + x[:, :, high] * (place - low)


# -- sequences ------------------------------------------------------------------------------------
def recurrent(step: Callable[..., tuple], states: int, reverse: bool = False) -> Callable:
    """A layer over time from one step of it, each sequence ending at its length."""
    def run(p: Point, x: Any, number: int = 1) -> Any:
        own = {n: p[f"{n}{number}"] for n in ("U", "V", "c", "e") if f"{n}{number}" in p}
        steps, width = x.shape[1], own["V"].shape[0]
        lengths = p.get("n", np.full(len(x), steps))
        now = tuple(anp.zeros((len(x), width)) for _ in range(states))
        out: list[Any] = [None] * steps
        for t in (reversed(range(steps)) if reverse else range(steps)):
            going = (t < lengths)[:, None]
            after = step(own, x[:, t], *now)
            now = tuple(anp.where(going, a, b) for a, b in zip(after, now))
            out[t] = now[0]
        return anp.stack(out, axis=1)

    return run


def elman_step(w: Point, x: Any, h: Any) -> tuple:
    return (anp.tanh(x @ w["U"] + h @ w["V"] + w["c"]),)


def gru_step(w: Point, x: Any, h: Any) -> tuple:
    a = anp.einsum("bi,igj->gbj", x, w["U"]) + w["c"][:, None]
    b = anp.einsum("bk,kgj->gbj", h, w["V"]) + w["e"][:, None]
    r, z = sigma(a[0] + b[0]), sigma(a[1] + b[1])
    return ((1 - z) * anp.tanh(a[2] + r * b[2]) + z * h,)


def lstm_step(w: Point, x: Any, h: Any, s: Any) -> tuple:
    z = (anp.einsum("bi,igj->gbj", x, w["U"]) + anp.einsum("bk,kgj->gbj", h, w["V"])
         + w["c"][:, None])
    s = sigma(z[1]) * s + sigma(z[0]) * anp.tanh(z[2])
    return sigma(z[3]) * anp.tanh(s), s


def both_ways(step: Callable[..., tuple], states: int) -> Callable[[Point], Any]:
    return lambda p: anp.concatenate([
        recurrent(step, states)(p, p["X"], 1),
        recurrent(step, states, reverse=True)(p, p["X"], 2)], axis=2)


# -- attention ------------------------------------------------------------------------------------
def turned(x: Any) -> Any:
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[-2])[:, None] * 10000.0 ** (-2 * np.arange(half) / x.shape[-1])
    a, b = x[..., :half], x[..., half:]
    return anp.concatenate([a * np.cos(angle) - b * np.sin(angle),
                            b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def attended(p: Point, x: Any, other: Any, number: int = 1, allowed: Any = None,
             rotate: bool = False) -> Any:
    q, k, v = (anp.einsum("btd,dhe->bhte", source, p[f"W{s}{number}"])
               + p[f"c{s}{number}"][None, :, None]
               for s, source in (("q", x), ("k", other), ("v", other)))
    if rotate:
        q, k = turned(q), turned(k)
    scores = anp.einsum("bhte,bhue->bhtu", q, k) / np.sqrt(q.shape[-1])
    if allowed is None:
        weights = softmax(scores)
    else:  # a row without any key has weights of 0
        weights = softmax(anp.where(allowed, scores, -1e30)) * allowed
    out = anp.einsum("bhtu,bhue->bhte", weights, v)
    return anp.einsum("bhte,hed->btd", out, p[f"Wo{number}"]) + p[f"co{number}"]


def before(t: int) -> np.ndarray:
    return np.tril(np.ones((t, t), bool))


def normed(x: Any, gain: Any, bias: Any) -> Any:
    centred = x - anp.mean(x, axis=-1, keepdims=True)
    return centred / anp.sqrt(anp.mean(centred**2, axis=-1, keepdims=True) + 1e-5) * gain + bias


def gelu(x: Any) -> Any:
    from autograd.scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def fed(p: Point, x: Any, first: int, biases: tuple[int, int]) -> Any:
    h = gelu(x @ p[f"W{first}"] + p[f"c{biases[0]}"])
    return h @ p[f"W{first + 1}"] + p[f"c{biases[1]}"]


def encoded(p: Point) -> Any:
    """Pre-norm: x + attention(norm(x)), x + feed-forward(norm(x))."""
    x, n = p["X"], normed(p["X"], p["g1"], p["c1"])
    x = x + attended(p, n, n)
    return x + fed(p, normed(x, p["g2"], p["c2"]), 1, (3, 4))


def decoded(p: Point) -> Any:
    """Post-norm, with masked self-attention and attention to a context."""
    x = p["X"]
    x = normed(x + attended(p, x, x, 1, before(x.shape[1])), p["g1"], p["c1"])
    x = normed(x + attended(p, x, p["context"], 2), p["g2"], p["c2"])
    return normed(x + fed(p, x, 1, (3, 4)), p["g3"], p["c5"])


def sinusoids(x: Any) -> Any:
    t, d = np.arange(x.shape[1])[:, None], np.arange(x.shape[2])[None]
    angle = t * 10000.0 ** (-(d - d % 2) / x.shape[2])
    return x + np.where(d % 2 == 0, np.sin(angle), np.cos(angle))


# -- norms ----------------------------------------------------------------------------------------
def scaled(x: Any, axes: tuple[int, ...], p: Point, channels: bool = True) -> Any:
    centred = x - anp.mean(x, axis=axes, keepdims=True)
    y = centred / anp.sqrt(anp.mean(centred**2, axis=axes, keepdims=True) + 1e-5)
    if "g1" not in p:
        return y
    shape = (1, -1) + (1,) * (x.ndim - 2) if channels else (1,) * (x.ndim - 1) + (-1,)
    return y * p["g1"].reshape(shape) + p["c1"].reshape(shape)


def grouped(p: Point) -> Any:
    x = p["X"]
    parts = x.reshape((x.shape[0], 2, -1))
    centred = parts - anp.mean(parts, axis=2, keepdims=True)
    y = centred / anp.sqrt(anp.mean(centred**2, axis=2, keepdims=True) + 1e-5)
    return y.reshape(x.shape) * p["g1"][None, :, None] + p["c1"][None, :, None]


def with_lengths(layer: Callable[..., Handle], **settings: Any) -> Callable[[], Handle]:
    def make() -> Handle:
        x = new("B", "T", 4)
        return layer(x, lengths=x.network.input("n", "B", dtype=int), **settings)

    return make


LAYERS: dict[str, tuple[Callable[[], Handle], Callable[[Point], Any]]] = {
    "conv2d": (lambda: dr.conv2d(new("B", 2, 5, 6), 3, (3, 2), stride=2, padding=1),
               lambda p: convolved(p, (1, 1), (2, 2), (1, 1))),
    "conv3d": (lambda: dr.conv3d(new("B", 2, 3, 4, 3), 2, 2, padding=1, dilation=(1, 2, 1)),
               lambda p: convolved(p, (1, 1, 1), (1, 1, 1), (1, 2, 1))),
    "grouped": (lambda: dr.convolution(new("B", 6, 7), 4, 3, padding=1, groups=2, stride=2),
                lambda p: convolved(p, (1,), (2,), (1,), 2)),
    "depthwise": (lambda: dr.depthwise(new("B", 3, 5, 4), 3, padding=1),
                  lambda p: convolved(p, (1, 1), (1, 1), (1, 1), 3)),
    "transposed": (lambda: dr.conv_transpose(
        new("B", 2, 4), 3, 3, stride=3, padding=1, dilation=2, extra=1),
        lambda p: transposed(p, 3, 1, 2, 1)),
    **{mode: (lambda mode=mode: dr.convolution(
        new("B", 2, 5), 3, 3, padding=2, stride=2, mode=mode),
        lambda p, mode=mode: convolved(p, (2,), (2,), (1,), 1, mode))
       for mode in ("reflect", "replicate", "circular")},
    "max pool": (lambda: dr.max_pool(new("B", 2, 5, 4), 3, 2, 1), lambda p: highest(p["X"])),
    "average pool": (lambda: dr.average_pool(new("B", 2, 5, 4), 3, 2, 1),
                     lambda p: pooled(p["X"], (3, 3), (2, 2), (1, 1),
                                      lambda w: anp.mean(w, axis=0))),
    "global pools": (lambda: (lambda x: dr.add(
        dr.global_average_pool(x), dr.global_max_pool(x)))(new("B", 2, 5, 4)),
        lambda p: anp.mean(p["X"], axis=(2, 3)) + anp.max(p["X"], axis=(2, 3))),
    "nearest": (lambda: dr.upsample(new("B", 2, 3), 3), lambda p: anp.repeat(p["X"], 3, axis=2)),
    "bilinear": (lambda: dr.upsample(new("B", 2, 4), 3, "bilinear"),
                 lambda p: bilinear(p["X"], 3)),
    "flatten": (lambda: dr.dense(dr.flatten(new("B", 2, 3, 2)), 3),
                lambda p: p["X"].reshape((len(p["X"]), -1)) @ p["W1"] + p["c1"]),
    "elman": (with_lengths(dr.elman, units=3),
              lambda p: recurrent(elman_step, 1)(p, p["X"])),
    "gru": (with_lengths(dr.gru, units=3), lambda p: recurrent(gru_step, 1)(p, p["X"])),
    "lstm, both ways": (with_lengths(lambda x, **s: dr.bidirectional(dr.lstm, x, 3, **s)),
                        both_ways(lstm_step, 2)),
    "gru, both ways": (with_lengths(lambda x, **s: dr.bidirectional(dr.gru, x, 2, **s)),
                       both_ways(gru_step, 1)),
    "padding mask": (with_lengths(dr.multi_head_attention, heads=2),
                     lambda p: attended(p, p["X"], p["X"], allowed=(
                         np.arange(5)[None, :] < p["n"][:, None])[:, None, None, :])),
    "rotary": (lambda: dr.multi_head_attention(new("B", "T", 8), 2, rotate=True, causal=True),
               lambda p: attended(p, p["X"], p["X"], allowed=before(5), rotate=True)),
    "encoder": (lambda: dr.encoder_block(new("B", "T", 4), 2, 3), encoded),
    "decoder": (lambda: (lambda x: dr.decoder_block(
        x, x.network.input("context", "B", "U", 4), 2, 3, order="post"))(new("B", "T", 4)),
        decoded),
    "sinusoidal": (lambda: dr.sinusoidal_positions(new("B", "T", 4)),
                   lambda p: sinusoids(p["X"])),
    "learned": (lambda: dr.learned_positions(new("B", 3, 4)), lambda p: p["X"] + p["P1"]),
    "group norm": (lambda: dr.group_norm(new("B", 4, 3), 2), grouped),
    "instance norm": (lambda: dr.instance_norm(new("B", 4, 6)),
                      lambda p: scaled(p["X"], (2,), p)),
    "batch norm of images": (lambda: dr.batch_norm(new("B", 3, 2, 4)),
                             lambda p: scaled(p["X"], (0, 2, 3), p)),
    "batch norm in evaluation": (
        lambda: dr.batch_norm(new("B", 3, 4), training=False),
        lambda p: (p["X"] - p["running_mean1"][None, :, None])
        / anp.sqrt(p["running_variance1"] + 1e-5)[None, :, None] * p["g1"][None, :, None]
        + p["c1"][None, :, None]),
    "rms norm": (lambda: dr.rms_norm(new("B", 5)), lambda p: p["X"] / anp.sqrt(
        anp.mean(p["X"] ** 2, axis=-1, keepdims=True) + 1e-6) * p["g1"]),
    "concatenate and add": (
        lambda: (lambda x: dr.concatenate(dr.add(x, dr.dense(x, 5)), x))(new("B", 5)),
        lambda p: anp.concatenate([p["X"] + p["X"] @ p["W1"] + p["c1"], p["X"]], axis=1)),
    "tied weights": (lambda: (lambda x: dr.dense(
        dr.dense(x, 3, dr.tanh), weight=x.network["W1"]))(new("B", 5)),
        lambda p: anp.tanh(p["X"] @ p["W1"] + p["c1"]) @ p["W1"].T + p["c2"]),
}


def agrees(network: Network, theirs: Callable[[Point], Any]) -> None:
    derived = dr.derive(network)
    point = random_values(derived, 7, SIZES)
    if "n" in point:
        point["n"] = np.array([2, 0, 5, 3])  # an empty sequence among them
    out = evaluate(derived, point, [*derived.losses, *derived.gradients.values()])
    assert np.isclose(out[derived.losses[0]], theirs(point), rtol=1e-11)
    for name, gradient in derived.gradients.items():
        want = autograd.grad(lambda v, name=name: theirs({**point, name: v}))(point[name])
        np.testing.assert_allclose(out[gradient], want, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str):
    make, forward = LAYERS[layer]
    agrees(closed(make()), lambda p: anp.sum(p["w"] * forward(p) ** 2))


# -- tokens, random numbers -----------------------------------------------------------------------
def test_embedding_and_take():
    net = Network("tokens")
    tokens, chosen = net.input("tokens", "B", 3, dtype=int), net.input("q", "B", 3, dtype=int)
    e = dr.embedding(tokens, 4, 5)
    y = dr.take(dr.dense(e, 6), chosen)
    w = net.input("w", *y.shape)
    net.loss(dr.sum(w[y.indices] * y.tensor.access**2, *y.indices))

    def theirs(p: Point) -> Any:
        z = p["E1"][p["tokens"]] @ p["W1"] + p["c1"]
        rows, steps = np.indices(p["q"].shape)
        return anp.sum(p["w"] * z[rows, steps, p["q"]] ** 2)

    agrees(net, theirs)


def test_dropout_and_reparametrisation_under_their_own_numbers():
    """The random numbers are read off a forward pass on data where they stand alone."""
    x = new("B", 5)
    net, seed = x.network, x.network.random("seed")
    y = dr.reparametrise(dr.dropout(x, 0.4, seed), dr.dense(x, 5), seed)
    w = net.input("w", *y.shape)
    net.loss(dr.sum(w[y.indices] * y.tensor.access**2, *y.indices))
    program = net.program()
    zeros = {**random_values(program, 7, SIZES), "X": np.ones((4, 5)), "W1": np.zeros((5, 5)),
             "c1": np.zeros(5)}
    plain = evaluate(program, zeros)
    dropped = next(v for n, v in plain.items() if n not in (y.name, "z1", "L"))
    noise = plain[y.name] - dropped
    agrees(net, lambda p: anp.sum(p["w"] * (
        p["X"] * dropped + anp.exp((p["X"] @ p["W1"] + p["c1"]) / 2) * noise) ** 2))


# -- losses ---------------------------------------------------------------------------------------
def rows(p: Point) -> tuple[Any, Any]:
    z = p["x"] @ p["W1"] + p["c1"]
    return z, p.get("t")


def log_softmax(z: Any) -> Any:
    top = anp.max(z, axis=-1, keepdims=True)
    return z - top - anp.log(anp.sum(anp.exp(z - top), axis=-1, keepdims=True))


def at(z: Any, t: Any) -> Any:
    return z[np.arange(len(t)), t]


def unit(x: Any) -> Any:
    return x / anp.sqrt(anp.sum(x**2, axis=-1, keepdims=True))


def huber(r: Any, edge: float) -> Any:
    return anp.where(anp.abs(r) <= edge, r**2 / 2, edge * (anp.abs(r) - edge / 2))


def of_logits(f: Callable[[Any, Any], Any]) -> Callable[[Point], Any]:
    return lambda p: f(*rows(p))


LOSSES: dict[str, Callable[[Point], Any]] = {
    "squared error": of_logits(lambda z, t: anp.mean(anp.sum((z - t) ** 2, axis=1)) / 2),
    "mean squared error": of_logits(lambda z, t: anp.mean((z - t) ** 2)),
    "absolute error": of_logits(lambda z, t: anp.mean(anp.abs(z - t))),
    "huber": of_logits(lambda z, t: anp.mean(huber(z - t, 0.5))),
    "hinge": of_logits(lambda z, t: anp.mean(anp.maximum(0, 1 - t * z))),
    "hinge on labels": of_logits(lambda z, t: anp.mean(
        anp.sum(anp.maximum(0, 1 + z - at(z, t)[:, None]), axis=1) - 1)),
    "binary cross-entropy": of_logits(
        lambda z, t: -anp.mean(t * anp.log(sigma(z)) + (1 - t) * anp.log(1 - sigma(z)))),
    "cross-entropy": of_logits(lambda z, t: -anp.mean(at(log_softmax(z), t))),
    "cross-entropy, smoothed": of_logits(lambda z, t: -anp.mean(
        0.9 * at(log_softmax(z), t) + 0.1 * anp.mean(log_softmax(z), axis=1))),
    "cross-entropy, smoothed probabilities": of_logits(lambda z, t: -anp.mean(
        anp.sum((0.9 * t + 0.025) * log_softmax(z), axis=1))),
    "focal": of_logits(lambda z, t: -anp.mean(
        (1 - anp.exp(at(log_softmax(z), t))) ** 1.5 * at(log_softmax(z), t))),
    "KL": of_logits(lambda z, t: anp.mean(anp.sum(t * (np.log(t) - log_softmax(z)), axis=1))),
    "Gaussian KL": lambda p: anp.mean(anp.sum(
        anp.exp(p["x"] @ p["W2"] + p["c2"]) + rows(p)[0] ** 2 - 1
        - (p["x"] @ p["W2"] + p["c2"]), axis=1)) / 2,
    "InfoNCE": lambda p: -anp.mean(anp.diag(log_softmax(
        unit(rows(p)[0]) @ unit(p["x"] @ p["W2"] + p["c2"]).T / 0.1))),
    "cosine": of_logits(lambda z, t: anp.mean(1 - anp.sum(unit(z) * unit(t), axis=1))),
    "penalties": lambda p: (
        anp.mean(anp.sum((rows(p)[0] - p["t"]) ** 2, axis=1)) / 2
        + 0.1 * anp.sum(anp.abs(p["W1"]))
        + 0.1 * (anp.sum(p["W1"] ** 2) + anp.sum(p["c1"] ** 2))
        + 0.3 * anp.sum(anp.abs(p["c1"])) + 0.35 * anp.sum(p["c1"] ** 2)),
}


@pytest.mark.parametrize("loss", OURS)
def test_losses(loss: str):
    z, net = scores()
    net.loss(OURS[loss](z, net))
    agrees(net, LOSSES[loss])
