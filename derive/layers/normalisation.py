"""Normalisation: mean, variance, and what is divided by its root, each an equation.

All are one computation over different dims: `_normalise` says which are averaged over, and which
have a gain and a bias of their own.
"""

from __future__ import annotations

import sympy
from sympy import Expr, Mul

from derive.errors import DeclarationError
from derive.layers.common import whole_size
from derive.network import Handle
from derive.nodes import Index, SumOver, exact


def _mean(x: Handle, name: str, body: Expr, over: tuple[Index, ...]) -> Handle:
    """The mean of a body over some of x's indices, as a tensor over the rest."""
    rest = tuple(i for i in x.indices if i not in over)
    count = Mul(*(i.size for i in over))
    return x.network.define(x.network.fresh_name(name), rest, SumOver(body, *over) / count)


def _moments(x: Handle, over: tuple[Index, ...]) -> tuple[Handle, Handle]:
    """Mean and (biased) variance over some indices."""
    mean = _mean(x, "m", x.tensor.access, over)
    deviation = x.tensor.access - mean.tensor.access
    return mean, _mean(x, "v", deviation**2, over)


def _scaled(x: Handle, body: Expr, own: tuple[Index, ...], affine: bool, bias: bool) -> Handle:
    """``body`` times a gain plus a bias over the indices ``own``."""
    net = x.network
    if affine:
        body *= net.parameter(net.fresh_name("g"), *own, initial="ones").tensor.access
        if bias:
            body += net.parameter(net.fresh_name("c"), *own, initial="zeros").tensor.access
    return net.define(net.fresh_name("n"), x.indices, body)


def _normalise(x: Handle, over: tuple[Index, ...], own: tuple[Index, ...], eps: float,
               affine: bool) -> Handle:
    mean, variance = _moments(x, over)
    body = _standard(x, mean.tensor.access, variance.tensor.access, eps)
    return _scaled(x, body, own, affine, True)


def _standard(x: Handle, mean: Expr, variance: Expr, eps: float) -> Expr:
    return (x.tensor.access - mean) / sympy.sqrt(variance + exact(eps))


def layer_norm(x: Handle, dims: int = 1, eps: float = 1e-5, affine: bool = True) -> Handle:
    """Mean 0 and variance 1 over the last ``dims`` dims (Ba et al. 2016)."""
    over = x.indices[len(x.indices) - dims :]
    return _normalise(x, over, over, eps, affine)


def rms_norm(x: Handle, eps: float = 1e-6, affine: bool = True) -> Handle:
    """Mean square 1 over the last dim (Zhang and Sennrich 2019)."""
    over = x.indices[-1:]
    square = _mean(x, "v", x.tensor.access**2, over)
    body = x.tensor.access / sympy.sqrt(square.tensor.access + exact(eps))
    return _scaled(x, body, over, affine, False)


def instance_norm(x: Handle, eps: float = 1e-5, affine: bool = False) -> Handle:
    """Mean 0 and variance 1 over the dims after the batch and the channels, for each of both."""
    return _normalise(x, x.indices[2:], x.indices[1:2], eps, affine)


def group_norm(x: Handle, groups: int, eps: float = 1e-5, affine: bool = True) -> Handle:
    """Mean 0 and variance 1 over groups of channels and all dims after (Wu and He 2018)."""
    net, (batch, channel, *spatial) = x.network, x.indices
    have = whole_size(channel.size, x, "group_norm")
    if groups < 1 or have % groups:
        raise DeclarationError(
            f"the {have} channels of {x.name!r} do not divide into {groups} groups"
        )
    within = have // groups
    group = Index(f"{channel.name}g", groups)
    member = Index(f"{channel.name}m", within)
    element = x[(batch, group * within + member, *spatial)]
    over = (member, *spatial)
    count = Mul(*(i.size for i in over))
    mean = net.define(net.fresh_name("m"), (batch, group), SumOver(element, *over) / count)
    square = (element - mean[batch, group]) ** 2
    variance = net.define(net.fresh_name("v"), (batch, group), SumOver(square, *over) / count)
    own = sympy.floor(channel / within)
    body = _standard(x, mean[batch, own], variance[batch, own], eps)
    return _scaled(x, body, (channel,), affine, True)


def batch_norm(x: Handle, training: bool = True, eps: float = 1e-5, momentum: float = 0.1,
               affine: bool = True) -> Handle:
    """Mean 0 and variance 1 of each feature over everything else (Ioffe and Szegedy 2015).

    Features are the second dim of a tensor of rank 3 or more (channels), else the last. In
    training the batch's own moments are used, and the running ones are states with an update:
    ``s' = (1 - momentum) s + momentum · moment``, the variance with n-1. In evaluation the running
    ones are used, so the same names serve both.
    """
    net = x.network
    feature = x.indices[1] if len(x.indices) > 2 else x.indices[-1]
    over = tuple(i for i in x.indices if i != feature)
    running = net.state(net.fresh_name("running_mean"), feature)
    spread = net.state(net.fresh_name("running_variance"), feature, initial="ones")
    if training:
        mean, variance = _moments(x, over)
        count = Mul(*(i.size for i in over))
        share = exact(momentum)
        for state, new in (
            (running, mean.tensor.access),
            (spread, variance.tensor.access * count / (count - 1)),
        ):
            net.update(state, (1 - share) * state.tensor.access + share * new)
    else:
        mean, variance = running, spread
    body = _standard(x, mean.tensor.access, variance.tensor.access, eps)
    return _scaled(x, body, (feature,), affine, True)
