"""Choices that a formula leaves out, because a sentence beside it says them: what lies outside the
bounds of a tensor reads 0, and a recurrence has a first value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from derive import notation as n
from derive.notation import Node


def is_bounds(node: n.Choice, shape: tuple[Node, ...] | None = None) -> bool:
    """Whether a choice says only that an element outside the bounds of its tensor reads 0;
    ``shape`` are the sizes of the tensor, where they are known."""
    if not isinstance(node.yes, n.Element):
        return False
    condition, where = node.condition, node.yes.where
    parts = condition.parts if isinstance(condition, n.Junction) and condition.op == "and" \
        else (condition,)
    return all(isinstance(p, n.Relation) and _is_bound(p, where, shape) for p in parts)


def _is_bound(relation: n.Relation, where: tuple[Node, ...], shape: tuple[Node, ...] | None
              ) -> bool:
    """``0 ≤ e``, ``e < n`` or both in one, for an index expression e and the size n there."""
    found = [k for k, part in enumerate(relation.parts) if part in where]
    if len(found) != 1 or len(relation.parts) > 3:
        return False
    (k,), last = found, len(relation.parts) - 1
    size = shape[where.index(relation.parts[k])] if shape is not None else None
    below = k == 0 or (relation.parts[k - 1] == n.ZERO and relation.ops[k - 1] == "<=")
    above = k == last or (relation.ops[k] == "<" and size in (None, relation.parts[k + 1]))
    return below and above and k <= 1 and last - k <= 1


def first_value(node: n.Choice) -> tuple[n.Statement, n.Relation] | None:
    """Of a recurrence's ``h[t-1] if t >= 1 else h0``: ``h[t] = h0`` and ``t < 0``.

    Such a choice is printed as h[t-1], with the first value stated beside the formula.
    """
    yes, no, condition = node.yes, node.no, node.condition
    if isinstance(yes, n.Transposed) and isinstance(no, n.Transposed):
        yes, no = yes.body, no.body
    if not isinstance(yes, n.Element | n.Whole) or not isinstance(condition, n.Relation):
        return None
    if len(condition.ops) != 1 or not isinstance(no, n.Element | n.Number | n.Whole):
        return None
    where = yes.where if isinstance(yes, n.Element) else yes.at
    shifted = [
        k for k, w in enumerate(where)
        if isinstance(w, n.Sum) and len(w.terms) == 2 and isinstance(w.terms[1][1], n.Number)
    ]
    if len(shifted) != 1:
        return None
    moved = where[shifted[0]]
    assert isinstance(moved, n.Sum)
    index = moved.terms[0][1]
    if not isinstance(index, n.Name) or condition.parts[0] not in (index, moved):
        return None
    plain: tuple[Any, ...] = tuple(
        index if k == shifted[0] else w for k, w in enumerate(where))
    before = condition.ops[0] in (">=", ">")
    limit = n.ZERO if before else condition.parts[1]
    left = replace(yes, where=plain) if isinstance(yes, n.Element) else replace(yes, at=plain)
    return n.Statement(left, no), n.Relation((index, limit), ("<" if before else ">=",))
