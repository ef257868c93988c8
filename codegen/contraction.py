"""Recognising matrix products: a sum of a product of two accesses → `Product` statements.

The indices of ``T[…] = sum over K of A[…]*B[…]`` fall into those of the left factor and the target
(M), of the right factor and the target (N), of both factors (K), and of all three (batch). Dims of
one kind that lie behind each other in every tensor count as one; what cannot be merged, and every
batch index, becomes a loop around the product. Nothing is copied: products take the strides.

A place may be shifted (``h[t-1, k]``), and a loop may stand around already (``t`` of a recurrence):
both move the first element only. A guard on the loop around becomes a branch around the product,
one on a summed index narrows its range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import sympy
from sympy import Add, Expr, Mul, S

from codegen.loops import HI, LO, If, Loop, Matrix, Product, Statement
from derive.nodes import Access, Index, IntegerAccess, Select, SumOver, contains

Shapes = Mapping[str, tuple[Expr, ...]]
MANY = 64  # what a size known at run time only is taken for, where a choice goes by sizes


def count(indices: Iterable[Index]) -> int:
    """How many values they have together; sizes known at run time only count as ``MANY``."""
    total = 1
    for index in indices:
        total *= int(index.size) if index.size.is_Integer else MANY
    return total


def strides(shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """Elements between neighbours along each dim, rows last."""
    return tuple(Mul(*shape[d + 1:]) for d in range(len(shape)))


def factors_of(body: Expr) -> tuple[Expr, Access, Access] | None:
    """A numeric factor and the two accesses that are multiplied, where that is all there is."""
    parts = Mul.make_args(body)
    if len(parts) == 1 and parts[0].is_Pow and parts[0].exp == 2:
        parts = (parts[0].base, parts[0].base)
    found = [p for p in parts if isinstance(p, Access) and not isinstance(p, IntegerAccess)]
    number = Mul(*(p for p in parts if not isinstance(p, Access)))
    if len(found) != 2 or len(found) + (number != 1) != len(parts) or number.free_symbols:
        return None
    if number.has(Access):
        return None
    return number, found[0], found[1]


def factor_and_sum(term: Expr) -> tuple[Expr, SumOver] | None:
    """The one sum that a term is a multiple of, behind its factor; None where there is no sum, or
    several."""
    parts = Mul.make_args(term)
    sums = [f for f in parts if isinstance(f, SumOver)]
    return (Mul(*(f for f in parts if f is not sums[0])), sums[0]) if len(sums) == 1 else None


def _moving(access: Access, fixed: Collection[Index]) -> tuple[Index | None, ...] | None:
    """For each dim the index that moves in it (None: it stays); None where a dim is not an index
    plus what stays, or an index moves in two dims."""
    found: list[Index | None] = []
    for place in access.where:
        if place.has(Access):
            return None
        moving = [s for s in place.free_symbols if isinstance(s, Index) and s not in fixed]
        alone = len(moving) == 1 and place == moving[0]  # which is as a rule
        if len(moving) > 1 or (moving and not alone and place.diff(moving[0]) != 1):
            return None
        found.append(moving[0] if moving else None)
    indices = [i for i in found if i is not None]
    return tuple(found) if len(set(indices)) == len(indices) else None


@dataclass(frozen=True)
class Guards:
    """What a guard says: ``around`` concerns loops that stand outside, ``spans`` narrow the
    ranges of summed indices."""

    around: Expr
    spans: Mapping[Index, tuple[Expr, Expr]]


def read_guards(conditions: Iterable[Expr], bound: Collection[Index], fixed: Collection[Index]
                ) -> Guards | None:
    """Guards of a product, or None where one of them is of another kind."""
    around: list[Expr] = []
    spans: dict[Index, tuple[Expr, Expr]] = {}
    for condition in conditions:
        own = condition.atoms(Index)
        if condition.has(Access):
            return None
        if own <= set(fixed):
            around.append(condition)
            continue
        moving = own - set(fixed)
        index = next(iter(moving))
        limit = limits(condition, index)
        if len(moving) != 1 or index not in bound or limit is None:
            return None
        low, high = spans.get(index, (S.Zero, index.size))
        spans[index] = (sympy.Max(low, limit[0]) if limit[0] is not None else low,
                        sympy.Min(high, limit[1]) if limit[1] is not None else high)
    return Guards(sympy.And(*around), spans)


def limits(condition: Expr, index: Index) -> tuple[Expr | None, Expr | None] | None:
    """The (first, one past the last) value of ``index`` that a comparison allows; None where it
    is no bound on the index by itself."""
    if not isinstance(condition, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return None
    left, right = condition.args
    slope = sympy.expand(left - right).coeff(index)
    rest = sympy.expand(left - right - slope * index)
    if slope not in (1, -1) or index in rest.free_symbols:
        return None
    above = isinstance(condition, sympy.Ge | sympy.Gt) == (slope == 1)
    edge = sympy.expand(-slope * rest)  # index >= edge, or index <= edge
    strict = isinstance(condition, sympy.Gt | sympy.Lt)
    if above:
        return (edge + 1 if strict else edge), None
    return None, (edge if strict else edge + 1)


class Contraction:
    """One recognised product with its groups of indices; `statements` are its loops and calls."""

    def __init__(self, target: Access, bound: Sequence[Index], factor: Expr, left: Access,
                 right: Access, shapes: Shapes, part: Index | None, guards: Guards,
                 places: Mapping[Access, tuple[Index | None, ...]]) -> None:
        self.target, self.left, self.right = target, left, right
        self.factor, self.shapes, self.part = factor, shapes, part
        self.guards, self.places = guards, places
        a, b, t = ({i for i in places[x] if i is not None} for x in (left, right, target))
        own = [i for i in places[target] if i is not None]
        self.outer = [i for i in own if i in a and i in b]
        self.m = [i for i in own if i in a and i not in b]
        self.n = [i for i in own if i in b and i not in a]
        self.k = [i for i in places[left] if i is not None and i in b and i not in t]
        self.fits = (
            set(self.k) == set(bound)
            and bool(self.m) and bool(self.n)
            and t == {*self.outer, *self.m, *self.n}
            and a == {*self.outer, *self.m, *self.k}
            and b == {*self.outer, *self.n, *self.k}
        )

    def stride(self, access: Access, index: Index) -> Expr:
        return strides(self.shapes[access.name])[self.places[access].index(index)]

    def mergeable(self, group: Sequence[Index], *where: Access) -> bool:
        """Whether the indices of a group count as one in each of the tensors."""
        for access in where:
            for first, second in pairwise(group):
                want = self.stride(access, second) * second.size
                if sympy.expand(self.stride(access, first) - want) != 0:
                    return False
        return not any(i in self.guards.spans for i in group[1:])

    def settle(self) -> bool:
        """Move indices into loops until the rest is one matrix product; False: there is none."""
        if not self.fits:
            return False
        for group, where in ((self.m, (self.left, self.target)),
                             (self.n, (self.right, self.target)),
                             (self.k, (self.left, self.right))):
            while not self.mergeable(group, *where):
                self.outer.append(group.pop(0))
            while self.part in group[1:]:  # only the first index of a merged dim can be split
                self.outer.append(group.pop(0))
        return all(self._unit(*pair) for pair in (
            (self.left, (self.m, self.k)), (self.right, (self.k, self.n)),
            (self.target, (self.m, self.n))))

    def _unit(self, access: Access, groups: tuple[list[Index], list[Index]]) -> bool:
        return any(self.stride(access, g[-1]) == 1 for g in groups)

    def span(self, index: Index) -> tuple[Expr, Expr]:
        if index == self.part:
            return LO, HI
        return self.guards.spans.get(index, (S.Zero, index.size))

    def extent(self, group: Sequence[Index]) -> Expr:
        start, stop = self.span(group[0])
        return (stop - start) * Mul(*(i.size for i in group[1:]))

    def matrix(self, access: Access, rows: list[Index], columns: list[Index]) -> Matrix:
        starts = {g[0]: self.span(g[0])[0] for g in (rows, columns)}
        zero = dict.fromkeys((*rows[1:], *columns[1:]), S.Zero)
        start = sympy.expand(Add(*(
            e.xreplace({**zero, **starts}) * step
            for e, step in zip(access.where, strides(self.shapes[access.name]), strict=True))))
        return Matrix(access.name, start, self.extent(rows), self.extent(columns),
                      self.stride(access, rows[-1]), self.stride(access, columns[-1]))

    def statements(self, accumulate: bool) -> tuple[Statement, ...]:
        """The product inside its loops; ``accumulate``: onto what the target holds."""
        product = Product(
            self.matrix(self.target, self.m, self.n),
            self.matrix(self.left, self.m, self.k),
            self.matrix(self.right, self.k, self.n),
            self.factor, 1 if accumulate else 0, (self.target, self.left, self.right),
            tuple(self.m), tuple(self.n),
        )
        out: tuple[Statement, ...] = (product,)
        own = [i for i in self.outer if i not in self.peeled]
        own.sort(key=lambda i: i != self.part)  # outermost, so that neighbours share its loop
        order = own + self.peeled
        for index in reversed(order):
            out = (Loop(index, *self.span(index), out),)
        if self.guards.around != True:  # noqa: E712  (SymPy's true)
            out = (If(self.guards.around, out),)
        return out

    @property
    def needs_start(self) -> bool:
        """Whether the target must hold something first: the sum is cut into several products, or
        computed under a condition, or may be empty."""
        narrowed = any(i in self.guards.spans for i in (*self.k, *self.outer))
        return self.peeled != [] or self.guards.around != True or narrowed  # noqa: E712

    @property
    def peeled(self) -> list[Index]:
        """Summed indices that became loops."""
        return [i for i in self.outer if i not in self.places[self.target]]


def contraction(target: Access, factor: Expr, node: SumOver, shapes: Shapes,
                part: Index | None, fixed: Sequence[Index] = (), guard: Sequence[Expr] = ()
                ) -> Contraction | None:
    """The matrix product that ``target += factor * node`` is, or None.

    Args:
        fixed: indices whose loops stand outside.
        guard: conditions under which the term is there at all.
    """
    conditions = list(guard)
    body = node.body
    if isinstance(body, Select) and body.no == 0:
        conditions += conjuncts(body.condition)
        body = body.yes
    found = factors_of(body)
    guards = read_guards(conditions, node.bound, fixed)
    if found is None or guards is None or factor.has(Access) or part in guards.spans:
        return None
    number, left, right = found
    if target.name in (left.name, right.name) or left == right:
        return None
    places = {a: _moving(a, fixed) for a in (target, left, right)}
    known = {a: p for a, p in places.items() if p is not None}
    if len(known) < 3 or factor.free_symbols & {i for p in known.values() for i in p}:
        return None
    # the factor with the target's last index on the right: then the target lies in rows
    right_first = bool(target.where) and known[target][-1] in known[left]
    pairs = ((right, left), (left, right)) if right_first else ((left, right), (right, left))
    for one, other in pairs:
        made = Contraction(target, node.bound, factor * number, one, other, shapes, part, guards,
                           known)
        if made.settle():
            return made
    return None


def conjuncts(condition: Expr) -> tuple[Expr, ...]:
    """The parts of a condition that must all hold."""
    if condition == True:  # noqa: E712  (SymPy's true)
        return ()
    return condition.args if isinstance(condition, sympy.And) else (condition,)


def guarded(expr: Expr) -> Expr:
    """``a * [c] * b`` as ``[c] * (a*b)``: what stands beside a guard may be out of bounds, too."""
    if not contains(expr, Select) or isinstance(expr, Access):
        return expr
    parts = [guarded(a) if isinstance(a, Expr) else a for a in expr.args]
    if isinstance(expr, Mul):
        guards = [p for p in parts if isinstance(p, Select) and p.no == 0]
        if guards and len(parts) > 1:
            rest = [p.yes if p in guards else p for p in parts]
            return Select(sympy.And(*(g.condition for g in guards)), guarded(Mul(*rest)))
    return expr.func(*parts)
