"""Each update rule against its published formula, written once more in NumPy, over 200 steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from derive.optimizers import REGISTRY, Optimizer
from derive.reference import evaluate

State = dict[str, np.ndarray]
STEPS = 200


def zeros(*names: str) -> Callable[[int], State]:
    return lambda size: {n: np.zeros(size) for n in names}


def adam_moments(s: State, g: np.ndarray, h: dict, t: int) -> tuple[np.ndarray, np.ndarray]:
    s["m"] = h["beta1"] * s["m"] + (1 - h["beta1"]) * g
    s["v"] = h["beta2"] * s["v"] + (1 - h["beta2"]) * g * g
    return s["m"] / (1 - h["beta1"] ** t), s["v"] / (1 - h["beta2"] ** t)


def sgd(p, g, s, h, t):
    return p - h["lr"] * g


def momentum(p, g, s, h, t):
    s["v"] = h["beta"] * s["v"] + g
    return p - h["lr"] * s["v"]


def nesterov(p, g, s, h, t):
    s["v"] = h["beta"] * s["v"] + g
    return p - h["lr"] * (g + h["beta"] * s["v"])


def adagrad(p, g, s, h, t):
    s["s"] = s["s"] + g * g
    return p - h["lr"] * g / (np.sqrt(s["s"]) + h["eps"])


def adadelta(p, g, s, h, t):
    s["s"] = h["rho"] * s["s"] + (1 - h["rho"]) * g * g
    delta = np.sqrt(s["d"] + h["eps"]) / np.sqrt(s["s"] + h["eps"]) * g
    s["d"] = h["rho"] * s["d"] + (1 - h["rho"]) * delta * delta
    return p - h["lr"] * delta


def rmsprop(p, g, s, h, t):
    s["s"] = h["alpha"] * s["s"] + (1 - h["alpha"]) * g * g
    return p - h["lr"] * g / (np.sqrt(s["s"]) + h["eps"])


def adam(p, g, s, h, t):
    m, v = adam_moments(s, g, h, t)
    return p - h["lr"] * m / (np.sqrt(v) + h["eps"])


def adamw(p, g, s, h, t):
    m, v = adam_moments(s, g, h, t)
    return p * (1 - h["lr"] * h["decay"]) - h["lr"] * m / (np.sqrt(v) + h["eps"])


def adamax(p, g, s, h, t):
    s["m"] = h["beta1"] * s["m"] + (1 - h["beta1"]) * g
    s["u"] = np.maximum(h["beta2"] * s["u"], np.abs(g) + h["eps"])
    return p - h["lr"] / (1 - h["beta1"] ** t) * s["m"] / s["u"]


def radam(p, g, s, h, t):
    m, _ = adam_moments(s, g, h, t)
    limit = 2 / (1 - h["beta2"]) - 1
    rho = limit - 2 * t * h["beta2"] ** t / (1 - h["beta2"] ** t)
    if rho <= 5:
        return p - h["lr"] * m
    r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    return p - h["lr"] * m * r * np.sqrt(1 - h["beta2"] ** t) / (np.sqrt(s["v"]) + h["eps"])


def lion(p, g, s, h, t):
    u = np.sign(h["beta1"] * s["m"] + (1 - h["beta1"]) * g)
    s["m"] = h["beta2"] * s["m"] + (1 - h["beta2"]) * g
    return p - h["lr"] * (u + h["decay"] * p)


FORMULAS = {f.__name__: f for f in (
    sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, adamax, radam, lion)}


def run_program(optimizer: Optimizer, p: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    program = optimizer.program
    state = {name: np.zeros_like(p) for name in optimizer.moments}
    settings = {k: np.float64(v) for k, v in optimizer.settings.items()}
    for t, g in enumerate(gradients, 1):
        values = evaluate(program, {"p": p, "g": g, "t": np.float64(t), **state, **settings})
        p = values[program.updates["p"]]
        state = {name: values[program.updates[name]] for name in state}
    return p


def test_every_rule_has_a_formula_here():
    assert set(FORMULAS) == set(REGISTRY)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_rule_follows_its_published_formula(name: str):
    rng = np.random.default_rng(1)
    p = rng.normal(size=5)
    gradients = rng.normal(size=(STEPS, 5)) * np.array([1e-3, 0.1, 1, 10, 1e3])
    optimizer = REGISTRY[name]()
    state = {m: np.zeros(5) for m in optimizer.moments}
    expected = p
    for t, g in enumerate(gradients, 1):
        expected = FORMULAS[name](expected, g, state, optimizer.settings, t)
    found = run_program(optimizer, p, gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert not np.allclose(found, p)
