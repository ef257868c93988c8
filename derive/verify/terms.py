"""The table of factors that normal forms are made of.

A normal form is a sum of monomials: a dict from monomial to rational coefficient. A monomial is a
sorted tuple of (factor number, exponent). A factor is a tuple whose first entry names its kind:

    ("T", tensor, places)       an element of a tensor
    ("N", size)                 a size that is not a number
    ("C", number)               a prime, π or e: under exponents that are not whole
    ("S", variables, monomial)  a sum over variables
    ("R", op, variables, sum)   another reduction over variables
    ("E", monomial)             exp of a monomial; the exponent of the factor is its coefficient
    ("P", sum)                  a sum under an exponent that is negative or not whole
    ("F", function, sum, …)     an opaque function
    ("I", "pos" | "zero", sum)  1 where the sum is positive (zero), else 0
    ("D", "eq" | "ge" | "mod", place, …)  1 where an index condition holds, else 0

A place is an affine form: (((atom, coefficient), …), constant); an atom is a variable
("v", name, size), a size ("n", name), an element of an integer tensor ("g", tensor, places), or
a quotient or remainder ("q" | "r", place, divisor). Numbers stand for factors, so that comparing
monomials costs nothing; equal factors have equal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import permutations
from math import factorial
from typing import Any

Factor = tuple[Any, ...]
Monomial = tuple[tuple[int, Fraction], ...]
Sum = dict[Monomial, Fraction]
Frozen = tuple[tuple[Monomial, Fraction], ...]
Variable = tuple[str, str, str]
Place = tuple[tuple[tuple[Any, Fraction], ...], Fraction]

_TIES = 720  # arrangements of variables that look alike which are tried


class Undecided(Exception):
    """The algebra cannot go on: too many terms, or something that it does not know."""


def constant_place(value: int | Fraction) -> Place:
    return (), Fraction(value)


def variable_place(variable: Variable) -> Place:
    return ((variable, Fraction(1)),), Fraction(0)


def add_places(a: Place, b: Place, times: Fraction = Fraction(1)) -> Place:
    """``a + times·b``."""
    total = dict(a[0])
    for atom, slope in b[0]:
        total[atom] = total.get(atom, Fraction(0)) + times * slope
    kept = tuple(sorted((x, s) for x, s in total.items() if s))
    return kept, a[1] + times * b[1]


def freeze(terms: Sum) -> Frozen:
    return tuple(sorted(terms.items()))


class Table:
    """Factors by number, with the variables that occur free in each."""

    def __init__(self) -> None:
        self.factors: list[Factor] = []
        self.numbers: dict[Factor, int] = {}
        self.free: list[frozenset[Variable]] = []
        self.depth: list[int] = []
        self.tensors: list[frozenset[str]] = []
        self.renamed: dict[tuple[int, tuple], int] = {}
        self.fresh_count = 0

    def number(self, factor: Factor) -> int:
        found = self.numbers.get(factor)
        if found is None:
            found = len(self.factors)
            self.numbers[factor] = found
            self.factors.append(factor)
            free, depth = self._scope(factor)
            self.free.append(free)
            self.depth.append(depth)
            self.tensors.append(self._tensors(factor))
        return found

    def fresh(self, size: str) -> Variable:
        self.fresh_count += 1
        return ("v", f"o{self.fresh_count}", size)

    # -- scope ------------------------------------------------------------------------------------
    def _scope(self, factor: Factor) -> tuple[frozenset[Variable], int]:
        """The free variables, and how deep binders nest inside."""
        kind = factor[0]
        if kind in ("N", "C"):
            return frozenset(), 0
        if kind == "T":
            return frozenset(v for p in factor[2] for v in place_variables(p)), 0
        if kind == "D":
            return frozenset(place_variables(factor[2])), 0
        if kind == "S":
            free, depth = self.monomial_scope(factor[2])
            return free - frozenset(factor[1]), depth + 1
        if kind == "R":
            free, depth = self.sum_scope(factor[3])
            return free - frozenset(factor[2]), depth + 1
        if kind == "E":
            return self.monomial_scope(factor[1])
        return self.sum_scope(factor[1] if kind == "P" else factor[2])

    def _tensors(self, f: Factor) -> frozenset[str]:
        """Names of the tensors that stand anywhere in a factor."""
        kind = f[0]
        if kind in ("N", "C", "D"):
            return frozenset()
        if kind == "T":
            return frozenset((f[1],))
        if kind in "SE":
            return frozenset().union(*(self.tensors[n] for n, _ in f[-1]))
        return self.tensors_of(dict(f[3] if kind == "R" else f[1] if kind == "P" else f[2]))

    def tensors_of(self, terms: Sum) -> frozenset[str]:
        return frozenset().union(*(self.tensors[n] for m in terms for n, _ in m))

    def monomial_scope(self, monomial: Monomial) -> tuple[frozenset[Variable], int]:
        free: frozenset[Variable] = frozenset()
        depth = 0
        for n, _ in monomial:
            free, depth = free | self.free[n], max(depth, self.depth[n])
        return free, depth

    def sum_scope(self, frozen: Frozen) -> tuple[frozenset[Variable], int]:
        scopes = [self.monomial_scope(m) for m, _ in frozen]
        return (frozenset().union(*(s[0] for s in scopes)),
                max((s[1] for s in scopes), default=0))

    # -- renaming variables one to one ------------------------------------------------------------
    def rename(self, n: int, names: Mapping[Variable, Variable]) -> int:
        """The factor with variables exchanged for others (none of them bound inside)."""
        mine = {v: names[v] for v in self.free[n] if v in names and names[v] != v}
        if not mine:
            return n
        key = (n, tuple(sorted(mine.items())))
        if key not in self.renamed:
            self.renamed[key] = self.number(self._renamed(self.factors[n], mine))
        return self.renamed[key]

    def _renamed(self, f: Factor, names: Mapping[Variable, Variable]) -> Factor:
        kind = f[0]
        if kind == "T":
            return (kind, f[1], tuple(rename_place(p, names) for p in f[2]))
        if kind == "D":
            return (kind, f[1], rename_place(f[2], names), *f[3:])
        if kind == "S":
            return (kind, f[1], self.rename_monomial(f[2], names))
        if kind == "R":
            return (kind, f[1], f[2], self.rename_sum(f[3], names))
        if kind == "E":
            return (kind, self.rename_monomial(f[1], names))
        if kind == "P":
            return (kind, self.rename_sum(f[1], names))
        return (kind, f[1], self.rename_sum(f[2], names), *f[3:])

    def rename_monomial(self, m: Monomial, names: Mapping[Variable, Variable]) -> Monomial:
        return tuple(sorted((self.rename(n, names), e) for n, e in m))

    def rename_sum(self, frozen: Frozen, names: Mapping[Variable, Variable]) -> Frozen:
        return tuple(sorted((self.rename_monomial(m, names), c) for m, c in frozen))

    # -- canonical names of bound variables -------------------------------------------------------
    def bind(self, monomial: Monomial, bound: list[Variable]) -> tuple[tuple, Monomial]:
        """The monomial with its bound variables named in an order that does not depend on how
        they were named: colours by where they occur, then the smallest of the arrangements left.
        """
        depth = self.monomial_scope(monomial)[1]
        colours: dict[Variable, Any] = {v: v[2] for v in bound}
        for _ in bound:
            ranks = {c: n for n, c in enumerate(sorted(set(colours.values()), key=repr))}
            marks = {v: ("v", f"k{ranks[colours[v]]}", v[2]) for v in bound}
            finer: dict[Variable, Any] = {}
            for v in bound:
                seen = {**marks, v: ("v", "self", v[2])}
                finer[v] = (ranks[colours[v]], tuple(sorted(
                    (self.rename(n, seen), e) for n, e in monomial if v in self.free[n])))
            if len(set(finer.values())) == len(ranks):
                break
            colours = finer
        classes: dict[Any, list[Variable]] = {}
        for v in sorted(bound, key=lambda v: repr((v[2], colours[v]))):
            classes.setdefault(repr((v[2], colours[v])), []).append(v)
        groups = list(classes.values())
        best: tuple[Monomial, tuple] | None = None
        for order in _arrangements(groups):
            names = {v: ("v", f"b{depth}_{n}", v[2]) for n, v in enumerate(order)}
            found = (self.rename_monomial(monomial, names), tuple(names[v] for v in order))
            if best is None or found[0] < best[0]:
                best = found
        assert best is not None
        return best[1], best[0]


def _arrangements(groups: list[list[Variable]]) -> Any:
    """Every order of the variables that keeps the groups in place."""
    count = 1
    for group in groups:
        count *= factorial(len(group))
    if count > _TIES:
        raise Undecided("a sum over many indices that look alike")
    orders: list[list[Variable]] = [[]]
    for group in groups:
        orders = [[*o, *p] for o in orders for p in permutations(group)]
    return orders


def place_variables(place: Place) -> list[Variable]:
    found = []
    for atom, _ in place[0]:
        if atom[0] == "v":
            found.append(atom)
        elif atom[0] == "g":
            found += [v for p in atom[2] for v in place_variables(p)]
        elif atom[0] in "qr":
            found += place_variables(atom[1])
    return found


def rename_place(place: Place, names: Mapping[Variable, Variable]) -> Place:
    return put_places(place, {v: variable_place(w) for v, w in names.items()})


def put_places(place: Place, values: Mapping[Variable, Place]) -> Place:
    """The place with forms in the place of variables; quotients of numbers are worked out."""
    if not place[0]:
        return place
    total: Place = ((), place[1])
    for atom, slope in place[0]:
        if atom[0] == "v":
            part = values.get(atom) or variable_place(atom)
        elif atom[0] == "g":
            inner = tuple(put_places(p, values) for p in atom[2])
            part = ((("g", atom[1], inner), Fraction(1)),), Fraction(0)
        elif atom[0] in "qr":
            part = divided(atom[0], put_places(atom[1], values), atom[2])
        else:
            part = ((atom, Fraction(1)),), Fraction(0)
        total = add_places(total, part, slope)
    return total


def divided(kind: str, place: Place, divisor: int) -> Place:
    """The quotient ("q") or remainder ("r") of a place by a number."""
    if not place[0]:
        value = place[1]
        return constant_place(value // divisor if kind == "q" else value % divisor)
    return (((kind, place, divisor), Fraction(1)),), Fraction(0)
