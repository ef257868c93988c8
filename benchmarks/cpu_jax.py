"""The rows of the CPU benchmark in JAX: one jitted function of a whole training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cpu_rows import Row, direction
from jax import lax

Tensors = dict[str, Any]


def _classes(z: Any, t: Any) -> Any:
    picked = jnp.take_along_axis(z, t[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)


def mlp(p: Tensors, x: Any, t: Any, layers: tuple[int, ...], activation: str = "relu",
        loss: str = "classes") -> Any:
    apply = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[activation]
    count = len(layers) - 1
    for n in range(1, count):
        x = apply(x @ p[f"W{n}"] + p[f"c{n}"])
    x = x @ p[f"W{count}"] + p[f"c{count}"]
    if loss == "classes":
        return _classes(x, t)
    return jnp.mean(((apply(x) if activation == "sigmoid" else x) - t) ** 2)


def normalised(p: Tensors, x: Any, t: Any, depth: int, width: int) -> Any:
    for n in range(depth):
        z = x @ p[f"W{n + 1}"] + p[f"c{2 * n + 1}"]
        centred = z - jnp.mean(z, 0)
        z = centred * lax.rsqrt(jnp.mean(centred**2, 0) + 1e-5)
        x = jax.nn.relu(z * p[f"g{n + 1}"] + p[f"c{2 * n + 2}"])
    return _classes(x @ p[f"W{depth + 1}"] + p[f"c{2 * depth + 1}"], t)


def cnn(p: Tensors, x: Any, t: Any, size: int, channels: tuple[int, int]) -> Any:
    for n in (1, 2):
        x = lax.conv_general_dilated(x, p[f"K{n}"], (1, 1), "SAME",
                                     dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = jax.nn.relu(x + p[f"c{n}"][:, None, None])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return _classes(x.reshape(x.shape[0], -1) @ p["W1"].reshape(-1, 10) + p["c3"], t)


def lstm(p: Tensors, x: Any, t: Any, features: int, units: int, steps: int) -> Any:
    a = x.reshape(-1, features) @ p["U1"].reshape(features, -1) + p["c1"].reshape(-1)
    a = a.reshape(x.shape[0], steps, -1).transpose(1, 0, 2)
    weight = p["V1"].reshape(units, -1)

    def cell(carry: Any, row: Any) -> Any:
        h, s = carry
        i, f, g, o = jnp.split(row + h @ weight, 4, axis=1)
        s = jax.nn.sigmoid(f) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(s), s), None

    zero = jnp.zeros((x.shape[0], units), x.dtype)
    (h, _), _ = lax.scan(cell, (zero, zero), a)
    return _classes(h @ p["W1"] + p["c2"], t)


def encoder(p: Tensors, x: Any, t: Any, width: int, heads: int, tokens: int) -> Any:
    def norm(x: Any, n: int) -> Any:
        centred = x - jnp.mean(x, -1, keepdims=True)
        spread = jnp.mean(centred**2, -1, keepdims=True)
        return centred * lax.rsqrt(spread + 1e-5) * p[f"g{n}"] + p[f"c{n}"]

    y = norm(x, 1)
    q, k, v = (jnp.einsum("btd,dhe->bhte", y, p[f"W{n}1"]) + p[f"c{n}1"][:, None] for n in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bhte,bhue->bhtu", q, k) / (width / heads) ** 0.5)
    o = jnp.einsum("bhtu,bhue->bthe", weights, v)
    x = x + jnp.einsum("bthe,hed->btd", o, p["Wo1"]) + p["co1"]
    y = jax.nn.gelu(norm(x, 2) @ p["W1"] + p["c3"], approximate=False) @ p["W2"] + p["c4"]
    return jnp.mean((x + y - t) ** 2)


def adapted(p: Tensors, x: Any, t: Any, layers: tuple[int, ...], rank: int,
            trained: tuple[str, ...]) -> Any:
    for n in range(len(layers) - 1):
        whole, down, up = (p[f"W{3 * n + m}"] for m in (1, 2, 3))
        x = x @ whole + p[f"c{n + 1}"] + (x @ down) @ up
        x = jax.nn.relu(x) if n < len(layers) - 2 else x
    return _classes(x, t)


def hessian_product(p: Tensors, x: Any, t: Any, layers: tuple[int, ...]) -> Any:
    return _classes(jnp.tanh(x @ p["W1"] + p["c1"]) @ p["W2"] + p["c2"], t)


KINDS = {f.__name__: f for f in (mlp, normalised, cnn, lstm, encoder, adapted, hessian_product)}


def _updates(row: Row) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
    """(parameters, gradients, moments, step) → (parameters, moments), of the row's own rule."""
    s = row.optimizer.settings
    each = jax.tree_util.tree_map

    def update(p: Any, g: Any, moments: Any, step: Any) -> tuple[Any, Any]:
        if row.optimizer.name == "sgd":
            return each(lambda a, b: a - s["lr"] * b, p, g), moments
        if row.optimizer.name == "momentum":
            v = each(lambda a, b: s["beta"] * a + b, moments, g)
            return each(lambda a, b: a - s["lr"] * b, p, v), v
        m = each(lambda a, b: s["beta1"] * a + (1 - s["beta1"]) * b, moments[0], g)
        v = each(lambda a, b: s["beta2"] * a + (1 - s["beta2"]) * b * b, moments[1], g)
        one, two = 1 - s["beta1"] ** step, 1 - s["beta2"] ** step
        return each(lambda a, b, c: a - s["lr"] * (b / one) / (jnp.sqrt(c / two) + s["eps"]),
                    p, m, v), (m, v)

    return update


def peer(row: Row, start: dict[str, np.ndarray]) -> Callable[[dict[str, np.ndarray]], float]:
    """An epoch over arrays, from copies of the given parameters; it returns the mean loss."""
    loss = partial(KINDS[row.kind], **row.sizes)
    whole = {n: jnp.asarray(v.copy()) for n, v in start.items()}
    names = row.trained_only or tuple(whole)
    frozen = {n: v for n, v in whole.items() if n not in names}
    if row.kind == "hessian_product":
        return _products(row, whole, loss)
    update = _updates(row)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(p: Any, moments: Any, count: Any, x: Any, t: Any) -> Any:
        value, slope = jax.value_and_grad(lambda q: loss({**frozen, **q}, x, t))(p)
        p, moments = update(p, slope, moments, count)
        return p, moments, value

    trained = {n: v for n, v in whole.items() if n in names}
    zeros = {n: jnp.zeros_like(v) for n, v in trained.items()}
    more = {n: jnp.zeros_like(v) for n, v in trained.items()}
    kept: list[Any] = [trained, (zeros, more) if row.optimizer.name == "adam" else zeros, 0]

    def epoch(values: dict[str, np.ndarray]) -> float:
        found = []
        for first in range(0, len(values["x"]), row.batch):
            batch = (jnp.asarray(values[n][first:first + row.batch]) for n in ("x", "t"))
            kept[2] += 1
            kept[0], kept[1], value = step(kept[0], kept[1], float(kept[2]), *batch)
            found.append(value)
        return float(sum(map(float, found))) / len(found)

    return epoch


def _products(row: Row, parameters: Tensors, loss: Callable[..., Any]
              ) -> Callable[[dict[str, np.ndarray]], float]:
    vector = jnp.asarray(direction(parameters["W1"].shape))

    @jax.jit
    def product(x: Any, t: Any) -> Any:
        slope = jax.grad(lambda w: loss({**parameters, "W1": w}, x, t))
        return jnp.sum(jax.jvp(slope, (parameters["W1"],), (vector,))[1] * vector)

    def epoch(values: dict[str, np.ndarray]) -> float:
        total = 0.0
        for first in range(0, len(values["x"]), row.batch):
            total += float(product(*(jnp.asarray(values[n][first:first + row.batch])
                                     for n in ("x", "t"))))
        return total / (len(values["x"]) / row.batch)

    return epoch
