"""Functions of normal forms: exp and log, which undo each other, and those that stay opaque."""

from __future__ import annotations

from fractions import Fraction

from derive.verify.algebra import ONE, UNIT, Algebra, leading
from derive.verify.terms import Monomial, Sum, Undecided, freeze

_ODD = ("erf", "sin", "tan", "asin", "atan", "asinh", "atanh")


class Exponentials(Algebra):
    """An algebra whose forms can stand in functions."""

    def exp(self, terms: Sum) -> Sum:
        total = self.constant(1)
        for m, c in terms.items():
            total = self.mul(total, self._exp_term(m, c))
        return total

    def _exp_term(self, m: Monomial, c: Fraction) -> Sum:
        if m == UNIT:
            return self.monomial([(self.table.number(("C", "e")), c)])
        if len(m) == 1 and m[0][1] == 1:
            f = self.table.factors[m[0][0]]
            if f[0] == "F" and f[1] == "log":
                return self.power(dict(f[2]), c)
        for n, e in m:
            if self.kind(n) in "ID":  # exp([c]·x) = [c]·exp(x) + 1 - [c]
                inner = self._exp_term(tuple(x for x in m if x[0] != n), c)
                here: Sum = {((n, e),): ONE}
                changed = self.minus(inner, self.constant(1))
                return self.add(self.constant(1), self.mul(here, changed))
        return self.monomial([(self.table.number(("E", m)), c)])

    def log(self, terms: Sum) -> Sum:
        if not terms:
            raise Undecided("the logarithm of 0")
        content, c, rest = self.content(terms, signed=False)
        if len(terms) == 1:
            (whole, c), = terms.items()
            content = tuple((n, e) for n, e in whole if self.positive(n))
            rest = {tuple(x for x in whole if x not in content): Fraction(1 if c > 0 else -1)}
        total = self._log_number(abs(c))
        for n, e in content:
            f = self.table.factors[n]
            inner = {f[1]: ONE} if f[0] == "E" else self._log_atom(
                dict(f[1]) if f[0] == "P" else {((n, ONE),): ONE})
            total = self.add(total, self.scale(inner, e))
        return total if rest == {UNIT: ONE} else self.add(total, self._log_atom(rest))

    def _log_atom(self, terms: Sum) -> Sum:
        return self.factor("F", "log", freeze(terms))

    def _log_number(self, c: Fraction) -> Sum:
        (powers, whole), = self._number_power(c, Fraction(1, 2)).items()
        found = {self.table.factors[n][1]: 2 * e for n, e in powers}
        for value, sign in ((whole.numerator, 2), (whole.denominator, -2)):
            if value != 1:
                found[value] = found.get(value, Fraction(0)) + sign
        return self.add(*(self.scale(self._log_atom(self.constant(p)), e)
                          for p, e in found.items()))

    def opaque(self, name: str, terms: Sum, *more: object) -> Sum:
        if name in _ODD and terms and terms[leading(terms)] < 0:
            return self.scale(self.factor("F", name, freeze(self.scale(terms, -1)), *more), -1)
        return self.factor("F", name, freeze(terms), *more)
