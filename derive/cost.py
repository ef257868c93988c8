"""What an equation costs: operations, function calls, bytes; symbolic in the sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Add, Expr, Integer, Mul, Pow, S

from derive.nodes import Access, Reduction, Select
from derive.program import Equation, Program


@dataclass(frozen=True)
class Cost:
    """``operations``: multiplications, additions, comparisons; ``functions``: exp, tanh and the
    like, divisions and roots; ``bytes``: read and written if every tensor is moved once."""

    operations: Expr = S.Zero
    functions: Expr = S.Zero
    bytes: Expr = S.Zero

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operations + other.operations, self.functions + other.functions,
                    self.bytes + other.bytes)

    def times(self, count: Expr | int) -> Cost:
        return Cost(self.operations * count, self.functions * count, self.bytes * count)


def equation_cost(eq: Equation, program: Program, itemsize: int = 4) -> Cost:
    """The cost of one equation as it is written."""
    operations, functions = _expression(eq.body)
    points = Mul(*(i.size for i in eq.indices))
    moved = [*(program.tensors[name] for name in eq.reads), eq.tensor]
    size = Add(*(Mul(*t.shape) for t in moved)) * itemsize
    return Cost(points * operations, points * functions, size)


def total_cost(costs: Iterable[Cost]) -> Cost:
    listed = tuple(costs)
    return Cost(*(sympy.expand(Add(*(getattr(c, part) for c in listed)))
                  for part in ("operations", "functions", "bytes")))


def stored_bytes(program: Program, itemsize: int = 4) -> Expr:
    """Bytes of the intermediate tensors that the backward pass reads."""
    forward = {eq.name for eq in program.forward.equations}
    kept = {
        name for eq in program.equations if eq.name not in forward
        for name in eq.reads if name in forward
    }
    sizes = [Mul(*program.tensors[n].shape) for n in program.tensors if n in kept]
    return sympy.expand(Add(*sizes) * itemsize)


def _expression(expr: Expr) -> tuple[Expr, Expr]:
    """Operations and function calls for one value of the indices around."""
    if isinstance(expr, Access) or not expr.args or not expr.has(Access):
        return S.Zero, S.Zero
    if isinstance(expr, Reduction):
        operations, functions = _expression(expr.body)
        extent = Mul(*(i.size for i in expr.bound))
        if expr.op == "logsumexp":
            return extent * (operations + 3), extent * (functions + 1) + 1
        return extent * (operations + 1), extent * functions
    if isinstance(expr, Select):
        parts = [_expression(expr.yes), _expression(expr.no)]
        return Add(*(p[0] for p in parts)), Add(*(p[1] for p in parts))
    parts = [_expression(a) for a in expr.args]
    operations, functions = Add(*(p[0] for p in parts)), Add(*(p[1] for p in parts))
    if isinstance(expr, Add):
        return operations + len(expr.args) - 1, functions
    if isinstance(expr, Mul):
        varying = [a for a in expr.args if a not in (1, -1)]
        return operations + len(varying) - 1, functions
    if isinstance(expr, Pow):
        exponent = expr.exp
        if exponent.is_Integer and 2 <= abs(int(exponent)) <= 4:
            return operations + abs(int(exponent)) - 1, functions + int(exponent.is_negative)
        return operations, functions + 1
    return operations, functions + 1


_TIMES = "\u202f·\u202f"
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@lru_cache(maxsize=4096)
def pretty_count(value: Expr) -> str:
    """A count as people write it: thousands apart, sizes kept as letters behind a dot, so that no
    size ``B`` reads as a unit."""
    value = sympy.expand(value)
    if isinstance(value, Integer):
        return f"{int(value):,}".replace(",", "\u202f")
    terms = sorted(Add.make_args(value), key=lambda t: (-len(t.free_symbols), str(t)))
    shown = []
    for term in terms:
        number, rest = term.as_coeff_Mul()
        letters = re.sub(r"\*\*(\d+)", lambda m: m[1].translate(_RAISED), str(rest)) \
            .replace("*", _TIMES) if rest != 1 else ""
        digits = pretty_count(Integer(number)) if number.is_Integer else str(number)
        digits = "" if number == 1 and letters else digits
        shown.append(f"{digits}{_TIMES}{letters}" if digits and letters else digits or letters)
    return " + ".join(shown)
