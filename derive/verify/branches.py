"""Where a function's code branches on a size: the sizes that take it down each path.

While a function is traced, every comparison of a size that could come out otherwise at another
size is kept (`Branches`). The equations of that trace hold only where all of them come out alike;
the sizes that make one of them come out otherwise lead down another path, which is tested and
traced on its own. A path that no small size reaches is stated as a condition of the proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import sympy
from sympy import Expr, Integer, Symbol

# where code lies that is not the user's: this package and NumPy
OWN = (str(Path(__file__).resolve().parent.parent), str(Path(np.__file__).resolve().parent))
_LARGEST = 512  # a size beyond which no path is looked for: its arrays would take too long
_SMALL = 32
_TRIED = 4096  # combinations of sizes for one path


@dataclass
class Branches:
    """Conditions on sizes, each as it came out (so each is true on this path), in order.

    ``plain`` are the symbols of sizes that were taken as plain numbers (``int(n)``), of which
    nothing is known afterwards.
    """

    conditions: dict[Expr, None] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)

    def came_out(self, condition: Expr, true: bool) -> None:
        """Keep a comparison of sizes, unless it comes out the same at all sizes."""
        held = condition if true else sympy.Not(condition)
        if always(held) is not True:
            self.conditions[held] = None

    def taken_as_number(self, expr: Expr) -> None:
        self.plain |= {s.name for s in expr.free_symbols if isinstance(s, Symbol)}


def always(condition: Expr) -> bool | None:
    """Whether a condition holds at all positive sizes (None: not decided)."""
    if condition in (sympy.true, sympy.false):
        return bool(condition)
    symbols = sorted(condition.free_symbols, key=str)
    above = {s: Symbol(f"_{s}", integer=True, nonnegative=True) + 1 for s in symbols}
    moved = condition.xreplace(above)
    if isinstance(moved, sympy.core.relational.Relational):
        moved = moved.func(sympy.expand(moved.lhs - moved.rhs), 0)
    return bool(moved) if moved in (sympy.true, sympy.false) else None


def holds(conditions: Iterable[Expr], sizes: Mapping[str, int]) -> bool:
    """Whether conditions hold at sizes."""
    for condition in conditions:
        numbers = {s: Integer(sizes[s.name]) for s in condition.free_symbols}
        if condition.xreplace(numbers) != True:  # noqa: E712  (SymPy's true)
            return False
    return True


def witness(conditions: Sequence[Expr], base: Mapping[str, int],
            other_than: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """Sizes at which conditions hold, those in ``base`` where nothing asks for others.

    Args:
        other_than: sizes that the found ones must differ from, each in its own.
    """
    taken = other_than or {}
    named = {s.name for c in conditions for s in c.free_symbols}
    moved = sorted(named | set(taken))
    choices = [_candidates(conditions, n, base, taken) for n in moved]
    for count, numbers in enumerate(product(*choices)):
        if count > _TRIED:
            return None
        sizes = {**base, **dict(zip(moved, numbers, strict=True))}
        if holds(conditions, sizes):
            return sizes
    return None


def _candidates(conditions: Sequence[Expr], name: str, base: Mapping[str, int],
                taken: Mapping[str, int]) -> list[int]:
    """Values of one size, the likeliest first."""
    edges = {int(n) + step for c in conditions if name in {s.name for s in c.free_symbols}
             for n in c.atoms(Integer) for step in (-1, 0, 1)}
    wanted = [base[name], base[name] + 2, *range(1, _SMALL + 1), *sorted(edges)]
    return list(dict.fromkeys(n for n in wanted
                              if 1 <= n <= _LARGEST and n != taken.get(name)))


def other_paths(branches: Branches, base: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes that take the function down another path at one of its branches, the first first."""
    before: list[Expr] = []
    for condition in branches.conditions:
        found = witness([*before, sympy.Not(condition)], base)
        if found is not None:
            yield found
        before.append(condition)
