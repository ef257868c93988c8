"""Recognising matrix products: a sum of a product of two accesses → `Product` statements.

The indices of ``T[…] = sum over K of A[…]*B[…]`` fall into those of the left factor and the target
(M), of the right factor and the target (N), of both factors (K), and of all three (batch). Dims of
one kind that lie behind each other in every tensor count as one; what cannot be merged, and every
batch index, becomes a loop around the product. Nothing is copied: BLAS takes the strides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import sympy
from sympy import Add, Expr, Mul, S

from codegen.loops import HI, LO, Loop, Matrix, Product, Statement
from derive.nodes import Access, Index, IntegerAccess, SumOver

Shapes = Mapping[str, tuple[Expr, ...]]


def strides(shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """Elements between neighbours along each dim, rows last."""
    return tuple(Mul(*shape[d + 1:]) for d in range(len(shape)))


def factors_of(node: SumOver) -> tuple[Expr, Access, Access] | None:
    """A numeric factor and the two accesses that are multiplied, where that is all there is."""
    parts = Mul.make_args(node.body)
    if len(parts) == 1 and parts[0].is_Pow and parts[0].exp == 2:
        parts = (parts[0].base, parts[0].base)
    found = [p for p in parts if isinstance(p, Access) and not isinstance(p, IntegerAccess)]
    number = Mul(*(p for p in parts if not isinstance(p, Access)))
    if len(found) != 2 or len(found) + (number != 1) != len(parts) or number.free_symbols:
        return None
    if number.has(Access):
        return None
    return number, found[0], found[1]


def _plain(access: Access) -> bool:
    where = access.where
    return all(isinstance(e, Index) for e in where) and len(set(where)) == len(where)


class Contraction:
    """One recognised product with its groups of indices; `statements` are its loops and calls."""

    def __init__(self, target: Access, node: SumOver, factor: Expr, left: Access, right: Access,
                 shapes: Shapes, part: Index | None) -> None:
        self.target, self.left, self.right = target, left, right
        self.factor, self.shapes, self.part = factor, shapes, part
        a, b, t = set(left.where), set(right.where), set(target.where)
        self.outer = [i for i in target.where if i in a and i in b]
        self.m = [i for i in target.where if i in a and i not in b]
        self.n = [i for i in target.where if i in b and i not in a]
        self.k = [i for i in left.where if i in b and i not in t]
        self.fits = (
            set(self.k) == set(node.bound)
            and bool(self.m) and bool(self.n)
            and t == {*self.outer, *self.m, *self.n}
            and a == {*self.outer, *self.m, *self.k}
            and b == {*self.outer, *self.n, *self.k}
        )

    def stride(self, access: Access, index: Index) -> Expr:
        return strides(self.shapes[access.name])[access.where.index(index)]

    def mergeable(self, group: Sequence[Index], *where: Access) -> bool:
        """Whether the indices of a group count as one in each of the tensors."""
        for access in where:
            for first, second in pairwise(group):
                want = self.stride(access, second) * second.size
                if sympy.expand(self.stride(access, first) - want) != 0:
                    return False
        return True

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
        return (LO, HI) if index == self.part else (S.Zero, index.size)

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
        peeled = [i for i in self.outer if i not in self.target.where]
        product = Product(
            self.matrix(self.target, self.m, self.n),
            self.matrix(self.left, self.m, self.k),
            self.matrix(self.right, self.k, self.n),
            self.factor, 1 if accumulate or peeled else 0,
        )
        out: tuple[Statement, ...] = (product,)
        order = [i for i in self.outer if i not in peeled] + peeled
        for index in reversed(order):
            out = (Loop(index, *self.span(index), out),)
        return out

    @property
    def needs_zero(self) -> bool:
        """Whether the target has to be cleared first: the sum is cut into several products."""
        return any(i not in self.target.where for i in self.outer)


def contraction(target: Access, factor: Expr, node: SumOver, shapes: Shapes,
                part: Index | None, fixed: Sequence[Index] = ()) -> Contraction | None:
    """The matrix product that ``target += factor * node`` is, or None."""
    found = factors_of(node)
    if found is None or factor.has(Access):
        return None
    number, left, right = found
    if left.name == target.name or right.name == target.name:
        return None
    if not all(_fixed_or_plain(a, fixed) for a in (target, left, right)):
        return None
    # the factor with the target's last index on the right: then the target lies in rows
    right_first = bool(target.where) and target.where[-1] in left.where
    pairs = ((right, left), (left, right)) if right_first else ((left, right), (right, left))
    for one, other in pairs:
        made = Contraction(target, node, factor * number, one, other, shapes, part)
        if made.settle():
            return made
    return None


def _fixed_or_plain(access: Access, fixed: Sequence[Index]) -> bool:
    return _plain(access) and not set(access.where) & set(fixed)

