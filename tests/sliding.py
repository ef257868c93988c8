"""Formulas with ∗ and ⋆, read from their LaTeX: a document defines each such sign by indices
(`(X ⋆ K)_p = …`), and what it defines is put in where the sign stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import sympy
from sympy import Expr, S

from derive.nodes import Access, Index, Select
from derive.program import Tensor
from derive.tex import tree as t
from derive.tex.grammar import parse
from derive.tex.names import Entry, Names, items, node_key
from derive.tex.source import Source
from derive.tex.terms import Reader
from derive.tex.values import MisfitError, Value, fresh, put

SIGNS = ("star", "ast")


@dataclass(frozen=True)
class Slid:
    """A factor that slides over another."""

    over: t.Node
    op: str
    kernel: t.Node
    at: int


@dataclass(frozen=True)
class Meaning:
    """``(over op kernel)_{free} = right``, as it stands in a document."""

    source: Source
    slid: Slid
    free: tuple[str, ...]
    right: t.Node


def with_slid(node: Any) -> Any:
    """A tree in which what a ∗ or ⋆ joins is one factor."""
    if isinstance(node, tuple):
        return tuple(map(with_slid, node))
    if not is_dataclass(node):
        return node
    node = replace(node, **{f.name: with_slid(getattr(node, f.name)) for f in fields(node)})
    if not isinstance(node, t.Seq):
        return node
    pieces = list(node.pieces)
    for k in range(len(pieces) - 2, 0, -1):
        if isinstance(pieces[k], t.Op) and pieces[k].text in SIGNS:
            pieces[k - 1 : k + 2] = [Slid(pieces[k - 1], pieces[k].text, pieces[k + 1],
                                          pieces[k - 1].at)]
    return pieces[0] if len(pieces) == 1 else t.Seq(tuple(pieces), node.at)


def meaning(latex: str) -> Meaning:
    """The definition of a sign, as a document prints it."""
    source = Source(latex, "a document").checked()
    tree = with_slid(parse(source, [(0, len(latex))]))
    assert isinstance(tree, t.Relation) and tree.ops == ("=",), latex
    left, right = tree.parts
    assert isinstance(left, t.Scripted) and isinstance(left.base, t.Group), latex
    slid = left.base.body
    assert isinstance(slid, Slid), latex
    free = tuple(node_key(i.node) or "" for sub in left.subs for i in items(sub, 0))
    return Meaning(source, slid, free, right)


class SlidingReader(Reader):
    """A reader that knows what ∗ and ⋆ mean between which arrays."""

    meanings: tuple[Meaning, ...] = ()
    sizes: tuple[Expr | None, ...] = ()  # of the result, axis by axis

    def values(self, node: Any) -> list[Value]:
        if not isinstance(node, Slid):
            return super().values(node)
        # letters that are not those of a dim are held at the first dims
        over, kernel = self.values(node.over)[0], self.values(node.kernel)[0]
        for known in self.meanings:
            if known.slid.op == node.op and [v.body.name for v in (over, kernel)] == [
                    self._whole(x) for x in (known.slid.over, known.slid.kernel)]:
                return [self._put(known, over, kernel)]
        raise MisfitError(f"no definition of this \\{node.op} is printed", at=node.at)

    def _whole(self, node: t.Node) -> str:
        return next(v.body.name for v in super().values(node))

    def _put(self, known: Meaning, over: Value, kernel: Value) -> Value:
        """The definition, with these slices in the place of its arrays."""
        arrays = {over.body.name: over, kernel.body.name: kernel}
        inner = Reader(known.source, _cut(self.names, arrays), self.layout)
        inner.letters = set(known.free)
        (found,) = inner.values(known.right)
        out = tuple(None if size is None else fresh(size) for size in self.sizes)
        named = dict(zip(known.free, filter(None, out), strict=True))
        body = put(found.body, {s: named[s.name] for s in found.body.free_symbols
                                if isinstance(s, Index) and s.name in named})
        for access in body.atoms(Access):
            body = body.xreplace({access: _element(arrays[access.name], access.where)})
        return Value(body, out)


def _cut(names: Names, arrays: dict[str, Value]) -> Names:
    """Names that stand for slices: with the dims alone that are left of an array."""
    def sliced(entries: dict[str, Entry]) -> dict[str, Entry]:
        return {key: replace(e, tensor=Tensor(e.tensor.name, arrays[e.tensor.name].kept))
                if e.tensor.name in arrays else e for key, e in entries.items()}

    return replace(names, entries=sliced(names.entries), adjoints=sliced(names.adjoints))


def _element(array: Value, where: Iterable[Expr]) -> Expr:
    """An element of a slice, 0 outside of it and between its elements."""
    places = dict(zip(array.kept, where, strict=True))
    inside: list[Any] = []
    for axis, place in places.items():
        if isinstance(place, Index):
            continue
        above, below = sympy.fraction(sympy.together(place))
        inside += [sympy.Ge(above, 0), sympy.Lt(above, axis.size * below)]
        inside += [sympy.Eq(sympy.Mod(above, below), 0)] if below != 1 else []
    element = put(array.body, {axis: sympy.expand(place) for axis, place in places.items()})
    return Select(sympy.And(*inside), element, S.Zero) if inside else element
