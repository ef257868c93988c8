"""The order in which intermediates lie in memory: program → program with the same values.

``q[b,h,i,e] = sum over j of ( x[b,i,j] * W[j,h,e] )`` is one product of a matrix with rows (b, i)
and one with columns (h, e) only where q lies as [b, i, h, e]; as it is declared, it is one for each
h and b, and so are its adjoint's products with W and x. Every product with a tensor without rows (a
weight), and every sum over rows, says in which order it would have a tensor; where all that say
something agree, the tensor's dims are put in that order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from sympy import Add, Symbol

from codegen.contraction import factor_and_sum, factors_of
from derive.nodes import Access, Index, IntegerAccess, accesses
from derive.program import Equation, Program


def laid_out(program: Program, batch: Symbol | None, wanted: Collection[str]) -> Program:
    """The program with the dims of intermediates in the order in which their products are
    largest; ``wanted`` ones stay as they are declared."""
    if batch is None:
        return program
    orders = _orders(program, batch, wanted)
    if not orders:
        return program

    def moved(eq: Equation) -> Equation:
        swaps = {a: a.func(a.name, *(a.where[d] for d in orders[a.name]))
                 for a in eq.accesses if a.name in orders}
        body = eq.body.xreplace(swaps) if swaps else eq.body
        if eq.name not in orders:
            return replace(eq, body=body)
        order = orders[eq.name]
        tensor = replace(eq.tensor, indices=tuple(eq.tensor.indices[d] for d in order))
        return replace(eq, tensor=tensor, indices=tuple(eq.indices[d] for d in order), body=body)

    equations = tuple(map(moved, program.equations))
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in equations}}
    return replace(program, tensors=tensors, equations=equations)


def _orders(program: Program, batch: Symbol, wanted: Collection[str]
            ) -> dict[str, tuple[int, ...]]:
    """For each tensor whose dims move, where each dim of the new order was before."""
    fixed = {*wanted, *(eq.name for g in program.groups if g.recurrent for eq in g.equations),
             *program.updates.values(), *program.gradients.values()}
    free = {name for name in program.defined.keys() - fixed
            if program.tensors[name].rank >= 4 and program.tensors[name].shape[0] == batch}
    free -= {a.name for eq in program.equations for a in eq.accesses if a.name in free
             and any(isinstance(inner, IntegerAccess) for e in a.where for inner in accesses(e))}
    asked: dict[str, set[tuple[int, ...]]] = {}
    for eq in (e for e in program.equations if not free.isdisjoint((e.name, *e.reads))):
        for access, order in _asked(eq, batch):
            asked.setdefault(access.name, set()).add(order)
    found = {}
    for name, orders in asked.items():
        order = next(iter(orders))
        if name in free and len(orders) == 1 and order != tuple(range(len(order))):
            found[name] = order
    return found


def _asked(eq: Equation, batch: Symbol) -> Iterator[tuple[Access, tuple[int, ...]]]:
    """The orders in which the products of an equation would have their tensors with rows: first
    what is not in the tensor without rows (or in all three: each value of that is a product of its
    own), then what is, as it lies there."""
    for term in Add.make_args(eq.body):
        whole = factor_and_sum(term)
        found = None if whole is None else factors_of(whole[1].body)
        if found is None:
            continue
        three = [eq.target, *found[1:]]
        if not all(isinstance(e, Index) for a in three for e in a.where):
            continue
        still = [a for a in three if not any(i.size == batch for i in a.where)]
        if len(still) != 1:
            continue
        there = [i for i in still[0].where if not all(i in a.where for a in three)]
        for access in three:
            if access is not still[0] and len(set(access.where)) == len(access.where):
                places = [*(i for i in access.where if i not in there),
                          *(i for i in there if i in access.where)]
                yield access, tuple(access.where.index(i) for i in places)
