"""Layers that draw random numbers: the same in forward and backward, recomputed, never stored.

Each takes a seed, an int tensor of the role "random" (``net.random("seed")``) that gets a new
value at each step, and a stream of its own (`derive.randomness`). In evaluation they are left out:
build the network once with ``training=True`` and once with False, the names are the same.
"""

from __future__ import annotations

from sympy import S, exp

from derive.errors import DeclarationError
from derive.network import Handle
from derive.nodes import Access, Select, exact
from derive.randomness import keeps, normal


def _seed(seed: Handle) -> Access:
    """What random numbers are made from.

    Raises:
        DeclarationError: it is not what ``net.random()`` gives.
    """
    if not isinstance(seed, Handle) or seed.tensor.dtype != "int":
        raise DeclarationError("random numbers need a seed that each step can change",
                               expected="what net.random() gives", got=repr(seed),
                               mend="seed = net.random(), once for a network")
    return seed.tensor.access


def dropout(x: Handle, rate: float, seed: Handle, training: bool = True) -> Handle:
    """Each element is 0 with probability ``rate``, else divided by 1 - rate (Srivastava et al.
    2014, in the form that needs no change in evaluation)."""
    share = exact(rate)
    if not 0 <= share < 1:
        raise DeclarationError("dropout needs a rate", expected="0 <= rate < 1", got=rate)
    if not training or share == 0:
        return x
    net = x.network
    kept = keeps(_seed(seed), net.fresh_stream(), share, *x.indices)
    body = Select(kept, x.tensor.access / (1 - share), S.Zero)
    return net.define(net.fresh_name("d"), x.indices, body)


def gaussian_noise(x: Handle, deviation: float, seed: Handle, training: bool = True) -> Handle:
    """``x`` plus normal noise of this standard deviation."""
    if not training:
        return x
    net = x.network
    noise = normal(_seed(seed), net.fresh_stream(), *x.indices)
    body = x.tensor.access + exact(deviation) * noise
    return net.define(net.fresh_name("y"), x.indices, body)


def reparametrise(mean: Handle, log_variance: Handle, seed: Handle) -> Handle:
    """A normal sample as a function of its moments, ``m + exp(s/2) ε`` (Kingma and Welling 2014):
    gradients pass through it."""
    net = mean.network
    noise = normal(_seed(seed), net.fresh_stream(), *mean.indices)
    body = mean.tensor.access + exp(log_variance[mean.indices] / 2) * noise
    return net.define(net.fresh_name("s"), mean.indices, body)
