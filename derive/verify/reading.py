"""Index equations into normal forms: SymPy body → sum of products (`derive.verify.forms`).

Functions are read by their definition in primitives, tanh and its kin by exponentials, so that
all ways of writing one meet. Indices and axes that are to be unrolled (`Unrolled`) become numbers:
``h[t, b]`` at t = 2 is the element ``h@2[b]`` of a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce, singledispatch
from itertools import product
from typing import Any

import sympy
from sympy import Expr
from sympy.codegen.cfunctions import expm1, log1p
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from derive.functions import Elementary, native
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
)
from derive.randomness import uniform
from derive.verify.forms import Forms
from derive.verify.terms import (
    Place,
    Sum,
    Undecided,
    add_places,
    constant_place,
    divided,
    variable_place,
)


@dataclass(frozen=True)
class Unrolled:
    """What is written out number by number: axes of tensors, indices of one equation, and the
    numbers that symbolic sizes are taken for."""

    axes: Mapping[str, frozenset[int]] = field(default_factory=dict)
    indices: Mapping[str, frozenset[Index]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Where a body is read: the algebra, the place of each index, what is unrolled."""

    forms: Forms
    places: Mapping[Index, Place]
    unrolled: Unrolled
    marked: frozenset[Index] = frozenset()

    def size(self, expr: Expr) -> str:
        """A size as the algebra names it: digits or a symbol's name."""
        text = str(expr)
        number = self.unrolled.sizes.get(text)
        if number is not None:
            return str(number)
        if not (expr.is_Integer or expr.is_Symbol):
            value = expr.xreplace({s: self.unrolled.sizes[s.name] for s in expr.free_symbols
                                   if s.name in self.unrolled.sizes})
            if not value.is_Integer:
                raise Undecided(f"the size {text}")
            return str(value)
        return text


def read(expr: Expr, scope: Scope) -> Sum:
    """The normal form of a scalar expression.

    Raises:
        Undecided: something in it has no normal form.
    """
    return _read(native(expr), scope)


# -- index expressions ----------------------------------------------------------------------------
def read_place(expr: Expr, scope: Scope) -> Place:
    if isinstance(expr, Index):
        return scope.places[expr]
    if isinstance(expr, IntegerAccess):
        inner = tuple(read_place(e, scope) for e in expr.where)
        return (((("g", expr.name, inner)), Fraction(1)),), Fraction(0)
    if expr.is_Rational:
        return constant_place(Fraction(int(expr.p), int(expr.q)))
    if expr.is_Symbol:
        return Forms.size_place(scope.size(expr))
    if isinstance(expr, sympy.Add):
        return reduce(add_places, (read_place(a, scope) for a in expr.args))
    if isinstance(expr, sympy.Mul):
        number, rest = expr.as_coeff_Mul()
        places = [read_place(a, scope) for a in sympy.Mul.make_args(rest)]
        varying = [p for p in places if p[0]]
        value = Fraction(int(number.p), int(number.q))
        for place in places:
            value *= 1 if place[0] else place[1]
        if len(varying) > 1:
            raise Undecided(f"the index expression {expr}")
        return add_places(constant_place(0), varying[0] if varying else constant_place(1), value)
    if isinstance(expr, sympy.floor | sympy.Mod):
        from derive.affine import quotient_parts

        inner_expr, divisor = quotient_parts(expr)
        kind = "q" if isinstance(expr, sympy.floor) else "r"
        if divisor.is_Integer:
            return divided(kind, read_place(inner_expr, scope), int(divisor))
    raise Undecided(f"the index expression {expr}")


def _is_place(expr: Expr) -> bool:
    return expr.is_integer is True and all(
        isinstance(a, IntegerAccess) for a in expr.atoms(Access))


# -- nodes ----------------------------------------------------------------------------------------
@singledispatch
def _read(expr: Any, scope: Scope) -> Sum:
    raise Undecided(f"{type(expr).__name__}: {expr}")


@_read.register
def _(expr: sympy.Rational, scope: Scope) -> Sum:
    return scope.forms.constant(Fraction(int(expr.p), int(expr.q)))


@_read.register
def _(expr: sympy.NumberSymbol, scope: Scope) -> Sum:
    return scope.forms.factor("C", "e" if expr == sympy.E else str(expr))


@_read.register
def _(expr: Index, scope: Scope) -> Sum:
    return _number_of(scope.places[expr], scope)


@_read.register
def _(expr: sympy.Symbol, scope: Scope) -> Sum:
    return scope.forms.size(scope.size(expr))


def _number_of(place: Place, scope: Scope) -> Sum:
    """A place as a number in a product."""
    forms = scope.forms
    total = forms.constant(place[1])
    for atom, slope in place[0]:
        one = ((atom, Fraction(1)),), Fraction(0)
        part = forms.size(atom[1]) if atom[0] == "n" else forms.factor("T", "#", (one,))
        total = forms.add(total, forms.scale(part, slope))
    return total


@_read.register
def _(expr: Access, scope: Scope) -> Sum:
    if isinstance(expr, IntegerAccess):
        return _number_of(read_place(expr, scope), scope)
    axes = scope.unrolled.axes.get(expr.name, frozenset())
    places = tuple(read_place(e, scope) for e in expr.where)
    return element(scope.forms, expr.name, places, axes)


def element(forms: Forms, name: str, places: tuple[Place, ...], axes: frozenset[int]) -> Sum:
    """An element of a tensor, of one of its slices where axes are unrolled."""
    fixed = [n for n in sorted(axes) if not places[n][0]]
    if axes and len(fixed) == len(axes):
        label = ",".join(str(places[n][1]) for n in fixed)
        rest = tuple(p for n, p in enumerate(places) if n not in axes)
        return forms.factor("T", f"{name}@{label}", rest)
    return forms.factor("T", name, places)


@_read.register
def _(expr: sympy.Add, scope: Scope) -> Sum:
    return scope.forms.add(*(_read(a, scope) for a in expr.args))


@_read.register
def _(expr: sympy.Mul, scope: Scope) -> Sum:
    total = scope.forms.constant(1)
    for factor in sorted(expr.args, key=lambda a: not isinstance(a, Select)):
        if not total:  # a guard that fails: what it guards may have no value
            break
        total = scope.forms.mul(total, _read(factor, scope))
    return total


@_read.register
def _(expr: sympy.Pow, scope: Scope) -> Sum:
    if not expr.exp.is_Rational:
        if expr.base == sympy.E:
            return scope.forms.exp(_read(expr.exp, scope))
        inner = scope.forms.log(_read(expr.base, scope))
        return scope.forms.exp(scope.forms.mul(inner, _read(expr.exp, scope)))
    q = Fraction(int(expr.exp.p), int(expr.exp.q))
    return scope.forms.power(_read(expr.base, scope), q)


@_read.register
def _(expr: Select, scope: Scope) -> Sum:
    forms, condition = scope.forms, _condition(expr.condition, scope)
    if not condition:
        return _read(expr.no, scope)
    if condition == forms.constant(1):
        return _read(expr.yes, scope)
    yes, no = _read(expr.yes, scope), _read(expr.no, scope)
    return forms.add(no, forms.mul(condition, forms.minus(yes, no)))


def _masked(argument: Expr) -> Expr:
    """A sum with a mask by -∞ in it as one choice."""
    low = sympy.S.NegativeInfinity
    for part in argument.args if isinstance(argument, sympy.Add) else ():
        if isinstance(part, Select) and low in (part.yes, part.no):
            rest = argument - part
            return Select(part.condition, *(b if b == low else rest + b
                                            for b in (part.yes, part.no)))
    return argument


@_read.register
def _(expr: sympy.exp, scope: Scope) -> Sum:
    argument = _masked(expr.args[0])
    if isinstance(argument, Select):  # one branch may be -∞, a masked score
        parts = [Select(sympy.true, b) for b in (argument.yes, argument.no)]
        yes, no = ({} if b == sympy.S.NegativeInfinity else _read(sympy.exp(b), scope)
                   for b in parts)
        condition = _condition(argument.condition, scope)
        forms = scope.forms
        return forms.add(no, forms.mul(condition, forms.minus(yes, no)))
    return scope.forms.exp(_read(argument, scope))


@_read.register
def _(expr: sympy.log, scope: Scope) -> Sum:
    return scope.forms.log(_read(expr.args[0], scope))


@_read.register
def _(expr: Elementary, scope: Scope) -> Sum:
    return _read(native(type(expr).define(*expr.args)), scope)


BY_EXP: dict[Any, Callable[[Expr], Expr]] = {  # functions by exp, log and each other
    sympy.tanh: lambda x: 1 - 2 / (1 + sympy.exp(2 * x)),
    sympy.sinh: lambda x: (sympy.exp(x) - sympy.exp(-x)) / 2,
    sympy.cosh: lambda x: (sympy.exp(x) + sympy.exp(-x)) / 2,
    sympy.erfc: lambda x: 1 - sympy.erf(x),
    log1p: lambda x: sympy.log(1 + x),
    expm1: lambda x: sympy.exp(x) - 1,
}


def _by_exp(rewrite: Callable[[Expr], Expr]) -> Callable[[Any, Scope], Sum]:
    return lambda expr, scope: _read(rewrite(expr.args[0]), scope)


for _function, _rewrite in BY_EXP.items():
    _read.register(_function, _by_exp(_rewrite))


@_read.register
def _(expr: uniform, scope: Scope) -> Sum:
    return scope.forms.factor("T", "$uniform", tuple(read_place(a, scope) for a in expr.args))


@_read.register
def _(expr: sympy.Function, scope: Scope) -> Sum:
    if _is_place(expr):
        return _number_of(read_place(expr, scope), scope)
    if isinstance(expr, sympy.core.function.AppliedUndef) or len(expr.args) != 1:
        raise Undecided(f"the function {type(expr).__name__}")
    return scope.forms.opaque(type(expr).__name__, _read(expr.args[0], scope))


@_read.register
def _(expr: Reduction, scope: Scope) -> Sum:
    inner_scope, fresh, unrolled = scope, [], []
    for index in expr.bound:
        if index in scope.marked:
            unrolled.append(index)
            continue
        v = scope.forms.table.fresh(scope.size(index.size))
        fresh.append(v)
        inner_scope = replace(inner_scope, places={**inner_scope.places, index: variable_place(v)})
    body = expr.body
    if isinstance(expr, LogSumExpOver):
        return scope.forms.log(_combine(SumOver, sympy.exp(body), inner_scope, unrolled, fresh))
    return _combine(type(expr), body, inner_scope, unrolled, fresh)


def _combine(kind: type[Reduction], body: Expr, scope: Scope, unrolled: list[Index],
             fresh: list) -> Sum:
    """The reduction of a body over numbers (unrolled indices) and over variables."""
    forms, parts = scope.forms, []
    for numbers in product(*(range(int(scope.size(i.size))) for i in unrolled)):
        there = {i: constant_place(n) for i, n in zip(unrolled, numbers, strict=True)}
        parts.append(_read(body, replace(scope, places={**scope.places, **there})))
    if kind is SumOver:
        return forms.sum_over(forms.add(*parts), fresh)
    if unrolled and kind is ProdOver and not fresh:
        return forms.product(parts)
    if unrolled:
        return _joined(kind, parts, scope, fresh)
    return forms.reduce(kind.op, parts[0], fresh)


def _joined(kind: type[Reduction], parts: list[Sum], scope: Scope, fresh: list) -> Sum:
    """A maximum over listed elements: each counts where it is the largest."""
    forms = scope.forms
    if kind not in (MaxOver, MinOver) or fresh:
        raise Undecided(f"a {kind.op} over several unrolled indices")
    sign = 1 if kind is MaxOver else -1
    best = parts[0]
    for part in parts[1:]:
        larger = forms.pos(forms.scale(forms.minus(part, best), sign))
        best = forms.add(best, forms.mul(larger, forms.minus(part, best)))
    return best


# -- conditions -----------------------------------------------------------------------------------
@_read.register
def _(expr: BooleanAtom, scope: Scope) -> Sum:
    return scope.forms.constant(1 if expr else 0)


def _condition(expr: Any, scope: Scope) -> Sum:
    """1 where the condition holds, else 0."""
    forms = scope.forms
    if isinstance(expr, sympy.And):
        return forms.product(_condition(a, scope) for a in expr.args)
    if isinstance(expr, sympy.Or):
        fails = (forms.minus(forms.constant(1), _condition(a, scope)) for a in expr.args)
        return forms.minus(forms.constant(1), forms.product(fails))
    if isinstance(expr, sympy.Not):
        return forms.minus(forms.constant(1), _condition(expr.args[0], scope))
    if isinstance(expr, Relational):
        return _relation(expr, scope)
    return _read(expr, scope)


def _relation(expr: Relational, scope: Scope) -> Sum:
    forms, op = scope.forms, expr.rel_op
    if _is_place(expr.lhs) and _is_place(expr.rhs):
        place = add_places(read_place(expr.lhs, scope), read_place(expr.rhs, scope), Fraction(-1))
        return _place_relation(place, op, forms)
    difference = forms.minus(_read(expr.lhs, scope), _read(expr.rhs, scope))
    if op in ("<", "<="):
        difference, op = forms.scale(difference, -1), {"<": ">", "<=": ">="}[op]
    if op == ">":
        return forms.pos(difference)
    if op == ">=":  # not the opposite of the strict one: kinks are counted as such
        return forms.add(forms.pos(difference), forms.zero(difference))
    zero = forms.zero(difference)
    return zero if op == "==" else forms.minus(forms.constant(1), zero)


def _place_relation(place: Place, op: str, forms: Forms) -> Sum:
    if op in ("==", "!="):
        equal = forms.equal(place)
        return equal if op == "==" else forms.minus(forms.constant(1), equal)
    if op in ("<", "<="):
        place, op = add_places(constant_place(0), place, Fraction(-1)), op.replace("<", ">")
    return forms.at_least_zero(place if op == ">=" else add_places(place, constant_place(-1)))


@_read.register
def _(expr: sympy.logic.boolalg.Boolean, scope: Scope) -> Sum:
    return _condition(expr, scope)
