"""Layers: functions of a tensor that add equations to its network. None has a gradient."""

from __future__ import annotations

from collections.abc import Callable

from sympy import Expr

from derive.network import Handle
from derive.nodes import Index
from derive.operations import sum as sum_over_index

_FEATURES = "ijklmnopqrsuvw"


def feature_index(x: Handle, size: int) -> Index:
    """An index for a new feature dim: the letter after the one of x's last dim."""
    taken = {i.name for i in x.indices}
    last = x.indices[-1].name
    start = _FEATURES.find(last) + 1
    order = _FEATURES[start:] + _FEATURES[:start]
    return Index(next(c for c in order if c not in taken), size)


def dense(
    x: Handle,
    units: int,
    activation: Callable[[Expr], Expr] | None = None,
    *,
    bias: bool = True,
) -> Handle:
    """``z[…, j] = sum over i of x[…, i] W[i, j] + c[j]`` and ``h = activation(z)``.

    Args:
        x: any tensor; its last dim holds the features.
        units: the size of the new last dim.
        activation: a function of `derive` such as ``dr.relu``; none gives z itself.
        bias: whether ``c`` is added.

    Returns:
        The last tensor: h, or z without an activation. Names are W1, c1, z1, h1, W2, ….
    """
    net = x.network
    i, j = x.indices[-1], feature_index(x, units)
    weight = net.parameter(net.fresh_name("W"), i, j)
    out = (*x.indices[:-1], j)
    body = sum_over_index(x.tensor.access * weight.tensor.access, i)
    if bias:
        body += net.parameter(net.fresh_name("c"), j).tensor.access
    z = net.define(net.fresh_name("z"), out, body)
    return z if activation is None else activation(z)
