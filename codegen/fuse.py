"""Neighbouring loops over the same range become one: tree → tree with the same results.

Two loops may be joined when no element that one of them writes is touched by the other in another
turn. That is certain where, for each tensor that either writes, all accesses of both have the
loop's index itself in one and the same dim: turn i then touches row i only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from sympy import Expr

from codegen.loops import (
    If,
    Let,
    Loop,
    Matrix,
    Product,
    Statement,
    Store,
    Window,
    expressions,
    statements,
)
from derive.nodes import Access, Index, accesses, bound_indices


def fuse(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The statements with neighbouring loops joined, inside out and again inside the result."""
    out: list[Statement] = []
    for node in body:
        if isinstance(node, Loop):
            node = replace(node, body=fuse(node.body))
            last = out[-1] if out else None
            if isinstance(last, Loop):
                joined = _joined(last, node)
                if joined is not None:
                    out[-1] = joined
                    continue
        out.append(node)
    return tuple(out)


def _joined(first: Loop, second: Loop) -> Loop | None:
    if first.down or second.down or (first.start, first.stop) != (second.start, second.stop):
        return None
    if second.index != first.index:
        if first.index in _indices(second.body):
            return None
        second = renamed(second, second.index, first.index)
    if not independent(first.body, second.body, first.index):
        return None
    return replace(first, body=fuse((*first.body, *second.body)))


def independent(first: Iterable[Statement], second: Iterable[Statement], index: Index) -> bool:
    """Whether turn i of the first body touches nothing that another turn of the second does."""
    one, two = touches(tuple(first)), touches(tuple(second))
    written = {a.name for a, writes in (*one, *two) if writes}
    for name in written:
        places = [a for a, _ in (*one, *two) if a.name == name]
        in_both = {a.name for a, _ in one} & {a.name for a, _ in two}
        if name not in in_both:
            continue
        rank = len(places[0].where)
        if not any(all(a.where[d] == index for a in places) for d in range(rank)):
            return False
    return True


def touches(body: tuple[Statement, ...]) -> list[tuple[Access, bool]]:
    """Every access with whether it is written."""
    found: list[tuple[Access, bool]] = []
    for node in statements(body):
        if isinstance(node, Product):
            found += [(a, n == 0) for n, a in enumerate(node.places)]
        elif isinstance(node, Store):
            found.append((node.target, True))
            found += [(a, False) for a in accesses(node.value)]
            found += [(a, False) for e in node.target.where for a in accesses(e)]
        else:
            found += [(a, False) for e in expressions(node) for a in accesses(e)]
    return found


def _indices(body: tuple[Statement, ...]) -> set[Index]:
    found: set[Index] = set()
    for node in statements(body):
        if isinstance(node, Loop):
            found.add(node.index)
        places = node.places if isinstance(node, Product) else ()  # a product's own rows, columns
        for expr in (*expressions(node), *places):
            found |= set(bound_indices(expr)) | {s for s in expr.free_symbols
                                                 if isinstance(s, Index)}
    return found


def renamed(node: Any, old: Expr, new: Expr) -> Any:
    """A tree with one index, or scalar, for another."""
    return substituted(node, {old: new})


def substituted(node: Any, known: Mapping[Expr, Expr]) -> Any:
    """A tree with expressions for others, all at once."""
    if isinstance(node, Expr) or hasattr(node, "xreplace"):
        return node.xreplace(known)
    if isinstance(node, tuple):
        return tuple(substituted(n, known) for n in node)
    if isinstance(node, Loop | Let | Store | If | Product | Matrix | Window):
        return replace(node, **{f.name: substituted(getattr(node, f.name), known)
                                for f in fields(node)})
    return node
