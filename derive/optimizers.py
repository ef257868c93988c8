"""Optimizers: programs over one flat index, like any other.

Each takes the parameters ``p``, the gradient ``g``, its own states and the step number ``t``
(1 for the first step), and gives their next values through ``updates``. Settings are constants of
the program, so that a kernel can take them at run time. A rule of your own is a function with
`rule` in front that declares states and equations; the command line finds it in `REGISTRY`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

from sympy import Expr, sqrt

from derive.functions import absolute, sign
from derive.naming import indices
from derive.network import Handle, Network
from derive.nodes import Select
from derive.program import Program

REGISTRY: dict[str, Callable[..., Optimizer]] = {}


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its settings: ``program`` over flat tensors of size P."""

    name: str
    program: Program
    settings: dict[str, float]

    @property
    def moments(self) -> tuple[str, ...]:
        """The states that the rule keeps, in order."""
        return tuple(t.name for t in self.program.role("state"))


class Rule:
    """An update rule being declared: the tensors that every rule has.

    Attributes: ``p`` and ``g`` are accesses of the parameters and the gradient, ``t`` of the step
    number, ``at["lr"]`` of a setting.
    """

    def __init__(self, name: str, settings: dict[str, float]) -> None:
        self.net, self.settings = Network(name), settings
        self.n = indices("n:P")
        self._p = self.net.parameter("p", self.n)
        self.p, self.g = self._p[self.n], self.net.input("g", self.n)[self.n]
        self.at = {key: self.net.constant(key).tensor.access for key in settings}
        self.t = self.net.constant("t").tensor.access

    def state(self, name: str) -> Handle:
        """A moment: one number for each parameter, zero before the first step."""
        return self.net.state(name, self.n)

    def now(self, state: Handle) -> Expr:
        return state[self.n]

    def next(self, state: Handle, body: Expr) -> Expr:
        """Give a state its next value; returns the access of that value."""
        return self.net.update(state, body)[self.n]

    def average(self, name: str, decay: Expr, of: Expr) -> Expr:
        """A state ``s' = decay s + (1 - decay) of``: an exponential moving average."""
        state = self.state(name)
        return self.next(state, decay * self.now(state) + (1 - decay) * of)

    def close(self, parameter: Expr) -> Optimizer:
        """Give the parameters their next value; the rule is complete."""
        self.net.update(self._p, parameter)
        return Optimizer(self.net.name, self.net.program(), self.settings)


def rule(declare: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Enter a function of settings into `REGISTRY`."""

    @wraps(declare)
    def make(**settings: float) -> Optimizer:
        return declare(**settings)

    REGISTRY[declare.__name__] = make
    return make


@rule
def sgd(lr: float = 0.1) -> Optimizer:
    """p' = p - lr g."""
    r = Rule("sgd", {"lr": lr})
    return r.close(r.p - r.at["lr"] * r.g)


@rule
def momentum(lr: float = 0.1, beta: float = 0.9) -> Optimizer:
    """v' = β v + g, p' = p - lr v' (Polyak 1964, in the form of Sutskever et al. 2013)."""
    r = Rule("momentum", {"lr": lr, "beta": beta})
    v = r.state("v")
    return r.close(r.p - r.at["lr"] * r.next(v, r.at["beta"] * r.now(v) + r.g))


@rule
def nesterov(lr: float = 0.1, beta: float = 0.9) -> Optimizer:
    """v' = β v + g, p' = p - lr (g + β v') (Nesterov 1983, in the form of Sutskever et al.)."""
    r = Rule("nesterov", {"lr": lr, "beta": beta})
    v = r.state("v")
    new = r.next(v, r.at["beta"] * r.now(v) + r.g)
    return r.close(r.p - r.at["lr"] * (r.g + r.at["beta"] * new))


@rule
def adagrad(lr: float = 0.01, eps: float = 1e-10) -> Optimizer:
    """s' = s + g², p' = p - lr g/(√s' + ε) (Duchi, Hazan and Singer 2011, diagonal form)."""
    r = Rule("adagrad", {"lr": lr, "eps": eps})
    s = r.state("s")
    new = r.next(s, r.now(s) + r.g**2)
    return r.close(r.p - r.at["lr"] * r.g / (sqrt(new) + r.at["eps"]))


@rule
def adadelta(lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6) -> Optimizer:
    """Steps in the units of the parameter (Zeiler 2012, algorithm 1), scaled by lr."""
    r = Rule("adadelta", {"lr": lr, "rho": rho, "eps": eps})
    rho_, eps_ = r.at["rho"], r.at["eps"]
    square = r.average("s", rho_, r.g**2)
    steps = r.state("d")
    delta = r.net.define(
        "delta", (r.n,), r.g * sqrt(r.now(steps) + eps_) / sqrt(square + eps_))[r.n]
    r.next(steps, rho_ * r.now(steps) + (1 - rho_) * delta**2)
    return r.close(r.p - r.at["lr"] * delta)


@rule
def rmsprop(lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """s' = α s + (1-α) g², p' = p - lr g/(√s' + ε) (Tieleman and Hinton 2012)."""
    r = Rule("rmsprop", {"lr": lr, "alpha": alpha, "eps": eps})
    new = r.average("s", r.at["alpha"], r.g**2)
    return r.close(r.p - r.at["lr"] * r.g / (sqrt(new) + r.at["eps"]))


def _adam_step(r: Rule) -> Expr:
    """lr m̂/(√v̂ + ε), with both bias corrections."""
    b1, b2 = r.at["beta1"], r.at["beta2"]
    m, v = r.average("m", b1, r.g), r.average("v", b2, r.g**2)
    m_hat, v_hat = m / (1 - b1**r.t), v / (1 - b2**r.t)
    return r.at["lr"] * m_hat / (sqrt(v_hat) + r.at["eps"])


@rule
def adam(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1)."""
    r = Rule("adam", {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})
    return r.close(r.p - _adam_step(r))


@rule
def adamw(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
    decay: float = 0.01,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""
    r = Rule("adamw", {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "decay": decay})
    return r.close(r.p - r.at["lr"] * r.at["decay"] * r.p - _adam_step(r))


@rule
def adamax(
    lr: float = 2e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Optimizer:
    """Adam under the infinity norm (Kingma and Ba 2015, algorithm 2; ε inside the maximum)."""
    r = Rule("adamax", {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})
    m, u = r.average("m", r.at["beta1"], r.g), r.state("u")
    old, now = r.at["beta2"] * r.now(u), absolute(r.g) + r.at["eps"]
    new = r.next(u, Select(old > now, old, now))
    return r.close(r.p - r.at["lr"] / (1 - r.at["beta1"] ** r.t) * m / new)


@rule
def radam(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Optimizer:
    """Adam with a rectified variance (Liu et al. 2020, algorithm 2)."""
    r = Rule("radam", {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})
    b1, b2, t = r.at["beta1"], r.at["beta2"], r.t
    m_hat = r.average("m", b1, r.g) / (1 - b1**t)
    v = r.average("v", b2, r.g**2)
    limit = 2 / (1 - b2) - 1
    length = limit - 2 * t * b2**t / (1 - b2**t)
    rectified = sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
    adaptive = rectified * sqrt(1 - b2**t) / (sqrt(v) + r.at["eps"])
    return r.close(r.p - r.at["lr"] * m_hat * Select(length > 5, adaptive, 1))


@rule
def lion(
    lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, decay: float = 0.0
) -> Optimizer:
    """Steps of one sign each (Chen et al. 2023, algorithm 2)."""
    r = Rule("lion", {"lr": lr, "beta1": beta1, "beta2": beta2, "decay": decay})
    m = r.state("m")
    direction = sign(r.at["beta1"] * r.now(m) + (1 - r.at["beta1"]) * r.g)
    r.next(m, r.at["beta2"] * r.now(m) + (1 - r.at["beta2"]) * r.g)
    return r.close(r.p - r.at["lr"] * (direction + r.at["decay"] * r.p))
