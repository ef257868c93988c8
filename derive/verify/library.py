"""Everything that a derivation computes, as values that others can be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from derive.data import resolve_sizes
from derive.program import Program
from derive.reference import evaluate, evaluate_equation
from derive.text import expression_text
from derive.verify.changes import There
from derive.verify.parts import parts_of

_SMALL = 3  # elements, fewer of which agree by chance


class Library:
    """The tensors of a derived program and the parts of their equations."""

    def __init__(self, derived: Program) -> None:
        self.derived = derived
        self.adjoints = {t.name for t in derived.tensors.values() if t.role == "gradient"}
        self.parts = [(expression_text(p.body), p) for p in parts_of(derived)]
        self.keys: dict[int, dict[int, np.ndarray]] = {}

    def at(self, given: Mapping[str, np.ndarray]) -> tuple[
            dict[str, np.ndarray], dict[str, int], dict[str, np.ndarray]]:
        """All tensors at a point, the sizes there, and the values of tensors and parts by text."""
        arrays = {**{n: np.asarray(a) for n, a in given.items()}, **evaluate(self.derived, given)}
        sizes = resolve_sizes(self.derived, arrays)
        values = {n: a for n, a in arrays.items() if a.dtype.kind == "f"}
        with np.errstate(all="ignore"):
            for text, part in self.parts:
                value = evaluate_equation(part, arrays, sizes)
                if value.size > 1 and np.isfinite(value).all():
                    values[text] = value
        return arrays, {s.name: n for s, n in sizes.items()}, values

    def knows(self, value: Any, there: There) -> bool:
        """Whether a value is one of the derivation's, in any order of its elements (a transposed
        or a reshaped array is right as well)."""
        if not isinstance(value, np.ndarray):
            return False
        array = value
        if array.dtype.kind != "f" or array.size < _SMALL:
            return False
        table = self.keys.get(id(there))
        if table is None:
            table = self.keys[id(there)] = self._table(there)
        ordered = np.sort(np.ravel(array))
        others = table.get(array.size)
        if others is None or not np.isfinite(ordered).all():
            return False
        size = float(np.max(np.abs(ordered)))
        return bool((np.abs(others - ordered).max(axis=1) <= 1e-10 * size).any())

    def _table(self, there: There) -> dict[int, np.ndarray]:
        """By size, the ordered elements of everything, a row each."""
        found: dict[int, list[np.ndarray]] = {}
        for name, value in there.values.items():
            for array in (value, *self._steps(name, value)):
                if array.size >= _SMALL and np.isfinite(array).all():
                    found.setdefault(array.size, []).append(np.sort(np.ravel(array)))
        return {size: np.array(rows) for size, rows in found.items()}

    def _steps(self, name: str, value: np.ndarray) -> Iterator[np.ndarray]:
        """The steps of a recurrence's tensor; the rows of any, for loops over samples."""
        axes = {g.axis[name] for g in self.derived.groups if g.recurrent and name in g.axis}
        for axis in sorted(axes | ({0} if value.ndim > 1 else set())):
            yield from np.moveaxis(value, axis, 0)
