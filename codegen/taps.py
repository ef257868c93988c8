"""What the ranges of indices decide beforehand: program → program with the same values.

Guards that hold for every value of their indices, or for none, are settled.
The adjoint of a window that moves as far as it is wide (pooling by 2 with stride 2) is a sum over
taps under the guard that ``(p - u)/2`` is whole: one tap fits, ``u = p mod 2``, and the quotient
is ``p // 2``. The sum over u goes, and with it a division for each tap in the innermost loop.
"""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Add, Eq, Expr, Mod, S, Symbol

from codegen.blend import extent
from codegen.contraction import conjuncts, guarded
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    Select,
    SumOver,
    alpha_rename,
    contains,
    walk,
)
from derive.program import Equation, Program


def single_taps(program: Program) -> Program:
    """The program with guards settled and sums over one tap solved."""
    equations = tuple(_equation(_settled(eq)) for eq in program.equations)
    return replace(program, equations=equations)


def _settled(eq: Equation) -> Equation:
    comparisons = {n for n in walk(eq.body)
                   if isinstance(n, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt)}
    known = {c: v for c in comparisons if (v := certain(c)) is not None}
    return replace(eq, body=eq.body.xreplace(known)) if known else eq


def certain(comparison: Expr) -> Expr | None:
    """What an inequality between index expressions always is, where it is always the same (every
    index ranges from 0 to its size)."""
    ends = extent(sympy.expand(comparison.args[0] - comparison.args[1]))
    if ends is None:
        return None
    results = {bool(comparison.func(end, 0)) for end in ends}
    if len(results) > 1:
        return None
    return S.true if results.pop() else S.false


def _equation(eq: Equation) -> Equation:
    if not contains(eq.body, Mod):
        return eq
    body = alpha_rename(guarded(eq.body), {i.name for i in eq.indices})
    terms = Add.make_args(body)
    solved = [_term(t) for t in terms]
    return eq if solved == list(terms) else replace(eq, body=Add(*solved))


def _term(term: Expr) -> Expr:
    if not isinstance(term, SumOver) or not isinstance(term.body, Select) or term.body.no != 0:
        return term
    bound, conditions, value = list(term.bound), list(conjuncts(term.body.condition)), term.body.yes
    changed = False
    for index in term.bound:
        found = _whole(conditions, index)
        if found is None:
            continue
        condition, inner, step = found
        conditions.remove(condition)
        quotient = Symbol("_quotient", integer=True)
        mapping = {index: inner - step * quotient}
        conditions = [_replaced(c, mapping) for c in conditions]
        value = _replaced(value, mapping)
        back = {quotient: sympy.floor(inner / step)}
        conditions = [c.xreplace(back) for c in conditions]
        value = value.xreplace(back)
        if index.size < step:
            conditions.append(sympy.Lt(Mod(inner, step), index.size))
        bound.remove(index)
        changed = True
    if not changed:
        return term
    body = Select(sympy.And(*conditions), value, S.Zero)
    return SumOver(body, *bound) if bound else body


def _whole(conditions: list[Expr], index: Index) -> tuple[Expr, Expr, Expr] | None:
    """A guard that ``inner - index`` is a multiple of a step that is at least the index's size:
    (the guard, inner, the step)."""
    for condition in conditions:
        if not (isinstance(condition, Eq) and isinstance(condition.lhs, Mod)
                and condition.rhs == 0):
            continue
        above, step = condition.lhs.args
        inner = sympy.expand(above + index)
        fits = step.is_Integer and index.size.is_Integer and index.size <= step
        if fits and index not in inner.free_symbols and not above.has(Access):
            return condition, inner, step
    return None


def _replaced(expr: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """An expression with an index replaced, the places of accesses and guards multiplied out, so
    that a quotient that is whole is seen to be."""
    if isinstance(expr, Access | IntegerAccess):
        return expr.func(expr.name, *(sympy.expand(e.xreplace(mapping)) for e in expr.where))
    if isinstance(expr, sympy.core.relational.Relational) and not expr.has(Access):
        left, right = (sympy.expand(a.xreplace(mapping)) for a in expr.args)
        return expr.func(left, right)
    if not expr.args:
        return mapping.get(expr, expr)
    return expr.func(*(_replaced(a, mapping) if isinstance(a, sympy.Basic) else a
                       for a in expr.args))
