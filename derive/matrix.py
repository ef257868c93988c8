"""The matrix form of an equation of rank ≤ 2, recognised exactly from its index structure.

Vectors are columns; ``1`` is a column of ones; functions, powers, quotients and the addition of a
scalar act on every entry. A form is found by following the indices: an index that is summed
over joins two factors, and a factor whose summed index stands first (or last) on the wrong side
is transposed. What has no such form gives None; `derive.einsum` then names the contraction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive import notation as n
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    Reduction,
    Select,
    SumOver,
)
from derive.notate import Builder
from derive.notation import Node
from derive.program import Equation, Tensor


@dataclass(frozen=True)
class Transposition:
    """Why a tensor is transposed: ``index``, over which is summed, stands first in it where a
    left factor needs it last, or last where a right factor needs it first (``side``)."""

    name: str
    index: str
    side: str


@dataclass(frozen=True)
class MatrixForm:
    """``left = right`` in whole arrays; ``shapes`` checks each product of matrices as text."""

    statement: n.Statement
    shapes: tuple[str, ...] = ()
    transposed: tuple[Transposition, ...] = ()


def matrix_form(eq: Equation, tensors: Mapping[str, Tensor] | None = None) -> MatrixForm | None:
    """The matrix form of an equation, or None where there is none.

    ``tensors`` are those of its program: with them the sizes of all dims are known. A tensor of
    rank 3 is read as its slices along the first dim, ``H[t]``; all index expressions but that of
    a slice must be plain indices (or a gather of labels).
    """
    if len(eq.indices) > 3 or len(set(eq.indices)) < len(eq.indices):
        return None
    cut = max(len(eq.indices) - 2, 0)
    fixed, (row, col) = eq.indices[:cut], (*eq.indices[cut:], None, None)[:2]
    recogniser = _Recogniser(eq, tensors or {}, set(fixed))
    try:
        right = recogniser.form(eq.body, row, col)
    except _NoFormError:
        return None
    at = tuple(Builder().index(i) for i in fixed)
    left = n.Whole(n.Name(eq.name, "array" if eq.indices else "tensor"), at)
    return MatrixForm(n.Statement(left, right), tuple(dict.fromkeys(recogniser.shapes)),
                      tuple(dict.fromkeys(recogniser.transposed)))


def whole(name: str, rank: int) -> n.Whole:
    """A whole array; one of rank 0 is a scalar."""
    return n.Whole(n.Name(name, "array" if rank else "tensor"))


class _NoFormError(Exception):
    """There is no matrix form."""


Edge = Index | None


@dataclass
class _Recogniser:
    eq: Equation
    tensors: Mapping[str, Tensor]
    fixed: set[Index] = field(default_factory=set)  # indices of slices
    shapes: list[str] = field(default_factory=list)
    transposed: list[Transposition] = field(default_factory=list)

    # -- entry ----------------------------------------------------------------------------------
    def form(self, expr: Expr, row: Edge, col: Edge) -> Node:
        """``expr`` as an array with the index ``row`` down and ``col`` across (None: size one).

        A scalar stays a scalar, which is meant for every entry where it is added or multiplied.
        """
        free = expr.free_symbols
        has_row, has_col = row in free, col in free
        if not has_row and not has_col:
            return self.entry(expr, None, None)
        if row is not None and not has_row:
            return n.Chain((self.ones(row), _flip(self.entry(expr, col, None))))
        if col is not None and not has_col:
            return n.Chain((self.entry(expr, row, None), n.Transposed(self.ones(col))))
        return self.entry(expr, row, col)

    def ones(self, index: Index) -> n.Ones:
        return n.Ones(Builder().build(index.size))

    def entry(self, expr: Expr, row: Edge, col: Edge) -> Node:
        """As `form`, where both indices occur."""
        if row is None and col is not None:
            return _flip(self.entry(expr, col, None))
        if isinstance(expr, Index):
            raise _NoFormError
        if isinstance(expr, Access):
            return self.access(expr, row, col)
        if isinstance(expr, Add):
            return self.sum(expr, row, col)
        if isinstance(expr, Mul):
            return self.product(expr, row, col)
        if isinstance(expr, Pow):
            return self.power(expr, row, col)
        if isinstance(expr, SumOver):
            return self.contraction(Mul.make_args(expr.body), expr.bound, row, col)
        if isinstance(expr, Reduction):
            return self.reduction(expr, row, col)
        if isinstance(expr, Select):
            return self.select(expr, row, col)
        if isinstance(expr, sympy.Function):
            symbol = type(expr).symbol if isinstance(expr, Elementary) else ""
            first = self.form(expr.args[0], row, col)
            rest = tuple(self.form(a, None, None) for a in expr.args[1:])
            return n.Call(type(expr).__name__, (first, *rest), symbol)
        if expr.has(Access, Index):
            raise _NoFormError
        return Builder().build(expr)

    # -- leaves ---------------------------------------------------------------------------------
    def access(self, expr: Access, row: Edge, col: Edge) -> Node:
        at = tuple(
            w for w in expr.where[:1]
            if (w.free_symbols and _indices(w) <= self.fixed)
            or (w.is_Integer and len(expr.where) == 3)
        )
        where = expr.where[len(at):]
        node = whole(expr.name, len(expr.where))
        if at:
            node = n.Whole(node.name, tuple(Builder(self.eq.indices).index(w) for w in at))
        if not where:
            return node
        plain = all(isinstance(w, Index) for w in where)
        if plain and where == (row,) and col is None:
            return node
        if plain and where == (row, col):
            return node
        if plain and where == (col, row):
            return n.Transposed(node)
        if plain and where == (row, row) and col is None:
            return n.Call("diag", (node,))
        if len(where) == 2 and where[0] == row and col is None \
                and isinstance(where[1], IntegerAccess) and where[1].where == (row,) \
                and expr.name in self.tensors:
            # the element at the label of each row: all but it made zero, then summed
            hot = n.Call("onehot", (whole(where[1].name, 1),))
            last = self.tensors[expr.name].indices[1]
            return n.Chain((n.Hadamard((node, hot)), self.ones(last)))
        raise _NoFormError

    def select(self, expr: Select, row: Edge, col: Edge) -> Node:
        condition = expr.condition
        if _indices(condition) and _indices(condition) <= self.fixed:
            return n.Choice(Builder(self.eq.indices).condition(condition),
                            self.form(expr.yes, row, col), self.form(expr.no, row, col))
        if expr.no != 0:
            raise _NoFormError
        if not isinstance(condition, sympy.core.relational.Relational):
            raise _NoFormError
        sides = (condition.lhs, condition.rhs)
        hot = self.one_hot(condition, sides, row, col)
        bracket = hot or n.Bracket(n.Relation(
            (self.form(sides[0], row, col), self.form(sides[1], row, col)),
            (Builder().condition(condition).ops[0],),  # type: ignore[union-attr]
        ))
        if expr.yes == 1:
            return bracket
        return n.Hadamard((bracket, self.form(expr.yes, row, col)))

    def one_hot(self, condition: Expr, sides: tuple[Expr, Expr], row: Edge, col: Edge
                ) -> Node | None:
        """``[k = t[b]]``: a row of zeros with a one at the label."""
        if not isinstance(condition, sympy.Eq):
            return None
        for index, label in (sides, sides[::-1]):
            if isinstance(label, IntegerAccess) and isinstance(index, Index):
                node = n.Call("onehot", (whole(label.name, 1),))
                if label.where == (row,) and index == col:
                    return node
                if label.where == (col,) and index == row:
                    return n.Transposed(node)
        return None

    # -- algebra --------------------------------------------------------------------------------
    def sum(self, expr: Add, row: Edge, col: Edge) -> Node:
        builder = Builder(self.eq.indices)
        terms = []
        for term in sorted(expr.args, key=builder._term_key):
            negative = term.as_coeff_Mul()[0].is_negative is True
            terms.append((negative, self.form(-term if negative else term, row, col)))
        return n.Sum(tuple(terms))

    def product(self, expr: Mul, row: Edge, col: Edge) -> Node:
        if expr.as_coeff_Mul()[0].is_negative:
            return n.Sum(((True, self.form(-expr, row, col)),))
        scalars: list[Expr] = []
        arrays: list[Expr] = []
        for factor in expr.args:
            varies = factor.free_symbols & {row, col}
            (arrays if varies else scalars).append(factor)
        scalar = self.scalar_product(scalars)
        if not arrays:
            return scalar if scalar is not None else n.ONE
        body = self.joined(arrays, row, col)
        if scalar is None:
            return body
        if isinstance(scalar, n.Fraction) and scalar.above == n.ONE:
            tall = isinstance(body, n.Chain | n.Hadamard | n.Product)
            return n.Product((scalar, body)) if tall else n.Fraction(body, scalar.below)
        return n.Product((scalar, body))

    def scalar_product(self, factors: list[Expr]) -> Node | None:
        if not factors:
            return None
        if not any(f.has(Reduction) for f in factors):
            return self._plain_scalar(Mul(*factors))
        sums = [f for f in factors if f.has(Reduction)]
        rest = Mul(*(f for f in factors if not f.has(Reduction)))
        nodes = [self.form(f, None, None) for f in sums]
        flat = [p for x in nodes for p in (x.factors if isinstance(x, n.Product) else (x,))]
        if rest == 1:
            return n.product(flat)
        front, first = self._plain_scalar(rest), flat[0]
        if isinstance(front, n.Fraction) and isinstance(first, n.Fraction) \
                and front.above == first.above == n.ONE:
            # 1/2 of 1/B of a sum is 1/(2 B) of it
            front, flat = n.Fraction(n.ONE, n.product((first.below, front.below))), flat[1:]
        return n.product([front, *flat])

    def _plain_scalar(self, expr: Expr) -> Node:
        if expr.has(Select) or any(a.where for a in expr.atoms(Access)):
            raise _NoFormError
        return Builder().build(expr)

    def joined(self, factors: Iterable[Expr], row: Edge, col: Edge) -> Node:
        """A product of entries: outer product, scaled rows or columns, or Hadamard."""
        builder = Builder(self.eq.indices)
        by_row: list[Expr] = []
        by_col: list[Expr] = []
        both: list[Expr] = []
        for f in sorted(factors, key=builder._factor_key):
            free = f.free_symbols
            kind = both if row in free and col in free else by_row if row in free else by_col
            kind.append(f)
        if row is None or col is None:
            return self.hadamard([*by_row, *by_col, *both], row, col)
        left = self.hadamard(by_row, row, None) if by_row else None
        right = self.hadamard(by_col, col, None) if by_col else None
        if not both and left is not None and right is not None:
            self.check([(row, None), (None, col)])
            return n.Chain((left, _flip(right)))
        middle = self.hadamard(both, row, col)
        parts: list[Node] = [n.Call("diag", (left,))] if left is not None else []
        parts.append(middle)
        if right is not None:
            parts.append(n.Call("diag", (right,)))
        return _chain(parts)

    def hadamard(self, factors: list[Expr], row: Edge, col: Edge) -> Node:
        above = [f for f in factors if not _is_inverse(f)]
        below = [1 / f for f in factors if _is_inverse(f)]
        nodes = [self.form(f, row, col) for f in above]
        top = nodes[0] if len(nodes) == 1 else n.Hadamard(tuple(nodes)) if nodes else n.ONE
        if not below:
            return top
        under = [self.form(f, row, col) for f in below]
        return n.Fraction(top, under[0] if len(under) == 1 else n.Hadamard(tuple(under)))

    def power(self, expr: Pow, row: Edge, col: Edge) -> Node:
        base, exponent = expr.args
        if row is None and col is None:
            node = self.form(base, None, None)
            if exponent == S.Half:
                return n.Root(node)
            if exponent.is_number and exponent.is_negative:
                return n.Fraction(n.ONE, self.form(1 / expr, None, None))
            return n.Power(node, self.form(exponent, None, None))
        if exponent == S.Half:
            return n.Root(self.form(base, row, col))
        if exponent == 2:
            node = self.form(base, row, col)
            return n.Hadamard((node, node))
        if exponent.is_number and exponent.is_negative:
            return n.Fraction(n.ONE, self.form(1 / expr, row, col))
        return n.Call("power", (self.form(base, row, col), self.form(exponent, None, None)))

    # -- reductions -----------------------------------------------------------------------------
    def reduction(self, expr: Reduction, row: Edge, col: Edge) -> Node:
        if len(expr.bound) != 1 or col is not None:
            raise _NoFormError
        (over,) = expr.bound
        if isinstance(expr, LogSumExpOver):
            body = n.Call("exp", (self.form(expr.body, row or over, over if row else None),))
            if row is None:
                return n.Call("log", (n.Chain((n.Transposed(self.ones(over)), body)),))
            return n.Call("log", (n.Chain((body, self.ones(over))),))
        if isinstance(expr, MaxOver | MinOver):
            name = ("row" if row is not None else "") + expr.op
            return n.Call(name, (self.form(expr.body, row or over, over if row else None),))
        raise _NoFormError

    def contraction(self, factors: tuple[Expr, ...], bound: tuple[Index, ...], row: Edge,
                    col: Edge) -> Node:
        """A sum over indices: a chain of factors from ``row`` to ``col`` through each of them."""
        outside = [f for f in factors if not f.free_symbols & set(bound)]
        inside = [f for f in factors if f.free_symbols & set(bound)]
        if outside:
            inner = SumOver(Mul(*inside), *bound)
            return self.product(Mul(*outside, inner, evaluate=False), row, col)
        if row is None and len(inside) == 1 and isinstance(inside[0], Pow) \
                and inside[0].exp == 2 and len(bound) <= 2:
            body = self.form(inside[0].base, bound[0], bound[1] if len(bound) == 2 else None)
            return n.Power(n.Call("norm", (body,)), n.Number("2"))
        sliced = self.sliced(inside, bound)
        if sliced is not None:
            return self.over_slices(inside, sliced, bound, row, col)
        nodes: dict[frozenset[Index], list[Expr]] = {}
        known = {*bound, row, col} - {None}
        for f in inside:
            touched = frozenset(s for s in f.free_symbols if s in known)
            if len(touched) > 2:
                raise _NoFormError
            nodes.setdefault(touched, []).append(f)
        path = _path(nodes, bound, row, col)
        if path is None:
            raise _NoFormError
        return self.along(path, nodes, bound)

    def sliced(self, factors: list[Expr], bound: tuple[Index, ...]) -> Index | None:
        """A bound index that stands first in every tensor of rank 3: a sum over its slices."""
        deep = [a for f in factors for a in f.atoms(Access) if len(a.where) == 3]
        for index in bound:
            if deep and all(a.where[0].free_symbols == {index} for a in deep):
                return index
        return None

    def over_slices(self, factors: list[Expr], index: Index, bound: tuple[Index, ...],
                    row: Edge, col: Edge) -> Node:
        self.fixed.add(index)
        left = tuple(i for i in bound if i != index)
        inner = SumOver(Mul(*factors), *left)
        body, condition = inner, None
        if isinstance(inner, Select) and inner.no == 0:
            body, condition = inner.yes, Builder(self.eq.indices).condition(inner.condition)
        made = self.form(body, row, col)
        self.fixed.discard(index)
        return n.Big("sum", (n.Name(index.name, "index"),), made, condition)

    def along(self, path: list[Index], nodes: Mapping[frozenset[Index], list[Expr]],
              bound: tuple[Index, ...]) -> Node:
        """The chain of the matrices along a path of indices; an end that is summed over is closed
        by a vector, of ones where no factor is there."""
        alone = {i: self._sorted(nodes.get(frozenset((i,)), [])) for i in path}
        first, last = path[0], path[-1]
        if len(path) == 1:
            return self.dot(alone[first], first)
        inner = [
            self.hadamard(self._sorted(nodes[frozenset(pair)]), *pair)
            for pair in pairwise(path)
        ]
        if len(path) == 2 and first in bound and last in bound and not alone[first] \
                and not alone[last] and isinstance(inner[0], n.Hadamard):
            left, *rest = inner[0].factors
            right = rest[0] if len(rest) == 1 else n.Hadamard(tuple(rest))
            self.check([(last, first), (first, last)])
            return n.Call("tr", (n.Chain((_flip(left), right)),))
        parts: list[Node] = []
        edges: list[tuple[Edge, Edge]] = []
        if first in bound:
            parts.append(_flip(self.closing(alone[first], first)))
            edges.append((None, first))
        for matrix, here, there in zip(inner, path, path[1:], strict=False):
            self._explain(matrix, here, there, bound)
            parts.append(matrix)
            edges.append((here, there))
            if there is not last and alone[there]:
                parts.append(n.Call("diag", (self.hadamard(alone[there], there, None),)))
                edges.append((there, there))
        if last in bound:
            parts.append(self.closing(alone[last], last))
            edges.append((last, None))
        self.check(edges)
        return _chain(parts)

    def closing(self, factors: list[Expr], index: Index) -> Node:
        """The vector at an end of a chain."""
        return self.hadamard(factors, index, None) if factors else self.ones(index)

    def dot(self, factors: list[Expr], index: Index) -> Node:
        """A sum over one index of factors in that index alone."""
        left = self.hadamard(factors[:1], index, None) if len(factors) > 1 else self.ones(index)
        right = self.hadamard(factors[1:] or factors, index, None)
        self.check([(None, index), (index, None)])
        return n.Chain((_flip(left), right))

    def _sorted(self, factors: list[Expr]) -> list[Expr]:
        return sorted(factors, key=Builder(self.eq.indices)._factor_key)

    def _explain(self, matrix: Node, here: Index, there: Index, bound: tuple[Index, ...]) -> None:
        if isinstance(matrix, n.Transposed) and isinstance(matrix.body, n.Whole):
            index, side = (there, "left") if there in bound else (here, "right")
            self.transposed.append(Transposition(matrix.body.name.code, index.name, side))

    def check(self, edges: list[tuple[Edge, Edge]]) -> None:
        """``K×N · N×d = K×d`` for a chain of factors."""
        if len(edges) < 2:
            return
        shown = " · ".join(f"{_size(a)}×{_size(b)}" for a, b in edges)
        self.shapes.append(f"{shown} = {_size(edges[0][0])}×{_size(edges[-1][1])}")


def _indices(expr: Expr) -> set[Index]:
    return {s for s in expr.free_symbols if isinstance(s, Index)}


def _size(edge: Edge) -> str:
    return "1" if edge is None else str(edge.size)


def _is_inverse(expr: Expr) -> bool:
    return isinstance(expr, Pow) and expr.exp.is_number and bool(expr.exp.is_negative)


def _flip(node: Node) -> Node:
    return node.body if isinstance(node, n.Transposed) else n.Transposed(node)


def _chain(parts: list[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
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
