"""Schedules of the learning rate: scalar equations in the step number t, 1 for the first step.

A schedule stands where a rule takes a learning rate: ``dr.adam(lr=dr.cosine(1e-3, steps=2000))``.
Its equation becomes part of the optimizer's program, so it is printed with it, computed inside the
kernels, and needs no state: the step number is all that a resumed run has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import sympy
from sympy import Expr, Integer

from derive.errors import DeclarationError, unknown_name
from derive.nodes import Select, exact

At = Mapping[str, Expr]
REGISTRY: dict[str, Callable[..., Schedule]] = {}


@dataclass(frozen=True)
class Schedule:
    """A rate as a function of the step: ``declare(t, at)`` with the settings' symbols ``at``."""

    name: str
    settings: dict[str, float]
    declare: Callable[[Expr, At], Expr]


def schedule(make: Callable[..., Schedule]) -> Callable[..., Schedule]:
    """Enter a schedule into `REGISTRY`."""
    REGISTRY[make.__name__] = make
    return make


def as_schedule(lr: float | Schedule | Mapping[str, Any]) -> Schedule:
    """A number as a constant rate; a mapping ``{kind, …}`` (from a configuration) as what it says.

    Raises:
        DeclarationError: no such kind, or a setting that it does not have.
    """
    if isinstance(lr, Schedule):
        return lr
    if not isinstance(lr, Mapping):
        if isinstance(lr, bool) or not isinstance(lr, Real):
            raise DeclarationError("the rate lr is a number or a schedule", got=repr(lr),
                                   expected="lr=1e-3, or such as lr=dr.cosine(1e-3, steps=2000)")
        return constant(float(lr))
    rest = dict(lr)
    kind = rest.pop("kind", "constant")
    if kind not in REGISTRY:
        raise unknown_name("schedule", str(kind), REGISTRY)
    try:
        return REGISTRY[kind](**rest)
    except TypeError as error:
        raise DeclarationError(f"the schedule {kind!r} has other settings",
                               got=", ".join(rest), mend=str(error)) from None


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise DeclarationError(f"{name} of a schedule is larger than 0", got=value)


@schedule
def constant(lr: float) -> Schedule:
    """The same rate at every step."""
    return Schedule("constant", {"lr": float(lr)}, lambda t, at: at["lr"])


@schedule
def step(lr: float, at: list[int], factor: float = 0.1) -> Schedule:
    """The rate is multiplied by ``factor`` once each of some numbers of steps is done."""
    def declare(t: Expr, own: At) -> Expr:
        return own["lr"] * sympy.Mul(*(
            Select(t > number, own["factor"], Integer(1)) for number in at))

    return Schedule("step", {"lr": float(lr), "factor": float(factor)}, declare)


@schedule
def exponential(lr: float, factor: float) -> Schedule:
    """lr·factorᵗ⁻¹."""
    _positive(factor=factor)
    return Schedule("exponential", {"lr": float(lr), "factor": float(factor)},
                    lambda t, at: at["lr"] * at["factor"] ** (t - 1))


@schedule
def linear(lr: float, steps: int, floor: float = 0.0) -> Schedule:
    """From lr in a straight line to ``floor`` after a number of steps, and on from there."""
    _positive(steps=steps)

    def declare(t: Expr, at: At) -> Expr:
        share = _share(t - 1, at["steps"])
        return at["lr"] + (at["floor"] - at["lr"]) * share

    return Schedule("linear", _named(lr=lr, steps=steps, floor=floor), declare)


@schedule
def cosine(lr: float, steps: int, floor: float = 0.0) -> Schedule:
    """From lr along half a cosine to ``floor`` after a number of steps (Loshchilov and Hutter
    2017, without restarts)."""
    _positive(steps=steps)

    def declare(t: Expr, at: At) -> Expr:
        return _half_cosine(at["lr"], at["floor"], _share(t - 1, at["steps"]))

    return Schedule("cosine", _named(lr=lr, steps=steps, floor=floor), declare)


@schedule
def warmup(lr: float | Schedule | Mapping[str, Any], warmup: int) -> Schedule:
    """From lr/warmup in a straight line to lr (Goyal et al. 2017), then another schedule, whose
    first step is the one after."""
    _positive(warmup=warmup)
    then = as_schedule(lr)

    def declare(t: Expr, at: At) -> Expr:
        rising = at["lr"] * t / at["warmup"]
        return Select(t <= at["warmup"], rising, then.declare(t - at["warmup"], at))

    return Schedule("warmup", {**then.settings, "warmup": float(warmup)}, declare)


@schedule
def one_cycle(lr: float, steps: int, rise: float = 0.3, start: float = 25.0,
              end: float = 1e4) -> Schedule:
    """From lr/start up to lr over a share ``rise`` of the steps, then down to lr/(start·end),
    both along half a cosine (Smith and Topin 2019)."""
    _positive(steps=steps, rise=rise, start=start, end=end)

    def declare(t: Expr, at: At) -> Expr:
        low, top = at["lr"] / at["start"], at["lr"]
        turn = at["rise"] * at["steps"] - 1
        up = _half_cosine(low, top, _share(t - 1, turn))
        down = _half_cosine(top, low / at["end"],
                            _share(t - 1 - turn, at["steps"] - 1 - turn))
        return Select(t - 1 <= turn, up, down)

    return Schedule("one_cycle", _named(lr=lr, steps=steps, rise=rise, start=start, end=end),
                    declare)


def _named(**values: float) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _share(done: Expr, steps: Expr) -> Expr:
    return Select(done < steps, done / steps, Integer(1))


def _half_cosine(high: Expr, low: Expr, share: Expr) -> Expr:
    return low + (high - low) * (1 + sympy.cos(sympy.pi * share)) / exact(2)
