"""What a formula means, once names have shapes: scalar bodies with an index for each axis.

A scalar has no axes, a column ``(i, None)``, a row ``(None, j)``, a matrix ``(i, j)``; longer
tuples are arrays that only entrywise operations take. An index whose size is not known yet has the
size `UNKNOWN`; it gets the size of whatever it meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import sympy
from sympy import Expr, Mul, S

from derive.nodes import Index, IntegerAccess, Select, SumOver

UNKNOWN = sympy.Symbol("?", integer=True, positive=True)
Axis = Index | None
_numbers = count()


class MisfitError(Exception):
    """Something does not fit together: a reading that is none. ``at``: where, if that is known."""

    def __init__(self, what: str, expected: str | None = None, mend: str | None = None,
                 at: int | None = None) -> None:
        self.what, self.expected, self.mend, self.at = what, expected, mend, at
        super().__init__(what)


@dataclass(frozen=True)
class Value:
    """``body`` for each value of the indices in ``axes``; a condition is a body of its own kind.

    ``notes`` say what was recognised while it was read.
    """

    body: Expr
    axes: tuple[Axis, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[Index, ...]:
        """The axes that have a size."""
        return tuple(a for a in self.axes if a is not None)

    def with_body(self, body: Expr) -> Value:
        return replace(self, body=body)


def fresh(size: Expr) -> Index:
    """A new index; it gets a letter when the equation is finished."""
    return Index(f"_{next(_numbers)}", size)


def array(body: Expr, axes: tuple[Axis, ...], notes: tuple[str, ...] = ()) -> Value:
    """A value whose axes of size one are left out where nothing else is there."""
    return Value(body, axes if any(a is not None for a in axes) else (), notes)


def shape(value: Value) -> str:
    """``B×64``, ``64×1`` or "a scalar"."""
    if not value.axes:
        return "a scalar"
    return "×".join("1" if a is None else str(a.size) for a in value.axes)


# -- sizes ----------------------------------------------------------------------------------------
def fits(a: Axis, b: Axis) -> bool:
    if a is None or b is None:
        return a is b
    return a.size == b.size or UNKNOWN in (a.size, b.size)


def joined(a: Index, b: Index) -> Index:
    """The one of two axes whose size is known."""
    return b if a.size == UNKNOWN else a


def put(body: Expr, pairs: dict[Index, Expr]) -> Expr:
    return body.xreplace(pairs) if pairs else body


def _renamed(value: Value, axes: tuple[Axis, ...]) -> Expr:
    return put(value.body, {old: new for old, new in zip(value.axes, axes, strict=True)
                            if old is not None and new is not None and old != new})


# -- entry by entry -------------------------------------------------------------------------------
def entrywise(combine: Callable[[Expr, Expr], Expr], a: Value, b: Value, word: str) -> Value:
    """Two values combined entry by entry; a scalar is meant for every entry, and a vector for
    every row or column of a matrix where it fits one of the two only.

    Raises:
        MisfitError: the shapes differ.
    """
    notes = _notes(a, b)
    if not a.axes or not b.axes:
        return Value(combine(a.body, b.body), a.axes or b.axes, notes)
    if len(a.axes) == len(b.axes) and all(map(fits, a.axes, b.axes)):
        axes = tuple(None if x is None or y is None else joined(x, y)
                     for x, y in zip(a.axes, b.axes, strict=True))
        return Value(combine(_renamed(a, axes), _renamed(b, axes)), axes, notes)
    for small, large, swapped in ((a, b, False), (b, a, True)):
        spread = _spread(small, large)
        if spread is not None:
            axes, body, note = spread
            pair = (_renamed(large, axes), body) if swapped else (body, _renamed(large, axes))
            return Value(combine(*pair), axes, (*notes, note) if note else notes)
    raise MisfitError(f"{shape(a)} and {shape(b)} cannot be {word}", "two arrays of one shape",
                      _advice(a, b))


def _spread(small: Value, large: Value) -> tuple[tuple[Axis, ...], Expr, str] | None:
    """A vector as the rows or the columns of a matrix."""
    if len(small.kept) != 1 or len(large.kept) != 2 or len(large.axes) != 2:
        return None
    (own,), (row, col) = small.kept, large.kept
    column = small.axes[0] is not None
    places = [k for k, axis in enumerate((row, col)) if fits(own, axis)]
    if len(places) == 2 and column:
        raise MisfitError(f"{shape(small)} fits the rows and the columns of {shape(large)}",
                          "one reading", r"write \mathbf{1} c^\top or c \mathbf{1}^\top")
    if not places or (not column and 1 not in places):
        return None
    place = 1 if not column else places[0]
    axis = joined(own, (row, col)[place])
    axes: tuple[Axis, ...] = (axis, col) if place == 0 else (row, axis)
    note = f"a vector of {own.size} is meant for every {'row' if place else 'column'} of " \
           f"{shape(large)}" if not (place and not column) else ""
    return axes, put(small.body, {own: axis}), note


def _advice(a: Value, b: Value) -> str | None:
    if len(a.axes) == len(b.axes) == 2 and all(map(fits, a.axes, b.axes[::-1])):
        return r"one of them is to be transposed: ^\top"
    labels = [v for v in (a, b) if isinstance(v.body, IntegerAccess)]
    return r"labels are numbers of classes: \operatorname{onehot}(…) is their matrix" \
        if labels else None


def _notes(*values: Value) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for v in values for note in v.notes))


# -- products -------------------------------------------------------------------------------------
def times(a: Value, b: Value) -> Value:
    """The product of two matrices, vectors or scalars.

    Raises:
        MisfitError: the inner sizes differ.
    """
    notes = _notes(a, b)
    if not a.axes or not b.axes:
        return Value(Mul(a.body, b.body), a.axes or b.axes, notes)
    if len(a.axes) != 2 or len(b.axes) != 2:
        raise MisfitError(f"{shape(a)} times {shape(b)} is no product of matrices",
                          "at most two axes", "write the product with indices")
    (row, inner), (other, col) = a.axes, b.axes
    if not fits(inner, other):
        raise MisfitError(f"{shape(a)} times {shape(b)}: the inner sizes differ",
                          f"{'1' if inner is None else inner.size} in both", _transposes(a, b))
    left, right = a.body, b.body
    clash = {x for x in (row,) if x is not None and x == col}
    if clash:  # the same value twice
        new = fresh(col.size)  # type: ignore[union-attr]
        right, col = put(right, {col: new}), new  # type: ignore[dict-item]
    if inner is None or other is None:
        return array(Mul(left, right), (row, col), notes)
    bound = fresh(joined(inner, other).size)
    if bound.size == UNKNOWN:
        raise MisfitError(r"the length of \mathbf{1} is not known here", r"\mathbf{1}_{N}")
    body = summed(Mul(put(left, {inner: bound}), put(right, {other: bound})), bound)
    return array(body, (row, col), notes)


def _transposes(a: Value, b: Value) -> str | None:
    turned = [(x, y) for x, y in ((a.axes[::-1], b.axes), (a.axes, b.axes[::-1]))
              if fits(x[1], y[0])]
    if len(turned) != 1:
        return r"\odot is the product entry by entry" if all(map(fits, a.axes, b.axes)) else None
    return rf"with the {'first' if turned[0][0] != a.axes else 'second'} transposed (^\top) it fits"


def summed(body: Expr, index: Index) -> Expr:
    """The sum over an index; a factor ``[index = e]`` puts e in its place."""
    factors = Mul.make_args(body)
    for n, factor in enumerate(factors):
        if isinstance(factor, Select) and factor.no == 0 \
                and isinstance(factor.condition, sympy.Eq):
            for one, other in (factor.condition.args, factor.condition.args[::-1]):
                inside = isinstance(other, IntegerAccess) or (
                    isinstance(other, Index) and other.size == index.size)
                if one == index and inside and index not in other.free_symbols:
                    rest = Mul(*factors[:n], factor.yes, *factors[n + 1 :])
                    return put(rest, {index: other})
    if index not in body.free_symbols:
        return body * index.size
    return SumOver(body, index)


def transposed(value: Value) -> Value:
    if value.axes and len(value.axes) != 2:
        raise MisfitError(f"{shape(value)} has no transpose", "a matrix or a vector")
    return replace(value, axes=value.axes[::-1])


def diagonal(value: Value) -> Value:
    """The diagonal matrix of a vector, or the diagonal of a matrix."""
    kept = value.kept
    if len(kept) == 1 and len(value.axes) == 2:
        other = fresh(kept[0].size)
        return replace(value, body=Select(sympy.Eq(kept[0], other), value.body),
                       axes=(kept[0], other))
    if len(kept) == 2 and fits(*kept):
        axis = joined(*kept)
        return replace(value, body=put(value.body, {k: axis for k in kept if k != axis}),
                       axes=(axis, None))
    raise MisfitError(f"{shape(value)} has no diagonal", "a vector or a square matrix")


def total(value: Value) -> Expr:
    """The sum of all entries."""
    body = value.body
    for axis in value.kept:
        body = summed(body, axis)
    return body


def at(value: Value, where: tuple[Expr, ...]) -> Value:
    """The element at index expressions."""
    if len(where) != len(value.kept):
        raise MisfitError(f"{shape(value)} has {len(where)} "
                          f"{'index' if len(where) == 1 else 'indices'} here",
                          f"{len(value.kept)}")
    for axis, expr in zip(value.kept, where, strict=True):
        if isinstance(expr, Index) and not fits(axis, expr):
            raise MisfitError(f"index {expr} of size {expr.size} on an axis of size {axis.size}")
        if not isinstance(expr, Index | IntegerAccess) and not expr.is_Integer:
            raise MisfitError(f"{expr} stands as index of an expression",
                              "a letter", "name the expression by a line of its own")
    pairs = {a: _sized(e, a) for a, e in zip(value.kept, where, strict=True)}
    return Value(put(value.body, pairs), (), value.notes)


def _sized(expr: Expr, axis: Index) -> Expr:
    return Index(expr.name, axis.size) if isinstance(expr, Index) and expr.size == UNKNOWN \
        else expr


def is_condition(body: Expr) -> bool:
    return isinstance(body, sympy.logic.boolalg.Boolean) and not isinstance(body, sympy.Symbol)


def alike(body: Expr) -> Expr:
    """A body whose own indices are named in the order in which they occur, so that it is equal to
    one that is written the same."""
    names: dict[Index, Index] = {}
    for node in sympy.preorder_traversal(body):
        if isinstance(node, Index) and node.name.startswith("_"):
            names.setdefault(node, Index(f"_alike{len(names)}", node.size))
    return body.xreplace(names)


def as_number(value: Value) -> Value:
    """A condition as 1 where it holds, else 0."""
    if is_condition(value.body):
        return value.with_body(Select(value.body, S.One, S.Zero))
    return value

