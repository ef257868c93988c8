"""Sums over windows that are convolutions: one Conv in place of a Gather and an Einsum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr

from derive.affine import coefficients, inside
from derive.nodes import Access, Index, Select
from derive.program import Program


@dataclass(frozen=True)
class Convolution:
    """``sum over c, r of X[b, c, s·p + d·r - before] K[o, c, r]``: names, the axes of the result,
    and the settings of the operator."""

    data: str
    kernel: str
    axes: tuple[Index, ...]
    settings: dict[str, list[int]]


@dataclass(frozen=True)
class _Window:
    """One spatial dim: the index of the windows and of the taps, and how they move."""

    window: Index
    tap: Index
    stride: int
    dilation: int
    before: int
    after: int


def convolution(factors: Sequence[Expr], bound: Sequence[Index], program: Program
                ) -> Convolution | None:
    """The convolution that a sum of products of two factors is, or None."""
    for data, kernel in (factors, factors[::-1]):
        condition = sympy.true
        if isinstance(data, Select) and data.no == 0:
            condition, data = data.condition, data.yes
        if isinstance(data, Access) and isinstance(kernel, Access):
            found = _matched(data, kernel, condition, bound, program)
            if found is not None:
                return found
    return None


def _matched(data: Access, kernel: Access, condition: Expr, bound: Sequence[Index],
             program: Program) -> Convolution | None:
    x, k = program.tensors[data.name], program.tensors[kernel.name]
    plain = [w for w in (*data.where[:2], *kernel.where) if isinstance(w, Index)]
    if not 3 <= x.rank == k.rank <= 5 or len(plain) != 2 + k.rank:
        return None
    (batch, channel, *places), (out, within, *taps) = data.where, kernel.where
    free = (batch, out)
    sizes = [w.size for w in kernel.where] == list(k.shape)
    if channel != within or set(bound) != {channel, *taps} or len(set(taps)) < len(taps) or not (
            sizes and len(set(free)) == 2 and not set(free) & set(bound)):
        return None
    if (batch.size, channel.size) != x.shape[:2]:
        return None
    windows = [_window(p, r, n) for p, r, n in zip(places, taps, x.shape[2:], strict=True)]
    within_bounds = [c for p, n in zip(places, x.shape[2:]) for c in inside(p, n)]
    if condition != sympy.And(*within_bounds) or None in windows:
        return None
    known = [w for w in windows if w is not None]
    axes = (*free, *(w.window for w in known))
    if len(set(axes)) < len(axes):
        return None
    return Convolution(data.name, kernel.name, axes, {
        "kernel_shape": [int(w.tap.size) for w in known], "strides": [w.stride for w in known],
        "dilations": [w.dilation for w in known],
        "pads": [*(w.before for w in known), *(w.after for w in known)],
    })


def _window(place: Expr, tap: Index, size: Expr) -> _Window | None:
    indices = [s for s in place.free_symbols if isinstance(s, Index)]
    slopes = coefficients(place, indices)
    others = [i for i in indices if i != tap]
    if slopes is None or len(others) != 1 or tap not in slopes or place.has(Access):
        return None
    stride, dilation, window = slopes[others[0]], slopes[tap], others[0]
    before = -sympy.expand(place - stride * window - dilation * tap)
    numbers = (stride, dilation, before, size, window.size, tap.size)
    if not all(n.is_Integer for n in numbers) or stride < 1 or dilation < 1 or before < 0:
        return None
    s, d, a, n, count, k = map(int, numbers)
    after = max(0, (count - 1) * s + d * (k - 1) + 1 - n - a)
    if (n + a + after - d * (k - 1) - 1) // s + 1 != count:
        return None
    return _Window(window, tap, s, d, a, after)
