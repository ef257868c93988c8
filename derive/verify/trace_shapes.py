"""Reshaping symbolic arrays: groups of dims with equal products are merged and split."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Integer, Mul

from derive.nodes import Index
from derive.verify.traced import Dim, NotTraced, Traced, number


def reshape(array: Traced, shape: Any) -> Traced:
    """The array in another shape, elements in C order; -1 is worked out."""
    tracer = array._tracer
    wanted = list(shape) if isinstance(shape, tuple | list) else [shape]
    old = [i.size for i in array.indices]
    new = [number(n) for n in wanted]
    if any(int(n) == -1 for n in wanted):
        known = Mul(*(s for s, n in zip(new, wanted, strict=True) if int(n) != -1))
        rest = sympy.cancel(Mul(*old) / known)
        new = [rest if int(n) == -1 else s for s, n in zip(new, wanted, strict=True)]
    numbers = [int(tracer.dim(s)) for s in (Mul(*old), Mul(*new))]
    if numbers[0] != numbers[1]:
        raise ValueError(f"cannot reshape array of size {numbers[0]} into shape {tuple(wanted)}")
    new = [_named(s, n, old) for s, n in zip(new, wanted, strict=True)]
    indices: list[Index] = []
    places: list[Expr] = []
    left, right = list(array.indices), list(new)
    while left or right:
        before, after = _group(left, right)
        left, right = left[len(before):], right[len(after):]
        made: list[Index] = []
        for n, size in enumerate(after):
            like = before[n] if len(before) == len(after) and before[n].size == size else None
            name = like.name if like else before[0].name if before else "o"
            made.append(tracer.fresh_index(size, name, {i.name for i in (*indices, *made)}))
        places += _split([i.size for i in before], made)
        indices += made
    return Traced(tracer, tuple(indices), array.at(*places), array.kind)


def _named(size: Expr, wanted: Any, old: list[Expr]) -> Expr:
    """A number that equals no product of sizes stays a number."""
    return size if isinstance(wanted, Dim) or size.is_Integer else sympy.expand(size)


def _group(left: list[Index], right: list[Expr]) -> tuple[list[Index], list[Expr]]:
    """The shortest leading groups of both sides with the same product."""
    a, b = 0, 0
    while True:
        one, two = Mul(*(i.size for i in left[:a])), Mul(*right[:b])
        if (a or b) and sympy.expand(one - two) == 0 and ((a and b) or one == 1):
            return left[:a], right[:b]
        if a >= len(left) and b >= len(right):
            raise NotTraced("a reshape that mixes sizes", got=f"{one} and {two}")
        smaller = sympy.expand(two - one)
        if b >= len(right) or (a < len(left) and (smaller.is_positive or a == 0)):
            a += 1
        else:
            b += 1


def _split(sizes: list[Expr], indices: list[Index]) -> list[Expr]:
    """The places of old dims in terms of the indices of new ones, within one group."""
    if [i.size for i in indices] == sizes:
        return list(indices)
    flat: Expr = Integer(0)
    for index in indices:
        flat = sympy.expand(flat * index.size + (Integer(0) if index.size == 1 else index))
    places = []
    for n, size in enumerate(sizes):
        below = Mul(*sizes[n + 1:])
        part = flat if below == 1 else sympy.floor(flat / below)
        first = all(s == 1 for s in sizes[:n])
        places.append(part if first else sympy.Mod(part, size))
    return [Integer(0) if s == 1 else p for s, p in zip(sizes, places, strict=True)]
