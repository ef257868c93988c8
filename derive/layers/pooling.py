"""Pooling, padding and upsampling over the dims after the batch and the channels."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Mul, S

from derive.affine import inside
from derive.errors import DeclarationError
from derive.layers.common import letters, per_dim, whole_size, window_count
from derive.network import Handle
from derive.nodes import Index, MaxOver, Select, SumOver

Sizes = int | Sequence[int]


def _windows(x: Handle, layer: str, kernel: Sizes, stride: Sizes | None, padding: Sizes,
             dilation: Sizes) -> tuple[tuple[Index, ...], tuple[Index, ...], Expr]:
    """Indices of the windows and within one, and the element of ``x`` that they reach."""
    dims = x.tensor.rank - 2
    stride = kernel if stride is None else stride
    settings = [per_dim(v, dims, layer) for v in (kernel, stride, padding, dilation)]
    head, spatial = x.indices[:2], x.indices[2:]
    counts = [window_count(whole_size(i.size, x, layer), k, s, a, d, layer)
              for i, k, s, a, d in zip(spatial, *settings, strict=True)]
    new = letters(head, "pqurst" if dims < 3 else "pquvrst", *counts, *settings[0])
    places, taps = new[:dims], new[dims:]
    where = [s * p + d * r - a
             for p, r, _, s, a, d in zip(places, taps, *settings, strict=True)]
    return (*head, *places), taps, x[(*head, *where)]


def max_pool(x: Handle, kernel: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
             dilation: Sizes = 1) -> Handle:
    """The largest element of each window; what lies outside is never chosen. By default windows
    do not overlap. Elements that tie share the gradient."""
    free, taps, element = _windows(x, "max_pool", kernel, stride, padding, dilation)
    within = [c for e, size in zip(element.where, x.shape, strict=True) for c in inside(e, size)]
    body = MaxOver(Select(sympy.And(*within), element, S.NegativeInfinity), *taps)
    return x.network.define(x.network.fresh_name("y"), free, body)


def average_pool(x: Handle, kernel: Sizes, stride: Sizes | None = None, padding: Sizes = 0,
                 count_padding: bool = True) -> Handle:
    """The mean of each window. ``count_padding``: zeros outside count as elements."""
    free, taps, element = _windows(x, "average_pool", kernel, stride, padding, 1)
    count: Expr = Mul(*(r.size for r in taps))
    if not count_padding:
        within = [c for e, size in zip(element.where, x.shape, strict=True)
                  for c in inside(e, size)]
        if within:
            count = SumOver(Select(sympy.And(*within), S.One), *taps)
    return x.network.define(x.network.fresh_name("y"), free, SumOver(element, *taps) / count)


def global_average_pool(x: Handle) -> Handle:
    """The mean over all dims after the batch and the channels."""
    spatial = x.indices[2:]
    body = SumOver(x.tensor.access, *spatial) / Mul(*(i.size for i in spatial))
    return x.network.define(x.network.fresh_name("y"), x.indices[:2], body)


def global_max_pool(x: Handle) -> Handle:
    """The largest element over all dims after the batch and the channels."""
    body = MaxOver(x.tensor.access, *x.indices[2:])
    return x.network.define(x.network.fresh_name("y"), x.indices[:2], body)


def _reflected(place: Expr, size: Expr) -> tuple[Expr, Expr]:
    return -place, 2 * (size - 1) - place


def _replicated(place: Expr, size: Expr) -> tuple[Expr, Expr]:
    return S.Zero, size - 1


def _circular(place: Expr, size: Expr) -> tuple[Expr, Expr]:
    return place + size, place - size


#: Where the element before the first and the element after the last are taken from.
PADDING = {"reflect": _reflected, "replicate": _replicated, "circular": _circular}


def pad(x: Handle, amount: Sizes, mode: str = "zero") -> Handle:
    """``x`` with elements added on both sides of every dim after the batch and the channels.

    Args:
        amount: how many on each side, for each dim or for all.
        mode: "zero", "reflect" (the edge is not repeated), "replicate" or "circular".
    """
    net = x.network
    if mode != "zero" and mode not in PADDING:
        raise DeclarationError(
            f"pad: unknown mode {mode!r}", expected=", ".join(("zero", *PADDING))
        )
    for dim, width in enumerate(per_dim(amount, x.tensor.rank - 2, "pad"), start=2):
        if not width:
            continue
        old = x.indices[dim]
        size = whole_size(old.size, x, "pad")
        if mode in ("reflect", "circular") and width > size - (mode == "reflect"):
            raise DeclarationError(
                f"pad: {width} elements of {mode} padding on a dim of size {size}",
                expected=f"at most {size - (mode == 'reflect')}",
            )
        new = Index(old.name, size + 2 * width)
        place = new - width
        at = [*x.indices]

        def element(where: Expr, at: list[Expr] = at, dim: int = dim, x: Handle = x) -> Expr:
            return x[(*at[:dim], where, *at[dim + 1 :])]

        body = element(place)
        if mode != "zero":
            before, after = PADDING[mode](place, old.size)
            past = Select(place >= size, element(after), body)
            body = Select(place < 0, element(before), past)
        x = net.define(net.fresh_name("y"), (*at[:dim], new, *at[dim + 1 :]), body)
    return x


def upsample(x: Handle, factor: Sizes, mode: str = "nearest") -> Handle:
    """Every dim after the batch and the channels ``factor`` times as long.

    "nearest" repeats elements; "bilinear" (linear along each dim) interpolates between the middles
    of elements and is constant beyond the outermost (PyTorch's ``align_corners=False``).
    """
    net = x.network
    factors = per_dim(factor, x.tensor.rank - 2, "upsample")
    if mode not in ("nearest", "bilinear"):
        raise DeclarationError(f"upsample: unknown mode {mode!r}", expected="nearest or bilinear")
    if mode == "nearest":
        new = [Index(i.name, i.size * f) for i, f in zip(x.indices[2:], factors, strict=True)]
        where = [sympy.floor(i / f) for i, f in zip(new, factors, strict=True)]
        free = (*x.indices[:2], *new)
        return net.define(net.fresh_name("y"), free, x[(*x.indices[:2], *where)])
    for dim, f in enumerate(factors, start=2):
        head, old, tail = x.indices[:dim], x.indices[dim], x.indices[dim + 1 :]
        new = Index(old.name, old.size * f)
        place = 2 * new + 1 - f  # twice the factor times the place between the middles
        left = sympy.floor(place / (2 * f))
        share = sympy.Mod(place, 2 * f) / (2 * f)
        first, last = x[(*head, 0, *tail)], x[(*head, old.size - 1, *tail)]
        between = (1 - share) * x[(*head, left, *tail)] + share * x[(*head, left + 1, *tail)]
        body = Select(place < 0, first, Select(left >= old.size - 1, last, between))
        x = net.define(net.fresh_name("y"), (*head, new, *tail), body)
    return x
