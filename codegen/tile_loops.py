"""Sweeps → loop nests: what codegen/tiles.py found, over tiles of rows and columns.

    for b, h:
        o = the terms that are no products of wide tensors; l = -inf
        for each tile of rows:
            for each tile of columns:
                s = q @ k.T                                  a tile
                m = max(l, s), t = exp(l - m) + sum of exp(s - m)        row by row
                p = exp(s - m)/t,  o = o*exp(l - m)/t,  l = m + log(t)
                o += p @ v

so ``o`` is right for the columns so far after every tile. A row of which nothing is left (all of it
masked) stays 0; one whose scores are all -inf, but not masked, is NaN, as in the equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sympy
from sympy import Add, Expr, Integer, S

from codegen.contraction import Shapes, strides
from codegen.loops import If, Let, Loop, Matrix, Product, Statement, Store
from codegen.tiles import Sweep, factors, kind, product_terms
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    Select,
    accesses,
)
from derive.program import Equation

if TYPE_CHECKING:
    from codegen.lower import Lowering


class Tiles:
    """The places and extents of the current tile."""

    def __init__(self, lowering: Lowering, sweep: Sweep, shapes: Shapes) -> None:
        self.lowering, self.sweep, self.shapes = lowering, sweep, shapes
        self.counts: dict[Index, Index] = {}
        self.inner: dict[Index, Index] = {}
        self.begin: dict[Index, Expr] = {}
        self.extent: dict[Index, Expr] = {}
        taken = {i.name for eq in sweep.equations for i in eq.body.atoms(Index)}
        for index, step in zip((sweep.row, sweep.column), sweep.extents, strict=True):
            tiles = sympy.floor((index.size + step - 1) / step)
            names = [f"{index.name}_{end}" for end in ("tile", "in")]
            while set(names) & taken:
                names = [n + "_" for n in names]
            self.counts[index] = Index(names[0], tiles)
            self.inner[index] = Index(names[1], step)
            whole = tiles == 1
            self.begin[index] = S.Zero if whole else step * self.counts[index]
            divides = index.size.is_Integer and index.size % step == 0
            self.extent[index] = step if divides else sympy.Min(step, index.size -
                                                                self.begin[index])
        self.single = self.counts[sweep.column].size == 1
        self.at = {i: self.begin[i] + self.inner[i] for i in (sweep.row, sweep.column)}
        self.logs = [eq for eq in sweep.equations if isinstance(eq.body, LogSumExpOver)]

    # -- accesses and matrices --------------------------------------------------------------------
    def tile(self, name: str) -> Access:
        row, column = (self.inner[i] for i in (self.sweep.row, self.sweep.column))
        return Access(self.sweep.tiles[name], self.sweep.outer[0], row, column)

    def lies(self, name: str) -> tuple[Expr, Expr, Expr]:
        """Where a tile begins in its tensor, and how far its rows and columns lie apart."""
        first, row, column = strides(self.shapes[name])
        return self.sweep.outer[0] * first, row, column

    def here(self, expr: Expr) -> Expr:
        """An expression at the current element: wide tensors in their tiles."""
        swaps = {a: self.tile(a.name) for a in accesses(expr) if a.name in self.sweep.tiles}
        return expr.xreplace(swaps).xreplace(self.at)

    def matrix(self, access: Access, rows: Index, columns: Index) -> Matrix:
        """The part of a tensor that belongs to the tile, as a matrix."""
        whole = {i: (self.begin.get(i, S.Zero), self.extent.get(i, i.size))
                 for i in (rows, columns)}
        if access.name in self.sweep.tiles:
            name = self.sweep.tiles[access.name]
            start, row, column = self.lies(name)
            of = {self.sweep.row: row, self.sweep.column: column}
        else:
            name, steps = access.name, strides(self.shapes[access.name])
            begins = {i: w[0] for i, w in whole.items()}
            start = Add(*(e.xreplace(begins) * s for e, s in zip(access.where, steps, strict=True)))
            of = {i: steps[access.where.index(i)] for i in (rows, columns)}
        return Matrix(name, sympy.expand(start), whole[rows][1], whole[columns][1], of[rows],
                      of[columns])

    def product(self, target: Access, term: tuple[Expr, Index, Access, Access], keep: bool
                ) -> Product:
        factor, index, left, right = term
        kept = [i for i in target.where if i not in self.sweep.outer]
        last = kept[-1]
        if last in left.where:  # the target lies in rows
            left, right = right, left
        first = next(i for i in kept if i in left.where)
        places = [a.xreplace(self.at) if a.name not in self.sweep.tiles else self.tile(a.name)
                  for a in (target, left, right)]
        return Product(self.matrix(target, first, last), self.matrix(left, first, index),
                       self.matrix(right, index, last), factor, 1 if keep else 0,
                       (places[0], places[1], places[2]),
                       (self.inner.get(first, first),), (self.inner.get(last, last),))

    # -- nests over a tile ------------------------------------------------------------------------
    def over(self, index: Index, body: Sequence[Statement]) -> Loop:
        return Loop(self.inner[index], S.Zero, self.extent[index], tuple(body))

    def still(self, expr: Expr, out: list[Statement]) -> Expr:
        """An expression with what is the same in the whole row computed before."""
        moved: dict[Expr, Expr] = {}
        for access in dict.fromkeys(accesses(expr)):
            if access.name in self.sweep.tiles or isinstance(access, IntegerAccess) or \
                    self.sweep.column in access.free_symbols:
                continue
            moved[access] = self.lowering.fresh()
            out.append(Let(moved[access], self.here(access)))
        return expr.xreplace(moved)

    def wide(self, eq: Equation) -> Statement:
        row: list[Statement] = []
        inner: list[Statement] = []
        value = self.lowering.scalar(self.here(self.still(eq.body, row)), inner)
        inner.append(Store(self.tile(eq.name), value))
        return self.over(self.sweep.row, [*row, self.over(self.sweep.column, inner)])

    def softmax(self, eq: Equation) -> Statement:
        """The step of the running softmax, and what scales the results so far."""
        log, fresh = self.logs[0], self.lowering.fresh
        total_log = log.target.xreplace(self.at)
        body = eq.body
        condition, inner = (body.condition, body.yes) if isinstance(body, Select) else (
            S.true, body)
        place = next(a for a in accesses(inner.args[0]) if a.name == log.name)
        row: list[Statement] = []
        score = self.here(self.still(inner.args[0] + place, row))
        condition = condition.xreplace(self.at)
        before, top, base, total, part, keep = (fresh() for _ in range(6))
        infinite = sympy.Or(sympy.Eq(top, S.Infinity), sympy.Eq(top, S.NegativeInfinity))
        tile, column = self.tile(eq.name), self.sweep.column
        highest: list[Statement] = [Let(top, score, "max")]
        if condition != True:  # noqa: E712  (SymPy's true)
            highest = [If(condition, tuple(highest))]
        sums: list[Statement] = []
        value = self.lowering.scalar(
            Select(condition, sympy.exp(score - base, evaluate=False), S.Zero), sums)
        row += [
            Let(before, S.NegativeInfinity if self.single else total_log),
            Let(top, before), self.over(column, highest),
            Let(base, Select(infinite, S.Zero, top)),
            Let(total, S.Zero if self.single else sympy.exp(before - base, evaluate=False)),
            Let(keep, total),
            *self.summed(sums, Store(tile, value), total),
        ]
        empty = sympy.Eq(total, S.Zero)
        row += [Let(part, Select(empty, S.Zero, 1 / total)),
                self.over(column, [Store(tile, part, "*=")]),
                Store(total_log, base + sympy.log(total, evaluate=False))]
        if not self.single:
            row.append(Let(keep, Select(empty, S.One, keep * part)))
            row += [Loop(i, S.Zero, i.size, (Store(target.xreplace(self.at), keep, "*="),))
                    for i, target in self.results(eq)]
        return self.over(self.sweep.row, row)

    def summed(self, sums: Sequence[Statement], store: Store, total: Expr) -> list[Statement]:
        """What a row of the tile holds is stored, and added up."""
        return [self.over(self.sweep.column, [*sums, store, Let(total, store.target, "+=")])]

    def results(self, eq: Equation) -> list[tuple[Index, Access]]:
        """What sums the softmax over columns, with its last index."""
        outs = [e for e in self.sweep.equations if kind(e, self.sweep) == "out"]
        return [(next(i for i in e.indices if i != self.sweep.row and i not in self.sweep.outer),
                 e.target) for e in outs]

    def unfinished(self, eq: Equation) -> list[Statement]:
        """Rows whose scores are all -inf: NaN, unless all of them are masked."""
        log, seen, value = self.logs[0], self.lowering.fresh(), self.lowering.fresh()
        column, row = self.sweep.column, self.sweep.row
        condition = eq.body.condition if isinstance(eq.body, Select) else S.true
        nan = [Loop(i, S.Zero, i.size, (Store(t, S.NaN),)) for i, t in self.results(eq)]
        inner: list[Statement] = [*nan]
        if condition != True:  # noqa: E712
            inner = [Let(seen, S.Zero),
                     Loop(column, S.Zero, column.size, (If(condition, (Let(seen, S.One),)),)),
                     If(sympy.Eq(seen, S.One), tuple(nan))]
        guard = If(sympy.Eq(value, S.NegativeInfinity), tuple(inner))
        return [Loop(row, S.Zero, row.size, (Let(value, log.target), guard))]

    # -- the sweep ---------------------------------------------------------------------------------
    def begun(self) -> list[Statement]:
        """What results hold before the first tile."""
        out: list[Statement] = []
        for eq in self.logs:
            if not self.single:
                row = self.sweep.row
                out.append(Loop(row, S.Zero, row.size,
                                (Store(eq.target, S.NegativeInfinity),)))
        for eq in self.sweep.equations:
            if kind(eq, self.sweep) == "out":
                found = product_terms(eq, self.sweep.tiles)
                assert found is not None
                rest = Equation(eq.tensor, eq.indices, found[1], eq.why)
                out += self.lowering.equation(rest, self.sweep.outer)
        return out

    def body(self) -> list[Statement]:
        """What is done for one tile."""
        out: list[Statement] = []
        for eq in self.sweep.equations:
            how = kind(eq, self.sweep)
            if how == "product":
                out.append(self.product(eq.target, factors(eq), keep=False))
            elif how == "softmax" and self.logs:
                out.append(self.softmax(eq))
            elif how in ("wide", "softmax"):
                out.append(self.wide(eq))
            elif how == "out":
                terms = product_terms(eq, self.sweep.tiles)
                assert terms is not None
                out += [self.product(eq.target, t, keep=True) for t in terms[0]]
        return out


def sweep_statements(lowering: Lowering, sweep: Sweep, shapes: Shapes) -> tuple[Statement, ...]:
    """The loops of one sweep; ``shapes`` has what is stored of each tensor."""
    tiles = Tiles(lowering, sweep, shapes)
    inner = tiles.body()
    for index in (sweep.column, sweep.row):
        count = tiles.counts[index]
        if count.size != 1:
            inner = [Loop(count, Integer(0), count.size, tuple(inner))]
    soft = [eq for eq in sweep.equations if kind(eq, sweep) == "softmax"]
    ending = tiles.unfinished(soft[0]) if tiles.logs else []
    return lowering.nest(sweep.outer, [*tiles.begun(), *inner, *ending])
