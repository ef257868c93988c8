"""The same steps as torch.optim, in double precision, where torch has the rule.

Skipped without torch (which CI does not install); run it with any Python that has torch and scipy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from derive.lbfgs import lbfgs
from derive.optimizers import REGISTRY, Optimizer, all_rules
from derive.reference import evaluate
from derive.schedules import cosine, exponential, one_cycle, step

torch: Any = pytest.importorskip("torch")
STEPS = 500


@pytest.fixture(autouse=True)
def double():
    """NAdam keeps the product of its momenta in torch's default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def ours(optimizer: Optimizer, p: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    state = {name: np.zeros_like(p) for name in optimizer.moments}
    settings = {k: np.float64(v) for k, v in optimizer.settings.items()}
    updates = optimizer.program.updates
    for t, g in enumerate(gradients, 1):
        values = evaluate(optimizer.program, {"p": p, "g": g, "t": np.float64(t), **state,
                                              **settings}, list(updates.values()))
        p = values[updates["p"]]
        state = {name: values[updates[name]] for name in state}
    return p


def theirs(make: Callable, p: np.ndarray, gradients: np.ndarray,
           schedule: Callable | None = None) -> np.ndarray:
    x = torch.tensor(p.copy(), requires_grad=True)
    optimizer = make([x])
    rates = schedule(optimizer) if schedule else None
    for g in gradients:
        x.grad = torch.tensor(g)
        optimizer.step(lambda: 0.0)
        if rates is not None:
            rates.step()
    return x.detach().numpy()


def sample() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=4), rng.normal(size=(STEPS, 4)) * np.array([1e-3, 0.1, 1, 10])


def same(mine: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-12)


optim = torch.optim
PAIRS: dict[str, tuple[dict, Callable]] = {
    "sgd": ({"lr": 0.01}, lambda p: optim.SGD(p, lr=0.01)),
    "momentum": ({"lr": 0.01}, lambda p: optim.SGD(p, lr=0.01, momentum=0.9)),
    "nesterov": ({"lr": 0.01}, lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
    "adagrad": ({}, lambda p: optim.Adagrad(p, lr=0.01, eps=1e-10)),
    "adadelta": ({}, lambda p: optim.Adadelta(p, lr=1.0, rho=0.9, eps=1e-6)),
    "rmsprop": ({}, lambda p: optim.RMSprop(p, lr=0.01, alpha=0.99, eps=1e-8)),
    "adam": ({}, lambda p: optim.Adam(p, lr=1e-3)),
    "adamw": ({}, lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.01)),
    "adamax": ({}, lambda p: optim.Adamax(p, lr=2e-3)),
    "nadam": ({}, lambda p: optim.NAdam(p, lr=2e-3)),
    "radam": ({}, lambda p: optim.RAdam(p, lr=1e-3)),
    "lbfgs": ({"lr": 0.5}, lambda p: recent_steps(p, 0.5, 5)),
}


def recent_steps(p: list, lr: float, history: int) -> Any:
    """torch's L-BFGS, one gradient a step, never content."""
    return optim.LBFGS(p, lr=lr, max_iter=1, history_size=history, tolerance_grad=0,
                       tolerance_change=0)


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_steps(name: str):
    settings, make = PAIRS[name]
    p, gradients = sample()
    same(ours(REGISTRY[name](**settings), p, gradients), theirs(make, p, gradients))


@pytest.mark.parametrize("history", [1, 3, 10])
def test_lbfgs_keeps_as_many_pairs_as_it_is_told(history: int):
    p, gradients = sample()  # at random: about half of the pairs have no curvature
    same(ours(lbfgs(lr=0.5, history=history), p, gradients[:100]),
         theirs(lambda x: recent_steps(x, 0.5, history), p, gradients[:100]))


def test_every_rule_that_torch_has_is_compared():
    lacking = {"lion", "lamb", "muon", "gauss_newton"}  # torch's Muon computes in bfloat16
    assert set(all_rules()) - lacking == set(PAIRS)


def test_coupled_decay_is_torchs_weight_decay():
    p, gradients = sample()
    same(ours(REGISTRY["adam"](coupled=0.1), p, gradients),
         theirs(lambda x: optim.Adam(x, lr=1e-3, weight_decay=0.1), p, gradients))
    same(ours(REGISTRY["momentum"](lr=0.01, coupled=0.1), p, gradients),
         theirs(lambda x: optim.SGD(x, lr=0.01, momentum=0.9, weight_decay=0.1), p, gradients))


S = optim.lr_scheduler
RATES: list[tuple[Any, Callable]] = [
    (cosine(0.1, STEPS, 0.01), lambda o: S.CosineAnnealingLR(o, STEPS, 0.01)),
    (exponential(0.1, 0.99), lambda o: S.ExponentialLR(o, 0.99)),
    (step(0.1, [100, 300]), lambda o: S.MultiStepLR(o, [100, 300])),
    (one_cycle(0.1, STEPS), lambda o: S.OneCycleLR(o, 0.1, STEPS, cycle_momentum=False)),
]


@pytest.mark.parametrize(("mine", "other"), RATES, ids=lambda r: getattr(r, "name", ""))
def test_the_same_rates(mine: Any, other: Callable):
    p, gradients = sample()
    same(ours(REGISTRY["sgd"](lr=mine), p, gradients),
         theirs(lambda x: optim.SGD(x, lr=0.1), p, gradients, other))
