"""Sweeps → loop nests of launches on a GPU: a block of threads for each tile of rows (or columns).

    for b, h, each tile of rows (a block):
        o = 0, l = -inf
        for each tile of columns:
            s = q @ k.T                                  in shared memory
            m = max(l, s), t = exp(l - m) + sum of exp(s - m)        a row for each warp
            p = exp(s - m)/t,  o = o*exp(l - m)/t,  l = m + log(t)
            o += p @ v

Results of a row are one launch, a block for each tile of rows that goes through the columns; those
of a column (gradients of keys and values) are another one, a block for each tile of columns that
goes through the rows, and computes again what it needs of a tile. So no two blocks write one
element, and every sum has one order. Wide tensors lie in shared memory, one tile at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, S

from codegen.contraction import Shapes, strides
from codegen.loops import If, Let, Loop, Statement, Store
from codegen.tile_loops import Tiles
from codegen.tiles import Sweep, kind, product_terms
from derive.nodes import Access, Index, LogSumExpOver, Select
from derive.program import Equation

if TYPE_CHECKING:
    from codegen.lower import Lowering


class BlockTiles(Tiles):
    """The statements about the current tile of a block."""

    def tile(self, name: str) -> Access:
        row, column = (self.inner[i] for i in (self.sweep.row, self.sweep.column))
        return Access(self.sweep.tiles[name], row, column)

    def lies(self, name: str) -> tuple[Expr, Expr, Expr]:
        return S.Zero, *strides((S.One, *self.shapes[name]))[1:]

    def summed(self, sums: Sequence[Statement], store: Store, total: Expr) -> list[Statement]:
        """A loop for each, whose turns the threads of a warp share."""
        column = self.sweep.column
        return [self.over(column, [*sums, store]),
                self.over(column, [Let(total, store.target, "+=")])]

    def begins(self, kept: Index, outs: Sequence[Equation]) -> list[Statement]:
        """What the results of a tile hold before the first tile of the other direction."""
        out: list[Statement] = []
        for eq in outs:
            terms = product_terms(eq, self.sweep.tiles)
            assert terms is not None
            inner: list[Statement] = []
            value = self.lowering.scalar(terms[1].xreplace(self.at), inner)
            inner.append(Store(eq.target.xreplace(self.at), value))
            last = self.feature(eq, kept)
            out.append(self.over(kept, [Loop(last, S.Zero, last.size, tuple(inner))]))
        for eq in self.logs if kept == self.sweep.row and not self.single else ():
            out.append(self.over(kept, [Store(eq.target.xreplace(self.at), S.NegativeInfinity)]))
        return out

    def feature(self, eq: Equation, kept: Index) -> Index:
        return next(i for i in eq.indices if i != kept and i not in self.sweep.outer)

    def ends(self) -> list[Statement]:
        """Rows of the tile whose scores are all -inf: NaN, unless all of them are masked."""
        soft = next(eq for eq in self.sweep.equations if kind(eq, self.sweep) == "softmax")
        value, column = self.lowering.fresh(), self.sweep.column
        condition = soft.body.condition if isinstance(soft.body, Select) else S.true
        nan: tuple[Statement, ...] = tuple(
            Loop(i, S.Zero, i.size, (Store(t.xreplace(self.at), S.NaN),))
            for i, t in self.results(soft))
        if condition != True:  # noqa: E712  (SymPy's true)
            seen = self.lowering.fresh()
            row = {self.sweep.row: self.at[self.sweep.row]}
            nan = (Let(seen, S.Zero), Loop(column, S.Zero, column.size, (
                If(condition.xreplace(row), (Let(seen, S.One, "+="),)),)),
                If(sympy.Gt(seen, S.Zero), nan))
        return [self.over(self.sweep.row, [
            Let(value, self.logs[0].target.xreplace(self.at)),
            If(sympy.Eq(value, S.NegativeInfinity), nan)])]


def block_nests(lowering: Lowering, sweep: Sweep, shapes: Shapes
                ) -> tuple[tuple[Statement, ...], tuple[int, ...]]:
    """A nest for each launch of a sweep, and how many of its outermost loops are the grid's."""
    made: list[Statement] = []
    grid: list[int] = []
    for kept, other in ((sweep.row, sweep.column), (sweep.column, sweep.row)):
        outs = [eq for eq in sweep.equations
                if kind(eq, sweep) == "out" and kept in eq.indices]
        logs = [eq for eq in sweep.equations if isinstance(eq.body, LogSumExpOver)]
        if not outs:
            continue
        part = _reaching(sweep, [*outs, *(logs if kept == sweep.row else ())])
        tiles = BlockTiles(lowering, part, shapes)
        turn, block = tiles.counts[other], tiles.counts[kept]
        inner = tiles.body()
        if turn.size != 1:
            inner = [Loop(turn, S.Zero, turn.size, tuple(inner))]
        body = [*tiles.begins(kept, outs), *inner]
        if tiles.logs and kept == sweep.row:
            body += tiles.ends()
        over = [*sweep.outer, *([block] if block.size != 1 else [])]
        made += lowering.nest(over, body)
        grid.append(len(over))
    return tuple(made), tuple(grid)


def _reaching(sweep: Sweep, outs: Sequence[Equation]) -> Sweep:
    """The sweep with what some of its results need only."""
    needed = {eq.name for eq in outs}
    for eq in reversed(sweep.equations):
        if eq.name in needed or (isinstance(eq.body, LogSumExpOver) and any(
                kind(e, sweep) == "softmax" and e.name in needed for e in sweep.equations)):
            needed |= {eq.name, *(r for r in eq.reads if r in sweep.tiles)}
    return replace(sweep, equations=tuple(eq for eq in sweep.equations if eq.name in needed))
