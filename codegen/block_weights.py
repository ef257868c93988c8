"""Weights of a recurrence in shared memory: read from memory once for each block of threads.

    a block's statements → the tensors that are worth keeping, the statements that read them there

A block goes through all steps of its rows. What every step reads at the same places, whatever the
row, is copied to shared memory before the first row, where all of it fits `ROOM`: in double
precision, in which modules test themselves, a block of any device has 48 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sympy import Expr, Mul

from codegen.fuse import independent, substituted
from codegen.loops import Loop, Product, Statement, Store, expressions, statements
from derive.nodes import Access, Index, IntegerAccess, accesses

ROOM = 6144 - 512  # numbers: SHARED of the template, less what merging takes
KEPT = " kept"  # behind the name of a tensor: its copy in shared memory

Kept = tuple[str, tuple[Expr, ...]]


def kept_tensors(body: Sequence[Statement], over: Sequence[Index],
                 shapes: Mapping[str, tuple[Expr, ...]]) -> tuple[Kept, ...]:
    """Names and shapes of the tensors that the steps of a block read again and again, the
    smallest first, as many as fit."""
    steps = [n for n in body if isinstance(n, Loop)
             and not independent(n.body, n.body, n.index) and _stores(n)]
    fixed = {*over, *(n.index for n in steps)}
    inside = [n for step in steps for n in statements(step.body)]
    found: dict[str, bool] = {}
    for node in inside:
        for access in (a for e in expressions(node) for a in accesses(e)):
            again = (not isinstance(access, IntegerAccess) and not isinstance(node, Product)
                     and bool(access.where) and not access.free_symbols & fixed
                     and not access.has(IntegerAccess))
            found[access.name] = found.get(access.name, True) and again
    everything = tuple(statements(tuple(body)))
    barred = {n.target.name for n in everything if isinstance(n, Store | Product)}
    barred |= {m.name for n in everything if isinstance(n, Product) for m in (n.left, n.right)}
    sizes = {name: Mul(*padded(shapes[name])) for name, again in found.items()
             if again and name not in barred}
    room, chosen = ROOM, []
    for name in sorted((n for n in sizes if sizes[n].is_Integer), key=lambda n: int(sizes[n])):
        if sizes[name] <= room:
            room -= int(sizes[name])
            chosen.append((name, shapes[name]))
    return tuple(chosen)


def padded(shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """The shape of a copy: rows of an odd length, so that threads that read one column meet other
    banks, as those that read one row do."""
    return (*shape[:-1], shape[-1] + (shape[-1] + 1) % 2)


def _stores(loop: Loop) -> bool:
    return any(isinstance(n, Store) for n in statements(loop.body))


def reading_kept(body: tuple[Statement, ...], kept: Sequence[Kept]) -> tuple[Statement, ...]:
    """The statements, with the copies in shared memory for the tensors that are kept."""
    names = {name for name, _ in kept}
    moved = {a: Access(a.name + KEPT, *a.where) for n in statements(body)
             for e in expressions(n) for a in accesses(e) if a.name in names}
    return tuple(substituted(body, moved))


def copied(kept: Kept) -> tuple[tuple[Index, ...], Store]:
    """The loops and the statement that copy a tensor."""
    name, shape = kept
    places = tuple(Index(f"{name}_{n}", size) for n, size in enumerate(shape))
    return places, Store(Access(name + KEPT, *places), Access(name, *places))
