"""Sums over indices as products of matrices: the chain of factors along a path of indices.

Each function takes the recogniser of `derive.matrix` whose equation it works on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sympy import Expr, Mul, Pow

from derive import notation as n
from derive.nodes import Access, Index, Select, SumOver
from derive.notate import Builder
from derive.notation import Node

if TYPE_CHECKING:
    from derive.matrix import Recogniser

Edge = Index | None


class NoFormError(Exception):
    """There is no matrix form."""


@dataclass(frozen=True)
class Transposition:
    """Why a tensor is transposed: ``index``, over which is summed, stands first in it where a
    left factor needs it last, or last where a right factor needs it first (``side``)."""

    name: str
    index: str
    side: str


def contraction(forms: Recogniser, factors: tuple[Expr, ...], bound: tuple[Index, ...], row: Edge,
                col: Edge) -> Node:
    """A sum over indices: a chain of factors from ``row`` to ``col`` through each of them."""
    outside = [f for f in factors if not f.free_symbols & set(bound)]
    inside = [f for f in factors if f.free_symbols & set(bound)]
    if outside:
        inner = SumOver(Mul(*inside), *bound)
        return forms.product(Mul(*outside, inner, evaluate=False), row, col)
    if row is None and len(inside) == 1 and isinstance(inside[0], Pow) \
            and inside[0].exp == 2 and len(bound) <= 2:
        body = forms.form(inside[0].base, bound[0], bound[1] if len(bound) == 2 else None)
        return n.Power(n.Call("norm", (body,)), n.Number("2"))
    slices = sliced(forms, inside, bound)
    if slices is not None:
        return over_slices(forms, inside, slices, bound, row, col)
    nodes: dict[frozenset[Index], list[Expr]] = {}
    known = {*bound, row, col} - {None}
    for f in inside:
        touched = frozenset(s for s in f.free_symbols if s in known)
        if len(touched) > 2:
            raise NoFormError
        nodes.setdefault(touched, []).append(f)
    path = _path(nodes, bound, row, col)
    if path is None:
        raise NoFormError
    return along(forms, path, nodes, bound)


def sliced(forms: Recogniser, factors: list[Expr], bound: tuple[Index, ...]) -> Index | None:
    """A bound index that cuts everything that has more than two dims left into slices."""
    deep = [
        a for f in factors for a in f.atoms(Access)
        if sum(not forms.is_fixed(w) for w in a.where) > 2
    ]
    times = forms.orientation.times
    for index in sorted(bound, key=lambda i: i not in times):
        if deep and all(sum(indices(w) == {index} for w in a.where) == 1 for a in deep):
            return index
    return None


def over_slices(forms: Recogniser, factors: list[Expr], index: Index, bound: tuple[Index, ...],
                row: Edge, col: Edge) -> Node:
    """A sum over the slices of tensors of rank 3, each a form of its own."""
    forms.fixed.add(index)
    left = tuple(i for i in bound if i != index)
    inner = SumOver(Mul(*factors), *left)
    body: Expr = inner
    condition: Node | None = None
    if isinstance(inner, Select) and inner.no == 0:
        if not forms.is_fixed(inner.condition):
            raise NoFormError
        body, condition = inner.yes, Builder(forms.eq.indices).condition(inner.condition)
    made: Node = forms.form(body, row, col)
    forms.fixed.discard(index)
    if condition is None and isinstance(made, n.Choice) and made.no == n.ZERO:
        condition = made.condition
        made = made.yes
    return n.Big("sum", (n.Name(index.name, "index"),), made, condition)


def along(forms: Recogniser, path: list[Index], nodes: Mapping[frozenset[Index], list[Expr]],
          bound: tuple[Index, ...]) -> Node:
    """The chain of the matrices along a path of indices; an end that is summed over is closed
    by a vector, of ones where no factor is there."""
    alone = {i: in_order(forms, nodes.get(frozenset((i,)), [])) for i in path}
    first, last = path[0], path[-1]
    if len(path) == 1:
        return dot(forms, alone[first], first)
    inner = [
        forms.hadamard(in_order(forms, nodes[frozenset(pair)]), *pair)
        for pair in pairwise(path)
    ]
    if len(path) == 2 and first in bound and last in bound and not alone[first] \
            and not alone[last] and isinstance(inner[0], n.Hadamard):
        left, *rest = inner[0].factors
        right = rest[0] if len(rest) == 1 else n.Hadamard(tuple(rest))
        check(forms, [(last, first), (first, last)])
        return n.Call("tr", (n.Chain((flip(left), right)),))
    parts: list[Node] = []
    edges: list[tuple[Edge, Edge]] = []
    if first in bound:
        parts.append(flip(closing(forms, alone[first], first)))
        edges.append((None, first))
    for matrix, here, there in zip(inner, path, path[1:], strict=False):
        made = fewest_transposes(matrix)
        _explain(forms, made, here, there, bound)
        parts.append(made)
        edges.append((here, there))
        if there is not last and alone[there]:
            parts.append(diagonal(forms.hadamard(alone[there], there, None)))
            edges.append((there, there))
    if last in bound:
        parts.append(closing(forms, alone[last], last))
        edges.append((last, None))
    check(forms, edges)
    return chain(parts)


def closing(forms: Recogniser, factors: list[Expr], index: Index) -> Node:
    """The vector at an end of a chain."""
    return forms.hadamard(factors, index, None) if factors else forms.ones(index)


def dot(forms: Recogniser, factors: list[Expr], index: Index) -> Node:
    """A sum over one index of factors in that index alone."""
    left = forms.hadamard(factors[:1], index, None) if len(factors) > 1 else forms.ones(index)
    right = forms.hadamard(factors[1:] or factors, index, None)
    check(forms, [(None, index), (index, None)])
    return n.Chain((flip(left), right))


def in_order(forms: Recogniser, factors: list[Expr]) -> list[Expr]:
    """Factors in the order of reading."""
    return sorted(factors, key=Builder(forms.eq.indices)._factor_key)


def _explain(forms: Recogniser, matrix: Node, here: Index, there: Index,
             bound: tuple[Index, ...]) -> None:
    if isinstance(matrix, n.Transposed) and isinstance(matrix.body, n.Whole):
        index, side = (there, "left") if there in bound else (here, "right")
        forms.transposed.append(Transposition(matrix.body.name.code, index.name, side))


def check(forms: Recogniser, edges: list[tuple[Edge, Edge]]) -> None:
    """``K×N · N×d = K×d`` for a chain of factors."""
    if len(edges) < 2:
        return
    shown = " · ".join(f"{size(a)}×{size(b)}" for a, b in edges)
    forms.shapes.append(f"{shown} = {size(edges[0][0])}×{size(edges[-1][1])}")


def indices(expr: Expr) -> set[Index]:
    return {s for s in expr.free_symbols if isinstance(s, Index)}


def size(edge: Edge) -> str:
    return "1" if edge is None else str(edge.size)


def is_inverse(expr: Expr) -> bool:
    return isinstance(expr, Pow) and expr.exp.is_number and bool(expr.exp.is_negative)


def flip(node: Node) -> Node:
    return node.body if isinstance(node, n.Transposed) else n.Transposed(node)


def diagonal(vector: Node) -> Node:
    """The diagonal matrix of a vector; a condition stands in front of it."""
    if isinstance(vector, n.Choice) and vector.no == n.ZERO:
        return n.Choice(vector.condition, diagonal(vector.yes), n.ZERO)
    return n.Call("diag", (vector,))


_ENTRYLESS = {"onehot", "diag", "rowmax", "rowmin"}  # functions that do not act on each entry
_SCALAR = {"tr", "norm", "max", "min"}


def turned(node: Node) -> Node:
    """The transpose of a matrix, taken inwards: ``(A - 1 mᵀ)ᵀ`` as ``Aᵀ - m 1ᵀ``."""
    if isinstance(node, n.Transposed):
        return node.body
    if isinstance(node, n.Chain):
        return n.Chain(tuple(map(turned, reversed(node.factors))))
    if isinstance(node, n.Hadamard | n.Product):
        return type(node)(tuple(map(turned, node.factors)))
    if isinstance(node, n.Sum):
        return n.Sum(tuple((negative, turned(term)) for negative, term in node.terms))
    if isinstance(node, n.Fraction):
        return n.Fraction(turned(node.above), turned(node.below))
    if isinstance(node, n.Root):
        return n.Root(turned(node.body))
    if isinstance(node, n.Bracket) and isinstance(node.condition, n.Relation):
        return n.Bracket(replace(node.condition, parts=tuple(map(turned, node.condition.parts))))
    if isinstance(node, n.Call) and node.function not in _ENTRYLESS | _SCALAR:
        return replace(node, args=(turned(node.args[0]), *node.args[1:]))
    scalar = isinstance(node, n.Number | n.Name | n.Element | n.Power) or (
        isinstance(node, n.Whole) and node.name.kind == "tensor") or (
        isinstance(node, n.Call) and node.function in _SCALAR)
    return node if scalar else n.Transposed(node)


def fewest_transposes(node: Node) -> Node:
    """A matrix, or the transpose of its transpose where that is written with fewer signs."""
    other = n.Transposed(turned(node))
    return other if _transposes(other) < _transposes(node) else node


def _transposes(node: object) -> int:
    if isinstance(node, tuple):
        return sum(map(_transposes, node))
    if not is_dataclass(node):
        return 0
    return isinstance(node, n.Transposed) + sum(
        _transposes(getattr(node, f.name)) for f in fields(node))


def chain(parts: list[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        if isinstance(part, n.Choice) and part.no == n.ZERO:  # a condition stands in front
            inside = [part.yes if p is part else p for p in parts]
            return n.Choice(part.condition, chain(inside), n.ZERO)
        flat.extend(part.factors if isinstance(part, n.Chain) else (part,))
    return flat[0] if len(flat) == 1 else n.Chain(tuple(flat))


def _path(nodes: Mapping[frozenset[Index], list[Expr]], bound: tuple[Index, ...], row: Edge,
          col: Edge) -> list[Index] | None:
    """An order of all indices in which neighbours share a factor: row first, col last."""
    if frozenset() in nodes:
        return None
    links: dict[Index, list[Index]] = {i: [] for i in (*bound, row, col) if i is not None}
    for key in nodes:
        if len(key) == 2:
            a, b = key
            links[a].append(b)
            links[b].append(a)
    if any(len(v) > 2 for v in links.values()):
        return None
    ends = [i for i, v in links.items() if len(v) <= 1]
    if row is not None:
        start = row
    elif ends:
        start = min(ends, key=[*links].index)
    else:
        return None
    if len(links[start]) > 1:
        return None
    path, before = [start], None
    while True:
        step = [i for i in links[path[-1]] if i != before]
        if not step:
            break
        before = path[-1]
        path.append(step[0])
    if len(path) != len(links) or (col is not None and path[-1] != col):
        return None
    return path
