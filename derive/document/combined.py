"""An adjoint with those of its statistics put in: the closed form that people know.

The adjoint of what is normalised reads the adjoints of mean and variance, which are sums of their
own. Put in, with sums of deviations from a mean left out because they are 0, and with common
factors in front, one formula is left: that of batch norm, of layer norm, of a softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive.nodes import Access, Index, SumOver, alpha_rename, rename
from derive.program import Equation, Program


@dataclass(frozen=True)
class Combined:
    """``body`` equals that of the adjoint's equation; ``used`` are the adjoints put in, ``zeros``
    the sums that are 0 with the mean that makes them so and what it is the mean of."""

    body: Expr
    used: tuple[str, ...]
    zeros: tuple[tuple[Expr, str, str], ...]


def combined(program: Program, eq: Equation) -> Combined | None:
    """The closed form of an adjoint, or None where it reads no adjoint of a statistic."""
    used: dict[str, None] = {}
    zeros: dict[Expr, tuple[str, str]] = {}
    body = eq.body
    for _ in range(4):  # a mean's adjoint reads the variance's
        found = [a for a in body.atoms(Access) if _is_statistic(program, a, eq)]
        if not found:
            break
        for access in found:
            used[access.name] = None
            body = _replaced(body, access, _put_in(program, access, body, eq))
    else:
        return None
    for total in body.atoms(SumOver):
        centre = _centred(program, total)
        if centre is not None:
            zeros[total] = centre
    body = body.xreplace(dict.fromkeys(zeros, S.Zero))
    made = _factored(body)
    if not used or made == eq.body:
        return None
    return Combined(made, tuple(n for n in program.defined if n in used),
                    tuple((total, *centre) for total, centre in zeros.items()))


def _is_statistic(program: Program, access: Access, eq: Equation) -> bool:
    """Whether an adjoint is a sum over some of the dims of the equation that reads it."""
    defined = program.defined.get(access.name)
    if defined is None or (defined.tensor.origin or ("",))[0] != "adjoint":
        return False
    return (len(access.where) < len(eq.indices) and set(access.where) <= set(eq.indices)
            and defined.body.has(SumOver))


def _replaced(body: Expr, access: Access, value: Expr) -> Expr:
    """``body`` with ``value`` for the access, multiplied out where it is a factor of a term."""
    terms = []
    for term in Add.make_args(body):
        factors = list(Mul.make_args(term))
        if access in factors:
            factors.remove(access)
            terms += [Mul(*factors, part) for part in Add.make_args(value)]
        else:
            terms.append(term.xreplace({access: value}))
    return Add(*terms)


def _put_in(program: Program, access: Access, around: Expr, eq: Equation) -> Expr:
    defined = program.defined[access.name]
    taken = {i.name for i in eq.indices}
    taken |= {s.name for s in around.free_symbols | access.free_symbols}
    taken |= {i.name for s in around.atoms(SumOver) for i in s.bound}
    body = alpha_rename(defined.body, taken)
    return rename(body, dict(zip(defined.indices, access.where, strict=True)))


def _centred(program: Program, total: SumOver) -> tuple[str, str] | None:
    """Of a sum of deviations from a mean: the mean and what it is the mean of."""
    if len(total.bound) != 1:
        return None
    (over,) = total.bound
    terms = Add.make_args(sympy.expand(total.body))
    if len(terms) != 2:
        return None
    parts = [term.as_independent(Access) for term in terms]
    for (a, x), (b, mean) in (parts, parts[::-1]):
        if a + b != 0 or not isinstance(x, Access) or not isinstance(mean, Access):
            continue
        defined = program.defined.get(mean.name)
        if defined is None or mean.has(over):
            continue
        body = rename(defined.body, dict(zip(defined.indices, mean.where, strict=True)))
        sums = body.atoms(SumOver)
        if len(sums) != 1:
            continue
        (inner,) = sums
        if body != inner / over.size or len(inner.bound) != 1:
            continue
        if rename(inner.body, {inner.bound[0]: over}) == x:
            return mean.name, x.name
    return None


def _factored(expr: Expr) -> Expr:
    """A sum with what its terms have in common in front."""
    terms = Add.make_args(expr)
    powers = [_powers(term) for term in terms]
    common: dict[Expr, Expr] = {}
    for base in powers[0]:
        exponents = [p.get(base, S.Zero) for p in powers]
        if all(e.is_number for e in exponents):
            if all(e.is_positive for e in exponents):
                common[base] = min(exponents)
            elif all(e.is_negative for e in exponents):
                common[base] = max(exponents)
    front = Mul(*(Pow(base, e) for base, e in common.items()))
    if front == 1 or len(terms) == 1:
        return expr
    return Mul(front, Add(*(term / front for term in terms)))


def _powers(term: Expr) -> Mapping[Expr, Expr]:
    _, rest = term.as_coeff_Mul()
    return {base: e for factor in Mul.make_args(rest)
            for base, e in [factor.as_base_exp()] if not isinstance(base, Index)}
