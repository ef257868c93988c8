"""Exponentials that a log-sum-exp adds up are kept where they are used behind it: tree → tree.

``p[j] = exp(s[j] - u)`` behind ``u = log(sum over k of exp(s[k]))`` would compute each exponential
again, and wait for a logarithm in every row. While the sum is added up its terms are stored where
the result goes, and divided by the sum then:

    for k: p[k] = exp(s[k] - largest);  total += p[k]
    u = largest + log(total)
    for j: p[j] = p[j]/total
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import sympy
from sympy import Expr, Symbol

from codegen.loops import If, Let, Loop, Statement, Store, touched
from derive.nodes import Access, accesses


def keep_exponentials(body: Sequence[Statement], fresh: Callable[[], Symbol]
                      ) -> tuple[Statement, ...]:
    """The statements with no exponential of a row computed twice; ``fresh`` gives new scalars."""
    out: list[Statement] = []
    loop: int | None = None  # where the last one stands
    for node in body:
        if isinstance(node, Loop):
            node = replace(node, body=keep_exponentials(node.body, fresh))
        elif isinstance(node, If):
            node = replace(node, yes=keep_exponentials(node.yes, fresh),
                           no=keep_exponentials(node.no, fresh))
        out.append(node)
        if isinstance(node, Loop):
            if loop is not None:
                out[loop:] = _kept(out[loop:], fresh)
            loop = len(out) - 1
    return tuple(out)


def _kept(body: list[Statement], fresh: Callable[[], Symbol]) -> list[Statement]:
    """A loop, scalars, and a loop: as they are, or with the exponentials kept."""
    first, *between, second = body
    assert isinstance(first, Loop) and isinstance(second, Loop)
    total, used = first.body[0], second.body[0]
    if (first.start, first.stop, first.down) != (second.start, second.stop, second.down) or not (
            len(first.body) == 1 and isinstance(total, Let) and total.op == "+="
            and isinstance(total.value, sympy.exp)
            and isinstance(used, Store) and used.op == "="):
        return body
    target, base = used.target, _base(between, total.symbol)
    scalars = all(isinstance(node, Let | Store) for node in between)
    if base is None or not scalars or second.index not in target.where or target.name in (
            n for each in (total, *between) for n in touched(each)):
        return body
    highest, place = base
    term = total.value.xreplace({first.index: second.index})
    again = sympy.exp(term.args[0] + highest - place)
    value = used.value.xreplace({again: target})
    if value == used.value or target in accesses(used.value):
        return body
    scale = fresh()
    return [
        replace(second, body=(Store(target, term), replace(total, value=target))), *between,
        Let(scale, 1/total.symbol),
        replace(second, body=(replace(used, value=value.xreplace({target: target*scale})),
                              *second.body[1:])),
    ]


def _base(between: Sequence[Statement], total: Symbol) -> tuple[Expr, Access] | None:
    """What the exponents of a sum are relative to, and where the logarithm of the sum is stored."""
    for node in between:
        if isinstance(node, Store) and node.op == "=" and sympy.log(total) in node.value.args:
            highest = node.value - sympy.log(total)
            if highest.is_Symbol:
                return highest, node.target
    return None
