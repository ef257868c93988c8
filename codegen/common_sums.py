"""Sums over rows that several equations contain, once for all of them: program → program with the
same values.

Of a layer with batch norm, the gradient of the scale and the adjoint of the variance are multiples
of one sum over the batch:

    d_g[j] = scale[j] * sum over b of ( (z[b,j] - m[j])*d_n[b,j] )
    d_v[j] = other[j] * sum over b of ( (z[b,j] - m[j])*d_n[b,j] )

Such a sum becomes a tensor of its own. It has no rows, so it is small beside what it is a sum of.
An equation that is a sum and nothing else is neither changed nor read: where a batch is shared
among ranks, what it gives is added up in its place, after which it is another number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from sympy import Expr, Symbol

from codegen.packed import packed_name
from derive.nodes import Index, SumOver, bound_indices, walk
from derive.program import Equation, Program, Tensor
from derive.simplify import alpha_key


def common_sums(program: Program, batch: Symbol | None) -> Program:
    """The program with each sum over ``batch`` that several equations contain computed once."""
    if batch is None:
        return program
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    sums = {eq.name: [] if eq.name in recurrent else list(_sums(eq, batch))
            for eq in program.equations}
    often = Counter(key for found in sums.values() for key in {_key(node) for node in found})
    if not any(n > 1 for n in often.values()):
        return program
    names = set(program.tensors)
    known: dict[tuple, Tensor] = {}
    made: list[Equation] = []
    for eq in program.equations:
        body = eq.body
        for node in (n for n in sums[eq.name] if often[_key(n)] > 1):
            key = _key(node)
            if key not in known:
                name = packed_name("sum", eq.name, names)
                names.add(name)
                known[key] = Tensor(name, _free(node), origin=("packed", eq.name))
                made.append(Equation(known[key], _free(node), node, eq.why))
            body = body.xreplace({node: known[key].at(*_free(node))})
        made.append(eq if body == eq.body else replace(eq, body=body))
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in made}}
    return replace(program, tensors=tensors, equations=tuple(made))


def _sums(eq: Equation, batch: Symbol) -> Iterator[SumOver]:
    """The sums over rows inside an equation, none of which is inside another one."""
    def inside(expr: Expr) -> Iterator[SumOver]:
        if isinstance(expr, SumOver) and any(i.size == batch for i in expr.bound) and not any(
                i.size == batch for i in _free(expr)):
            yield expr
        else:
            for arg in expr.args:
                if isinstance(arg, Expr) and not isinstance(arg, Index):
                    yield from inside(arg)

    if not isinstance(eq.body, SumOver) and not any(i.size == batch for i in eq.indices):
        yield from dict.fromkeys(inside(eq.body))


def _free(expr: Expr) -> tuple[Index, ...]:
    """The indices of an expression that no sum in it binds, in order of first use."""
    bound = set(bound_indices(expr))
    return tuple(dict.fromkeys(
        n for n in walk(expr) if isinstance(n, Index) and n not in bound))


def _key(node: Expr) -> tuple:
    """Equal for sums that differ in the names of their indices only."""
    return alpha_key(_free(node), node)
