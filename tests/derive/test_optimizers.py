"""Each update rule against its published formula, written once more in NumPy, over 200 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from derive.errors import DeclarationError
from derive.lbfgs import lbfgs as make_lbfgs
from derive.optimizers import REGISTRY, Optimizer, Rule, all_rules, make_optimizer, rule
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


def nadam(p, g, s, h, t):
    now, soon = (h["beta1"] * (1 - 0.5 * 0.96 ** (k * h["psi"])) for k in (t, t + 1))
    s["m"] = h["beta1"] * s["m"] + (1 - h["beta1"]) * g
    s["v"] = h["beta2"] * s["v"] + (1 - h["beta2"]) * g * g
    s["mu"] = (s["mu"] if t > 1 else 1.0) * now
    ahead = soon * s["m"] / (1 - s["mu"] * soon) + (1 - now) * g / (1 - s["mu"])
    return p - h["lr"] * ahead / (np.sqrt(s["v"] / (1 - h["beta2"] ** t)) + h["eps"])


def lamb(p, g, s, h, t):
    m, v = adam_moments(s, g, h, t)
    step = m / (np.sqrt(v) + h["eps"]) + h["shrink"] * p
    new = np.empty_like(p)
    for own in (slice(0, 2), slice(2, 5)):
        trust = np.linalg.norm(p[own]) / np.linalg.norm(step[own])
        new[own] = p[own] - h["lr"] * trust * step[own]
    return new


def lbfgs(p, g, s, h, t):
    """Nocedal and Wright 2006, algorithm 7.4, with five pairs of (s, y)."""
    pairs = s.setdefault("pairs", [])
    y = g - s["before"]
    if s["taken"] @ y > 1e-10:
        pairs[:] = [(s["taken"], y), *pairs][:5]
    q, shares = -g, []
    for step, change in pairs:
        shares.append(step @ q / (step @ change))
        q = q - shares[-1] * change
    if pairs:
        q = q * (pairs[0][0] @ pairs[0][1]) / (pairs[0][1] @ pairs[0][1])
    for share, (step, change) in reversed(list(zip(shares, pairs, strict=True))):
        q = q + (share - change @ q / (step @ change)) * step
    first = min(1, 1 / np.abs(g).sum()) if t == 1 else 1
    s["before"], s["taken"] = g, h["lr"] * first * q
    return p + s["taken"]


FORMULAS = {f.__name__: f for f in (
    sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam, radam, lion,
    lamb, lbfgs)}
TENSORS = np.array([0, 0, 1, 1, 1])  # the number of the tensor of each element


def run_program(optimizer: Optimizer, p: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    program = optimizer.program
    state = {name: np.zeros_like(p) for name in optimizer.moments}
    settings = {k: np.float64(v) for k, v in optimizer.settings.items()}
    for t, g in enumerate(gradients, 1):
        values = evaluate(program, {"p": p, "g": g, "t": np.float64(t), "k": TENSORS, **state,
                                    **settings}, sizes={"T": 2})
        p = values[program.updates["p"]]
        state = {name: values[program.updates[name]] for name in state}
    return p


def test_every_rule_has_a_formula_here():
    elsewhere = {"muon", "gauss_newton"}  # tests/codegen/test_muon.py, test_gauss_newton.py
    assert {*FORMULAS} | elsewhere == {*all_rules()}


def run_formula(name: str, optimizer: Optimizer, p: np.ndarray, gradients: np.ndarray
                ) -> np.ndarray:
    state = {m: np.zeros_like(p) for m in optimizer.moments}
    for t, g in enumerate(gradients, 1):
        p = FORMULAS[name](p, g, state, optimizer.settings, t)
    return p


def sample(steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=5), rng.normal(size=(steps, 5)) * np.array([1e-3, 0.1, 1, 10, 1e3])


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_rule_follows_its_published_formula(name: str):
    p, gradients = sample()
    optimizer = REGISTRY[name]()
    found = run_program(optimizer, p, gradients)
    np.testing.assert_allclose(found, run_formula(name, optimizer, p, gradients),
                               rtol=1e-12, atol=1e-12)
    assert not np.allclose(found, p)


# -- what every rule can be made with --------------------------------------------------------------
def one_step(optimizer: Optimizer, p: np.ndarray, g: np.ndarray, t: int = 1, **state: np.ndarray
             ) -> dict[str, np.ndarray]:
    program = optimizer.program
    given = {"p": p, "g": g, "t": np.float64(t), **dict.fromkeys(optimizer.moments, 0 * p),
             **{k: np.float64(v) for k, v in optimizer.settings.items()}, **state}
    values = evaluate(program, given)
    return {name: values[new] for name, new in program.updates.items()}


@pytest.mark.parametrize("name", ["sgd", "adam", "nesterov"])
def test_options_change_the_gradient_and_the_step_as_published(name: str):
    p, gradients = sample(40)
    plain = REGISTRY[name]()

    def wanted(change: Callable, decay: float = 0.0) -> np.ndarray:
        x, state = p, {m: np.zeros(5) for m in plain.moments}
        for t, g in enumerate(gradients, 1):
            new = FORMULAS[name](x, change(g, x), state, plain.settings, t)
            x = new - plain.settings["lr"] * decay * x
        return x

    def clipped(g: np.ndarray, x: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(g)
        return g if norm <= 20 else g * 20 / norm

    for options, want in (
        ({"coupled": 0.3}, wanted(lambda g, x: g + 0.3 * x)),
        ({"decay": 0.3}, wanted(lambda g, x: g, 0.3)),
        ({"clip_value": 2.0}, wanted(lambda g, x: np.clip(g, -2, 2))),
        ({"clip_norm": 20.0}, wanted(clipped)),
        ({"clip_norm": 20.0, "coupled": 0.1, "decay": 0.2},
         wanted(lambda g, x: clipped(g, x) + 0.1 * x, 0.2)),
    ):
        found = run_program(REGISTRY[name](**options), p, gradients)
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12, err_msg=str(options))


@pytest.mark.parametrize("average", [0.9, "polyak"])
def test_weights_are_averaged_from_the_first_step_on(average: float | str):
    p, gradients = sample(30)
    optimizer = REGISTRY["sgd"](lr=1e-3, average=average)
    state, mean, path = np.zeros(5), np.zeros(5), []
    for t, g in enumerate(gradients, 1):
        values = one_step(optimizer, p, g, t, average=state)
        p, state = values["p"], values["average"]
        path.append(p)
        mean = p if t == 1 or average == "polyak" else average * mean + (1 - average) * p
    want = np.mean(path, axis=0) if average == "polyak" else mean
    np.testing.assert_allclose(state, want, rtol=1e-12)


def test_lbfgs_finds_the_minimum_of_a_quadratic_far_faster_than_descent():
    scales = np.array([1.0, 10.0, 100.0, 1e3, 1e4])
    ends = {}
    for name, made in {"lbfgs": make_lbfgs(), "sgd": REGISTRY["sgd"](lr=1e-4)}.items():
        p, state = np.ones(5), {m: np.zeros(5) for m in made.moments}
        for t in range(1, 61):
            values = one_step(made, p, scales * p, t, **state)
            p = values.pop("p")
            state = values
        ends[name] = float(np.abs(p).max())
    assert ends["lbfgs"] < 1e-4 < 0.5 < ends["sgd"], ends


def test_a_rule_of_ones_own_is_a_handful_of_equations():
    def heavy(r: Rule, lr: Any = 0.1, friction: Any = 0.5) -> Any:
        """v' = (1 - friction) v - lr g, p' = p + v'."""
        return r.p + r.next("v", (1 - friction) * r.state("v") - lr * r.g)

    try:
        made = rule(heavy)(lr=0.2)
        p, g = np.ones(5), np.arange(5.0)
        np.testing.assert_allclose(one_step(made, p, g, v=p)["p"], 1 + 0.5 - 0.2 * g)
    finally:
        del REGISTRY["heavy"]


def test_names_that_are_wrong_suggest_the_nearest():
    with pytest.raises(DeclarationError, match="did you mean 'beta1'"):
        REGISTRY["adam"](beta_1=0.9)
    with pytest.raises(DeclarationError, match="did you mean 'adam'"):
        make_optimizer({"rule": "adan"})
    with pytest.raises(DeclarationError, match="did you mean 'cosine'"):
        make_optimizer({"rule": "sgd", "lr": {"kind": "cosin", "lr": 1, "steps": 2}})
    with pytest.raises(DeclarationError, match="is a number"):
        REGISTRY["adam"](eps="small")
    with pytest.raises(DeclarationError, match="did you mean 'history'"):
        make_optimizer({"rule": "lbfgs", "histori": 3})
    with pytest.raises(DeclarationError, match="1 to 20 pairs"):
        make_optimizer({"rule": "lbfgs", "history": 0})
    with pytest.raises(DeclarationError, match="'lrr'"):
        REGISTRY["sgd"](groups={"W*": {"lrr": 1}})
