"""Expressions in the grammar of `derive.netparse`: what is printed reads back as the same."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import sympy
from sympy import Expr, Integer, Rational

from derive.affine import quotient_parts
from derive.errors import DeclarationError
from derive.functions import REGISTRY, Elementary
from derive.netparse import CONSTANTS, KNOWN
from derive.nodes import Access, Index, Reduction, Select


# how strongly a form binds: 0 choice or condition, 1 sum, 2 product, 3 power, 4 atom
def expression(expr: Expr, common: dict[str, Expr]) -> str:
    """An expression in the grammar of `derive.netparse`."""
    return _put(expr, 0, common)


def _put(expr: Expr, binding: int, common: dict[str, Expr]) -> str:
    text, own = _form(expr, common)
    return f"({text})" if own < binding else text


def index_list(indices: tuple[Index, ...], common: dict[str, Expr]) -> str:
    """Indices as ``i, j:3``: a size stands where it is not the common one of the name."""
    return ", ".join(
        i.name if common.get(i.name) == i.size else f"{i.name}:{i.size}" for i in indices
    )


def _call(name: str, args: tuple[Expr, ...], common: dict[str, Expr]) -> tuple[str, int]:
    return f"{name}({', '.join(_put(a, 0, common) for a in args)})", 4


@singledispatch
def _form(expr: Any, common: dict[str, Expr]) -> tuple[str, int]:
    raise DeclarationError(f"the .net format has no form for {type(expr).__name__}: {expr}")


@_form.register
def _(expr: sympy.Symbol, common: dict[str, Expr]) -> tuple[str, int]:
    return expr.name, 4


@_form.register
def _(expr: sympy.Rational, common: dict[str, Expr]) -> tuple[str, int]:
    if expr < 0:
        return f"-{_put(-expr, 2, common)}", 1
    decimal = str(float(expr))
    if isinstance(expr, Integer):
        return str(expr), 4
    if Rational(decimal) == expr and "e" not in decimal:
        return decimal, 4
    return str(expr), 2


@_form.register(sympy.core.numbers.Infinity)
@_form.register(sympy.core.numbers.NegativeInfinity)
@_form.register(sympy.NumberSymbol)
def _(expr: Expr, common: dict[str, Expr]) -> tuple[str, int]:
    if expr is sympy.E:
        return "exp(1)", 4
    for name, constant in CONSTANTS.items():
        if expr in (constant, -constant):
            return (name, 4) if expr == constant else (f"-{name}", 1)
    raise DeclarationError(f"the .net format has no form for {expr}")


@_form.register
def _(expr: Access, common: dict[str, Expr]) -> tuple[str, int]:
    where = ", ".join(_put(e, 1, common) for e in expr.where)
    return (f"{expr.name}[{where}]" if where else expr.name), 4


@_form.register
def _(expr: Reduction, common: dict[str, Expr]) -> tuple[str, int]:
    body = _put(expr.body, 0, common)
    return f"{expr.op}[{index_list(expr.bound, common)}]({body})", 4


@_form.register
def _(expr: Select, common: dict[str, Expr]) -> tuple[str, int]:
    yes, condition = _put(expr.yes, 1, common), _put(expr.condition, 1, common)
    return f"{yes} if {condition} else {_put(expr.no, 0, common)}", 0


@_form.register
def _(expr: sympy.Add, common: dict[str, Expr]) -> tuple[str, int]:
    terms = sorted(expr.args, key=lambda a: a.is_number)  # t - 1, not -1 + t
    text = _put(terms[0], 1, common)
    for term in terms[1:]:
        negative = term.as_coeff_Mul()[0].is_negative
        text += " - " + _put(-term, 2, common) if negative else " + " + _put(term, 2, common)
    return text, 1


@_form.register
def _(expr: sympy.Mul, common: dict[str, Expr]) -> tuple[str, int]:
    coefficient, _ = expr.as_coeff_Mul()
    if coefficient.is_negative:
        return "-" + _put(-expr, 2, common), 1
    above = [Integer(coefficient.p)] if coefficient.p != 1 else []
    below = [Integer(coefficient.q)] if coefficient.q != 1 else []
    for factor in expr.args:
        if factor is coefficient:
            continue
        base, exponent = factor.as_base_exp()
        inverse = exponent.is_Rational and exponent < 0 and not base.is_number
        (below if inverse else above).append(1 / factor if inverse else factor)
    text = "*".join(_put(a, 3, common) for a in above) or "1"
    if coefficient.q != 1 and any(isinstance(b, sympy.Add) for b in below):
        text += f"/{coefficient.q}"  # a number times a sum would be distributed
        below = below[1:]
    if below:
        under = "*".join(_put(a, 3, common) for a in below)
        text += f"/({under})" if len(below) > 1 else f"/{under}"
    return text, 2


@_form.register
def _(expr: sympy.Pow, common: dict[str, Expr]) -> tuple[str, int]:
    if expr.exp == sympy.S.Half:
        return _call("sqrt", (expr.base,), common)
    if expr.exp.is_Rational and expr.exp < 0:
        return f"1/{_put(1 / expr, 3, common)}", 2
    return f"{_put(expr.base, 4, common)}**{_put(expr.exp, 4, common)}", 3


@_form.register
def _(expr: sympy.core.relational.Relational, common: dict[str, Expr]) -> tuple[str, int]:
    return f"{_put(expr.lhs, 1, common)} {expr.rel_op} {_put(expr.rhs, 1, common)}", 0


@_form.register(sympy.And)
@_form.register(sympy.Or)
def _(expr: Expr, common: dict[str, Expr]) -> tuple[str, int]:
    word = " and " if isinstance(expr, sympy.And) else " or "
    return word.join(f"({_put(a, 0, common)})" for a in sorted(expr.args, key=str)), 0


@_form.register
def _(expr: sympy.Not, common: dict[str, Expr]) -> tuple[str, int]:
    return f"not ({_put(expr.args[0], 0, common)})", 0


@_form.register
def _(expr: sympy.Function, common: dict[str, Expr]) -> tuple[str, int]:
    if isinstance(expr, sympy.floor | sympy.Mod):
        sign = "//" if isinstance(expr, sympy.floor) else "%"
        left, right = (_put(a, 3, common) for a in quotient_parts(expr))
        return f"{left} {sign} {right}", 2
    name = expr.func.__name__
    if isinstance(expr, Elementary):
        own = hasattr(expr.func, "given") or expr.func.__module__.startswith("derive.")
        known = own and REGISTRY.get(name) is expr.func
    else:
        known = name in KNOWN
    if not known:
        raise DeclarationError(f"the .net format has no form for the function {name}: {expr}",
                               mend="give a function of your own by dr.elementary")
    return _call(name, expr.args, common)
