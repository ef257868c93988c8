"""Convolutions in any number of spatial dims: one equation each.

``y[b, o, p, …] = sum over c, r, … of X[b, c, s·p + d·r - pad, …] K[o, c, r, …] + c[o]``, zero
outside. (In the literature of signals this is a cross-correlation.) The shape of ``K`` is the one
that PyTorch uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Expr, S

from derive.affine import inside
from derive.errors import DeclarationError
from derive.layers.common import letters, need_rank, per_dim, whole_size, window_count
from derive.layers.pooling import pad
from derive.network import Handle
from derive.nodes import Select, SumOver

Activation = Callable[[Expr], Expr]


def convolution(
    x: Handle,
    channels: int,
    kernel: int | Sequence[int],
    activation: Activation | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    mode: str = "zero",
    bias: bool = True,
) -> Handle:
    """A convolution over all dims of ``x`` after the batch and the channels.

    Args:
        x: shape (batch, channels in, size, …); the spatial sizes are numbers.
        channels: how many channels come out.
        kernel, stride, padding, dilation: for each spatial dim, or one number for all.
        groups: the channels in and out are split into that many groups that do not mix.
        mode: what stands outside: "zero", "reflect", "replicate" or "circular".

    Returns:
        y of shape (batch, channels, …), or ``activation(y)``. Names are K1, c1, y1, ….

    Raises:
        DeclarationError: a kernel larger than its input, channels that do not divide by groups.
    """
    net, dims = x.network, x.tensor.rank - 2
    kernel, stride, padding, dilation = (
        per_dim(value, dims, f"convolution: {what}")
        for value, what in ((kernel, "kernel"), (stride, "stride"), (padding, "padding"),
                            (dilation, "dilation"))
    )
    if mode != "zero" and any(padding):
        x, padding = pad(x, padding, mode), (0,) * dims
    batch, channel, *spatial = x.indices
    sizes = [whole_size(i.size, x, "convolution") for i in spatial]
    across, within = _groups(x, channels, groups)
    counts = [window_count(*window, "convolution")
              for window in zip(sizes, kernel, stride, padding, dilation, strict=True)]
    o, c, *rest = letters(
        (batch,), "ocpqurst" if dims < 3 else "ocpquvrst", channels, within, *counts, *kernel
    )
    places, taps = rest[:dims], rest[dims:]
    weight = net.parameter(net.fresh_name("K"), o, c, *taps)
    where = [s * p + d * r - a for p, r, s, d, a
             in zip(places, taps, stride, dilation, padding, strict=True)]
    source = c if groups == 1 else sympy.floor(o / across) * within + c
    summed = (c, *taps)
    if groups == channel.size == channels:  # depthwise: each channel has a kernel of its own
        source = o
    body: Expr = SumOver(x[(batch, source, *where)] * weight[(o, c, *taps)], *summed)
    if bias:
        body += net.parameter(net.fresh_name("c"), o)[o]
    y = net.define(net.fresh_name("y"), (batch, o, *places), body)
    return y if activation is None else activation(y)


def _groups(x: Handle, channels: int, groups: int) -> tuple[int, int]:
    """Channels out and in of one group."""
    have = whole_size(x.indices[1].size, x, "convolution")
    if groups < 1 or have % groups or channels % groups:
        raise DeclarationError(
            f"the channels of {x.name!r} do not divide into {groups} groups",
            expected="numbers of channels in and out that the groups divide",
            got=f"{have} in, {channels} out",
        )
    return channels // groups, have // groups


def depthwise(x: Handle, kernel: int | Sequence[int], activation: Activation | None = None,
              **settings: object) -> Handle:
    """A convolution of each channel by itself (settings as of `convolution`)."""
    channels = whole_size(x.indices[1].size, x, "depthwise")
    return convolution(
        x, channels, kernel, activation, groups=channels, **settings  # type: ignore[arg-type]
    )


def _of_rank(dims: int) -> Callable[..., Handle]:
    def conv(x: Handle, channels: int, kernel: int | Sequence[int],
             activation: Activation | None = None, **settings: object) -> Handle:
        spatial = ", ".join(("depth", "height", "width")[3 - dims :])
        need_rank(x, dims + 2, f"conv{dims}d", f"(batch, channels, {spatial})")
        return convolution(
            x, channels, kernel, activation, **settings  # type: ignore[arg-type]
        )

    conv.__name__ = f"conv{dims}d"
    conv.__doc__ = f"`convolution` over {dims} spatial dim{'s' if dims > 1 else ''}."
    return conv


conv1d, conv2d, conv3d = _of_rank(1), _of_rank(2), _of_rank(3)


def conv_transpose(
    x: Handle,
    channels: int,
    kernel: int | Sequence[int],
    activation: Activation | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    extra: int | Sequence[int] = 0,
    bias: bool = True,
) -> Handle:
    """The transpose of a convolution, as a gather: ``y[p]`` sums ``X[i] K[r]`` over all i, r with
    ``s·i + d·r - pad = p``; the size is ``(n-1)s - 2 pad + d(k-1) + 1 + extra``."""
    net, dims = x.network, x.tensor.rank - 2
    kernel, stride, padding, dilation, extra = (
        per_dim(value, dims, f"conv_transpose: {what}")
        for value, what in ((kernel, "kernel"), (stride, "stride"), (padding, "padding"),
                            (dilation, "dilation"), (extra, "extra"))
    )
    batch, channel, *spatial = x.indices
    sizes = [
        (whole_size(i.size, x, "conv_transpose") - 1) * s - 2 * a + d * (k - 1) + 1 + e
        for i, k, s, a, d, e in zip(spatial, kernel, stride, padding, dilation, extra, strict=True)
    ]
    o, c, *rest = letters((batch,), "ocpquvrst", channels, channel.size, *sizes, *kernel)
    places, taps = rest[:dims], rest[dims:]
    weight = net.parameter(net.fresh_name("K"), c, o, *taps)
    where, guards = [], []
    for p, r, s, a, d, i in zip(places, taps, stride, padding, dilation, spatial, strict=True):
        reached = p + a - d * r
        guards.append(sympy.Eq(sympy.Mod(reached, s), 0) if s > 1 else S.true)
        where.append(sympy.expand(reached / s))
        guards += inside(where[-1], i.size)
    value = x.tensor.at(batch, c, *where) * weight[(c, o, *taps)]
    body: Expr = SumOver(Select(sympy.And(*guards), value), c, *taps)
    if bias:
        body += net.parameter(net.fresh_name("c"), o)[o]
    y = net.define(net.fresh_name("y"), (batch, o, *places), body)
    return y if activation is None else activation(y)
