"""What no element enters, taken out of a loop over elements."""

from __future__ import annotations

from typing import Any

from sympy import Expr, Symbol
from sympy.logic.boolalg import Boolean

from derive.nodes import Access


class Hoist:
    """Replaces maximal subexpressions that no element enters by names."""

    def __init__(self) -> None:
        self.known: dict[Expr, Symbol] = {}

    def __call__(self, expr: Expr) -> Expr:
        if _constant(expr):
            if expr.is_number:
                return expr
            return self.known.setdefault(expr, Symbol(f"_c{len(self.known) + 1}", real=True))
        if not expr.args or isinstance(expr, Access):
            return expr
        if expr.is_Add or expr.is_Mul:
            still = [a for a in expr.args if _constant(a)]
            rest = [a for a in expr.args if not _constant(a)]
            if len(still) > 1:
                return expr.func(self(expr.func(*still)), *map(self, rest))
        return expr.func(*(self(a) if isinstance(a, Expr) else self.condition(a)
                           for a in expr.args))

    def condition(self, expr: Any) -> Any:
        """The same inside a condition."""
        if not isinstance(expr, Boolean):
            return expr
        return expr.func(*(self(a) if isinstance(a, Expr) else self.condition(a)
                           for a in expr.args))


def _constant(expr: Expr) -> bool:
    return all(not a.where for a in expr.atoms(Access)) and not (
        expr.free_symbols - {s for a in expr.atoms(Access) for s in a.free_symbols}
    )
