"""Phases over rows in blocks: what lives inside such a phase only is stored for one block of rows.

A thread takes a few rows through all kernels of the phase, then the next few. So scores of
attention, windows of a convolution, or pre-activations are never stored whole, and a block that
fits the cache stays there from one kernel to the next. Kernels see a block as if it were the whole
batch: their row 0 is the block's first, which is why a phase in which the number of the row itself
enters (random numbers, masks by position in the batch) is not cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from sympy import Expr, Symbol

from codegen.memory_lives import Life, lay_out, place_size
from codegen.schedule import Phase
from codegen.shares import is_share, share_index
from derive.nodes import Access, Index, SumOver, accesses, walk
from derive.program import Equation, Group, Program

CACHE = 1 << 17  # elements of a block that are aimed at: half of a common second-level cache
ROWS = 16  # of a matrix product with a weight, below which it is slow
LARGE = 1 << 17  # elements of a weight that does not stay in the cache, so that a product wants
LARGE_ROWS = 256  # so many rows
SMALL = 32  # times that a phase's work is more than that of a product which then does not count
ONCE = 16  # times as many elements of a block as of what it goes through once, whatever its rows
ROOM = 5 << 17  # elements of a block that has more rows for that, at most
MOST = 512  # rows of a block
UNKNOWN = 64  # what a size is taken for that is known at run time only


def blockable(phase: Phase, program: Program, batch: Symbol | None) -> bool:
    """Whether the kernels of a phase may see a block of rows as if it were all."""
    if phase.kind != "rows" or batch is None:
        return False
    return all(_leads(eq, program, batch) for task in phase.tasks for eq in task.group.equations)


def _leads(eq: Equation, program: Program, batch: Symbol) -> bool:
    """Whether the row stands in front of everything that has rows, and nowhere else."""
    if is_share(eq.tensor) and isinstance(eq.body, SumOver):
        return not _bare(eq.body.body, share_index(eq, batch), program, batch)
    row = next(i for i in eq.indices if i.size == batch)
    return eq.indices[0] == row and not _bare(eq.body, row, program, batch)


def _bare(expr: Expr, row: Index, program: Program, batch: Symbol) -> bool:
    """Whether the number of the row enters but as the first place of a tensor with rows."""
    places = expr.args
    if isinstance(expr, Access):
        shape, places = program.tensors[expr.name].shape, expr.where
        if batch in shape[1:]:
            return True
        places = places[1:] if shape[:1] == (batch,) else places
    return (expr == row if isinstance(expr, Index)
            else any(_bare(arg, row, program, batch) for arg in places))


def block_rows(phase: Phase, program: Program, lives: Sequence[Life], short: bool) -> int:
    """Rows of a block: as many as the cache holds, but enough for products with weights, and
    (unless they are to be short) so many that what each block goes through once does not weigh."""
    if not lives:
        return MOST
    each = sum(place_size(x.shape)[0] * _number(place_size(x.shape)[1]) for x in lives)
    groups = [task.group for task in phase.tasks]
    work = {eq.name: _work(eq) for group in groups for eq in group.equations}
    total = sum(work.values())
    fewest, once = 1, 0
    for group in groups:
        for eq in group.equations:
            if is_share(eq.tensor):
                once += math.prod(_number(s) for s in eq.tensor.shape)
                continue
            rows, elements = _fewest(eq, group)
            if SMALL*work[eq.name] > total:
                fewest = max(fewest, rows)
            else:
                once += elements
    rows = max(fewest, min(MOST, CACHE // max(1, each)), 1)
    more = min(MOST, -(-ONCE*once // max(1, each)))
    if short or more <= rows:
        return rows
    return max(rows, min(more, ROOM // max(1, _number(lay_out(lives)[1]))))


def _work(eq: Equation) -> int:
    """How often the body of an equation is computed for one row."""
    return math.prod(_number(i.size) for i in (*eq.indices, *eq.bound))


def _fewest(eq: Equation, group: Group) -> tuple[int, int]:
    """Rows from which on the products of an equation with something that has none are fast, and
    the elements of that where one row is too few. (The steps of a recurrence are taken one by
    one.)"""
    steps = eq.indices[group.axis[eq.name]] if group.recurrent else None
    row = eq.indices[0]
    fewest, read = 1, 0
    for node in (n for n in walk(eq.body) if isinstance(n, SumOver)):
        found = accesses(node.body)
        weights = {i for a in found if row not in a.free_symbols for i in _indices(a)}
        if not weights:
            continue
        beside = [i for i in eq.indices[1:] if i not in weights and i != steps]
        count = 1
        for index in beside:
            count *= _number(index.size)
        elements = 1
        for index in weights:
            elements *= _number(index.size)
        large = elements > LARGE and steps is None  # a step reads its weight whatever the rows
        enough = -(-(LARGE_ROWS if large else ROWS) // count)
        fewest, read = max(fewest, enough), read + (elements if enough > 1 else 0)
    return fewest, read


def _indices(access: Access) -> set[Index]:
    return {i for e in access.where for i in e.atoms(Index)}


@lru_cache(maxsize=65536)
def _number(size: Expr) -> int:
    """A product of sizes, those at run time taken as some number."""
    if size.is_Integer:
        return int(size)
    return int(size.subs(dict.fromkeys(size.free_symbols, UNKNOWN)))
