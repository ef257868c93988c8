"""Big signs: sums, products and extremes over indices, with bounds and conditions below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, S

from derive.nodes import Index, MaxOver, MinOver, ProdOver, Reduction, Select, SumOver
from derive.tex import tree as t
from derive.tex.names import node_key
from derive.tex.values import UNKNOWN, MisfitError, Value, fresh, is_condition, put

if TYPE_CHECKING:
    from derive.tex.terms import Reader

_KINDS: dict[str, type[Reduction]] = {
    "sum": SumOver, "prod": ProdOver, "max": MaxOver, "min": MinOver}


@dataclass
class _Below:
    """What stands at a big sign: letters, from where, conditions."""

    letters: list[str] = field(default_factory=list)
    lower: dict[str, t.Node] = field(default_factory=dict)
    upper: t.Node | None = None
    conditions: list[t.Node] = field(default_factory=list)


def big_values(reader: Reader, sign: t.Scripted, rest: Sequence[t.Node | t.Op]) -> list[Value]:
    """A big sign over what follows it."""
    mark = sign.base
    assert isinstance(mark, t.Mark)
    below = _below(sign, reader.letters)
    if not rest:
        raise MisfitError(f"nothing follows the {mark.text}", "what is summed over", at=sign.at)
    outer = set(reader.letters)
    again = sorted(set(below.letters) & outer)
    if again:
        raise MisfitError(f"index {again[0]!r} is in use around this {mark.text}",
                          "another letter", at=sign.at)
    reader.letters = outer | set(below.letters)
    try:
        bodies = reader.values(_as_node(rest))
        limits = _limits(reader, below)
    finally:
        reader.letters = outer
    return reader.each(lambda v: _reduced(reader, _KINDS[mark.text], below, limits, v), sign.at,
                       bodies)


def _as_node(pieces: Sequence[t.Node | t.Op]) -> t.Node:
    first = pieces[0]
    if len(pieces) == 1 and not isinstance(first, t.Op):
        return first
    return t.Seq(tuple(pieces), first.at)


def _below(sign: t.Scripted, around: set[str]) -> _Below:
    found = _Below(upper=sign.sups[0] if sign.sups else None)
    for sub in sign.subs:
        for part in _rows(sub):
            _take(found, part, around)
    if not found.letters:
        raise MisfitError("no index stands below this sign", r"\sum_{i}", at=sign.at)
    if found.upper is not None and len(found.letters) > 1:
        raise MisfitError("an upper bound for several indices", "a sum for each", at=sign.at)
    return found


def _rows(node: t.Node) -> list[t.Node]:
    if isinstance(node, t.Stack):
        return [part for row in node.rows for part in _rows(row)]
    return list(node.parts) if isinstance(node, t.Listed) else [node]


def _take(found: _Below, part: t.Node, around: set[str]) -> None:
    if isinstance(part, t.Relation):
        first = node_key(part.parts[0])
        condition = bool(found.letters) and first in around  # of an index that is in use already
        if part.ops == ("=",) and first is not None and first not in found.letters \
                and not condition:
            found.letters.append(first)
            found.lower[first] = part.parts[1]
            return
        if not found.letters and first is not None:
            found.letters.append(first)
        found.conditions.append(part)
        return
    if isinstance(part, t.Junction | t.Negation):
        found.conditions.append(part)
        return
    pieces = part.pieces if isinstance(part, t.Seq) else (part,)
    for piece in pieces:
        letter = None if isinstance(piece, t.Op) else node_key(piece)
        if letter is None or letter.isdigit():
            raise MisfitError("this is no index", r"letters, as in \sum_{i,j}", at=part.at)
        found.letters.append(letter)


def _limits(reader: Reader, below: _Below) -> tuple[list[Expr], Expr | None, dict[str, Expr]]:
    """Conditions, the upper bound, the lower bounds, as expressions."""
    conditions = []
    for node in below.conditions:
        values = reader.values(node)
        if not is_condition(values[0].body) or values[0].axes:
            raise MisfitError("this is no condition on indices", "i ≠ j", at=node.at)
        conditions.append(values[0].body)
    upper = reader.values(below.upper)[0].body if below.upper is not None else None
    lower = {letter: reader.values(node)[0].body for letter, node in below.lower.items()}
    return conditions, upper, lower


def _reduced(reader: Reader, kind: type[Reduction], below: _Below,
             limits: tuple[list[Expr], Expr | None, dict[str, Expr]], value: Value) -> Value:
    conditions, upper, lower = limits
    body = value.body
    if is_condition(body):
        body = Select(body, S.One)
    bound: dict[Index, Index] = {}
    for letter in below.letters:
        limit = next((c.rhs for c in conditions if isinstance(c, sympy.StrictLessThan)
                      and c.lhs == Index(letter, UNKNOWN) and not c.rhs.has(Index)), None)
        size = _size(reader, letter, body, upper, lower.get(letter), limit)
        if size == limit:
            conditions.remove(sympy.StrictLessThan(Index(letter, UNKNOWN), limit))
        index = Index(letter, size)
        conditions = [settled(c, letter, size) for c in conditions]
        conditions += _bounds(reader, index, upper, lower.get(letter))
        body = settled(body, letter, size)
        bound[index] = fresh(size)
    for condition in conditions:
        if kind is not SumOver:
            raise MisfitError("only a sum takes a condition on its indices")
        body = Select(condition, body)
    for index in [i for i in bound if i not in body.free_symbols]:
        if kind is not SumOver:
            raise MisfitError(f"{index} does not occur in what follows")
        body = body * index.size
        del bound[index]
    return Value(kind(put(body, bound), *bound.values()), value.axes, value.notes)


def _called(bodies: Sequence[Expr], letter: str) -> list[Index]:
    return [s for b in bodies for s in b.free_symbols
            if isinstance(s, Index) and s.name == letter]


def _size(reader: Reader, letter: str, body: Expr, upper: Expr | None, lower: Expr | None,
          limit: Expr | None) -> Expr:
    """The size of an index: by the tensors that it is at, or by its bounds."""
    sizes = {i.size for i in _called((body,), letter)} - {UNKNOWN}
    if len(sizes) > 1:
        a, b = sorted(map(str, sizes))
        raise MisfitError(f"index {letter} ranges over {a} and over {b}", "one size")
    known = next(iter(sizes), None)
    if upper is not None and upper.is_Symbol and str(upper).startswith("?"):
        if known is None:
            raise MisfitError(f"the range of index {letter} is not known")
        name = str(upper)[1:]
        if reader.limits.setdefault(name, known) != known:
            raise MisfitError(f"{name} is {reader.limits[name]} and {known}", "one size")
        return known
    if known is not None:
        return known
    if limit is not None:
        return limit
    if upper is not None and lower is not None:
        size = sympy.expand(upper - lower + 1)
        if not size.atoms(Index):
            return size
    raise MisfitError(f"the range of index {letter} is not known",
                      rf"an upper bound: \sum_{{{letter}={reader.base}}}^{{…}}")


def settled(body: Expr, letter: str, size: Expr) -> Expr:
    """A letter whose size is known now."""
    return put(body, {Index(letter, UNKNOWN): Index(letter, size)})


def _bounds(reader: Reader, index: Index, upper: Expr | None, lower: Expr | None) -> list[Expr]:
    """What the bounds of a sum leave out of the index's range."""
    out = []
    if lower is not None:
        first = settled(lower, index.name, index.size) - reader.base
        if sympy.expand(first) != 0:
            out.append(index >= first)
    if upper is not None and not str(upper).startswith("?"):
        last = sympy.expand(upper - reader.base)
        if sympy.expand(last - index.size + 1) != 0:
            out.append(index <= last)
    return [c for c in out if c != True]  # noqa: E712  (SymPy's true)
