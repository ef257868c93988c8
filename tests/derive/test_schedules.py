"""Each schedule against its formula written in plain Python, for every step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from derive.errors import DeclarationError
from derive.optimizers import sgd
from derive.reference import evaluate
from derive.schedules import (
    REGISTRY,
    Schedule,
    constant,
    cosine,
    exponential,
    linear,
    one_cycle,
    step,
    warmup,
)

STEPS = range(1, 121)


def rates(schedule: Schedule | float) -> np.ndarray:
    """The rate of each step, read off sgd with a gradient of one."""
    optimizer = sgd(lr=schedule)
    settings = {k: np.float64(v) for k, v in optimizer.settings.items()}
    given = {"p": np.zeros(1), "g": np.ones(1), **settings}
    name = optimizer.program.updates["p"]
    return np.array([-evaluate(optimizer.program, {**given, "t": np.float64(t)}, [name])[name][0]
                     for t in STEPS])


def half(high: float, low: float, share: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def cycle(t: int) -> float:
    turn, last = 0.3 * 100 - 1, 99
    if t - 1 <= turn:
        return half(0.02, 0.5, (t - 1) / turn)
    return half(0.5, 0.02 / 1e4, min(1, (t - 1 - turn) / (last - turn)))


CASES: list[tuple[Schedule, Callable[[int], float]]] = [
    (constant(0.5), lambda t: 0.5),
    (step(0.5, at=[30, 60], factor=0.1), lambda t: 0.5 * 0.1 ** ((t > 30) + (t > 60))),
    (exponential(0.5, 0.9), lambda t: 0.5 * 0.9 ** (t - 1)),
    (linear(0.5, 100, 0.1), lambda t: 0.5 - 0.4 * min(1, (t - 1) / 100)),
    (cosine(0.5, 100, 0.1), lambda t: half(0.5, 0.1, min(1, (t - 1) / 100))),
    (warmup(0.5, 10), lambda t: 0.5 * min(1, t / 10)),
    (warmup(cosine(0.5, 50), 10),
     lambda t: 0.5 * t / 10 if t <= 10 else half(0.5, 0, min(1, (t - 11) / 50))),
    (one_cycle(0.5, 100), cycle),
]


@pytest.mark.parametrize(("schedule", "formula"), CASES, ids=lambda c: getattr(c, "name", ""))
def test_rate_follows_the_formula(schedule: Schedule, formula: Callable[[int], float]):
    np.testing.assert_allclose(rates(schedule), [formula(t) for t in STEPS], rtol=1e-12,
                               atol=1e-15)


def test_every_schedule_is_tested():
    assert {schedule.name for schedule, _ in CASES} == set(REGISTRY)


def test_bad_settings_are_refused():
    with pytest.raises(DeclarationError, match="steps of a schedule is larger than 0"):
        cosine(0.1, steps=0)
    with pytest.raises(DeclarationError, match="other settings"):
        sgd(lr={"kind": "cosine", "rate": 1})
    for rate in ("fast", True, None):
        with pytest.raises(DeclarationError, match="lr is a number or a schedule"):
            sgd(lr=rate)
