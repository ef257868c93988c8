"""Values handed in from outside: checked against the declaration before anything computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Symbol

from derive.errors import DataError
from derive.naming import shape_text
from derive.nodes import Index, IntegerAccess, Reduction, walk
from derive.program import Program, Tensor

Values = Mapping[str, Any]
_DISTRIBUTION_TOLERANCE = 1e-4  # single-precision probabilities over many classes


def resolve_sizes(
    program: Program, values: Mapping[str, np.ndarray], sizes: Mapping[str, int] | None = None,
    needed: Collection[Symbol] | None = None,
) -> dict[Symbol, int]:
    """The value of each symbolic size, from the arrays' shapes (``sizes`` adds to them).

    ``needed``: the sizes that must be known; by default all of the program.

    Raises:
        DataError: two arrays give different values to one size, or nothing gives one.
    """
    found: dict[str, tuple[int, str]] = {
        name: (int(size), "sizes") for name, size in (sizes or {}).items()
    }
    for name, array in values.items():
        tensor = program.tensors.get(name)
        if tensor is None or tensor.rank != np.ndim(array):
            continue
        for size, got in zip(tensor.shape, np.shape(array), strict=True):
            if size.is_Symbol:
                known, where = found.setdefault(size.name, (got, name))
                if known != got:
                    raise DataError(
                        f"the size {size.name} is {known} in {where!r} but {got} in {name!r}",
                        expected=f"{name}: shape {shape_text(tensor.shape)} with "
                        f"{size.name} = {known}",
                        got=f"{np.shape(array)}",
                    )
    missing = [s.name for s in (program.sizes if needed is None else needed)
               if s.name not in found]
    if missing:
        raise DataError(
            f"the size {missing[0]} is not known",
            expected=f"an array with a dim of size {missing[0]}, or sizes={{'{missing[0]}': …}}",
        )
    return {s: found[s.name][0] for s in program.sizes if s.name in found}


def check_values(
    program: Program, values: Values, sizes: Mapping[str, int] | None = None, *,
    finite: bool = True, names: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Every tensor that must be given as a contiguous float64 or int64 array of its declared shape.

    Args:
        values: arrays (or numbers) by the tensors' names; names of tensors that an equation
            defines are ignored.
        finite: whether NaN and infinity are refused.
        names: which of the given tensors to check; by default all.

    Raises:
        DataError: a tensor is missing, has another shape or kind of numbers, holds NaN, a label
            lies outside the dim that it indexes, a distribution does not sum to 1, or a size is 0.
    """
    checked: dict[str, np.ndarray] = {}
    wanted = [t for t in program.given if names is None or t.name in names]
    for tensor in wanted:
        if tensor.name not in values:
            raise DataError(
                f"no value is given for the {tensor.role} {tensor.name!r}",
                expected=f"an array of shape {shape_text(tensor.shape)}",
                got="values for " + (", ".join(values) or "nothing"),
            )
        checked[tensor.name] = _converted(tensor, values[tensor.name])
    own = {s for t in wanted for e in t.shape for s in e.free_symbols}
    known = resolve_sizes(program, checked, sizes, own)
    _check_sizes(program, known)
    for tensor in wanted:
        array = checked[tensor.name]
        want = tuple(int(s.xreplace(known)) for s in tensor.shape)
        if array.shape != want:
            raise _wrong_shape(tensor, array, want)
        if finite and tensor.dtype == "float":
            _check_finite(tensor, array)
    check_labels(program, checked, known)
    return checked


def _check_sizes(program: Program, sizes: Mapping[Symbol, int]) -> None:
    """No dim is empty: a mean or a maximum over nothing has no value."""
    empty = next((s for s, n in sizes.items() if n < 1), None)
    if empty is None:
        return
    over = [(eq, node) for eq in program.equations for node in walk(eq.body)
            if isinstance(node, Reduction) and any(i.size == empty for i in node.bound)]
    what = f"the size {empty.name} is 0"
    if over:
        what += f", and the equation of {over[0][0].name!r} is a {over[0][1].op} over it"
    raise DataError(what, expected="at least 1 in every dim",
                    got=str(over[0][0]) if over else None, mend="hand in at least one row")


def _converted(tensor: Tensor, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != tensor.rank:
        raise _wrong_shape(tensor, array, None)
    if array.dtype.kind not in "iufb":
        raise DataError(
            f"{tensor.name!r} holds {array.dtype}", expected=f"{tensor.dtype} numbers",
            mend="no object or string arrays: np.asarray(…, dtype=float)",
        )
    if tensor.dtype == "float":
        return np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)
    whole = array if array.dtype.kind in "iub" else np.round(array)
    if array.dtype.kind == "f" and not np.array_equal(whole, array):
        place = tuple(int(n) for n in np.argwhere(whole != array)[0])
        raise DataError(
            f"{tensor.name!r} is an integer tensor, but element {list(place)} is {array[place]}",
            expected="whole numbers",
        )
    return np.ascontiguousarray(whole, dtype=np.int64).reshape(array.shape)


def _wrong_shape(tensor: Tensor, array: np.ndarray, want: tuple[int, ...] | None) -> DataError:
    names = ", ".join(i.name for i in tensor.indices)
    return DataError(
        f"the shape of {tensor.name!r} is wrong",
        expected=f"{tensor.name}[{names}] of shape {shape_text(tensor.shape)}"
        + (f" = {want}" if want is not None and str(want) != shape_text(tensor.shape) else ""),
        got=f"{array.shape}",
    )


def _check_finite(tensor: Tensor, array: np.ndarray) -> None:
    good = np.isfinite(array)
    if not good.all():
        place = np.argwhere(~good)[0]
        where = ", ".join(f"{i.name}={n}" for i, n in zip(tensor.indices, place, strict=True))
        raise DataError(
            f"{tensor.name!r} holds {array[tuple(place)]}" + (f" at {where}" if where else ""),
            expected="finite numbers", got=f"{int((~good).sum())} that are not",
        )
    if tensor.distribution:
        total = array.sum(axis=-1)
        off = np.abs(total - 1) > _DISTRIBUTION_TOLERANCE
        if off.any() or (array < 0).any():
            raise DataError(
                f"{tensor.name!r} was declared as a distribution",
                expected="numbers of at least 0 that sum to 1 along the last dim",
                got=f"a sum of {total[off][0]:.6g}" if off.any() else "a negative number",
            )


def check_labels(
    program: Program, values: Mapping[str, np.ndarray], sizes: Mapping[Symbol, int]
) -> None:
    """Integer tensors lie inside each dim that they index; no sequence ends beyond its dim."""
    for name, size, use in label_limits(program):
        array = values.get(name)
        if array is None or not array.size:
            continue
        if size.free_symbols - set(sizes):  # a run-time size that these values do not tell
            continue
        limit = int(size.xreplace(dict(sizes)))
        bad = (array < 0) | (array >= limit)
        if bad.any():
            place = tuple(int(n) for n in np.argwhere(bad)[0])
            why = (f"it ends sequences over {use.name}, which has {limit - 1} steps"
                   if isinstance(use, Index) else
                   f"it indexes {use!r}, whose dim has size {limit}")
            raise DataError(
                f"the integer tensor {name!r} holds {array[place]} at {list(place)}",
                expected=f"0 to {limit - 1}: {why}",
                got=f"{int(bad.sum())} outside, from {array.min()} to {array.max()}",
            )


def label_limits(program: Program) -> list[tuple[str, Expr, str | Index]]:
    """``(integer tensor, limit, use)``: its elements are at least 0 and less than the limit. It is
    the size of a dim where they index one (``use``: the indexed tensor), and one more where they
    are lengths, ``t < n[b]`` (``use``: the index t)."""
    found: dict[tuple[str, Expr, str | Index], None] = {}
    for eq in program.equations:
        for node in walk(eq.body):
            if isinstance(node, sympy.StrictLessThan | sympy.StrictGreaterThan):
                index, length = node.lts, node.gts
                if isinstance(index, Index) and isinstance(length, IntegerAccess):
                    found[length.name, index.size + 1, index] = None
        for access in eq.accesses:
            tensor = program.tensors[access.name]
            for where, size in zip(access.where, tensor.shape, strict=True):
                if isinstance(where, IntegerAccess):
                    found[where.name, size, access.name] = None
    return list(found)
