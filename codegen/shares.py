"""Sums over all rows as sums over what each thread has: program → program with the same values.

``dK[o,c] = sum over b, p of ( dy[b,o,p] * P[b,c,p] )`` reads what a phase over rows has made. Taken
after that phase, its factors are stored for every row of the batch (P is as large as all windows of
a convolution) and come back from memory. Where the result is much smaller than a row of what it
reads, each thread adds up its own rows instead, block by block while they are in the cache, in a
share of its own, and the shares are added up in their order afterwards:

    share[o,c] = sum over the thread's b, and p of ( dy[b,o,p] * P[b,c,p] )
    dK[o,c]    = sum over n of ( share[n,o,c] )

A share is a tensor of the result's shape; where it is added up it is read with the thread's number
in front.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sympy import Expr, Symbol

from codegen.contraction import factor_and_sum
from codegen.packed import is_packed
from derive.nodes import Index, IntegerAccess, SumOver, accesses, bound_indices, fresh
from derive.program import Equation, Program, Tensor

PARTS = Symbol("_parts", integer=True, positive=True)  # how many threads have a share
SMALLER = 2  # times that a row of what is summed is larger than the result, at least
OFTEN = 16  # or how many products of one row each element of the result is a sum of,
LARGER = 8  # while the result is not so many times larger than such a row
WORTH = 256  # elements of such a row, at least


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is a share of a sum over all rows."""
    return tensor.origin is not None and tensor.origin[0] == "share"


def share_index(eq: Equation, batch: Symbol) -> Index:
    """The row that a share is a sum over."""
    return next(i for i in bound_indices(eq.body) if i.size == batch)


def shared_sums(program: Program, batch: Symbol | None, wanted: bool | None = None) -> Program:
    """The program with sums over rows cut into shares: where that pays, or wherever it can be
    done (``wanted``), or nowhere."""
    if batch is None or wanted is False:
        return program
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    equations: list[Equation] = []
    copied: set[str] = set()  # packed sums of shares
    for eq in program.equations:
        smallest = 0 if wanted else max(WORTH, _smallest(eq))
        whole = eq.name in recurrent or is_share(eq.tensor)
        cut = None if whole else _cut(eq, program, batch, smallest)
        equations += [eq] if cut is None else cut
        if cut is not None and is_packed(eq.tensor) and isinstance(cut[1].body, SumOver):
            copied.add(eq.name)
    equations = _read_once(equations, copied)
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in equations}}
    return replace(program, tensors=tensors, equations=tuple(equations))


def _read_once(equations: list[Equation], totals: Collection[str]) -> list[Equation]:
    """The packed ones of the sums of shares added up where they are copied to, not before."""
    known = {eq.name: eq.body for eq in equations if eq.name in totals}
    out: list[Equation] = []
    for eq in equations:
        read = [n for n in eq.reads if n in known]
        if len(read) == 1 and eq.name not in known and not _is_summed(read[0], eq.body):
            (place,) = (a for a in accesses(eq.body) if a.name == read[0])
            total = known[read[0]]
            (share,) = accesses(total)
            number = fresh(total.bound[0], {i.name for i in eq.indices})
            there = SumOver(share.func(share.name, number, *place.where), number)
            eq = replace(eq, body=eq.body.xreplace({place: there}))
        out.append(eq)
    read_still = {n for eq in out for n in eq.reads}
    return [eq for eq in out if eq.name not in known or eq.name in read_still]


def _is_summed(name: str, body: Expr) -> bool:
    """Whether a tensor is read inside a sum: each of its elements more than once."""
    return any(a.name == name for node in body.atoms(SumOver) for a in accesses(node))


def _cut(eq: Equation, program: Program, batch: Symbol, smallest: int
         ) -> list[Equation] | None:
    """The equation of a share and of the sum of all, where a row of what is read has ``smallest``
    elements at least; None where it is no sum of what keeps to its row."""
    found = factor_and_sum(eq.body)
    if found is None or not eq.indices or not all(i.size.is_Integer for i in eq.indices):
        return None
    factor, node = found
    if any(a.name in program.defined for a in accesses(factor)):
        return None
    rows = [i for i in bound_indices(node) if i.size == batch]
    if len(rows) != 1 or rows[0] not in node.bound or not _keeps_to(node, rows[0], program):
        return None
    made = [program.tensors[n].shape for n in eq.reads if n in program.defined]
    if max((_count(s) for s in made if batch in s), default=-1) < smallest:
        return None
    of = eq.tensor.origin[1] if eq.tensor.origin and is_packed(eq.tensor) else eq.name
    tensor = Tensor(program.unused(f"_share_{eq.name}"), eq.tensor.indices, origin=("share", of))
    number = fresh(Index("n", PARTS), {i.name for i in eq.indices})
    total = SumOver(tensor.at(number, *eq.indices), number)
    return [Equation(tensor, eq.indices, node, eq.why), replace(eq, body=factor*total)]


def _keeps_to(node: SumOver, row: Index, program: Program) -> bool:
    """Whether everything that has rows is read at the row, which stands nowhere else."""
    batch = row.size
    for access in accesses(node):
        for where, size in zip(access.where, program.tensors[access.name].shape, strict=True):
            if (size == batch) != (where == row) or (where != row and row in where.free_symbols):
                return False
    return True


def _smallest(eq: Equation) -> int:
    """Elements that a row of what is summed must have. Where each element of the result is a sum of
    many products in every row, the row's share of it is in the cache for long, however large."""
    own = _count(eq.tensor.shape)
    often = _count(tuple(i.size for i in bound_indices(eq.body))) >= OFTEN
    if often and is_packed(eq.tensor):
        return 0
    return own//LARGER if often and not eq.body.has(IntegerAccess) else SMALLER*own


def _count(shape: tuple[Expr, ...]) -> int:
    """Elements, those of one row where there are rows."""
    total = 1
    for size in shape:
        total *= int(size) if size.is_Integer else 1
    return total
