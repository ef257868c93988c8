"""The rows of the CPU benchmark in PyTorch: eager, and through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cpu_rows import Row, direction
from torch.nn import functional

Tensors = dict[str, Any]
Loss = Callable[[Any, Any], Any]


def mlp(p: Tensors, layers: tuple[int, ...], activation: str = "relu", loss: str = "classes"
        ) -> Loss:
    apply = getattr(torch, activation)
    count = len(layers) - 1

    def run(x: Any, t: Any) -> Any:
        for n in range(1, count):
            x = apply(torch.addmm(p[f"c{n}"], x, p[f"W{n}"]))
        x = torch.addmm(p[f"c{count}"], x, p[f"W{count}"])
        if loss == "classes":
            return functional.cross_entropy(x, t)
        return functional.mse_loss(torch.sigmoid(x) if activation == "sigmoid" else x, t)

    return run


def normalised(p: Tensors, depth: int, width: int) -> Loss:
    running = [(torch.zeros(width), torch.ones(width)) for _ in range(depth)]

    def run(x: Any, t: Any) -> Any:
        for n in range(depth):
            # each layer has a bias of the product and one of the norm
            z = torch.addmm(p[f"c{2 * n + 1}"], x, p[f"W{n + 1}"])
            x = torch.relu(functional.batch_norm(z, *running[n], p[f"g{n + 1}"],
                                                 p[f"c{2 * n + 2}"], True, 0.1, 1e-5))
        return functional.cross_entropy(
            torch.addmm(p[f"c{2 * depth + 1}"], x, p[f"W{depth + 1}"]), t)

    return run


def cnn(p: Tensors, size: int, channels: tuple[int, int]) -> Loss:
    def run(x: Any, t: Any) -> Any:
        for n in (1, 2):
            x = functional.conv2d(x, p[f"K{n}"], p[f"c{n}"], padding=1)
            x = functional.max_pool2d(torch.relu(x), 2)
        return functional.cross_entropy(
            torch.addmm(p["c3"], x.flatten(1), p["W1"].reshape(-1, 10)), t)

    return run


def lstm(p: Tensors, features: int, units: int, steps: int) -> Loss:
    layer = torch.nn.LSTM(features, units, batch_first=True)
    for name, value in (("weight_ih_l0", p["U1"].reshape(features, -1).T),
                        ("weight_hh_l0", p["V1"].reshape(units, -1).T),
                        ("bias_ih_l0", p["c1"].reshape(-1))):
        getattr(layer, name).data.copy_(value.detach())
    layer.bias_hh_l0.data.zero_()
    layer.bias_hh_l0.requires_grad_(False)  # one bias, as here
    for name in ("U1", "V1", "c1"):
        del p[name]
    p.update({n: v for n, v in layer.named_parameters() if v.requires_grad})

    def run(x: Any, t: Any) -> Any:
        h = layer(x)[0][:, -1]
        return functional.cross_entropy(torch.addmm(p["c2"], h, p["W1"]), t)

    return run


def encoder(p: Tensors, width: int, heads: int, tokens: int) -> Loss:
    def norm(x: Any, n: int) -> Any:
        return functional.layer_norm(x, (width,), p[f"g{n}"], p[f"c{n}"])

    def run(x: Any, t: Any) -> Any:
        rows = x.shape[0]
        y = norm(x, 1).reshape(-1, width)
        q, k, v = (torch.addmm(p[f"c{n}1"].reshape(-1), y, p[f"W{n}1"].reshape(width, width))
                   .reshape(rows, tokens, heads, -1).transpose(1, 2) for n in "qkv")
        o = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)
        x = x + torch.addmm(p["co1"], o, p["Wo1"].reshape(width, width)).reshape(x.shape)
        y = norm(x, 2).reshape(-1, width)
        y = torch.addmm(p["c4"], functional.gelu(torch.addmm(p["c3"], y, p["W1"])), p["W2"])
        return functional.mse_loss(x + y.reshape(x.shape), t)

    return run


def adapted(p: Tensors, layers: tuple[int, ...], rank: int, trained: tuple[str, ...]) -> Loss:
    def run(x: Any, t: Any) -> Any:
        for n in range(len(layers) - 1):
            whole, down, up = (p[f"W{3 * n + m}"] for m in (1, 2, 3))
            x = torch.addmm(p[f"c{n + 1}"], x, whole) + (x @ down) @ up
            x = torch.relu(x) if n < len(layers) - 2 else x
        return functional.cross_entropy(x, t)

    return run


def hessian_product(p: Tensors, layers: tuple[int, ...]) -> Loss:
    def run(x: Any, t: Any) -> Any:
        h = torch.tanh(torch.addmm(p["c1"], x, p["W1"]))
        return functional.cross_entropy(torch.addmm(p["c2"], h, p["W2"]), t)

    return run


KINDS = {f.__name__: f for f in (mlp, normalised, cnn, lstm, encoder, adapted, hessian_product)}


def _optimizer(row: Row, parameters: list[Any], compiled: bool) -> Any:
    s = row.optimizer.settings
    if row.optimizer.name == "sgd":
        return torch.optim.SGD(parameters, lr=s["lr"])
    if row.optimizer.name == "momentum":
        return torch.optim.SGD(parameters, lr=s["lr"], momentum=s["beta"])
    return torch.optim.Adam(parameters, lr=s["lr"], betas=(s["beta1"], s["beta2"]), eps=s["eps"])


def peer(row: Row, start: dict[str, np.ndarray], compiled: bool
         ) -> Callable[[dict[str, np.ndarray]], float]:
    """An epoch over arrays, from copies of the given parameters; it returns the mean loss."""
    parameters = {n: torch.from_numpy(v.copy()) for n, v in start.items()}
    for name, value in parameters.items():
        value.requires_grad_(not row.trained_only or name in row.trained_only)
    loss = KINDS[row.kind](parameters, **row.sizes)
    if row.kind == "hessian_product":
        return _products(row, parameters, loss)
    update = _optimizer(row, [v for v in parameters.values() if v.requires_grad], compiled)
    step = update.step
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss)
        step = torch.compile(step)

    def epoch(values: dict[str, np.ndarray]) -> float:
        x, t = torch.from_numpy(values["x"]), torch.from_numpy(values["t"])
        total = 0.0
        for first in range(0, len(x), row.batch):
            update.zero_grad()
            value = loss(x[first:first + row.batch], t[first:first + row.batch])
            value.backward()
            step()
            total += value.item()
        return total / (len(x) / row.batch)

    return epoch


def _products(row: Row, parameters: Tensors, loss: Loss
              ) -> Callable[[dict[str, np.ndarray]], float]:
    vector = torch.from_numpy(direction(parameters["W1"].shape))

    def epoch(values: dict[str, np.ndarray]) -> float:
        x, t = torch.from_numpy(values["x"]), torch.from_numpy(values["t"])
        total = 0.0
        for first in range(0, len(x), row.batch):
            value = loss(x[first:first + row.batch], t[first:first + row.batch])
            (slope,) = torch.autograd.grad(value, parameters["W1"], create_graph=True)
            along = (slope * vector).sum()
            (product,) = torch.autograd.grad(along, parameters["W1"])
            total += (product * vector).sum().item()
        return total / (len(x) / row.batch)

    return epoch
