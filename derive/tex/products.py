"""Factors with operators between them → a product: of matrices, entry by entry, quotients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import sympy
from sympy import Mul

from derive.nodes import Select
from derive.tex.sliding import is_sliding, slid
from derive.tex.values import MisfitError, Value, entrywise, is_condition, times, total

if TYPE_CHECKING:
    from derive.tex.terms import Reader

_ENTRYWISE = ("odot", "circ", "oslash")
_PRODUCTS = ("", "cdot", "times", "*", "bullet", "otimes")


@dataclass(frozen=True)
class Operand:
    """A factor and the operator before it; ``plain``: after a slash nothing belongs to it but
    itself; ``guard``: a bracket, outside of whose condition the product is 0."""

    op: str
    values: tuple[Value, ...]
    at: int
    plain: bool = False
    guard: bool = False


def fitting(reader: Reader, ways: Iterable[Callable[[], list[Value]]]) -> list[Value]:
    """All readings of the ways that fit; where none does, the trouble of the first."""
    found: list[Value] = []
    trouble: MisfitError | None = None
    for way in ways:
        try:
            found += way()
        except MisfitError as misfit:
            trouble = trouble or misfit
    if found:
        return reader.distinct(found)
    assert trouble is not None
    raise trouble


def joined(reader: Reader, operands: Sequence[Operand]) -> list[Value]:
    """All readings of the operators between factors."""
    if len(operands) == 1:
        return list(operands[0].values)
    slashes = [k for k, o in enumerate(operands) if o.op == "/"]
    if slashes:
        return _divided(reader, operands, slashes[0])
    guards = [o for o in operands if o.guard and all(not v.axes for v in o.values)]
    plain = not any(is_sliding(o.op) or o.op == "oslash" for o in operands)
    if plain and guards and len(guards) < len(operands):
        return _guarded(reader, guards, operands)
    return fitting(reader, [partial(way, reader, operands) for way in _orders(operands)])


def _orders(operands: Sequence[Operand]) -> list[Callable[..., list[Value]]]:
    """The orders in which operators may be meant: a convolution before any other, or what is
    joined entry by entry before that."""
    entries = any(o.op in _ENTRYWISE for o in operands)
    if any(is_sliding(o.op) for o in operands):
        return [_slides_first, _entries_first] if entries else [_slides_first]
    return [_products_first, _entries_first] if entries else [_product]


def _slides_first(reader: Reader, operands: Sequence[Operand]) -> list[Value]:
    made = []
    for run in _runs(operands, lambda o: is_sliding(o.op)):
        found = list(run[0].values)
        for other in run[1:]:
            found = fitting(reader, [
                partial(_slid, a, b, other) for a, b in product(found, other.values)])
        made.append(replace(run[0], values=tuple(found)))
    return joined(reader, made)


def _slid(a: Value, b: Value, operand: Operand) -> list[Value]:
    try:
        return slid(a, b, operand.op)
    except MisfitError as misfit:
        misfit.at = operand.at if misfit.at is None else misfit.at
        raise


def _guarded(reader: Reader, guards: Sequence[Operand], operands: Sequence[Operand]
             ) -> list[Value]:
    """A product with brackets: 0 where a condition fails, whatever stands behind it."""
    rest = [o for o in operands if o not in guards]
    inner = joined(reader, [replace(rest[0], op=""), *rest[1:]])
    conditions = [o.values for o in guards]
    return reader.each(
        lambda value, *c: value.with_body(
            Select(sympy.And(*(x.body.condition for x in c)), value.body)),
        operands[0].at, inner, *conditions)


def _divided(reader: Reader, operands: Sequence[Operand], k: int) -> list[Value]:
    """``a/b c``: (a/b) c, or a/(b c) where b is no number and no group."""
    above, below, after = operands[:k], operands[k], operands[k + 1:]
    upper = joined(reader, above)
    quotient = reader.divided(upper, below.values, below.at)
    found = joined(reader, [Operand("", tuple(quotient), operands[0].at), *after])
    if after and not after[0].op and not below.plain:
        try:
            lower = joined(reader, [replace(below, op=""), *after])
            found += reader.divided(upper, lower, below.at)
        except MisfitError:
            pass
    return found


def _runs(operands: Sequence[Operand], together: Callable[[Operand], bool]
          ) -> list[list[Operand]]:
    """Neighbours that an operator of one kind joins."""
    runs: list[list[Operand]] = []
    for n, operand in enumerate(operands):
        if n and together(operand):
            runs[-1].append(operand)
        else:
            runs.append([operand])
    return runs


def _products_first(reader: Reader, operands: Sequence[Operand]) -> list[Value]:
    runs = _runs(operands, lambda o: o.op not in _ENTRYWISE)
    return _entries(reader, [_product(reader, run) for run in runs], [run[0].op for run in runs],
                    operands[0].at)


def _entries_first(reader: Reader, operands: Sequence[Operand]) -> list[Value]:
    runs = _runs(operands, lambda o: o.op in _ENTRYWISE)
    made = [Operand(run[0].op, tuple(_entries(
        reader, [list(o.values) for o in run], [o.op for o in run], run[0].at)), run[0].at)
        for run in runs]
    return joined(reader, made)


def _entries(reader: Reader, factors: Sequence[list[Value]], ops: Sequence[str], place: int
             ) -> list[Value]:
    found = factors[0]
    for other, op in zip(factors[1:], ops[1:], strict=True):
        if op == "oslash":
            found = reader.divided(found, other, place)
            continue
        found = reader.each(
            lambda a, b: entrywise(Mul, a, b, "multiplied entry by entry"), place, found, other)
    return found


def _product(reader: Reader, operands: Sequence[Operand]) -> list[Value]:
    """A chain of products, from the left; from the right where that does not fit."""
    unknown = next((o for o in operands[1:] if o.op not in _PRODUCTS), None)
    if unknown is not None:
        raise MisfitError(f"{unknown.op} is not read between these", r"\odot, or indices",
                          at=unknown.at)
    try:
        found = list(operands[0].values)
        for other in operands[1:]:
            found = reader.each(lambda a, b, o=other.op: _multiplied(a, b, o), other.at, found,
                                other.values)
        return found
    except MisfitError as misfit:
        if len(operands) < 3:
            raise
        first = misfit
    try:
        found = list(operands[-1].values)
        for k in range(len(operands) - 2, -1, -1):
            found = reader.each(lambda a, b, o=operands[k + 1].op: _multiplied(a, b, o),
                                operands[k].at, operands[k].values, found)
        return found
    except MisfitError:
        raise first from None


def _multiplied(a: Value, b: Value, op: str) -> Value:
    if is_condition(a.body) or is_condition(b.body):
        raise MisfitError("a condition stands as factor", r"\mathbb{1}[…]")
    if op in ("times", "*") and a.axes and b.axes:
        raise MisfitError(f"{op if op == '*' else chr(92) + op} between two arrays has several "
                          "readings", r"\odot entry by entry, nothing between matrices, \ast for "
                          r"a convolution, \star for a cross-correlation")
    columns = all(len(v.axes) == 2 and v.axes[0] is not None and v.axes[1] is None
                  for v in (a, b))
    if op == "otimes":
        if not columns:
            raise MisfitError(r"\otimes is read between two vectors", "a b^\\top")
        return times(a, replace(b, axes=b.axes[::-1]))
    if op == "cdot" and columns:
        return Value(total(entrywise(Mul, a, b, "multiplied")), (), a.notes)
    return times(a, b)
