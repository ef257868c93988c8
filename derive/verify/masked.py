"""Masks by -∞, as ``scores[mask] = -np.inf`` makes them: exp of them is a choice of 0.

Program → Program: a claimed tensor that holds -∞ where a condition holds is put in where it is
read, so that `derive.verify.reading` meets ``exp(a + (-∞ if c else s))``, which is
``0 if c else exp(a + s)``. A maximum over such a tensor, which softmax takes away for safety, gets
an equation of its own: it is a number like any other, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sympy import Expr, S

from derive.nodes import Access, Index, MaxOver, Select, alpha_rename, rename
from derive.program import Equation, Tensor


def unmasked(equations: Iterable[Equation]) -> list[Equation]:
    """Equations in which no tensor but a maximum reads one that holds -∞."""
    masked: dict[str, Equation] = {}
    made: list[Equation] = []
    for eq in equations:
        holds = isinstance(eq.body, Select) and S.NegativeInfinity in (eq.body.yes, eq.body.no)
        if not holds and not any(a.name in masked for a in eq.body.atoms(Access)):
            made.append(eq)
            continue
        found: list[Equation] = []
        body = _lifted(eq, eq.body, masked, found)
        made += found
        eq = replace(eq, body=_put_in(body, masked, {i.name for i in eq.indices}))
        made.append(eq)
        if holds:
            masked[eq.name] = eq
    return made


def _lifted(eq: Equation, body: Expr, masked: dict[str, Equation], found: list[Equation]) -> Expr:
    """A body with a tensor of its own in the place of every maximum over what holds -∞."""
    for node in body.atoms(MaxOver):
        if any(a.name in masked for a in node.atoms(Access)) and node != eq.body:
            free = tuple(i for i in eq.indices if i in node.free_symbols)
            if any(isinstance(s, Index) and s not in free for s in node.free_symbols):
                continue  # it stands inside of a sum
            tensor = Tensor(f"{eq.name}_top{len(found) or ''}", free)
            found.append(Equation(tensor, free, node, "claimed"))
            body = body.xreplace({node: tensor.at(*free)})
    return body


def _put_in(body: Expr, masked: dict[str, Equation], taken: set[str]) -> Expr:
    """A body with the equation of what holds -∞ in its place, outside of maxima."""
    if isinstance(body, MaxOver):
        return body
    if isinstance(body, Access) and body.name in masked:
        eq = masked[body.name]
        inner = alpha_rename(eq.body, taken | {i.name for i in body.atoms(Index)}
                             | {i.name for i in eq.indices})
        return rename(inner, dict(zip(eq.indices, body.where, strict=True)))
    if not body.has(Access):
        return body
    return body.func(*(_put_in(a, masked, taken) for a in body.args))
