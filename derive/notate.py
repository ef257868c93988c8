"""From SymPy bodies to the notation of people: `Expr` → a small frozen tree.

SymPy keeps no order of terms, so the order for readers is made here, once, for every printer
(`derive.text`, `derive.latex`, `derive.mathml`), from the equation alone: the same equation
prints as the same line wherever it stands.

Factors: numbers, scalars, then accesses in the order of their indices (first those of the target,
then the bound ones), so that a product reads as the matrix product that it is; among equals
data come before gradients and plain accesses before sums in parentheses. Terms: reductions, then
positive terms, then negative ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatchmethod

import sympy
from sympy import Add, Expr, Mul, Pow, Rational, S

from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    Reduction,
    Select,
    SumOver,
    accesses,
)
from derive.notation import (
    ONE,
    Big,
    Bracket,
    Call,
    Choice,
    Congruent,
    Element,
    Fraction,
    Junction,
    Name,
    Negation,
    Node,
    Number,
    Power,
    Relation,
    Root,
    Statement,
    Sum,
    product,
)


def number_text(value: Rational) -> str | None:
    """A rational as a decimal where it must have been written as one (0.1, 0.044715), else None.

    A denominator without the factor 5 (halves, thirds, …) is a fraction to everyone.
    """
    q = int(value.q)
    if q == 1:
        return str(value.p)
    twos = fives = 0
    while q % 2 == 0:
        q, twos = q // 2, twos + 1
    while q % 5 == 0:
        q, fives = q // 5, fives + 1
    digits = max(twos, fives)
    if q != 1 or fives == 0 or digits > 15:
        return None
    text = str(abs(int(value.p)) * 10**digits // int(value.q)).rjust(digits + 1, "0")
    return ("-" if value.p < 0 else "") + text[:-digits] + "." + text[-digits:]


_SCALAR, _TENSOR, _GRADIENT = 1, 2, 3
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class Builder:
    """Builds the notation of one body; ``order`` is the reading order of its indices."""

    def __init__(self, indices: Iterable[Index] = ()) -> None:
        self.order = {i.name: n for n, i in enumerate(indices)}

    # -- order --------------------------------------------------------------------------------
    def _places(self, expr: Expr) -> tuple[int, ...]:
        names = {s.name for s in expr.free_symbols if isinstance(s, Index)}
        return tuple(sorted(self.order.get(n, 99) for n in names)) or (100,)

    def _factor_key(self, expr: Expr) -> tuple:
        found = expr.atoms(Access)
        if expr.is_number:
            return (0, (), 0, str(expr))
        ranked = [a for a in found if a.where]
        if not ranked and not expr.has(Reduction, Select):
            return (_SCALAR, (), isinstance(expr, Add), str(expr))
        gradient = any(a.name.startswith("_d_") for a in found)
        shape = 0 if isinstance(expr, Access | Select) else 2 if isinstance(expr, Add) else 1
        big = isinstance(expr, Reduction)
        return (_TENSOR, big, self._places(expr), gradient, shape, str(expr))

    def _term_key(self, expr: Expr) -> tuple:
        factors = Mul.make_args(expr)
        big = any(self._is_big(f) for f in factors)
        negative = expr.as_coeff_Mul()[0].is_negative is True
        if expr.is_number:  # 1 - h, but v + 0.001
            return (1, negative, -1 if expr.is_Integer else 2, 0, 0, "", "")
        scalar = not any(a.where for a in expr.atoms(Access))
        grouped = any(
            isinstance(f, Add) and not any(a.where for a in f.atoms(Access)) for f in factors
        )
        names = sorted(a.name for a in expr.atoms(Access) if a.where)
        plain = [f for f in factors if not f.is_number]
        return (0 if big else 1, negative, scalar, grouped, -len(plain), names[0] if names else "",
                str(expr))

    # -- expressions --------------------------------------------------------------------------
    @singledispatchmethod
    def build(self, expr: Expr) -> Node:
        if isinstance(expr, sympy.Function):
            name = type(expr).__name__
            return Call(name, tuple(self.build(a) for a in expr.args))
        if expr is S.Infinity:
            return Number("inf")
        if expr is S.NegativeInfinity:
            return Sum(((True, Number("inf")),))
        raise TypeError(f"no notation for {type(expr).__name__}")

    @build.register
    def _(self, expr: sympy.Symbol) -> Node:
        return Name(expr.name, "index" if isinstance(expr, Index) else "size")

    @build.register
    def _(self, expr: Access) -> Node:
        return Element(Name(expr.name), tuple(self.index(e) for e in expr.where))

    @build.register
    def _(self, expr: Rational) -> Node:
        if expr < 0:
            return Sum(((True, self.build(-expr)),))
        text = number_text(expr)
        return Number(text) if text else Fraction(Number(str(expr.p)), Number(str(expr.q)))

    @build.register
    def _(self, expr: sympy.Float) -> Node:
        return self.build(Rational(repr(float(expr))))

    @build.register
    def _(self, expr: sympy.NumberSymbol) -> Node:
        return Number({"Exp1": "e", "Pi": "π"}[type(expr).__name__])

    @build.register
    def _(self, expr: Add) -> Node:
        terms = sorted(expr.args, key=self._term_key)
        return Sum(tuple(self._signed(t) for t in terms))

    def _signed(self, term: Expr) -> tuple[bool, Node]:
        coefficient, rest = term.as_coeff_Mul()
        if coefficient.is_negative:
            parts = (-coefficient, *Mul.make_args(rest))
            return True, self.build(rest if coefficient == -1 else Mul(*parts, evaluate=False))
        return False, self.build(term)

    @build.register
    def _(self, expr: Mul) -> Node:
        coefficient, _ = expr.as_coeff_Mul()
        if coefficient.is_negative:
            return Sum((self._signed(expr),))
        guard, expr = _guarded(expr)
        if guard is not None:
            return self.build(Select(guard, expr))
        above: list[Expr] = []
        below: list[Expr] = []
        for factor in Mul.make_args(expr):
            if isinstance(factor, Pow) and factor.exp.is_number and factor.exp.is_negative:
                below.append(1 / factor)
            else:
                above.append(factor)
        coefficient = Mul(*(f for f in above if isinstance(f, Rational)))
        above = [f for f in above if not isinstance(f, Rational)]
        upper, lower = self._coefficient(coefficient, above, bool(below))
        big = [f for f in above if self._is_big(f)]
        front = [f for f in above if not self._is_big(f)]
        below.sort(key=self._factor_key)
        under: list[Node] = [Number(lower)] if lower else []
        under += [self.build(f) for f in below]
        over: list[Node] = [Number(upper)] if upper else []
        over += [self.build(f) for f in sorted(front, key=self._factor_key)]
        tail = [self.build(f) for f in sorted(big, key=self._factor_key)]
        if not under:
            return product(over + tail)
        plain_front = tail and front  # data stay outside the fraction where a sum follows
        inside = over[: 1 if upper else 0] if plain_front else over
        outside = over[len(inside):]
        return product([Fraction(product(inside), product(under)), *outside, *tail])

    @staticmethod
    def _is_big(factor: Expr) -> bool:
        return isinstance(factor, Reduction) or (
            isinstance(factor, Select) and factor.no == 0
            and any(isinstance(f, Reduction) for f in Mul.make_args(factor.yes))
        )

    def _coefficient(self, c: Rational, above: list[Expr], below: bool) -> tuple[str, str]:
        """A positive coefficient as what stands above and below the line."""
        decimal = number_text(c)
        averaged = below or any(isinstance(f, Reduction) for f in above)
        if c.q == 1 or (decimal and not (averaged and c.p == 1)):
            return (decimal or "", "") if c != 1 or not above else ("", "")
        return str(c.p) if c.p != 1 else "", str(c.q)

    @build.register
    def _(self, expr: Pow) -> Node:
        base, exponent = expr.args
        if exponent.is_number and exponent.is_negative:
            return Fraction(ONE, self.build(1 / expr))
        if exponent == S.Half:
            return Root(self.build(base))
        return Power(self.build(base), self.build(exponent))

    @build.register
    def _(self, expr: Elementary) -> Node:
        args = tuple(self.build(a) for a in expr.args)
        return Call(type(expr).__name__, args, type(expr).symbol)

    @build.register
    def _(self, expr: sympy.exp) -> Node:
        return Call("exp", (self.build(expr.args[0]),))

    @build.register
    def _(self, expr: sympy.floor) -> Node:
        return Call("floor", (self.index(expr.args[0]),))

    @build.register
    def _(self, expr: sympy.Mod) -> Node:
        return Call("mod", (self.index(expr.args[0]), self.index(expr.args[1])))

    @build.register
    def _(self, expr: Reduction) -> Node:
        inner = Builder()
        inner.order = {**self.order}
        for index in expr.bound:
            inner.order[index.name] = len(inner.order)
        body, condition = expr.body, None
        if isinstance(expr, SumOver):
            guard, inside = _guarded(body)
            if guard is not None and (inside != 1 or not guard.has(Access)):
                body, condition = inside, inner.condition(guard)
        elif isinstance(expr, LogSumExpOver) and isinstance(body, Select) \
                and body.no is S.NegativeInfinity:
            body, condition = body.yes, inner.condition(body.condition)
        bound = tuple(Name(i.name, "index") for i in expr.bound)
        plain = {w for a in accesses(expr.body) for w in a.where}
        limits = tuple(None if i in plain else self.build(i.size) for i in expr.bound)
        return Big(expr.op, bound, inner.build(body), condition, limits if any(limits) else ())

    @build.register
    def _(self, expr: Select) -> Node:
        condition = self.condition(expr.condition)
        if expr.no == 0 and expr.yes == 1:
            return Bracket(condition)
        return Choice(condition, self.build(expr.yes), self.build(expr.no))

    # -- index expressions ----------------------------------------------------------------------
    def index(self, expr: Expr) -> Node:
        """An index expression over its common denominator: ``(i - r + 1)/2``."""
        if isinstance(expr, Access):
            return self.build(expr)
        above, below = sympy.fraction(sympy.together(expr))
        node = self._affine(sympy.expand(above))
        return node if below == 1 else Fraction(node, self.build(below))

    def _affine(self, expr: Expr) -> Node:
        if not isinstance(expr, Add):
            return self.build(expr)

        def key(term: Expr) -> tuple:
            coefficient, rest = term.as_coeff_Mul()
            return (bool(rest == 1), bool(coefficient < 0), -abs(float(coefficient)),
                    self._places(term), str(rest))

        terms = sorted(expr.args, key=key)
        if key(terms[0])[1] and any(t.as_coeff_Mul()[0] > 0 for t in terms):
            terms.sort(key=lambda t: key(t)[1])  # 3 - k, not -k + 3
        return Sum(tuple(self._signed(t) for t in terms))

    # -- conditions -----------------------------------------------------------------------------
    def condition(self, expr: Expr) -> Node:
        """A condition, with ``0 <= e`` and ``e < n`` joined to one chain."""
        if isinstance(expr, sympy.And):
            parts = [self.condition(a) for a in sorted(expr.args, key=_condition_key)]
            return Junction("and", tuple(_joined(parts)))
        if isinstance(expr, sympy.Or):
            args = sorted(expr.args, key=_condition_key)
            return Junction("or", tuple(self.condition(a) for a in args))
        if isinstance(expr, sympy.Not):
            return Negation(self.condition(expr.args[0]))
        if not isinstance(expr, sympy.core.relational.Relational):
            return Name(str(expr), "size")
        left, right, op = expr.lhs, expr.rhs, _OPS[type(expr)]
        if isinstance(left, sympy.Mod) and op == "=":
            return Congruent(self.index(left.args[0]), self.build(right), self.build(left.args[1]))
        if left.is_integer and right.is_integer:
            left, right, op = _constant_moved(left, right, op)
            a, b = self.index(left), self.index(right)
        else:
            a, b = self._side(left), self._side(right)
        floats = left.atoms(Access) - left.atoms(IntegerAccess)
        if op in (">", ">=") and right == 0 and left.has(Index) and not floats:
            a, b, op = b, a, _FLIPPED[op]  # 0 <= e: joined with e < n further up
        return Relation((a, b), (op,))

    def _side(self, expr: Expr) -> Node:
        integer = expr.has(Index) and not expr.has(Access)
        return self.index(expr) if integer else self.build(expr)


_OPS = {
    sympy.Eq: "=", sympy.Ne: "!=", sympy.Lt: "<", sympy.Le: "<=", sympy.Gt: ">", sympy.Ge: ">=",
}  # fmt: skip


def _condition_key(expr: Expr) -> tuple:
    # bounds before what reads an element at an index within them
    return (expr.has(Access), not expr.has(sympy.Mod), str(sorted(map(str, expr.free_symbols))),
            isinstance(expr, sympy.Lt | sympy.Le), str(expr))


def _constant_moved(left: Expr, right: Expr, op: str) -> tuple[Expr, Expr, str]:
    """``t - 1 >= 0`` as ``t >= 1``: where one plain index stands against a number."""
    constant, rest = left.as_coeff_Add()
    if isinstance(rest, Index) and right.is_number and constant != 0:
        return rest, right - constant, op
    return left, right, op


def _guarded(expr: Expr) -> tuple[Expr | None, Expr]:
    """A product with its guards (``value where condition, else 0``) taken out in front; one that
    stands beside numbers only is a factor like any other."""
    guards = [f for f in Mul.make_args(expr) if isinstance(f, Select) and f.no == 0]
    if not guards or (isinstance(expr, Mul) and len(guards) == 1 and guards[0].yes == 1
                      and not Mul(*(f for f in expr.args if f not in guards)).has(Access)):
        return None, expr
    rest = [f for f in Mul.make_args(expr) if f not in guards]
    return sympy.And(*(g.condition for g in guards)), Mul(*(g.yes for g in guards), *rest)


def _joined(parts: list[Node]) -> list[Node]:
    """``0 <= e`` and ``e < n`` become ``0 <= e < n``."""
    out: list[Node] = []
    for part in parts:
        if isinstance(part, Relation) and part.ops[0] in ("<", "<="):
            fits = [
                n for n, o in enumerate(out)
                if isinstance(o, Relation) and o.parts[-1] == part.parts[0]
                and o.ops[-1] in ("<", "<=")
            ]
            if fits:
                old = out[fits[0]]
                assert isinstance(old, Relation)
                out[fits[0]] = Relation((*old.parts, *part.parts[1:]), (*old.ops, *part.ops))
                continue
        out.append(part)
    return out


def notation(expr: Expr, indices: Iterable[Index] = ()) -> Node:
    """The notation of a scalar body whose free indices are ``indices``."""
    return Builder(indices).build(expr)


def statement(target: Access, indices: Iterable[Index], body: Expr) -> Statement:
    """The notation of ``target = body``."""
    builder = Builder(indices)
    left = builder.build(target)
    assert isinstance(left, Element)
    return Statement(left, builder.build(body))
