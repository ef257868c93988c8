"""Equations evaluated exactly at a random point: elements as residues of a large prime.

A formula without functions is a quotient of polynomials. If it is not zero everywhere, it is zero
at a point of random coordinates with a probability of at most its degree divided by the number of
values of a coordinate (Schwartz 1980, Zippel 1979). Here a coordinate has 2^90 values and the
prime some 250 bits, so that a difference of two gradients that comes out as zero exactly is zero
everywhere, but for a probability that is counted along (`Residue.up`, `Residue.down`).

Functions are taken along as unknowns. ``exp`` of a new argument is a random number; of one that is
a sum or a multiple of known arguments it is their product or power (``exp(a + b) = exp a · exp b``,
and no other law is needed: tanh and sigmoid are written with exp). A square root is a root of the
residue, so that the sign of roots is not decided here but by the evaluation at 50 digits that goes
along (`derive.verify.decide`). Any other function of equal arguments is the same unknown. What
follows from laws that are not known here comes out as different, never the other way round.
Conditions are decided at 50 digits, for the piece that the point lies in.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

import sympy
from sympy import Expr, Symbol
from sympy.logic.boolalg import BooleanAtom

from derive.functions import Elementary, native
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    Reduction,
    Select,
    SumOver,
)
from derive.program import Program
from derive.scalar import Elements, Point
from derive.verify.reading import BY_EXP
from derive.verify.terms import Undecided

SCALE = 150  # a coordinate is a whole number over 2^150
VALUES = 90  # bits of a coordinate that are drawn at random
_BITS = 250
_STEP = 8 * math.prod(sympy.primerange(3, 24))
_ROOTS = 12  # exponents of exp are multiples of 1/12
_MULTIPLES = tuple(sympy.Rational(n, d) for n in (1, -1, 2, -2, 3, -3) for d in (1, 2, 3))


class Redraw(Exception):
    """At this point a square root has no residue, or a divisor is zero: another point is needed."""


@dataclass(frozen=True)
class Residue:
    """A value modulo the prime; bounds of the degrees of numerator and denominator."""

    value: int
    up: int = 0
    down: int = 0


_MINUS_INFINITY = Residue(-1)  # a score that a mask hides: only its exp has a value


def random_prime() -> int:
    """A prime of 250 bits, drawn at random among those that are -1 modulo small primes: numbers
    made of these have square roots modulo it, and roots of odd small orders are unique."""
    while True:
        found = _STEP * secrets.randbits(_BITS - _STEP.bit_length()) - 1
        if found.bit_length() > _BITS - 8 and sympy.isprime(found):
            return found


@dataclass
class _Unknowns:
    """Functions met so far, by their argument."""

    exps: dict[int, int] = field(default_factory=dict)  # argument: the 12th root of its exp
    products: dict[int, Residue] = field(default_factory=dict)  # a sum of arguments: its exp
    logs: dict[int, Residue] = field(default_factory=dict)  # exp(v): v
    powers: dict[int, Residue] = field(default_factory=dict)  # log(u): u
    others: dict[tuple, int] = field(default_factory=dict)
    asked: int = 0
    widest: int = 1  # the largest degree of an argument


def _terms(expr: Expr) -> list[Expr]:
    """The terms of an argument, a number multiplied out."""
    number, rest = expr.as_coeff_Mul()
    return [number * term for term in sympy.Add.make_args(rest)]


class Residues:
    """The elements of a program's tensors modulo a prime, each computed once.

    Args:
        values: for each given tensor an object array of whole numbers, over 2^SCALE (those of
            integer tensors as they are).
        real: the same program at the same point, at 50 digits: it decides the conditions.
        prime: from `random_prime`.
    """

    def __init__(self, program: Program, values: Mapping[str, Any], sizes: Mapping[Symbol, int],
                 real: Elements, prime: int) -> None:
        self.program, self.values, self.sizes = program, values, sizes
        self.real, self.prime = real, prime
        self.known: dict[tuple[str, tuple[int, ...]], Residue | None] = {}
        self.unit = pow(pow(2, SCALE, prime), -1, prime)
        self.unknowns = _Unknowns()
        self.roots: set[int] = set()
        self.pieces = False  # whether a condition on data was decided: the bound is of its piece

    def chance(self, difference: Residue) -> float:
        """A bound on the probability that a difference that is zero here is not zero everywhere:
        of its degree, each square root doubling it, and of two arguments of functions that are
        equal here alone."""
        pairs = self.unknowns.asked * len(_MULTIPLES) * max(1, len(self.unknowns.exps)
                                                           + len(self.unknowns.others))
        degree = max(1, difference.up) * 2 ** min(len(self.roots), 60)
        return (degree + pairs * 2 * self.unknowns.widest) / 2.0**VALUES

    def element(self, name: str, place: tuple[int, ...] = ()) -> Residue | None:
        """One element of a tensor; None outside its bounds."""
        if name in self.values:
            array = self.values[name]
            if not all(0 <= p < n for p, n in zip(place, array.shape, strict=True)):
                return None
            whole = self.program.tensors[name].dtype == "int"
            number = int(array[place])
            return Residue(number % self.prime if whole else number * self.unit % self.prime,
                           0 if whole else 1)
        key = (name, place)
        if key not in self.known:
            eq = self.program.defined[name]
            inside = all(0 <= p < self.real.size(i)
                         for i, p in zip(eq.indices, place, strict=True))
            point = dict(zip(eq.indices, place, strict=True))
            self.known[key] = self.at(native(eq.body), point) if inside else None
        return self.known[key]

    # -- arithmetic -------------------------------------------------------------------------------
    def minus(self, a: Residue, b: Residue) -> Residue:
        return self._plus(a, Residue(-b.value % self.prime, b.up, b.down))

    def _plus(self, a: Residue, b: Residue) -> Residue:
        if a is _MINUS_INFINITY or b is _MINUS_INFINITY:
            return _MINUS_INFINITY
        return Residue((a.value + b.value) % self.prime,
                       max(a.up + b.down, b.up + a.down), a.down + b.down)

    def _times(self, a: Residue, b: Residue) -> Residue:
        if a is _MINUS_INFINITY or b is _MINUS_INFINITY:
            raise Undecided("a product with -∞")
        return Residue(a.value * b.value % self.prime, a.up + b.up, a.down + b.down)

    def _power(self, a: Residue, n: int) -> Residue:
        if n >= 0:
            return Residue(pow(a.value, n, self.prime), n * a.up, n * a.down)
        if a.value == 0:
            raise Redraw
        return Residue(pow(a.value, n, self.prime), -n * a.down, -n * a.up)

    def _root(self, a: Residue, q: int) -> Residue:
        """The root of a residue: of the two square roots the one that has a square root again."""
        value = a.value
        while q % 2 == 0:
            q //= 2
            root = pow(value, (self.prime + 1) // 4, self.prime)
            if root * root % self.prime != value:
                raise Redraw
            self.roots.add(value)
            value = root
        if math.gcd(q, self.prime - 1) != 1:
            raise Undecided(f"a root of order {q}")
        return Residue(pow(value, pow(q, -1, self.prime - 1), self.prime), a.up, a.down)

    # -- functions --------------------------------------------------------------------------------
    def _exp(self, expr: Expr, point: Point) -> Residue | None:
        """exp: known from a multiple of the argument, of a sum the product, or a new unknown."""
        argument = self.at(expr, point)
        if argument is None or argument is _MINUS_INFINITY:
            return None if argument is None else Residue(0)
        self._asks(argument)
        found = self._known_exp(argument)
        if found is not None:
            return found
        terms = _terms(expr)
        if len(terms) > 1:
            found = self._product([self._exp(t, point) for t in terms])
            if found is not None:
                self.unknowns.products[argument.value] = found
        else:
            root = secrets.randbelow(self.prime - 1) + 1
            self.unknowns.exps[argument.value] = root
            found = Residue(pow(root, _ROOTS, self.prime), _ROOTS)
        if found is not None:
            self.unknowns.logs[found.value] = argument
        return found

    def _known_exp(self, argument: Residue) -> Residue | None:
        if argument.value == 0:
            return Residue(1)
        for times in _MULTIPLES:
            base = argument.value * int(times.q) * pow(int(times.p), -1, self.prime) % self.prime
            if base in self.unknowns.exps:
                return self._power(Residue(self.unknowns.exps[base], 1), int(_ROOTS * times))
            whole = self.unknowns.products.get(base) or self.unknowns.powers.get(base)
            if whole is not None and times.is_integer:
                return self._power(whole, int(times))
        return None

    def _log(self, argument: Residue) -> Residue:
        self._asks(argument)
        if argument.value == 1:
            return Residue(0)
        known = self.unknowns.logs.get(argument.value)
        if known is not None:
            return known
        found = self._other("log", argument)
        self.unknowns.powers[found.value] = argument
        return found

    def _other(self, name: str, *arguments: Residue) -> Residue:
        """A function of which nothing is known but that it is one."""
        for argument in arguments:
            self._asks(argument)
        key = (name, *(a.value for a in arguments))
        if key not in self.unknowns.others:
            self.unknowns.others[key] = secrets.randbelow(self.prime)
        return Residue(self.unknowns.others[key], 1)

    def _asks(self, argument: Residue) -> None:
        self.unknowns.asked += 1
        self.unknowns.widest = max(self.unknowns.widest, argument.up + argument.down)

    # -- one case for each kind of node -----------------------------------------------------------
    @singledispatchmethod
    def at(self, expr: Any, point: Point) -> Residue | None:
        """The residue of an expression at one value of every index; None where undefined."""
        raise Undecided(f"{type(expr).__name__}: {expr}")

    @at.register
    def _(self, expr: sympy.Rational, point: Point) -> Residue | None:
        return Residue(int(expr.p) * pow(int(expr.q), -1, self.prime) % self.prime)

    @at.register(type(sympy.S.NegativeInfinity))
    def _(self, expr: Expr, point: Point) -> Residue | None:
        return _MINUS_INFINITY

    @at.register
    def _(self, expr: sympy.NumberSymbol, point: Point) -> Residue | None:
        return self._other(str(expr))

    @at.register
    def _(self, expr: sympy.Symbol, point: Point) -> Residue | None:
        return Residue(point[expr] if isinstance(expr, Index) else int(self.sizes[expr]))

    @at.register
    def _(self, expr: Access, point: Point) -> Residue | None:
        places = [self.real.at(where, point) for where in expr.where]
        if any(p is None or p != int(p) for p in places):
            return None  # between two elements: a guard keeps it from being used
        return self.element(expr.name, tuple(int(p) for p in places))

    @at.register
    def _(self, expr: sympy.Add, point: Point) -> Residue | None:
        return self._sum([self.at(a, point) for a in expr.args])

    @at.register
    def _(self, expr: sympy.Mul, point: Point) -> Residue | None:
        return self._product([self.at(a, point) for a in expr.args])

    @at.register
    def _(self, expr: sympy.Pow, point: Point) -> Residue | None:
        if expr.base == sympy.E:
            return self._exp(expr.exp, point)
        base = self.at(expr.base, point)
        if base is None:
            return None
        if expr.exp.is_Rational:
            return self._power(self._root(base, int(expr.exp.q)), int(expr.exp.p))
        return self._exp(expr.exp * sympy.log(expr.base), point)

    @at.register
    def _(self, expr: sympy.exp, point: Point) -> Residue | None:
        return self._exp(expr.args[0], point)

    @at.register
    def _(self, expr: sympy.log, point: Point) -> Residue | None:
        argument = self.at(expr.args[0], point)
        return None if argument is None else self._log(argument)

    @at.register
    def _(self, expr: Elementary, point: Point) -> Residue | None:
        return self.at(type(expr).define(*expr.args), point)

    @at.register
    def _(self, expr: Select, point: Point) -> Residue | None:
        self.pieces = self.pieces or any(
            not isinstance(a, IntegerAccess) for a in expr.condition.atoms(Access))
        return self.at(expr.yes if self.real.at(expr.condition, point) else expr.no, point)

    @at.register
    def _(self, expr: BooleanAtom, point: Point) -> Residue | None:
        return Residue(1 if expr else 0)

    @at.register
    def _(self, expr: Reduction, point: Point) -> Residue | None:
        points = self.real.points(expr.bound, point)
        if isinstance(expr, MaxOver | MinOver):
            self.pieces = True
            best = max if isinstance(expr, MaxOver) else min
            return self.at(expr.body, best(points, key=lambda p: self.real.at(expr.body, p)))
        if isinstance(expr, LogSumExpOver):
            total = self._sum([self._exp(expr.body, p) for p in points])
            return None if total is None else self._log(total)
        parts = [self.at(expr.body, p) for p in points]
        return self._sum(parts) if isinstance(expr, SumOver) else self._product(parts)

    @at.register
    def _(self, expr: sympy.Function, point: Point) -> Residue | None:
        rewrite = BY_EXP.get(type(expr))
        if rewrite is not None:
            return self.at(rewrite(expr.args[0]), point)
        if expr.is_integer:  # a quotient or remainder of whole numbers
            whole = self.real.at(expr, point)
            return None if whole is None else Residue(int(whole) % self.prime)
        arguments = [self.at(a, point) for a in expr.args]
        if None in arguments:
            return None
        return self._other(type(expr).__name__, *(a for a in arguments if a is not None))

    def _sum(self, parts: list[Residue | None]) -> Residue | None:
        return self._folded(self._plus, Residue(0), parts)

    def _product(self, parts: list[Residue | None]) -> Residue | None:
        return self._folded(self._times, Residue(1), parts)

    @staticmethod
    def _folded(combine: Callable[[Residue, Residue], Residue], first: Residue,
                parts: list[Residue | None]) -> Residue | None:
        for part in parts:
            if part is None:
                return None
            first = combine(first, part)
        return first
