"""A digest of equations: the same network gives the same 16 hexadecimal digits."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sympy import Basic
from sympy.printing.repr import ReprPrinter

from derive.nodes import Index

if TYPE_CHECKING:
    from derive.program import Equation, Tensor


class _Printer(ReprPrinter):
    """`sympy.srepr`, which prints each expression once, in however many others it stands: sums are
    put in order there, which takes most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Basic, str] = {}

    def _print(self, expr: Any, **kwargs: Any) -> str:
        if not isinstance(expr, Basic):
            return super()._print(expr, **kwargs)
        if expr not in self.known:
            self.known[expr] = super()._print(expr, **kwargs)
        return self.known[expr]

    # named, so that the printer need not go through all that an access is
    _print_Access = _print_IntegerAccess = ReprPrinter.emptyPrinter


def digest(equations: Iterable[Equation], tensors: Iterable[Tensor]) -> str:
    """The digest of equations, and of the roles of their tensors."""
    printer = _Printer()
    ranges: dict[Index, str] = {}
    lines = []
    for eq in equations:
        for index in eq.indices:
            if index not in ranges:
                ranges[index] = f"({index.name!r}, {index.size})"
        names = ", ".join(i.name for i in eq.indices)
        target = f"{eq.name}[{names}]" if names else eq.name
        each = ", ".join(ranges[i] for i in eq.indices)
        lines.append(f"{target} for [{each}] = {printer.doprint(eq.body)}")
    roles = ",".join(f"{t.name}:{t.role}:{t.dtype}" for t in tensors)
    return sha256("\n".join([*lines, roles]).encode()).hexdigest()[:16]
