"""The networks of the CPU benchmark: each is declared once here, and in each peer's own words.

A row's ``kind`` names the function of `cpu_torch` and `cpu_jax` that says the same mathematics;
``sizes`` are its arguments. Parameters are handed over by the names that they have here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import derive as dr
from derive.optimizers import Optimizer
from derive.program import Program

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One network: its kind and sizes, the rows of a minibatch, and the update rule."""

    name: str
    kind: str
    sizes: dict[str, Any]
    batch: int
    optimizer: Optimizer

    def program(self) -> Program:
        """The derived program."""
        return KINDS[self.kind](self.name, **self.sizes)

    @property
    def trained_only(self) -> tuple[str, ...]:
        """Parameters that train where others are frozen."""
        return tuple(self.sizes.get("trained", ()))


def mlp(name: str, layers: tuple[int, ...], activation: str = "relu", loss: str = "classes"
        ) -> Program:
    net = dr.Network(name)
    h = net.input("x", "B", layers[0])
    for size in layers[1:-1]:
        h = dr.dense(h, size, getattr(dr, activation))
    if loss == "classes":
        net.loss(dr.cross_entropy(dr.dense(h, layers[-1]), net.input("t", "B", dtype=int)))
    else:
        last = dr.dense(h, layers[-1], dr.sigmoid if activation == "sigmoid" else None)
        net.loss(dr.mean_squared_error(last, net.input("t", "B", layers[-1])))
    return dr.derive(net)


def normalised(name: str, depth: int, width: int) -> Program:
    net = dr.Network(name)
    h = net.input("x", "B", width)
    for _ in range(depth):
        h = dr.relu(dr.batch_norm(dr.dense(h, width)))
    net.loss(dr.cross_entropy(dr.dense(h, 10), net.input("t", "B", dtype=int)))
    return dr.derive(net)


def cnn(name: str, size: int, channels: tuple[int, int]) -> Program:
    net = dr.Network(name)
    h = net.input("x", "B", 1, size, size)
    for count in channels:
        h = dr.max_pool(dr.relu(dr.conv2d(h, count, 3, padding=1)), 2)
    net.loss(dr.cross_entropy(dr.dense(h, 10, dims=3), net.input("t", "B", dtype=int)))
    return dr.derive(net)


def lstm(name: str, features: int, units: int, steps: int) -> Program:
    net = dr.Network(name)
    h = dr.lstm(net.input("x", "B", steps, features), units)
    b, _, j = h.indices
    last = net.define("last", (b, j), h[b, steps - 1, j])
    net.loss(dr.cross_entropy(dr.dense(last, 10), net.input("t", "B", dtype=int)))
    return dr.derive(net)


def encoder(name: str, width: int, heads: int, tokens: int) -> Program:
    net = dr.Network(name)
    y = dr.encoder_block(net.input("x", "B", tokens, width), heads, 4 * width)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", tokens, width)))
    return dr.derive(net)


def adapted(name: str, layers: tuple[int, ...], rank: int, trained: tuple[str, ...]) -> Program:
    """An MLP whose weights are frozen, with a trained product of two thin matrices beside each."""
    net = dr.Network(name)
    h = net.input("x", "B", layers[0])
    for number, size in enumerate(layers[1:], 1):
        whole = dr.dense(h, size)
        h = dr.add(whole, dr.dense(dr.dense(h, rank, bias=False), size, bias=False))
        if number < len(layers) - 1:
            h = dr.relu(h)
    net.loss(dr.cross_entropy(h, net.input("t", "B", dtype=int)))
    return dr.derive(net, list(trained))


def hessian_product(name: str, layers: tuple[int, ...]) -> Program:
    net = dr.Network(name)
    h = dr.dense(net.input("x", "B", layers[0]), layers[1], dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, layers[2]), net.input("t", "B", dtype=int)))
    return dr.hessian_vector(net.program(), "W1")


KINDS: dict[str, Callable[..., Program]] = {
    "mlp": mlp, "normalised": normalised, "cnn": cnn, "lstm": lstm, "encoder": encoder,
    "adapted": adapted, "hessian_product": hessian_product,
}


def _mlp(layers: tuple[int, ...], batch: int, optimizer: Optimizer, **sizes: Any) -> Row:
    return Row("-".join(map(str, layers)), "mlp", {"layers": layers, **sizes}, batch, optimizer)


ADAM = dr.adam(lr=1e-3)
ROWS = (
    _mlp((3, 3, 1), 32, dr.sgd(lr=0.1), activation="sigmoid", loss="values"),
    _mlp((64, 32, 10), 32, dr.momentum(lr=0.01)),
    _mlp((64, 64, 64, 10), 64, ADAM),
    _mlp((784, 128, 10), 64, dr.momentum(lr=0.01)),
    _mlp((784, 512, 512, 10), 128, ADAM),
    _mlp((784, 2048, 2048, 10), 256, ADAM),
    Row("batch-norm-20x64", "normalised", {"depth": 20, "width": 64}, 64, ADAM),
    Row("cnn-8x8-8-16", "cnn", {"size": 8, "channels": (8, 16)}, 32, ADAM),
    Row("cnn-28x28-8-16", "cnn", {"size": 28, "channels": (8, 16)}, 32, ADAM),
    Row("cnn-28x28-32-64", "cnn", {"size": 28, "channels": (32, 64)}, 64, ADAM),
    Row("lstm-28-64-t28", "lstm", {"features": 28, "units": 64, "steps": 28}, 32, ADAM),
    Row("lstm-64-128-t64", "lstm", {"features": 64, "units": 128, "steps": 64}, 32, ADAM),
    Row("lstm-128-256-t64", "lstm", {"features": 128, "units": 256, "steps": 64}, 64, ADAM),
    Row("encoder-64-t32", "encoder", {"width": 64, "heads": 4, "tokens": 32}, 8, ADAM),
    Row("encoder-128-t128", "encoder", {"width": 128, "heads": 4, "tokens": 128}, 8, ADAM),
    Row("encoder-256-t256", "encoder", {"width": 256, "heads": 8, "tokens": 256}, 8, ADAM),
    _mlp((784, 256, 32, 256, 784), 128, ADAM, loss="values"),
    Row("lora-784-512-512-10", "adapted",
        {"layers": (784, 512, 512, 10), "rank": 8,
         "trained": ("W2", "W3", "W5", "W6", "W8", "W9")}, 128, ADAM),
    Row("hvp-64-32-10", "hessian_product", {"layers": (64, 32, 10)}, 32, dr.sgd()),
)


def data(row: Row, steps: int) -> Arrays:
    """Random inputs and labels for so many steps."""
    rng = np.random.default_rng(0)
    rows, sizes = steps * row.batch, row.sizes
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
        "cnn": ((1, sizes.get("size", 0), sizes.get("size", 0)), None),
        "lstm": ((sizes.get("steps", 0), sizes.get("features", 0)), None),
        "encoder": ((sizes.get("tokens", 0), sizes.get("width", 0)),) * 2,
        "normalised": ((sizes.get("width", 0),), None),
    }
    layers = sizes.get("layers", (0,))
    values = layers[-1:] if sizes.get("loss") == "values" else None
    x, t = shapes.get(row.kind, (layers[:1], values))
    found = {"x": rng.standard_normal((rows, *x)).astype(np.float32)}
    found["t"] = (rng.integers(0, 10, rows) if t is None
                  else rng.standard_normal((rows, *t)).astype(np.float32))
    return found


def direction(shape: tuple[int, ...]) -> np.ndarray:
    """The vector that a Hessian is multiplied with."""
    return np.random.default_rng(1).standard_normal(tuple(shape)).astype(np.float32)
