"""Indicators and sums over indices on normal forms, and substitution into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from derive.verify.algebra import ONE, UNIT, leading
from derive.verify.exponentials import Exponentials
from derive.verify.terms import (
    Factor,
    Monomial,
    Place,
    Sum,
    Variable,
    add_places,
    constant_place,
    freeze,
    place_variables,
    put_places,
)


@dataclass(frozen=True)
class Expand:
    """Which tensors are written out, and the form of an element of one of them."""

    names: frozenset[str]
    form: Callable[[str, tuple[Place, ...]], Sum]


def _isolated(place: Place, v: Variable) -> Place | None:
    """The value of a variable that makes a place zero, where it occurs once with slope ±1."""
    slope = dict(place[0]).get(v, Fraction(0))
    rest = tuple(x for x in place[0] if x[0] != v)
    if abs(slope) != 1 or v in place_variables((rest, Fraction(0))):
        return None
    return add_places(constant_place(0), (rest, place[1]), -1 / slope)


def _solved(place: Place) -> tuple[Variable, Place] | None:
    """The last variable of a place that its being zero determines, and its value."""
    for atom, _ in reversed(place[0]):
        value = _isolated(place, atom) if atom[0] == "v" else None
        if value is not None:
            return atom, value
    return None


class Forms(Exponentials):
    """An algebra whose forms can be summed over indices, nested in functions and rebuilt."""

    maxima: frozenset[str] = frozenset()

    def _reduced(self, powers: dict[int, Fraction]) -> Sum | None:
        """Also ``[k = e]·f(k)`` is ``[k = e]·f(e)``."""
        for n in powers:
            f = self.table.factors[n]
            solved = _solved(f[2]) if f[0] == "D" and f[1] == "eq" else None
            if solved is None:
                continue
            v, value = solved
            rest = [(k, e) for k, e in powers.items() if k != n]
            if any(v in self.table.free[k] for k, _ in rest):
                self._spend()
                inner = self.product(self._rebuild_factor(self.table.factors[k], e, {v: value},
                                                          None) for k, e in rest)
                return self.mul(inner, {((n, ONE),): ONE})
        return super()._reduced(powers)

    # -- indicators -------------------------------------------------------------------------------
    def pos(self, terms: Sum) -> Sum:
        """1 where the sum is positive, else 0."""
        split = self._split(terms, self.pos)
        if split is not None:
            return split
        if set(terms) <= {UNIT}:
            return self.constant(1 if terms.get(UNIT, 0) > 0 else 0)
        _, _, rest = self.content(terms, signed=False)
        rest = self._without_positive(rest)
        if set(rest) == {UNIT}:
            return self.constant(1 if rest[UNIT] > 0 else 0)
        if self.positive_sum(rest):
            return self.constant(1)
        if self.positive_sum(self.scale(rest, -1)):
            return {}
        through = self._through_exp(rest)
        if through is not None:
            return self.pos(through)
        if rest[leading(rest)] < 0:
            other = self.scale(rest, -1)
            return self.minus(self.minus(self.constant(1), self.pos(other)), self.zero(other))
        return self.factor("I", "pos", freeze(rest))

    def zero(self, terms: Sum) -> Sum:
        """1 where the sum is zero, else 0."""
        split = self._split(terms, self.zero)
        if split is not None:
            return split
        if set(terms) <= {UNIT}:
            return self.constant(0 if terms else 1)
        _, _, rest = self.content(terms, signed=False)
        rest = self._without_positive(rest)
        if set(rest) == {UNIT} or self.positive_sum(rest) or (
                self.positive_sum(self.scale(rest, -1))):
            return {}
        through = self._through_exp(rest)
        if through is not None:
            return self.zero(through)
        if rest[leading(rest)] < 0:
            rest = self.scale(rest, -1)
        if self.kinks and not self._attained(rest):
            self.dropped.setdefault(freeze(rest))
            return {}
        return self.factor("I", "zero", freeze(rest))

    def _split(self, terms: Sum, indicator: Callable[[Sum], Sum]) -> Sum | None:
        """An indicator of a sum that is itself a selection: one indicator for each branch."""
        for m in terms:
            for n, _ in m:
                if self.kind(n) == "T":
                    inner = self.relu_like(n)
                    if inner is not None:
                        return indicator(self.replace(terms, n, inner))
        for n in sorted({n for m in terms for n, _ in m if self.kind(n) in "ID"}):
            without = {m: c for m, c in terms.items() if all(k != n for k, _ in m)}
            yes: Sum = {}
            for m, c in terms.items():
                yes = self.add(yes, {tuple(x for x in m if x[0] != n): c})
            here: Sum = {((n, ONE),): ONE}
            away = self.minus(self.constant(1), here)
            return self.add(self.mul(here, indicator(yes)), self.mul(away, indicator(without)))
        return None

    def replace(self, terms: Sum, n: int, value: Sum) -> Sum:
        """The sum with a form in the place of a factor at its top level."""
        total: Sum = {}
        for m, c in terms.items():
            parts = [self.power(value, e) if k == n else self.monomial([(k, e)]) for k, e in m]
            total = self.add(total, self.scale(self.product(parts), c))
        return total

    def _without_positive(self, terms: Sum) -> Sum:
        if len(terms) != 1:
            return terms
        (m, c), = terms.items()
        return {tuple((n, e) for n, e in m if not self.positive(n)): Fraction(1 if c > 0 else -1)}

    def _through_exp(self, terms: Sum) -> Sum | None:
        """``exp(a) - 1`` has the sign of ``a``."""
        if len(terms) != 2 or UNIT not in terms:
            return None
        (m, c), = ((m, c) for m, c in terms.items() if m != UNIT)
        if terms[UNIT] != -c or any(self.kind(n) != "E" for n, _ in m):
            return None
        inner = self.add(*({self.table.factors[n][1]: e} for n, e in m))
        return self.scale(inner, 1 if c > 0 else -1)

    def _attained(self, terms: Sum) -> bool:
        """Whether a sum compares with a maximum, which is equal somewhere at every point."""
        kinds = [self.table.factors[n] for m in terms for n, _ in m]
        return any(f[0] == "R" or (f[0] == "T" and f[1].partition("@")[0] in self.maxima)
                   for f in kinds)

    # -- conditions on indices --------------------------------------------------------------------
    def equal(self, place: Place) -> Sum:
        low, high = self._reach(place)
        if not place[0]:
            return self.constant(0 if place[1] else 1)
        if (low is not None and low > 0) or (high is not None and high < 0):
            return {}
        first = place[0][0][1]
        return self.factor("D", "eq", add_places(constant_place(0), place, 1 / first))

    def at_least_zero(self, place: Place) -> Sum:
        low, high = self._reach(place)
        if low is not None and low >= 0:
            return self.constant(1)
        if high is not None and high < 0:
            return {}
        if place[0][0][1] < 0:  # whole numbers: not (p >= 0) is -p - 1 >= 0
            other = add_places(constant_place(-1), place, Fraction(-1))
            return self.minus(self.constant(1), self.at_least_zero(other))
        return self.factor("D", "ge", place)

    def inside(self, place: Place, size: str) -> Sum:
        """Whether ``0 <= place < size``."""
        if len(place[0]) == 1 and place[1] == 0 and place[0][0][1] == 1:
            atom = place[0][0][0]
            if atom[0] == "g" or (atom[0] == "v" and atom[2] == size):
                return self.constant(1)
        top = add_places(self.size_place(size), place, Fraction(-1))
        return self.mul(self.at_least_zero(place),
                        self.at_least_zero(add_places(top, constant_place(-1))))

    @staticmethod
    def size_place(size: str) -> Place:
        return constant_place(int(size)) if size.isdigit() else (((("n", size), ONE),), Fraction(0))

    def _reach(self, place: Place) -> tuple[Fraction | None, Fraction | None]:
        """Bounds of a place over the ranges of its variables, None where there is none."""
        ends = []
        for sign in (1, -1):
            total: Place = ((), place[1] * sign)
            for atom, slope in place[0]:
                slope = slope * sign
                if atom[0] == "v":
                    if slope < 0:
                        top = add_places(self.size_place(atom[2]), constant_place(-1))
                        total = add_places(total, top, slope)
                elif atom[0] == "n":
                    total = add_places(total, (((atom, ONE),), Fraction(0)), slope)
                elif atom[0] == "r":
                    total = add_places(total, constant_place(min(slope, 0) * (atom[2] - 1)))
                elif slope < 0 or atom[0] == "q":
                    total = add_places(total, ((((("?",)), ONE),), Fraction(0)), Fraction(-1))
            known = all(atom[0] == "n" and slope > 0 for atom, slope in total[0])
            ends.append(total[1] + sum(s for _, s in total[0]) if known else None)
        return ends[0], None if ends[1] is None else -ends[1]

    # -- sums over indices ------------------------------------------------------------------------
    def size(self, size: str) -> Sum:
        return self.constant(int(size)) if size.isdigit() else self.factor("N", size)

    def sum_over(self, terms: Sum, bound: Iterable[Variable]) -> Sum:
        bound = list(bound)
        if not bound:
            return terms
        total: Sum = {}
        for m, c in terms.items():
            total = self.add(total, self.scale(self._sum_monomial(m, bound), c))
        return total

    def _sum_monomial(self, m: Monomial, bound: list[Variable]) -> Sum:
        self._spend()
        opened, bound = self._open(m, bound)
        if len(opened) != len(m) or set(opened) != set(m):
            return self.sum_over(self.monomial(opened), bound)
        parts = list(m)
        sifted = self._sifted(parts, bound)
        if sifted is not None:
            return sifted
        parts, bound = self._cancelled(parts, bound)
        free = self.table.free
        outside = [(n, e) for n, e in parts if not free[n] & set(bound)]
        left = [x for x in parts if x not in outside]
        result = self.constant(1)
        while bound:
            names, piece = {bound[0]}, []
            while True:
                touched = [x for x in left if free[x[0]] & names]
                more = names | ({v for n, _ in touched for v in free[n]} & set(bound))
                if more == names:
                    piece = touched
                    break
                names = more
            left = [x for x in left if x not in piece]
            inner = [v for v in bound if v in names]
            bound = [v for v in bound if v not in names]
            result = self.mul(result, self._piece(tuple(sorted(piece)), inner))
        return self.mul(result, self.monomial(outside))

    def _piece(self, piece: Monomial, bound: list[Variable]) -> Sum:
        if not piece:
            return self.product(self.size(v[2]) for v in bound)
        if len(piece) == 1 and piece[0][1] == 1 and len(bound) == 1:
            f = self.table.factors[piece[0][0]]
            if f[0] == "T" and f[1] in self.distributions and (
                    place_variables(f[2][-1]) == bound):
                return self.constant(1)
        names, inner = self.table.bind(piece, bound)
        return self.factor("S", names, inner)

    def _open(self, m: Monomial, bound: list[Variable]) -> tuple[
            list[tuple[int, Fraction]], list[Variable]]:
        """Sums inside a sum, over what depends on its variables, become sums beside it."""
        parts: list[tuple[int, Fraction]] = []
        bound = list(bound)
        todo = list(m)
        while todo:
            n, e = todo.pop()
            f = self.table.factors[n]
            if f[0] != "S" or e.denominator != 1 or e < 0 or not (
                    self.table.free[n] & set(bound)):
                parts.append((n, e))
                continue
            for _ in range(int(e)):
                names = {v: self.table.fresh(v[2]) for v in f[1]}
                bound += names.values()
                todo += self.table.rename_monomial(f[2], names)
        merged: dict[int, Fraction] = {}
        for n, e in parts:
            merged[n] = ONE if self.kind(n) in "ID" else merged.get(n, Fraction(0)) + e
        return [(n, e) for n, e in merged.items() if e], bound

    def _sifted(self, parts: list[tuple[int, Fraction]], bound: list[Variable]) -> Sum | None:
        """``sum over k of [k = e]·f(k)`` is ``f(e)``."""
        for n, _ in parts:
            f = self.table.factors[n]
            if f[0] != "D" or f[1] != "eq":
                continue
            for v in bound:
                value = _isolated(f[2], v)
                if value is None:
                    continue
                others = tuple(x for x in parts if x[0] != n)
                inner = self.rebuild({others: ONE}, {v: value})
                inner = self.mul(inner, self.inside(value, v[2]))
                return self.sum_over(inner, [b for b in bound if b != v])
        return None

    def _cancelled(self, parts: list[tuple[int, Fraction]], bound: list[Variable]) -> tuple[
            list[tuple[int, Fraction]], list[Variable]]:
        """A sum that meets its own reciprocal: the exponentials over their total are 1."""
        for n, e in parts:
            f = self.table.factors[n]
            if f[0] != "S" or e >= 0:
                continue
            for names in combinations(bound, len(f[1])):
                mine = [x for x in parts if x[0] != n and self.table.free[x[0]] & set(names)]
                if sorted(v[2] for v in names) != sorted(v[2] for v in f[1]) or not mine:
                    continue
                if self.table.bind(tuple(sorted(mine)), list(names)) != f[1:]:
                    continue
                left = [(k, p + 1 if k == n else p) for k, p in parts if (k, p) not in mine]
                rest = [v for v in bound if v not in names]
                return self._cancelled([x for x in left if x[1]], rest)
        return parts, bound

    def reduce(self, op: str, terms: Sum, bound: list[Variable]) -> Sum:
        """Another reduction; what does not depend on the index is added to a maximum outside."""
        outside: Sum = {}
        if op in ("max", "min"):
            outside = {m: c for m, c in terms.items()
                       if not self.table.monomial_scope(m)[0] & set(bound)}
            terms = {m: c for m, c in terms.items() if m not in outside}
        if not terms:
            return outside
        inner = ((self.table.number(("P", freeze(terms))), ONE),)
        names, ((n, _),) = self.table.bind(inner, bound)
        return self.add(outside, self.factor("R", op, names, self.table.factors[n][1]))

    # -- substitution -----------------------------------------------------------------------------
    def rebuild(self, terms: Sum, values: Mapping[Variable, Place],
                expand: Expand | None = None) -> Sum:
        """The form with places for variables and, where ``expand`` gives them, forms for elements
        of tensors."""
        total: Sum = {}
        for m, c in terms.items():
            total = self.add(total, self.scale(self._rebuild_monomial(m, values, expand), c))
        return total

    def _rebuild_monomial(self, m: Monomial, values: Mapping[Variable, Place],
                          expand: Expand | None) -> Sum:
        same = [(n, e) for n, e in m if not self._touched(n, values, expand)]
        total = self.monomial(same)
        for n, e in m:
            if (n, e) not in same:
                total = self.mul(total, self._rebuild_factor(self.table.factors[n], e, values,
                                                             expand))
        return total

    def _touched(self, n: int, values: Mapping[Variable, Place], expand: Expand | None) -> bool:
        return bool(self.table.free[n] & values.keys()) or (
            expand is not None and bool(self.table.tensors[n] & expand.names))

    def _rebuild_factor(self, f: Factor, e: Fraction, values: Mapping[Variable, Place],
                        expand: Expand | None) -> Sum:
        kind = f[0]
        if kind == "T":
            places = tuple(put_places(p, values) for p in f[2])
            if expand is not None and f[1] in expand.names:
                return self.power(expand.form(f[1], places), e)
            return self.power(self.factor("T", f[1], places), e)
        if kind == "D":
            place = put_places(f[2], values)
            return self.equal(place) if f[1] == "eq" else self.at_least_zero(place)
        if kind in "SR":
            names = {v: self.table.fresh(v[2]) for v in f[1 if kind == "S" else 2]}
            fresh = list(names.values())
            if kind == "S":
                inner = {self.table.rename_monomial(f[2], names): ONE}
                return self.power(self.sum_over(self.rebuild(inner, values, expand), fresh), e)
            terms = dict(self.table.rename_sum(f[3], names))
            return self.power(self.reduce(f[1], self.rebuild(terms, values, expand), fresh), e)
        if kind == "E":
            return self.exp(self.scale(self._rebuild_monomial(f[1], values, expand), e))
        if kind == "P":
            return self.power(self.rebuild(dict(f[1]), values, expand), e)
        if kind in "NC":
            return self.monomial([(self.table.number(f), e)])
        terms = self.rebuild(dict(f[2]), values, expand)
        if kind == "I":
            return self.pos(terms) if f[1] == "pos" else self.zero(terms)
        return self.power(self.log(terms) if f[1] == "log" else
                          self.opaque(f[1], terms, *f[3:]), e)
