"""Conditions and labels in matrix forms: ``[k = t[b]]`` as onehot(t), ``[i = k]`` as a diagonal
matrix, a mask entry by entry, a choice between slices.

Each function takes the recogniser of `derive.matrix` whose equation it works on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy
from sympy import Expr

from derive import notation as n
from derive.matrix_sums import Edge, NoFormError, diagonal, flip, indices
from derive.nodes import Access, IntegerAccess, Select
from derive.notate import Builder
from derive.notation import Node

if TYPE_CHECKING:
    from derive.matrix import Recogniser


def select(forms: Recogniser, expr: Select, row: Edge, col: Edge) -> Node:
    condition = expr.condition
    if indices(condition) and forms.is_fixed(condition):
        for branch in (expr.yes, expr.no):
            if branch != 0 and not {row, col} - {None} <= branch.free_symbols:
                raise NoFormError  # one number for many entries
        return n.Choice(Builder(forms.eq.indices).condition(condition),
                        forms.form(expr.yes, row, col), forms.form(expr.no, row, col))
    if expr.no != 0:
        raise NoFormError
    if is_delta(expr, row, col):
        return delta(forms, expr.yes, row, col)
    if not isinstance(condition, sympy.core.relational.Relational):
        raise NoFormError
    sides = (condition.lhs, condition.rhs)
    picked = one_hot(forms, condition, sides, row, col)
    bracket = picked or n.Bracket(n.Relation(
        (forms.form(sides[0], row, col), forms.form(sides[1], row, col)),
        (Builder().condition(condition).ops[0],),  # type: ignore[union-attr]
    ))
    if expr.yes == 1:
        return bracket
    inside = forms.form(expr.yes, row, col)
    if not condition.free_symbols & {row, col}:
        return n.product((bracket, inside))
    scalar = not expr.yes.free_symbols & {row, col}
    return n.product((inside, bracket)) if scalar else n.Hadamard((bracket, inside))


def one_hot(forms: Recogniser, condition: Expr, sides: tuple[Expr, Expr], row: Edge, col: Edge
            ) -> Node | None:
    """``[k = t[b]]``: a row of zeros with a one at the label."""
    if not isinstance(condition, sympy.Eq):
        return None
    for index, label in (sides, sides[::-1]):
        for down, across in ((row, col), (col, row)):
            labels = labels_of(forms, label, down)
            if labels is not None and down is not None and index == across:
                node = hot(forms, labels)
                return node if down == row else flip(node)
    return None


def at_label(forms: Recogniser, expr: Access, node: Node, free: list[int], row: Edge
             ) -> Node | None:
    """The element of each row at its label: all but it made zero, then summed."""
    if len(free) != 2 or expr.where[free[0]] != row \
            or expr.name not in forms.orientation.tensors:
        return None
    labels = labels_of(forms, expr.where[free[1]], row)
    if labels is None:
        return None
    last = forms.orientation.tensors[expr.name].indices[free[1]]
    return n.Chain((n.Hadamard((node, hot(forms, labels))), forms.ones(last)))


def labels_of(forms: Recogniser, expr: Expr, row: Edge) -> n.Whole | None:
    """``t[b]`` as the column of the labels of all rows."""
    if not isinstance(expr, IntegerAccess):
        return None
    free = [w for w in expr.where if not forms.is_fixed(w)]
    return forms.slice(expr) if free == [row] else None


def hot(forms: Recogniser, labels: n.Whole) -> Node:
    """The matrix with a row for each label, as it is written where samples are columns."""
    node = n.Call("onehot", (labels,))
    position = labels.at.index(None) if labels.at else 0
    return n.Transposed(node) if forms.orientation.across(labels.name.code, position) else node


def delta(forms: Recogniser, rest: Expr, row: Edge, col: Edge) -> Node:
    """``[row = col]`` times ``rest``: a diagonal matrix, of what ``rest`` is there."""
    assert row is not None and col is not None
    there = rest.xreplace({col: row})
    if row in there.free_symbols:
        return diagonal(forms.form(there, row, None))
    scalar = forms.form(there, None, None)
    identity = diagonal(forms.ones(row))
    return identity if there == 1 else n.product((scalar, identity))


def deltas_apart(body: Expr, row: Edge, col: Edge) -> Expr:
    """Products with ``[row = col]`` multiplied out: ``([i = k] - p) p`` is ``diag(p) - p pᵀ``."""
    deltas = any(is_delta(s, row, col) for s in body.atoms(Select))
    return sympy.expand_mul(body) if deltas else body


def is_delta(expr: Expr, row: Edge, col: Edge) -> bool:
    return None not in (row, col) and isinstance(expr, Select) and expr.no == 0 \
        and expr.condition in (sympy.Eq(row, col), sympy.Eq(col, row))
