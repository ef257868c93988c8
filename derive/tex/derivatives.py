"""Derivatives that are tensors of the network itself: of a scalar other than the loss, whose
gradient the network declares, and Jacobians."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from derive.tex import tree as t
from derive.tex.names import Entry, Item, items, named, node_key, quotient_key, splits

if TYPE_CHECKING:
    from derive.tex.terms import Reader


def declared_derivative(reader: Reader, node: t.Node) -> tuple[Entry, Sequence[Item]] | None:
    """``∂y_i/∂x_j`` as a tensor that is declared under that name, with its indices: those of what
    is differentiated first."""
    if not isinstance(node, t.Frac):
        return None
    above, below = reader.differential(node.above), reader.differential(node.below)
    if above is None or below is None or node_key(above) in reader.names.losses:
        return None
    for upper, rows in _ways(above):
        for lower, rest in _ways(below):
            entries = reader.lookup(quotient_key(upper, lower))
            if entries:
                return entries[0], (*rows, *rest)
    return None


def _ways(node: t.Node) -> Iterator[tuple[str, tuple[Item, ...]]]:
    """A symbol as a name and the indices at it."""
    scripts = node if isinstance(node, t.Scripted) else t.Scripted(node, (), (), 0, node.at)
    if node_key(scripts.base) is not None and not scripts.sups:
        found = [i for n, sub in enumerate(scripts.subs) for i in items(sub, -n - 1)]
        for names, rest in splits(found):
            yield named(scripts.base, names, scripts.primes), rest
