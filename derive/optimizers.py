"""Optimizers: programs over one flat index, like any other.

Each takes the parameters ``p``, the gradient ``g``, its own states and the step number ``t``
(1 for the first step), and gives their next values through ``updates``. Settings are constants of
the program, so that a kernel can take them at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, sqrt

from derive.network import Handle, Network, indices
from derive.program import Program


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


class _Rule:
    """The tensors that every rule has, and the way to close it."""

    def __init__(self, name: str, **settings: float) -> None:
        self.net, self.settings = Network(name), settings
        self.n = indices("n:P")
        self.p = self.net.parameter("p", self.n)
        self.g = self.net.input("g", self.n)
        self.at = {key: self.net.constant(key).tensor.access for key in settings}
        self.t = self.net.constant("t").tensor.access

    def state(self, name: str) -> Handle:
        return self.net.state(name, self.n)

    def now(self, tensor: Handle) -> Expr:
        return tensor[self.n]

    def close(self, step: Expr) -> Optimizer:
        self.net.update(self.p, self.now(self.p) - step)
        return Optimizer(self.net.name, self.net.program(), self.settings)


def sgd(lr: float = 0.1) -> Optimizer:
    """p' = p - lr g."""
    rule = _Rule("sgd", lr=lr)
    return rule.close(rule.at["lr"] * rule.now(rule.g))


def momentum(lr: float = 0.1, beta: float = 0.9) -> Optimizer:
    """v' = β v + g, p' = p - lr v' (Polyak 1964, in the form of Sutskever et al. 2013)."""
    rule = _Rule("momentum", lr=lr, beta=beta)
    v = rule.state("v")
    new = rule.net.update(v, rule.at["beta"] * rule.now(v) + rule.now(rule.g))
    return rule.close(rule.at["lr"] * rule.now(new))


def adam(
    lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1), with both bias corrections."""
    rule = _Rule("adam", lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    b1, b2, g = rule.at["beta1"], rule.at["beta2"], rule.now(rule.g)
    m, v = rule.state("m"), rule.state("v")
    m_new = rule.now(rule.net.update(m, b1 * rule.now(m) + (1 - b1) * g))
    v_new = rule.now(rule.net.update(v, b2 * rule.now(v) + (1 - b2) * g**2))
    m_hat, v_hat = m_new / (1 - b1**rule.t), v_new / (1 - b2**rule.t)
    return rule.close(rule.at["lr"] * m_hat / (sqrt(v_hat) + rule.at["eps"]))
