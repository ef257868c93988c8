"""Values put together: choices, conditions, powers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import sympy
from sympy import Expr

from derive.nodes import Select
from derive.tex import tree as t
from derive.tex.source import MAX_EXPONENT
from derive.tex.values import MisfitError, Value, entrywise, fits, is_condition, shape

OTHERWISE = {"otherwise", "else", "sonst", "否则", "其他", "其余"}


def where(when: Value, yes: Value, no: Value) -> Value:
    """A choice for each entry."""
    chosen = entrywise(sympy.Tuple, when, yes, "chosen")
    return entrywise(lambda pair, n: Select(pair[0], pair[1], n), chosen, no, "chosen between")


def without_words(node: t.Node) -> t.Node:
    """A condition without the "if" in front of it."""
    if isinstance(node, t.Relation):
        return t.Relation((without_words(node.parts[0]), *node.parts[1:]), node.ops, node.at)
    if isinstance(node, t.Listed):
        return t.Listed((without_words(node.parts[0]), *node.parts[1:]), node.signs, node.at)
    if isinstance(node, t.Seq) and isinstance(node.pieces[0], t.Word) \
            and node.pieces[0].text not in OTHERWISE and len(node.pieces) > 1:
        rest = node.pieces[1:]
        return rest[0] if len(rest) == 1 and not isinstance(rest[0], t.Op) else t.Seq(
            rest, node.at)
    return node


def joined(join: Callable[..., Any], parts: Sequence[Value]) -> Value:
    if not all(is_condition(p.body) for p in parts):
        raise MisfitError("this is no condition", "comparisons such as z > 0")
    return reduce(lambda a, b: entrywise(join, a, b, "joined"), parts)


def both(parts: Sequence[Value]) -> Value:
    return parts[0] if len(parts) == 1 else joined(sympy.And, parts)


def power(value: Value, exponent: Value, entries: bool) -> Value:
    e = exponent.body
    if exponent.axes:
        raise MisfitError("an array stands as exponent", r"a number, or e^{…}")
    if e.is_number and abs(e) > MAX_EXPONENT and value.body.is_number:
        raise MisfitError("the exponent of a number is too large", f"at most {MAX_EXPONENT}")
    if value.axes and not entries:
        if len(value.kept) == 2 and e.is_negative:
            return _inverse(value, e)
        if len(value.kept) == 2 and fits(*value.kept):
            raise MisfitError(f"a power of {shape(value)} has two readings",
                              r"^{\odot 2} entry by entry, or the product written out")
    return value.with_body(value.body**e)


def _inverse(value: Value, e: Expr) -> Value:
    """A negative power of a matrix: of a diagonal one it is that of its diagonal."""
    body = value.body
    diagonal = isinstance(body, Select) and body.no == 0 and isinstance(body.condition, sympy.Eq) \
        and set(body.condition.args) == set(value.kept)
    if not diagonal:
        raise MisfitError(
            f"the inverse of {shape(value)} is not read: equations have no inverse of a matrix",
            r"^{\odot -1} for one over each entry, or a product with a tensor that is declared as "
            "the inverse", 'names={r"A^{-1}": …} with that tensor')
    return value.with_body(Select(body.condition, body.yes**e))
