"""Arithmetic on normal forms: sums of products with every rewrite that keeps their value.

Two forms that are equal term by term are equal wherever both sides are defined. The rewrites:
distribution; exp(a + b) = exp a · exp b; powers of a product; common factors taken out of a sum
under an exponent, so that numerator and denominator meet; u·u^-1 = 1 for a sum u, by
lead(u)·u^-q = u^(1-q) - rest(u)·u^-q; indicators are idempotent; sums over an index are pulled
apart into connected pieces, and an index that an equality determines is substituted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import gcd, lcm

from derive.verify.terms import (
    Frozen,
    Monomial,
    Place,
    Sum,
    Table,
    Undecided,
    Variable,
    freeze,
)

ONE = Fraction(1)
UNIT: Monomial = ()
_WORK = 400_000  # products of monomials in one question


class Algebra:
    """Normal forms over one table. ``signs`` may say what is known of an element of a tensor:
    True where it is positive for every value of what it is computed from."""

    def __init__(self, table: Table, kinks: bool = False) -> None:
        """``kinks``: take every indicator of a zero for 0, which is right away from kinks."""
        self.table, self.kinks = table, kinks
        self.work = 0
        self.deadline = float("inf")  # in processor time
        self.dropped: dict[Frozen, None] = {}
        self.thresholds: dict[int, tuple[Frozen, Fraction]] = {}
        self.distributions: set[str] = set()
        self.relu_like: Callable[[int], Sum | None] = lambda n: None

    # -- making -----------------------------------------------------------------------------------
    def constant(self, value: Fraction | int) -> Sum:
        return {UNIT: Fraction(value)} if value else {}

    def factor(self, *parts: object) -> Sum:
        return {((self.table.number(tuple(parts)), ONE),): ONE}

    def kind(self, n: int) -> str:
        return self.table.factors[n][0]

    # -- sums and products ------------------------------------------------------------------------
    def add(self, *sums: Sum) -> Sum:
        total: Sum = {}
        for terms in sums:
            for m, c in terms.items():
                value = total.get(m, 0) + c
                if value:
                    total[m] = value
                else:
                    total.pop(m, None)
        return total

    def scale(self, terms: Sum, by: Fraction | int) -> Sum:
        return {m: c * by for m, c in terms.items()} if by else {}

    def minus(self, a: Sum, b: Sum) -> Sum:
        return self.add(a, self.scale(b, -1))

    def mul(self, a: Sum, b: Sum) -> Sum:
        total: Sum = {}
        for m, c in a.items():
            for n, d in b.items():
                self._spend()
                _into(total, self.monomial((*m, *n)), c * d)
        return total

    def _spend(self) -> None:
        self.work += 1
        if self.work > _WORK:
            raise Undecided("the expressions grow too large")
        if self.work % 256 == 0:
            self.look_at_the_clock()

    def look_at_the_clock(self) -> None:
        """End the question where its time is over."""
        if time.process_time() > self.deadline:
            raise Undecided("the time for a proof was over")

    def product(self, sums: Iterable[Sum]) -> Sum:
        total = self.constant(1)
        for terms in sums:
            total = self.mul(total, terms)
        return total

    def monomial(self, parts: Iterable[tuple[int, Fraction]]) -> Sum:
        """A product of factors in normal form: usually one term."""
        powers: dict[int, Fraction] = {}
        for n, e in parts:
            powers[n] = powers.get(n, 0) + e
        coefficient = ONE
        for n, e in list(powers.items()):
            kind = self.kind(n)
            if e == 0:
                del powers[n]
            elif kind in "ID":
                powers[n] = ONE
            elif kind == "P" and e >= 1:
                return self._opened(powers, n, e)
            elif kind == "C" and not isinstance(self.table.factors[n][1], str):
                whole = e.numerator // e.denominator
                coefficient *= Fraction(self.table.factors[n][1]) ** whole
                powers[n] = e - whole
                if powers[n] == 0:
                    del powers[n]
        reduced = self._reduced(powers)
        if reduced is not None:
            return self.scale(reduced, coefficient)
        return {tuple(sorted(powers.items())): coefficient}

    def _opened(self, powers: dict[int, Fraction], n: int, e: Fraction) -> Sum:
        """A sum to a power of at least 1 is multiplied out."""
        whole = e.numerator // e.denominator
        rest = {**powers, n: e - whole}
        total = self.monomial(rest.items())
        for _ in range(whole):
            total = self.mul(total, dict(self.table.factors[n][1]))
        return total

    def _reduced(self, powers: dict[int, Fraction]) -> Sum | None:
        """One rewrite of a product, if any applies."""
        inside = {n for n in powers if self.kind(n) in "PI"}
        indicators = [n for n in inside if self.kind(n) == "I"]
        crossed = self._crossed(indicators) if len(indicators) > 1 else None
        if crossed is not None:
            return {} if crossed < 0 else self.monomial(
                (n, e) for n, e in powers.items() if n != crossed)
        for n in sorted(inside):
            factor = self.table.factors[n]
            if factor[0] == "I":
                if factor[1] == "pos":
                    continue
                terms = dict(factor[2])
                found = self._lead_in(terms, powers)
                if found is not None:  # P·[P = 0] = 0
                    lead, rest = found
                    others = self.scale(_without(terms, lead), -1 / terms[lead])
                    return self.mul(others, self.monomial(rest))
            elif powers[n] < 0:
                terms = dict(factor[1])
                found = self._lead_in(terms, powers)
                if found is not None:
                    lead, rest = found
                    one = self.monomial([*rest, (n, ONE)])
                    others = self.scale(_without(terms, lead), -1)
                    both = self.add(one, self.mul(others, self.monomial(rest)))
                    return self.scale(both, 1 / terms[lead])
        return None

    def _crossed(self, indicators: list[int]) -> int | None:
        """Of two indicators of one quantity, u + a > 0 and u + b > 0, one that the other brings
        along; -1 where both cannot hold."""
        known: dict[Frozen, tuple[int, str, Fraction]] = {}
        for n in sorted(indicators):
            what, (quantity, edge) = self.table.factors[n][1], self._threshold(n)
            if quantity not in known:
                known[quantity] = n, what, edge
                continue
            other, kind, there = known[quantity]
            if what == kind == "pos":
                return n if edge > there else other
            if what == kind:
                return -1 if edge != there else None
            positive, zero = (edge, there) if what == "pos" else (there, edge)
            return (n if what == "pos" else other) if positive > zero else -1
        return None

    def _threshold(self, n: int) -> tuple[Frozen, Fraction]:
        """The quantity u and the number a of an indicator of u + a, u scaled to a first
        coefficient of ±1."""
        if n not in self.thresholds:
            terms = dict(self.table.factors[n][2])
            edge = terms.pop(UNIT, Fraction(0))
            scale = abs(min(terms.items())[1])
            self.thresholds[n] = freeze(self.scale(terms, 1 / scale)), edge / scale
        return self.thresholds[n]

    def _lead_in(
        self, terms: Sum, powers: dict[int, Fraction]
    ) -> tuple[Monomial, list[tuple[int, Fraction]]] | None:
        """The leading monomial of a sum and what is left of a product that it divides."""
        lead = leading(terms)
        if lead == UNIT or any(powers.get(n, 0) < e if e > 0 else powers.get(n, 0) > e
                               for n, e in lead):
            return None
        self._spend()
        left = dict(powers)
        for n, e in lead:
            left[n] -= e
        return lead, list(left.items())

    # -- powers -----------------------------------------------------------------------------------
    def power(self, base: Sum, q: Fraction) -> Sum:
        if q == 0:
            return self.constant(1)
        if q == 1:
            return base
        if not base:
            if q > 0:
                return {}
            raise Undecided("a division by zero")
        if len(base) == 1:
            (m, c), = base.items()
            return self._monomial_power(m, c, q)
        if q.denominator == 1 and q > 0:
            total = self.constant(1)
            for _ in range(int(q)):
                total = self.mul(total, base)
            return total
        content, coefficient, rest = self.content(base, signed=q.denominator == 1)
        inner = self._root(((freeze(rest)),), q)
        outside = self._monomial_power(content, coefficient, q)
        return self.mul(outside, inner)

    def _root(self, parts: tuple[Frozen], q: Fraction) -> Sum:
        return self.monomial([(self.table.number(("P", parts[0])), q)])

    def _monomial_power(self, m: Monomial, c: Fraction, q: Fraction) -> Sum:
        outside: list[tuple[int, Fraction]] = []
        inside: list[tuple[int, Fraction]] = []
        for n, e in m:
            # what stands under a square root itself is not negative where there is a value
            easy = (q.denominator == 1 or e.denominator % 2 == 0 or self.positive(n)
                    or self.kind(n) in "ID")
            (outside if easy else inside).append((n, e if self.kind(n) in "ID" else e * q)
                                                 if easy else (n, e))
        if any(self.kind(n) in "ID" for n, _ in outside) and q < 0:
            raise Undecided("a division by something that may be zero")
        if q.denominator == 1:
            value: Sum = self.constant(c**int(q))
        else:
            value = self._number_power(abs(c), q)
        sign = -1 if c < 0 and q.denominator != 1 else 1
        if inside or sign < 0:
            if sign > 0 and len(inside) == 1 and inside[0][1] == 1:
                outside.append((inside[0][0], q))
            else:
                inside.sort()
                up = 1 if not inside or inside[0][1] > 0 else -1  # (1/x)^q is x^-q
                under = tuple((n, e * up) for n, e in inside)
                outside.append((self.table.number(("P", ((under, Fraction(sign)),))), q * up))
        return self.mul(value, self.monomial(outside))

    def _number_power(self, c: Fraction, q: Fraction) -> Sum:
        """A positive number to a power that is not whole, by primes."""
        parts = []
        for value, sign in ((c.numerator, 1), (c.denominator, -1)):
            parts += [(self.table.number(("C", p)), q * e * sign) for p, e in _primes(value)]
        return self.monomial(parts)

    def content(self, terms: Sum, signed: bool) -> tuple[Monomial, Fraction, Sum]:
        """``(m, c, rest)`` with ``terms = c·m·rest``: the largest common factor, and rest with
        whole coprime coefficients (the leading one positive if ``signed``)."""
        lowest: dict[int, Fraction] = {}
        every = {n for m in terms for n, _ in m}
        for n in every:
            low = min(dict(m).get(n, Fraction(0)) for m in terms)
            if low and self.kind(n) not in "ID" and (signed or self.positive(n)):
                lowest[n] = low
        inverse = [(n, -e) for n, e in lowest.items()]
        rest: Sum = {}
        for m, c in terms.items():
            _into(rest, self.monomial((*m, *inverse)), c)
        top, bottom = 0, 1
        for c in rest.values():
            top, bottom = gcd(top, abs(c.numerator)), lcm(bottom, c.denominator)
        scale = Fraction(top, bottom)
        if signed and rest[leading(rest)] < 0:
            scale = -scale
        return tuple(sorted(lowest.items())), scale, self.scale(rest, 1 / scale)

    # -- signs ------------------------------------------------------------------------------------
    def positive(self, n: int) -> bool:
        """Whether a factor is positive whatever the values of the tensors in it."""
        f = self.table.factors[n]
        if f[0] in ("E", "N", "C"):
            return True
        if f[0] == "S":
            return all(self.positive(k) for k, _ in f[2])
        if f[0] == "P":
            return self.positive_sum(dict(f[1]))
        return False

    def positive_sum(self, terms: Sum) -> bool:
        """Whether every term is positive or (all but one) a square."""
        sure = False
        for m, c in terms.items():
            if c < 0:
                return False
            if all(self.positive(n) for n, _ in m):
                sure = True
            elif not all(self.positive(n) or (e.denominator == 1 and e % 2 == 0) for n, e in m):
                return False
        return sure


def leading(terms: Sum) -> Monomial:
    """The monomial that stands first in the order by which sums are divided."""
    return max(terms, key=lambda m: (sum(e for _, e in m), sorted(m, reverse=True)))


def _into(total: Sum, terms: Sum, by: Fraction) -> None:
    for m, c in terms.items():
        value = total.get(m, 0) + c * by
        if value:
            total[m] = value
        else:
            total.pop(m, None)


def _without(terms: Sum, lead: Monomial) -> Sum:
    return {m: c for m, c in terms.items() if m != lead}


def _primes(value: int) -> list[tuple[int, int]]:
    found, p = [], 2
    while value > 1:
        if p * p > value:
            p = value
        if p > 100_000:  # no one writes such a number under a root
            p = value
        e = 0
        while value % p == 0:
            value, e = value // p, e + 1
        if e:
            found.append((p, e))
        p += 1
    return found


__all__ = ["ONE", "UNIT", "Algebra", "Place", "Variable", "leading"]
