"""One occurrence of an access: its local derivative, the rule's name, its pull-back to the tensor.

What is differentiated is a scalar body with placeholders for accesses, and where an access goes
is solved for its index expressions alone; both are shared between equations that are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, Symbol

from derive.affine import solve, whole_conditions
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    Reduction,
    Select,
    SumOver,
    accesses,
    alpha_rename,
    contains,
    fresh,
    rename,
)
from derive.program import Tensor
from derive.simplify import opaque_atoms, placeholder, sum_over

_OUTPUT = Symbol("_y", real=True)


def local_derivatives(body: Expr, target: Access | None) -> list[tuple[Expr, Expr]]:
    """``(node, derivative of body with respect to it)`` for each float access, and each plain sum
    taken as a whole, in a body; where the derivative contains the body itself, ``target`` stands
    for it (the stored output)."""
    found = opaque_atoms(body, (Access, SumOver))
    atoms = [a for a in found if not isinstance(a, IntegerAccess)]
    there = {a: placeholder(n) for n, a in enumerate(atoms)}
    back = {p: a for a, p in there.items()}
    if target is not None:
        back[_OUTPUT] = target
    short = body.xreplace(there)
    return [
        (a, _partial(short, p, target is not None).xreplace(back)) for a, p in there.items()
    ]


@lru_cache(maxsize=8192)
def _partial(body: Expr, symbol: Symbol, reuse_output: bool) -> Expr:
    derivative = sympy.diff(body, symbol)
    return _through_output(body, derivative) if reuse_output else derivative


def _through_output(body: Expr, derivative: Expr) -> Expr:
    """The stored output in place of the function that was differentiated, wherever it occurs; in
    a branch of a selection, under the branch's own condition."""
    if isinstance(body, sympy.Function):
        return derivative.xreplace({body: _OUTPUT})
    if isinstance(body, Select) and isinstance(derivative, Select):
        yes, no = (_through_output(*branch) for branch in
                   ((body.yes, derivative.yes), (body.no, derivative.no)))
        if derivative.condition == body.condition:
            return Select(body.condition, yes, no)
    return derivative


@dataclass(frozen=True)
class _Plan:
    """How indices are replaced in a term, what is summed over then, under which guard."""

    mapping: dict[Expr, Expr]
    bound: tuple[Index, ...]
    guard: Expr
    taken: frozenset[str]


@lru_cache(maxsize=4096)
def index_plan(
    where: tuple[Expr, ...], variables: tuple[Index, ...], target: tuple[Index, ...]
) -> _Plan:
    """The solution of ``where == target`` in names that read well (shared by equal accesses)."""
    hidden = {v: v.renamed(f"_v{n}") for n, v in enumerate(variables)}
    solution = solve([e.xreplace(hidden) for e in where], target, [hidden[v] for v in variables])
    taken = {i.name for i in target}
    shown = {h: v for v, h in hidden.items()}
    nice: dict[Index, Index] = {}
    for h in solution.left:
        nice[h] = fresh(shown.get(h, h.renamed("r")), taken)
        taken.add(nice[h].name)
    mapping: dict[Expr, Expr] = {v: nice[h] for v, h in hidden.items() if h in nice}
    mapping |= {e.xreplace(shown): value.xreplace(nice) for e, value in solution.values.items()}
    guard = sympy.And(*(g.xreplace(nice) for g in solution.guards))
    moved = {v: e for v, e in mapping.items() if v != e}
    return _Plan(moved, tuple(nice[h] for h in solution.left), guard, frozenset(taken))


def pull_back(
    occurrence: Access, term: Expr, variables: tuple[Index, ...], tensor: Tensor
) -> Expr:
    """Sum of ``term`` over all values of ``variables`` at which ``occurrence`` is the element of
    ``tensor`` at its canonical indices: the contribution to the adjoint, as a gather."""
    plan = index_plan(occurrence.where, variables, tensor.indices)
    if contains(term, Reduction):
        term = alpha_rename(term, set(plan.taken) | {v.name for v in variables})
    body = whole_conditions(rename(term, plan.mapping))
    return sum_over(Select(plan.guard, body), plan.bound)


def _path(expr: Expr, place: Expr) -> tuple[Expr, ...]:
    """The nodes from ``expr`` down to the first place where ``place`` stands in it."""
    if expr == place:
        return (expr,)
    for arg in expr.args:
        rest = _path(arg, place)
        if rest:
            return (expr, *rest)
    return ()


def _paths(expr: Expr, place: Expr) -> Iterator[tuple[Expr, ...]]:
    """The nodes from ``expr`` down to each place where ``place`` stands in it."""
    if expr == place:
        yield (expr,)
        return
    for arg in expr.args:
        for rest in _paths(arg, place):
            yield (expr, *rest)


def local_rules(body: Expr, occurrence: Access) -> tuple[str, ...]:
    """The names of all rules that the derivative by an access follows, from what stands around
    each of its places, from the outside in; none where it does not stand there."""
    found: dict[str, None] = {}
    paths = list(_paths(body, occurrence))
    for path in paths:
        for node in path[:-1]:
            if isinstance(node, Elementary | sympy.Function):
                found[f"chain:{type(node).__name__}"] = None
            elif isinstance(node, sympy.Pow) and contains(node.base, Access):
                found["power"] = None
            elif isinstance(node, Select):
                found["select"] = None
            elif isinstance(node, sympy.Mul) and sum(contains(a, Access) for a in node.args) > 1:
                found["product"] = None
    return tuple(found) or (("linear",) if paths else ())


def local_rule(body: Expr, occurrence: Access, local: Expr) -> str:
    """The name of the rule that a local derivative follows, from what stands around the place."""
    if not accesses(local):
        return "linear"
    for node in _path(body, occurrence):
        if isinstance(node, Elementary | sympy.Function):
            return f"chain:{type(node).__name__}"
        if isinstance(node, sympy.Pow) and contains(node.base, Access):
            return "power"
        if isinstance(node, Select):
            return "select"
    return "product"
