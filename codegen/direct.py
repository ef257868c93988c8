"""Sums over windows → one call with constant bounds: recognising what is no matrix product.

``y[b,o,p,q] = sum over c, u, r of ( x[b,c,p+u,q+r] * K[o,c,u,r] )`` is no matrix product, because p
and u meet in one dim; but every place in it moves by a constant number of elements with every
index. So it is a nest of loops around a tile of the target that stays in registers: some indices
that the one factor does not depend on (rows, here o), times vectors along one that the other does
not depend on and that counts neighbours (columns, here q). Which role an index has follows from
where it stands; no layer has a case of its own. The one factor may be numbers (weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Add, Expr, Integer, Mul, S

from codegen.contraction import Shapes, factors_of, strides
from codegen.loops import HI, LO, Loop, Matrix, Nest, Product, Statement
from codegen.weights import Table, weighted
from derive.nodes import Access, Index, Select, SumOver

LANES = 16  # elements of the widest vectors


@dataclass(frozen=True)
class Direct:
    """One recognised sum; `statements` are its loops and its call.

    ``outer`` are the indices whose loops stand around the call, ``steps`` how many elements each
    other index moves target, left and right.
    """

    target: Access
    left: Access
    right: Access
    factor: Expr
    outer: tuple[Index, ...]
    part: Index | None
    column: Index
    steps: dict[Index, tuple[int, int, int]]
    shapes: Shapes
    tables: tuple[Table, ...] = ()  # what left is, where it is numbers

    @property
    def needs_start(self) -> bool:
        """Whether the target must hold something first: part of the sum is a loop around."""
        return any(not self.target.has(i) for i in self.outer)

    def nest(self) -> Nest:
        inner = [(i, self.steps[i]) for i in self.steps if i != self.column]
        own = [i for i, (t, _, n) in inner if t and not n] + [i for i, (t, *_) in inner if not t]
        tables = []
        for table in self.tables:
            axes = sorted(map(own.index, table.indices))
            tables.append((tuple(axes), table.along([own[a] for a in axes])))
        return Nest(
            tuple((int(i.size), t, m, n) for i, (t, m, n) in inner if t and n),
            tuple((int(i.size), t, m) for i, (t, m, n) in inner if t and not n),
            int(self.column.size),
            tuple((int(i.size), m, n) for i, (t, m, n) in inner if not t),
            tuple(tables),
        )

    def statements(self, accumulate: bool) -> tuple[Statement, ...]:
        """The call inside its loops; ``accumulate``: onto what the target holds."""
        left = self.right if self.tables else self.left
        target, _, right = places = (self.target, left, self.right)
        rows = tuple(i for i, (t, _, n) in self.steps.items() if t and not n)
        out: tuple[Statement, ...] = (Product(
            self.matrix(target), self.matrix(left), self.matrix(right), self.factor,
            1 if accumulate else 0, places, rows, (self.column,), self.nest()),)
        summed = [i for i in self.outer if not self.target.has(i)]
        for index in reversed([*summed, *(i for i in self.outer if i not in summed)]):
            span = (LO, HI) if index == self.part else (S.Zero, index.size)
            out = (Loop(index, *span, out),)
        return out

    def matrix(self, access: Access) -> Matrix:
        """Where a factor begins."""
        start = sympy.expand(_flat(access, self.shapes).xreplace(dict.fromkeys(self.steps, S.Zero)))
        return Matrix(access.name, start, Integer(1), Integer(1), Integer(1), Integer(1))

    @property
    def rate(self) -> float:
        """The share of its vectors' elements, and of a tile's rows, that count: 1 at best."""
        columns = int(self.column.size)
        lanes = min(LANES, max(2, 1 << (columns - 1).bit_length()))
        rows = 1
        for index, (t, _, n) in self.steps.items():
            rows *= int(index.size) if t and not n else 1
        return columns/(-(-columns//lanes)*lanes)*min(1, lanes/8)*min(1, rows/8)


def direct(target: Access, factor: Expr, node: SumOver, shapes: Shapes, part: Index | None = None
           ) -> Direct | None:
    """The nest that ``target += factor * node`` is, or None: where a place is guarded or does not
    move by constants, where no index counts neighbours, or where nothing is a window."""
    if isinstance(node.body, Select) or factor.free_symbols or factor.has(Access):
        return None
    found = factors_of(node.body)
    if found is None:
        return _by_numbers(target, factor, node, shapes, part)
    number, one, other = found
    if target.name in (one.name, other.name) or one == other:
        return None
    if all(isinstance(e, Index) for a in (one, other) for e in a.where):
        return None
    ways = [w for pair in ((one, other), (other, one))
            for w in _ways(target, *pair, factor*number, node.bound, shapes, part)]
    return max(ways, key=lambda way: way.rate, default=None)


def _by_numbers(target: Access, factor: Expr, node: SumOver, shapes: Shapes, part: Index | None
                ) -> Direct | None:
    """The nest where one factor is numbers: its rows and its sums are written out, so each is an
    index of one table."""
    found = weighted(node.body, factor)
    if found is None or found[1].name == target.name:
        return None
    tables, right = found
    indices = tuple(i for table in tables for i in table.indices)
    left = Access("numbers", *indices)
    known = {**shapes, left.name: tuple(i.size for i in indices)}
    for way in _ways(target, left, right, S.One, node.bound, known, part):
        told = {i for i, (t, _, n) in way.steps.items() if not (t and n) and i != way.column}
        if told == set(indices):
            return replace(way, tables=tables)
    return None


def _ways(target: Access, left: Access, right: Access, factor: Expr, bound: Sequence[Index],
          shapes: Shapes, part: Index | None) -> Iterator[Direct]:
    """The nests with vectors of ``right``, one for each index that may count its columns."""
    free = [e for e in target.where if isinstance(e, Index)]
    if len(set(free)) < len(target.where) or any(e.has(Access) for a in (left, right)
                                                 for e in a.where):  # gathers do not step
        return
    steps: dict[Index, tuple[int, int, int]] = {}
    outer: list[Index] = []
    for index in (*free, *bound):
        each = [sympy.expand(_flat(a, shapes)).diff(index) for a in (target, left, right)]
        if index == part or not index.size.is_Integer:
            outer.append(index)
        elif not all(e.is_Integer for e in each):
            return
        else:
            t, m, n = map(int, each)
            steps[index] = t, m, n
    if any(not a.has(i) for i in outer for a in (left, right) if i in bound):
        return
    for column in free:
        if steps.get(column) == (1, 0, 1):
            yield Direct(target, left, right, factor, tuple(outer), part, column, steps, shapes)


def _flat(access: Access, shapes: Shapes) -> Expr:
    """The number of an access's element."""
    return Add(*(Mul(e, step) for e, step in
                 zip(access.where, strides(shapes[access.name]), strict=True)))
