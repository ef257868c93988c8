"""Random numbers as a function of integers: recomputed wherever they are read, never stored.

``uniform(seed, stream, i, j, …)`` is a scalar node like sin or exp, whose arguments are whole: the
step's seed (an int tensor without dims and of the role "random", handed in anew at each step), a
number that tells the streams of one network apart, and the indices of the element. It is a
counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): no
state, so forward, backward, every thread and every target compute the same number, and the number
of an element does not depend on the size of the batch or the order of the loops.

What a target implements is `mix`, five operations on unsigned 32-bit integers, folded over the
arguments, and the last line of `uniform_value`. The result is ``(n + 1/2)/2**23`` with
``0 <= n < 2**23``: inside (0, 1), never 0 or 1, and exact in single precision, so that a mask is
the same in every precision. Everything else (masks, normal noise) is written in terms of it.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Function, Integer, S

from derive.nodes import exact

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9  # 2**32 divided by the golden ratio: no argument leaves the key as it was
FIRST, SECOND = 0x7FEB352D, 0x846CA68B  # the multipliers of `mix`
RESOLUTION = 23


class uniform(Function):
    """A number in (0, 1) that depends on whole arguments only; its derivative is zero."""

    is_real = True
    is_positive = True

    @classmethod
    def eval(cls, *args: Expr) -> Expr | None:
        if args and all(a.is_Integer for a in args):
            top = int(uniform_value(*(int(a) for a in args)) * 2 ** (RESOLUTION + 1))
            return sympy.Rational(top, 2 ** (RESOLUTION + 1))
        return None

    def fdiff(self, argindex: int = 1) -> Expr:
        return S.Zero

    def _eval_derivative(self, symbol: sympy.Symbol) -> Expr:
        return S.Zero


def mix(key: Any) -> Any:
    """A bijection of 32-bit integers without visible structure (the "lowbias32" hash with its
    published multipliers). ``key`` is a Python int or an int64 (or uint64) array below 2**32."""
    key = key ^ (key >> 16)
    key = (key * FIRST) & MASK
    key = key ^ (key >> 15)
    key = (key * SECOND) & MASK
    return key ^ (key >> 16)


def uniform_value(*args: Any) -> Any:
    """The value of ``uniform``: of ints a float, of int64 arrays (broadcast) a float64 array."""
    key: Any = 0
    for arg in args:
        key = mix(((key ^ (_unsigned(arg) & MASK)) + GOLDEN) & MASK)
    return ((key >> (32 - RESOLUTION)) + 0.5) / 2**RESOLUTION


def _unsigned(arg: Any) -> Any:
    """Arrays as uint64, in which the products of `mix` wrap harmlessly above the mask."""
    return arg if isinstance(arg, int) else arg.astype("uint64")


def normal(seed: Expr, stream: int, *where: Expr) -> Expr:
    """A standard normal number from two uniform ones (Box and Muller 1958)."""
    radius = sympy.sqrt(-2 * sympy.log(uniform(seed, Integer(2 * stream), *where)))
    return radius * sympy.cos(2 * sympy.pi * uniform(seed, Integer(2 * stream + 1), *where))


def keeps(seed: Expr, stream: int, rate: object, *where: Expr) -> Expr:
    """The condition that an element is kept by a dropout of this rate."""
    return sympy.Ge(uniform(seed, Integer(2 * stream), *where), exact(rate))
