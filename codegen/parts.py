"""Sums over many places for few elements, cut into parts: bias gradients, statistics of columns.

    a nest of elements, each a long sum → parts of the sums, and the nest that adds these up

One thread for each element leaves most of a device idle where there are few elements and many
summands. Then a thread sums a part of an element's places, and a second launch adds the parts in
order, so that the bits depend on the number of parts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sympy
from sympy import Expr, Integer, Mul, Symbol

from codegen.loops import Let, Loop, Product, Statement, Store, statements
from derive.nodes import Access, Index

PARTIAL = "partial "  # the tensor of parts: [part, …]
PARTS = Symbol("parts", integer=True, positive=True)
LONG = 128  # summands from which on a sum may be cut into parts

Nest = tuple[tuple[Index, ...], tuple[Statement, ...]]


def added(over: Sequence[Index], total: Symbol, body: tuple[Statement, ...]) -> Nest:
    """The nest that adds up parts in order, and does ``body`` with each sum."""
    part = Index("part", PARTS)
    add = Loop(part, Integer(0), PARTS, (Let(total, Access(PARTIAL, part, *over), "+="),))
    return tuple(over), (Let(total, Integer(0)), add, *body)


def turns(body: Sequence[Statement]) -> Expr:
    """How many summands a nest of loops has."""
    loops = [n for n in statements(tuple(body)) if isinstance(n, Loop)]
    return Mul(Integer(1), *(n.stop - n.start for n in loops))


def long_sum(over: Sequence[Index], body: tuple[Statement, ...]) -> tuple[Let, Loop] | None:
    """The scalar and the loop of the one long sum that each element of a nest is made of."""
    if len(body) < 3 or not over:
        return None
    start, loop, *rest = body
    if not (isinstance(start, Let) and start.value == 0 and isinstance(loop, Loop)):
        return None
    inside = tuple(statements(loop.body))
    lets = [n for n in inside if isinstance(n, Let)]
    if any(isinstance(n, Loop | Product) for n in statements(tuple(rest))) or any(
            isinstance(n, Store | Product) for n in inside):
        return None
    if any((n.symbol, n.op) != (start.symbol, "+=") for n in lets) or loop.down:
        return None
    count = turns((loop,))
    if count.atoms(Index):  # some elements have fewer summands than others
        return None
    if loop.start != 0 or loop.stop != loop.index.size or (count.is_Integer and count < LONG):
        return None
    return start, loop


def partial_sums(over: Sequence[Index], body: tuple[Statement, ...]) -> tuple[Nest, Nest]:
    """The parts of a long sum, and the nest that adds them up."""
    found = long_sum(over, body)
    assert found is not None
    start, loop = found
    part = Index("part", PARTS)
    share = sympy.floor((loop.stop + PARTS - 1)/PARTS)
    own = replace(loop, start=part*share, stop=sympy.Min(loop.stop, (part + 1)*share))
    keep = Store(Access(PARTIAL, part, *over), start.symbol)
    return ((part, *over), (start, own, keep)), added(over, start.symbol, body[2:])
