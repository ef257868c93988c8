"""Metrics: programs over outputs and targets, like any other.

Each is a function of two handles, the network's output and what it should be, that gives a scalar
expression. A metric of your own is such a function with `metric` in front.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import sympy
from sympy import Eq, Expr, Or, Rational

from derive.losses import _label
from derive.network import Handle, Network
from derive.nodes import Select, fresh
from derive.operations import logsumexp, mean
from derive.operations import sum as total
from derive.program import Program
from derive.reference import evaluate

Metric = Callable[[Handle, Handle], Expr]
REGISTRY: dict[str, Metric] = {}


def metric(declare: Metric) -> Metric:
    """Enter a metric into `REGISTRY`."""
    REGISTRY[declare.__name__] = declare
    return declare


def _count(condition: Expr) -> Expr:
    return Select(condition, sympy.S.One)


@metric
def accuracy(z: Handle, t: Handle) -> Expr:
    """The share of rows whose largest score is that of the class t (of equal ones the first)."""
    *batch, k = z.indices
    label = _label(z, t)
    mine, other = z.tensor.at(*batch, label), z.tensor.access
    before = total(_count(Or(other > mine, sympy.And(Eq(other, mine), k < label))), k)
    ahead = z.network.define(z.network.fresh_name("ahead"), batch, before)
    return mean(_count(ahead.tensor.access < Rational(1, 2)), *batch)


@metric
def binary_accuracy(z: Handle, t: Handle) -> Expr:
    """The share of logits whose sign is that of t - 1/2, for targets of 0 and 1."""
    right = Or(sympy.And(z.tensor.access > 0, t[z.indices] > Rational(1, 2)),
               sympy.And(z.tensor.access <= 0, t[z.indices] < Rational(1, 2)))
    return mean(_count(right), *z.indices)


@metric
def f1(z: Handle, t: Handle) -> Expr:
    """The F1 score 2 TP/(2 TP + FP + FN) of each class, averaged over the classes that occur
    among labels or predictions (van Rijsbergen 1979; "macro")."""
    net, (*batch, k) = z.network, z.indices
    m, label = fresh(k, {i.name for i in z.indices}), _label(z, t)
    mine, other = z.tensor.access, z.tensor.at(*batch, m)
    ahead = net.define(net.fresh_name("ahead"), z.indices, total(
        _count(Or(other > mine, sympy.And(Eq(other, mine), m < k))), m))
    hit = ahead.tensor.access < Rational(1, 2)
    own = Eq(label, k)
    true = net.define(net.fresh_name("true"), (k,), total(_count(sympy.And(hit, own)), *batch))
    named = net.define(net.fresh_name("named"), (k,), total(_count(hit) + _count(own), *batch))
    seen = named.tensor.access > 0
    score = net.define(net.fresh_name("score"), (k,), Select(
        seen, 2 * true.tensor.access / named.tensor.access))
    classes = net.define(net.fresh_name("classes"), (), total(_count(seen), k))
    return total(score.tensor.access, k) / classes.tensor.access


@metric
def perplexity(z: Handle, t: Handle) -> Expr:
    """The exponential of the mean cross-entropy (natural logarithm)."""
    *batch, k = z.indices
    each = logsumexp(z.tensor.access, k) - z.tensor.at(*batch, _label(z, t))
    return sympy.exp(mean(each, *batch))


@metric
def r2(y: Handle, t: Handle) -> Expr:
    """The coefficient of determination 1 - Σ(y-t)²/Σ(t-t̄)², over all elements of all outputs
    with the mean t̄ of each output."""
    net, (b, *rest) = y.network, y.indices
    own = t[y.indices]
    middle = net.define(net.fresh_name("middle"), tuple(rest), mean(own, b))
    left = total((y.tensor.access - own) ** 2, *y.indices)
    spread = total((own - middle.tensor.at(*rest)) ** 2, *y.indices)
    return 1 - left / spread


@cache
def metric_program(name: str, shape: tuple[int, ...], labels: bool) -> Program:
    """The program of a metric: inputs ``y`` (B and the given dims) and ``t``, target ``value``.

    Args:
        labels: whether t holds classes, without the last dim, or numbers of the shape of y.
    """
    net = Network(name)
    y = net.input("y", "B", *shape)
    t = net.input("t", "B", *shape[:-1], dtype=int) if labels else net.input("t", "B", *shape)
    net.define("value", (), REGISTRY[name](y, t))
    return net.program()


def measure(name: str, y: np.ndarray, t: np.ndarray) -> float:
    """A metric of arrays: outputs and targets, the rows first."""
    labels = t.dtype.kind in "iu" and t.ndim == y.ndim - 1
    if labels:
        y, t = y.reshape(-1, y.shape[-1]), t.reshape(-1)
    program = metric_program(name, y.shape[1:], labels)
    return float(evaluate(program, {"y": y, "t": t}, ["value"])["value"])
