"""The nodes that a scalar SymPy body is made of besides SymPy's own: indices, accesses,
reductions and selections.

SymPy sees each of them as an opaque real (or integer) scalar, which is all that is asked of it;
its own indexed and matrix calculus is not used (it captures bound indices and drops terms).
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from sympy import Expr, Integer, S, Symbol
from sympy.core.symbol import Str


class Index(Symbol):
    """An index that ranges over ``0 .. size-1``; ``size`` is an Integer or a size symbol."""

    __slots__ = ("size",)
    size: Expr

    def __new__(cls, name: str, size: Expr | int) -> Index:
        obj = Symbol.__xnew__(cls, name, integer=True, nonnegative=True)
        obj.size = sympy.sympify(size)
        return obj

    def _hashable_content(self) -> tuple:
        return (self.name, self.size)

    def __getnewargs_ex__(self) -> tuple:
        return ((self.name, self.size), {})

    def renamed(self, name: str) -> Index:
        return Index(name, self.size)


def size_symbol(name: str) -> Symbol:
    """The symbol of a size that is not a number, such as the batch size."""
    return Symbol(name, integer=True, positive=True)


class Access(Expr):
    """One element of a tensor: ``Access("W", i, 2*p + r - 1)``.

    Each index expression is affine in indices (rational coefficients may stand only where a
    guard makes the value whole), or an `IntegerAccess` (a gather).
    """

    is_commutative = True
    is_real = True

    def __new__(cls, name: str | Str, *where: Expr | int) -> Access:
        key = name if isinstance(name, Str) else Str(name)
        return Expr.__new__(cls, key, *(sympy.sympify(e) for e in where))

    @property
    def name(self) -> str:
        return self.args[0].name

    @property
    def where(self) -> tuple[Expr, ...]:
        return self.args[1:]

    def _sympystr(self, printer: object) -> str:
        return self.name + (f"[{', '.join(map(str, self.where))}]" if self.where else "")

    def _eval_derivative(self, symbol: Symbol) -> Expr:
        return S.Zero


class IntegerAccess(Access):
    """An element of an integer tensor: usable as an index."""

    is_integer = True


class Reduction(Expr):
    """A reduction of ``body`` over bound indices. Subclasses name the operation."""

    is_commutative = True
    is_real = True
    op = ""

    def __new__(cls, body: Expr, *bound: Index) -> Expr:
        body = sympy.sympify(body)
        if not bound:
            return body
        if type(body) is cls:  # sum over i of sum over j is a sum over i, j
            return cls(body.body, *bound, *body.bound)
        return Expr.__new__(cls, body, *bound)

    @property
    def body(self) -> Expr:
        return self.args[0]

    @property
    def bound(self) -> tuple[Index, ...]:
        return self.args[1:]

    @property
    def free_symbols(self) -> set:
        return self.body.free_symbols - set(self.bound)

    def _sympystr(self, printer: object) -> str:
        return f"{self.op} over {', '.join(b.name for b in self.bound)} of ({self.body})"


class SumOver(Reduction):
    op = "sum"


class MaxOver(Reduction):
    op = "max"


class MinOver(Reduction):
    op = "min"


class ProdOver(Reduction):
    op = "prod"


class LogSumExpOver(Reduction):
    op = "logsumexp"


def _whole(condition: Expr) -> bool:
    """Whether a condition compares whole numbers only, so that its negation is exact (a NaN makes
    both a comparison and the opposite one false)."""
    floats = [a for a in condition.atoms(Access) if not isinstance(a, IntegerAccess)]
    return not floats and all(s.is_integer for s in condition.free_symbols)


REDUCTIONS = (SumOver, MaxOver, MinOver, ProdOver, LogSumExpOver)


class Select(Expr):
    """``yes`` where ``condition`` holds, else ``no``; the other branch is never multiplied in,
    so a NaN or an infinity there does no harm."""

    is_commutative = True
    is_real = True

    def __new__(cls, condition: Expr, yes: Expr, no: Expr = S.Zero) -> Expr:
        condition, yes, no = map(sympy.sympify, (condition, yes, no))
        if condition == True or yes == no:  # noqa: E712  (SymPy's true, not identity)
            return yes
        if condition == False:  # noqa: E712
            return no
        if yes == 0 and _whole(condition):  # a guard has its zero on the other side
            return cls(sympy.Not(condition), no, S.Zero)
        if isinstance(yes, Select) and yes.no == no:  # nested guards are one guard
            return cls(sympy.And(condition, yes.condition), yes.yes, no)
        return Expr.__new__(cls, condition, yes, no)

    @property
    def condition(self) -> Expr:
        return self.args[0]

    @property
    def yes(self) -> Expr:
        return self.args[1]

    @property
    def no(self) -> Expr:
        return self.args[2]

    def _eval_derivative(self, symbol: Symbol) -> Expr:
        return Select(self.condition, self.yes.diff(symbol), self.no.diff(symbol))

    def _sympystr(self, printer: object) -> str:
        if self.no == 0:
            return f"[{self.condition}]*({self.yes})"
        return f"select({self.condition}, {self.yes}, {self.no})"


def walk(expr: Expr) -> Iterator[Expr]:
    """The nodes of an expression, each before its arguments (several times as fast as SymPy's
    traversal, in which a derivation would spend most of its time)."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.args))


def contains(expr: Expr, *kinds: type) -> bool:
    """Whether a node of one of these kinds stands in an expression."""
    return any(isinstance(node, kinds) for node in walk(expr))


def accesses(expr: Expr) -> list[Access]:
    """Every access in an expression, outermost first, gathers inside accesses included."""
    return [node for node in walk(expr) if isinstance(node, Access)]


def rename(expr: Expr, mapping: dict[Index, Expr]) -> Expr:
    """Simultaneous renaming of indices, bound ones included (`xreplace` is simultaneous)."""
    return expr.xreplace(mapping) if mapping else expr


def bound_indices(expr: Expr) -> list[Index]:
    """The indices that reductions inside ``expr`` bind, in order, repeats kept."""
    return [
        index
        for node in walk(expr)
        if isinstance(node, Reduction)
        for index in node.bound
    ]


def fresh(index: Index, taken: set[str]) -> Index:
    """``index`` under a name that is not taken: i, then i', i'' written i1, i2."""
    if index.name not in taken:
        return index
    stem = index.name.rstrip("0123456789") or index.name
    number = 1
    while f"{stem}{number}" in taken:
        number += 1
    return index.renamed(f"{stem}{number}")


def alpha_rename(expr: Expr, taken: set[str]) -> Expr:
    """Rename the bound indices of ``expr`` away from ``taken``, keeping names where possible."""
    mapping: dict[Index, Expr] = {}
    used = set(taken)
    for index in dict.fromkeys(bound_indices(expr)):
        new = fresh(index, used)
        used.add(new.name)
        if new != index:
            mapping[index] = new
    return rename(expr, mapping)


def exact(value: object) -> Expr:
    """A number as it was written: the float 0.1 is one tenth, not its nearest binary fraction."""
    expr = sympy.sympify(value) if not isinstance(value, str) else None
    if expr is None:
        raise TypeError("a string is not a number")
    floats = expr.atoms(sympy.Float)
    return expr.xreplace({f: sympy.Rational(repr(float(f))) for f in floats}) if floats else expr


ZERO, ONE = Integer(0), Integer(1)
