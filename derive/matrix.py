"""The matrix form of an equation of rank ≤ 2, recognised exactly from its index structure.

Vectors are columns; ``1`` is a column of ones; functions, powers, quotients and the addition of a
scalar act on every entry. A form is found by following the indices: an index that is summed
over joins two factors, and a factor whose summed index stands first (or last) on the wrong side
is transposed. What has no such form gives None; `derive.einsum` then names the contraction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass

import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive import notation as n
from derive.functions import Elementary
from derive.matrix_choices import at_label, delta, deltas_apart, is_delta, select
from derive.matrix_sums import (
    Edge,
    NoFormError,
    Transposition,
    chain,
    check,
    contraction,
    diagonal,
    flip,
    indices,
    is_inverse,
)
from derive.nodes import (
    Access,
    Index,
    LogSumExpOver,
    MaxOver,
    MinOver,
    Reduction,
    Select,
    SumOver,
)
from derive.notate import Builder
from derive.notation import Node
from derive.orientation import Orientation
from derive.program import Equation


@dataclass(frozen=True)
class MatrixForm:
    """``left = right`` in whole arrays; ``shapes`` checks each product of matrices as text."""

    statement: n.Statement
    shapes: tuple[str, ...] = ()
    transposed: tuple[Transposition, ...] = ()


def matrix_form(eq: Equation, orientation: Orientation | None = None) -> MatrixForm | None:
    """The matrix form of an equation, or None where there is none.

    A tensor of rank 3 or more is read as slices: ``H[:, t]`` is its matrix at t. Two of the dims
    of the target are left, those first that are most usual (of a recurrence, sample and feature;
    else the last two); all index expressions but that of a slice must be plain indices (or a
    gather of labels).
    """
    rank = len(eq.indices)
    if len(set(eq.indices)) < rank:
        return None
    orientation = orientation or Orientation()
    for kept in _kept(eq, orientation):
        made = _sliced_form(eq, orientation, kept)
        # a sum of slices inside a sum of slices explains nothing
        if made is not None and _nested(made.statement.right) <= 1:
            return made
    return None


def _kept(eq: Equation, orientation: Orientation) -> list[tuple[int, ...]]:
    """Which dims of the target may be those of a matrix, the most usual first."""
    rank = len(eq.indices)
    last = rank - 1
    if rank <= 2:
        return [tuple(range(rank)), *([(last,)] if rank == 2 else [])]
    others = [k for k, index in enumerate(eq.indices) if index not in orientation.times]
    pairs = [(k, last) for k in (others or range(rank)) if k != last]
    first = (others[0], last) if orientation.times and others else (rank - 2, last)
    return sorted(pairs, key=lambda pair: (pair != first, -pair[0]))


def _nested(node: object) -> int:
    """How deeply sums over slices are nested."""
    if isinstance(node, tuple):
        return max(map(_nested, node), default=0)
    if not is_dataclass(node):
        return 0
    return isinstance(node, n.Big) + max(
        (_nested(getattr(node, f.name)) for f in fields(node)), default=0)


def _sliced_form(eq: Equation, orientation: Orientation, kept: tuple[int, ...]
                 ) -> MatrixForm | None:
    fixed = {index for k, index in enumerate(eq.indices) if k not in kept}
    row, col = (*(eq.indices[k] for k in kept), None, None)[:2]
    recogniser = Recogniser(eq, orientation, fixed)
    turned = bool(kept) and orientation.turned(eq.name, kept[0])
    edges = (col, row) if turned else (row, col)
    try:
        right = recogniser.form(deltas_apart(eq.body, row, col), *edges)
    except NoFormError:
        return None
    left = recogniser.slice(eq.target)
    return MatrixForm(n.Statement(left, right), tuple(dict.fromkeys(recogniser.shapes)),
                      tuple(dict.fromkeys(recogniser.transposed)))


def whole(name: str, rank: int) -> n.Whole:
    """A whole array; one of rank 0 is a scalar."""
    return n.Whole(n.Name(name, "array" if rank else "tensor"))


@dataclass
class Recogniser:
    """Builds one form; ``fixed`` are the indices of slices."""

    eq: Equation
    orientation: Orientation
    fixed: set[Index]
    shapes: list[str] = field(default_factory=list)
    transposed: list[Transposition] = field(default_factory=list)

    # -- entry ----------------------------------------------------------------------------------
    def form(self, expr: Expr, row: Edge, col: Edge) -> Node:
        """``expr`` as an array with the index ``row`` down and ``col`` across (None: size one).

        A scalar stays a scalar, which is meant for every entry where it is added or multiplied.
        """
        free = expr.free_symbols
        has_row, has_col = row in free, col in free
        if not has_row and not has_col:
            return self.entry(expr, None, None)
        if row is not None and not has_row:
            return n.Chain((self.ones(row), flip(self.entry(expr, col, None))))
        if col is not None and not has_col:
            return n.Chain((self.entry(expr, row, None), n.Transposed(self.ones(col))))
        return self.entry(expr, row, col)

    def ones(self, index: Index) -> n.Ones:
        return n.Ones(Builder().build(index.size))

    def entry(self, expr: Expr, row: Edge, col: Edge) -> Node:
        """As `form`, where both indices occur."""
        if row is None and col is not None:
            return flip(self.entry(expr, col, None))
        if isinstance(expr, Index):
            raise NoFormError
        if isinstance(expr, Access):
            return self.access(expr, row, col)
        if isinstance(expr, Add):
            return self.sum(expr, row, col)
        if isinstance(expr, Mul):
            return self.product(expr, row, col)
        if isinstance(expr, Pow):
            return self.power(expr, row, col)
        if isinstance(expr, SumOver):
            return contraction(self, Mul.make_args(expr.body), expr.bound, row, col)
        if isinstance(expr, Reduction):
            return self.reduction(expr, row, col)
        if isinstance(expr, Select):
            return select(self, expr, row, col)
        if isinstance(expr, sympy.Function):
            symbol = type(expr).symbol if isinstance(expr, Elementary) else ""
            first = self.form(expr.args[0], row, col)
            rest = tuple(self.form(a, None, None) for a in expr.args[1:])
            return n.Call(type(expr).__name__, (first, *rest), symbol)
        if expr.has(Access, Index):
            raise NoFormError
        return Builder().build(expr)

    # -- leaves ---------------------------------------------------------------------------------
    def slice(self, expr: Access) -> n.Whole:
        """An access as a whole array, cut at the dims whose index is fixed."""
        free = [k for k, w in enumerate(expr.where) if not self.is_fixed(w)]
        name = n.Name(expr.name, "array" if free else "tensor")
        if len(free) == len(expr.where):
            return n.Whole(name)
        builder = Builder(self.eq.indices)
        return n.Whole(name, tuple(
            None if k in free else builder.index(w) for k, w in enumerate(expr.where)))

    def is_fixed(self, where: Expr) -> bool:
        return indices(where) <= self.fixed and not where.has(Access)

    def access(self, expr: Access, row: Edge, col: Edge) -> Node:
        node: Node = self.slice(expr)
        free = [k for k, w in enumerate(expr.where) if not self.is_fixed(w)]
        where = tuple(expr.where[k] for k in free)
        if not where:
            return node
        if self.orientation.turned(expr.name, free[0]):
            node = n.Transposed(node)
        plain = all(isinstance(w, Index) for w in where)
        if plain and where == (row,) and col is None:
            return node
        if plain and where == (row, col):
            return node
        if plain and where == (col, row):
            return flip(node)
        if plain and where == (row, row) and col is None:
            return n.Call("diag", (node,))
        picked = at_label(self, expr, node, free, row) if col is None else None
        if picked is not None:
            return picked
        raise NoFormError

    # -- algebra --------------------------------------------------------------------------------
    def sum(self, expr: Add, row: Edge, col: Edge) -> Node:
        builder = Builder(self.eq.indices)
        terms = []
        for term in sorted(expr.args, key=builder._term_key):
            negative = term.as_coeff_Mul()[0].is_negative is True
            terms.append((negative, self.form(-term if negative else term, row, col)))
        return n.Sum(tuple(terms))

    def product(self, expr: Mul, row: Edge, col: Edge) -> Node:
        if expr.as_coeff_Mul()[0].is_negative:
            return n.Sum(((True, self.form(-expr, row, col)),))
        deltas = [f for f in expr.args if is_delta(f, row, col)]
        if deltas:
            rest = Mul(*(f for f in expr.args if f not in deltas), *(f.yes for f in deltas))
            return delta(self, rest, row, col)
        scalars: list[Expr] = []
        arrays: list[Expr] = []
        for factor in expr.args:
            varies = factor.free_symbols & {row, col}
            (arrays if varies else scalars).append(factor)
        scalar = self.scalar_product(scalars)
        if not arrays:
            return scalar if scalar is not None else n.ONE
        body = self.joined(arrays, row, col)
        if scalar is None:
            return body
        if isinstance(scalar, n.Fraction) and scalar.above == n.ONE:
            tall = isinstance(body, n.Chain | n.Hadamard | n.Product | n.Fraction)
            return n.Product((scalar, body)) if tall else n.Fraction(body, scalar.below)
        return n.Product((scalar, body))

    def scalar_product(self, factors: list[Expr]) -> Node | None:
        if not factors:
            return None
        if not any(f.has(Reduction) for f in factors):
            return self._plain_scalar(Mul(*factors))
        sums = [f for f in factors if f.has(Reduction)]
        rest = Mul(*(f for f in factors if not f.has(Reduction)))
        nodes = [self.form(f, None, None) for f in sums]
        flat = [p for x in nodes for p in (x.factors if isinstance(x, n.Product) else (x,))]
        if rest == 1:
            return n.product(flat)
        front, first = self._plain_scalar(rest), flat[0]
        if isinstance(front, n.Fraction) and isinstance(first, n.Fraction) \
                and front.above == first.above == n.ONE:
            # 1/2 of 1/B of a sum is 1/(2 B) of it
            front, flat = n.Fraction(n.ONE, n.product((first.below, front.below))), flat[1:]
        return n.product([front, *flat])

    def _plain_scalar(self, expr: Expr) -> Node:
        places = [w for a in expr.atoms(Access) for w in a.where]
        if expr.has(Select) or not all(map(self.is_fixed, places)):
            raise NoFormError
        return Builder().build(expr)

    def joined(self, factors: Iterable[Expr], row: Edge, col: Edge) -> Node:
        """A product of entries: outer product, scaled rows or columns, or Hadamard."""
        builder = Builder(self.eq.indices)
        by_row: list[Expr] = []
        by_col: list[Expr] = []
        both: list[Expr] = []
        for f in sorted(factors, key=builder._factor_key):
            free = f.free_symbols
            kind = both if row in free and col in free else by_row if row in free else by_col
            kind.append(f)
        if row is None or col is None:
            return self.hadamard([*by_row, *by_col, *both], row, col)
        left = self.hadamard(by_row, row, None) if by_row else None
        right = self.hadamard(by_col, col, None) if by_col else None
        if not both and left is not None and right is not None:
            check(self, [(row, None), (None, col)])
            return n.Chain((left, flip(right)))
        middle = self.hadamard(both, row, col)
        parts: list[Node] = [diagonal(left)] if left is not None else []
        parts.append(middle)
        if right is not None:
            parts.append(diagonal(right))
        return chain(parts)

    def hadamard(self, factors: list[Expr], row: Edge, col: Edge) -> Node:
        guards = [f for f in factors if isinstance(f, Select) and f.no == 0
                  and indices(f.condition) and self.is_fixed(f.condition)]
        if guards:
            condition = Builder(self.eq.indices).condition(
                sympy.And(*(g.condition for g in guards)))
            rest = [f for f in factors if f not in guards]
            inside = [f for g in guards for f in Mul.make_args(g.yes) if f != 1]
            return n.Choice(condition, self.form(Mul(*rest, *inside), row, col), n.ZERO)
        above = [f for f in factors if not is_inverse(f)]
        below = [1 / f for f in factors if is_inverse(f)]
        nodes = [self.form(f, row, col) for f in above]
        scalar = row is None and col is None
        top = n.product(nodes) if scalar or len(nodes) < 2 else n.Hadamard(tuple(nodes))
        if not below:
            return top
        under = [self.form(f, row, col) for f in below]
        return n.Fraction(top, under[0] if len(under) == 1 else n.Hadamard(tuple(under)))

    def power(self, expr: Pow, row: Edge, col: Edge) -> Node:
        base, exponent = expr.args
        if row is None and col is None:
            node = self.form(base, None, None)
            if exponent == S.Half:
                return n.Root(node)
            if exponent.is_number and exponent.is_negative:
                return n.Fraction(n.ONE, self.form(1 / expr, None, None))
            return n.Power(node, self.form(exponent, None, None))
        if exponent == S.Half:
            return n.Root(self.form(base, row, col))
        if exponent == 2:
            node = self.form(base, row, col)
            return n.Hadamard((node, node))
        if exponent.is_number and exponent.is_negative:
            return n.Fraction(n.ONE, self.form(1 / expr, row, col))
        return n.Call("power", (self.form(base, row, col), self.form(exponent, None, None)))

    # -- reductions -----------------------------------------------------------------------------
    def reduction(self, expr: Reduction, row: Edge, col: Edge) -> Node:
        if len(expr.bound) != 1 or col is not None:
            raise NoFormError
        (over,) = expr.bound
        if isinstance(expr, LogSumExpOver):
            body = n.Call("exp", (self.form(expr.body, row or over, over if row else None),))
            if row is None:
                return n.Call("log", (n.Chain((n.Transposed(self.ones(over)), body)),))
            return n.Call("log", (n.Chain((body, self.ones(over))),))
        if isinstance(expr, MaxOver | MinOver):
            name = ("row" if row is not None else "") + expr.op
            return n.Call(name, (self.form(expr.body, row or over, over if row else None),))
        raise NoFormError
