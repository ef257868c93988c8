"""The matrix form of an equation of rank ≤ 2, recognised exactly from its index structure.

Vectors are columns; ``1`` is a column of ones; functions, powers, quotients and the addition of a
scalar act on every entry. A form is found by following the indices: an index that is summed
over joins two factors, and a factor whose summed index stands first (or last) on the wrong side
is transposed. What has no such form gives None; `derive.einsum` then names the contraction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive import notation as n
from derive.functions import Elementary
from derive.matrix_sums import (
    Edge,
    NoFormError,
    Transposition,
    chain,
    check,
    contraction,
    flip,
    indices,
    is_inverse,
)
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
from derive.notate import Builder
from derive.notation import Node
from derive.program import Equation, Tensor


@dataclass(frozen=True)
class MatrixForm:
    """``left = right`` in whole arrays; ``shapes`` checks each product of matrices as text."""

    statement: n.Statement
    shapes: tuple[str, ...] = ()
    transposed: tuple[Transposition, ...] = ()


def matrix_form(eq: Equation, tensors: Mapping[str, Tensor] | None = None,
                turned: Collection[str] = ()) -> MatrixForm | None:
    """The matrix form of an equation, or None where there is none.

    ``tensors`` are those of its program: with them the sizes of all dims are known. A tensor of
    rank 3 is read as its slices along the first dim, ``H[t]``; all index expressions but that of
    a slice must be plain indices (or a gather of labels). ``turned`` names the tensors whose
    symbol means the transpose of what is stored: a matrix with its dims exchanged, a row in
    place of a column (samples as columns, or gradients in numerator layout).
    """
    if len(eq.indices) > 3 or len(set(eq.indices)) < len(eq.indices):
        return None
    cut = max(len(eq.indices) - 2, 0)
    fixed, (row, col) = eq.indices[:cut], (*eq.indices[cut:], None, None)[:2]
    recogniser = Recogniser(eq, tensors or {}, set(fixed), frozenset(turned))
    try:
        edges = (col, row) if eq.name in turned else (row, col)
        right = recogniser.form(eq.body, *edges)
    except NoFormError:
        return None
    at = tuple(Builder().index(i) for i in fixed)
    left = n.Whole(n.Name(eq.name, "array" if eq.indices else "tensor"), at)
    return MatrixForm(n.Statement(left, right), tuple(dict.fromkeys(recogniser.shapes)),
                      tuple(dict.fromkeys(recogniser.transposed)))


def whole(name: str, rank: int) -> n.Whole:
    """A whole array; one of rank 0 is a scalar."""
    return n.Whole(n.Name(name, "array" if rank else "tensor"))


@dataclass
class Recogniser:
    eq: Equation
    tensors: Mapping[str, Tensor]
    fixed: set[Index] = field(default_factory=set)  # indices of slices
    turned: frozenset[str] = frozenset()
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
            return self.select(expr, row, col)
        if isinstance(expr, sympy.Function):
            symbol = type(expr).symbol if isinstance(expr, Elementary) else ""
            first = self.form(expr.args[0], row, col)
            rest = tuple(self.form(a, None, None) for a in expr.args[1:])
            return n.Call(type(expr).__name__, (first, *rest), symbol)
        if expr.has(Access, Index):
            raise NoFormError
        return Builder().build(expr)

    # -- leaves ---------------------------------------------------------------------------------
    def access(self, expr: Access, row: Edge, col: Edge) -> Node:
        at = tuple(
            w for w in expr.where[:1]
            if (w.free_symbols and indices(w) <= self.fixed)
            or (w.is_Integer and len(expr.where) == 3)
        )
        where = expr.where[len(at):]
        node: Node = whole(expr.name, len(expr.where))
        if at:
            builder = Builder(self.eq.indices)
            node = n.Whole(n.Name(expr.name, "array"), tuple(map(builder.index, at)))
        if not where:
            return node
        if expr.name in self.turned:
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
        if len(where) == 2 and where[0] == row and col is None \
                and isinstance(where[1], IntegerAccess) and where[1].where == (row,) \
                and expr.name in self.tensors:
            # the element at the label of each row: all but it made zero, then summed
            hot = n.Call("onehot", (whole(where[1].name, 1),))
            last = self.tensors[expr.name].indices[1]
            return n.Chain((n.Hadamard((node, hot)), self.ones(last)))
        raise NoFormError

    def select(self, expr: Select, row: Edge, col: Edge) -> Node:
        condition = expr.condition
        if indices(condition) and indices(condition) <= self.fixed:
            return n.Choice(Builder(self.eq.indices).condition(condition),
                            self.form(expr.yes, row, col), self.form(expr.no, row, col))
        if expr.no != 0:
            raise NoFormError
        if not isinstance(condition, sympy.core.relational.Relational):
            raise NoFormError
        sides = (condition.lhs, condition.rhs)
        hot = self.one_hot(condition, sides, row, col)
        bracket = hot or n.Bracket(n.Relation(
            (self.form(sides[0], row, col), self.form(sides[1], row, col)),
            (Builder().condition(condition).ops[0],),  # type: ignore[union-attr]
        ))
        if expr.yes == 1:
            return bracket
        return n.Hadamard((bracket, self.form(expr.yes, row, col)))

    def one_hot(self, condition: Expr, sides: tuple[Expr, Expr], row: Edge, col: Edge
                ) -> Node | None:
        """``[k = t[b]]``: a row of zeros with a one at the label."""
        if not isinstance(condition, sympy.Eq):
            return None
        for index, label in (sides, sides[::-1]):
            if isinstance(label, IntegerAccess) and isinstance(index, Index):
                node = n.Call("onehot", (whole(label.name, 1),))
                if label.where == (row,) and index == col:
                    return node
                if label.where == (col,) and index == row:
                    return n.Transposed(node)
        return None

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
            tall = isinstance(body, n.Chain | n.Hadamard | n.Product)
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
        if expr.has(Select) or any(a.where for a in expr.atoms(Access)):
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
        parts: list[Node] = [n.Call("diag", (left,))] if left is not None else []
        parts.append(middle)
        if right is not None:
            parts.append(n.Call("diag", (right,)))
        return chain(parts)

    def hadamard(self, factors: list[Expr], row: Edge, col: Edge) -> Node:
        above = [f for f in factors if not is_inverse(f)]
        below = [1 / f for f in factors if is_inverse(f)]
        nodes = [self.form(f, row, col) for f in above]
        top = nodes[0] if len(nodes) == 1 else n.Hadamard(tuple(nodes)) if nodes else n.ONE
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
