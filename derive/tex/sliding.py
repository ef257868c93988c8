r"""``∗`` and ``⋆`` between two arrays: one slides over the other, with its elements turned or not.

``(x ⋆ K)_p = Σ_r x_{p+r} K_r`` is a cross-correlation, ``(x ∗ K)_p = Σ_r x_{p-r} K_r`` a
convolution: the same with K turned in every dim. The shorter array slides over the longer one, on
whichever side it stands. How far it slides the sign does not say; the shape of the left side does,
or a word at the sign (``\ast_{\text{full}}``): *valid*, inside of the longer one only (n - m + 1),
*same* (n), or *full*, wherever they meet (n + m - 1), the longer one being 0 outside.
"""

from __future__ import annotations

import sympy
from sympy import Expr, S

from derive.nodes import Index, Select, SumOver
from derive.tex.values import UNKNOWN, MisfitError, Value, fresh, put, shape

SIGNS = ("ast", "star")
EXTENTS = ("valid", "same", "full")


def is_sliding(op: str) -> bool:
    return op.partition(":")[0] in SIGNS


def slid(one: Value, two: Value, op: str) -> list[Value]:
    """The readings of a sign between two arrays: one for each extent that there may be.

    Raises:
        MisfitError: they are no arrays of as many dims, or neither is the shorter one.
    """
    sign, _, extent = op.partition(":")
    over, kernel = _roles(one, two, sign)
    wanted = (extent,) if extent else EXTENTS
    found = [v for name in wanted if (v := _slid(over, kernel, sign, name)) is not None]
    if not found:
        raise MisfitError(f"{shape(kernel)} over {shape(over)} has no extent {extent!r}",
                          "a kernel of an odd size")
    return found


def _roles(one: Value, two: Value, sign: str) -> tuple[Value, Value]:
    """Which array is slid over, and which slides."""
    if not one.kept or len(one.kept) != len(two.kept):
        raise MisfitError(
            f"\\{sign} slides an array over one of as many dims, and here are {shape(one)} and "
            f"{shape(two)}", "slices, as in X_{bc} \\star K_{oc}, or \\cdot between numbers")
    differences = [_difference(a, b) for a, b in zip(one.kept, two.kept, strict=True)]
    if all(d >= 0 for d in differences):
        return one, two
    if all(d <= 0 for d in differences):
        return two, one
    raise MisfitError(f"neither {shape(one)} nor {shape(two)} fits into the other",
                      "an array that is the shorter one in every dim")


def _difference(a: Index, b: Index) -> int:
    """The sign of the difference of two sizes; one that is known at run time only is longer than
    a number."""
    if UNKNOWN in (a.size, b.size):
        raise MisfitError("the size of what slides is not known", "arrays of declared sizes")
    difference = sympy.expand(a.size - b.size)
    if difference.is_number:
        return int(sympy.sign(difference))
    if a.size.is_number == b.size.is_number:
        raise MisfitError(f"whether {a.size} or {b.size} is longer is not known",
                          "the sum written out with indices")
    return -1 if a.size.is_number else 1


def _slid(over: Value, kernel: Value, sign: str, extent: str) -> Value | None:
    made: dict[Index, Index] = {}
    places: dict[Index, Expr] = {}
    elements: dict[Index, Expr] = {}
    inside: list[Expr] = []
    sums: list[Index] = []
    for axis, own in zip(over.kept, kernel.kept, strict=True):
        reach = own.size - 1
        if extent == "same" and not (own.size.is_Integer and own.size % 2):
            return None
        before = {"valid": S.Zero, "full": reach, "same": reach / 2}[extent]
        out, summed = fresh(axis.size + reach - 2 * (reach - before)), fresh(own.size)
        places[axis] = sympy.expand(out + summed - before)
        elements[own] = reach - summed if sign == "ast" else summed
        made[axis] = out
        sums.append(summed)
        if extent != "valid":
            inside += [sympy.Ge(places[axis], 0), sympy.Lt(places[axis], axis.size)]
    body = put(over.body, places) * put(kernel.body, elements)
    if inside:
        body = Select(sympy.And(*inside), body, S.Zero)
    axes = tuple(a if a is None else made[a] for a in over.axes)
    return Value(SumOver(body, *sums), axes, (*over.notes, *kernel.notes))


def turned_round(value: Value) -> Value:
    """An array with the elements of every dim in the other order.

    Raises:
        MisfitError: it has no dims.
    """
    if not value.kept:
        raise MisfitError("a scalar is not turned", "an array, or a slice of one")
    return value.with_body(put(value.body, {a: a.size - 1 - a for a in value.kept}))
