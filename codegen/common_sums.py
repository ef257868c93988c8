"""Sums over rows that several equations are made of, once for all of them: program → program with
the same values.

Of a layer with batch norm, the gradient of the scale and the adjoint of the variance are multiples
of one sum over the batch, and the gradient of the shift stands in the adjoint of the mean:

    d_g[j] = scale[j] * sum over b of ( (z[b,j] - m[j])*d_n[b,j] )
    d_v[j] = other[j] * sum over b of ( (z[b,j] - m[j])*d_n[b,j] )

Such a sum becomes a tensor of its own, or it is read from an equation that is this sum and nothing
else. It has no rows, so it is small beside what it is a sum of. Where all terms of a sum are known
without it, there is none:

    m[j] = 1/B * sum over b of ( z[b,j] )        sum over b of ( 2*m[j] - 2*z[b,j] )  is zero
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sympy import Add, Expr, Mul, Symbol

from codegen.contraction import factor_and_sum
from codegen.packed import packed_name
from derive.nodes import Access, Index, SumOver, bound_indices, walk
from derive.program import Equation, Program, Tensor
from derive.simplify import alpha_key


def common_sums(program: Program, batch: Symbol | None) -> Program:
    """The program with each sum over ``batch`` that several equations contain computed once."""
    if batch is None:
        return program
    program = _told(program, batch)
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    sums = {eq.name: [] if eq.name in recurrent else list(_sums(eq, batch))
            for eq in program.equations}
    often = Counter(key for found in sums.values() for key in {_key(node) for node in found})
    if not any(n > 1 for n in often.values()):
        return program
    whole = {_key(eq.body): eq for eq in reversed(program.equations)
             if eq.body in sums[eq.name] and eq.indices == _free(eq.body)}
    names = set(program.tensors)
    known: dict[tuple, Tensor] = {}
    made: list[Equation] = []
    for eq in program.equations:
        if eq.name in {tensor.name for tensor in known.values()}:
            continue  # it stands in front of the first equation that contains it
        body = eq.body
        for node in sums[eq.name]:
            key = _key(node)
            if often[key] < 2 or whole.get(key) is eq:
                known |= {key: eq.tensor} if whole.get(key) is eq else {}
                continue
            if key not in known and key in whole:
                made.append(whole[key])
                known[key] = whole[key].tensor
            elif key not in known:
                name = packed_name("sum", eq.name, names)
                names.add(name)
                known[key] = Tensor(name, _free(node), origin=("packed", eq.name))
                made.append(Equation(known[key], _free(node), node, eq.why))
            body = body.xreplace({node: known[key].at(*_free(node))})
        made.append(eq if body == eq.body else replace(eq, body=body))
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in made}}
    return replace(program, tensors=tensors, equations=tuple(made))


def _told(program: Program, batch: Symbol) -> Program:
    """The program without the sums whose terms are multiples of what was computed before."""
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    known: dict[tuple, tuple[Equation, Expr]] = {}  # by a sum: what is a multiple of it, and which
    made: list[Equation] = []
    for eq in program.equations:
        body = eq.body
        for node in () if eq.name in recurrent else _sums(eq, batch):
            total = _total(node, known)
            body = body if total is None else body.xreplace({node: total})
        made.append(eq if body in (eq.body, 0) else replace(eq, body=body))
        whole = factor_and_sum(eq.body)
        if whole and whole[1] in _sums(eq, batch) and set(eq.indices) == set(_free(whole[1])):
            if not whole[0].has(Access, Index):
                known.setdefault(_key(whole[1]), (eq, whole[0]))
    same = all(a is b for a, b in zip(made, program.equations, strict=True))
    return program if same else replace(program, equations=tuple(made))


def _total(node: SumOver, known: Mapping[tuple, tuple[Equation, Expr]]) -> Expr | None:
    """A sum of several terms without summing; None where one of them is not known."""
    terms = Add.make_args(node.body)
    found: list[Expr] = []
    for number, rest in (t.as_coeff_Mul() for t in terms):
        one = SumOver(rest, *node.bound)
        if not rest.atoms(Index) & set(node.bound):
            found.append(number*rest*Mul(*(i.size for i in node.bound)))
        elif _key(one) in known:
            eq, factor = known[_key(one)]
            (_, own), there = factor_and_sum(eq.body) or (None, one), _free(one)
            at = dict(zip(_free(own), there, strict=True))
            found.append(number*eq.tensor.at(*(at[i] for i in eq.indices))/factor)
        else:
            return None
    return Add(*found) if len(terms) > 1 else None


def _sums(eq: Equation, batch: Symbol) -> Iterator[SumOver]:
    """The sums over rows of an equation, none of which is inside another one."""
    def inside(expr: Expr) -> Iterator[SumOver]:
        if isinstance(expr, SumOver) and any(i.size == batch for i in expr.bound) and not any(
                i.size == batch for i in _free(expr)):
            yield expr
        else:
            for arg in expr.args:
                if isinstance(arg, Expr) and not isinstance(arg, Index):
                    yield from inside(arg)

    if not any(i.size == batch for i in eq.indices):
        yield from dict.fromkeys(inside(eq.body))


def _free(expr: Expr) -> tuple[Index, ...]:
    """The indices of an expression that no sum in it binds, in order of first use."""
    bound = set(bound_indices(expr))
    return tuple(dict.fromkeys(
        n for n in walk(expr) if isinstance(n, Index) and n not in bound))


def _key(node: Expr) -> tuple:
    """Equal for sums that differ in the names of their indices only."""
    return alpha_key(_free(node), node)
