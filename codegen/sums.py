"""How a sum lies in memory: which of its loops belongs innermost, and where it is a scatter."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, S

from codegen.contraction import conjuncts
from codegen.shares import PARTS
from derive.nodes import Index, IntegerAccess, Select, SumOver, accesses

SEVERAL = 4  # values of a summed index that are added to the target at a time
NEAR = 1024  # elements of a target that stay near while others are added to them, at most


def several(size: Expr) -> bool:
    """Whether a summed index has so many values that a few are taken at a time."""
    return bool(size >= 2*SEVERAL) if size.is_Integer else size != PARTS


def other_side(equality: Expr, index: Index) -> Expr:
    """What an equation says that an index is."""
    left, right = equality.args
    return right if left == index else left


def gathered(node: SumOver, free: Sequence[Index]) -> dict[Index, Expr]:
    """Free indices that a guard of the sum sets equal to a gather, with that guard."""
    body = node.body
    if not (isinstance(body, Select) and body.no == 0):
        return {}
    found: dict[Index, Expr] = {}
    for condition in conjuncts(body.condition):
        if not isinstance(condition, sympy.Eq):
            continue
        for index, value in (condition.args, condition.args[::-1]):
            if (
                index in free
                and index not in found
                and value.atoms(IntegerAccess)
                and value.free_symbols & set(node.bound)
                and not value.free_symbols & set(free)
            ):
                found[index] = condition
                break
    return found


def prefers_target(node: SumOver, last: Index) -> bool:
    """Whether memory is read in order with the target's last index innermost, and not with the
    last bound index innermost."""
    return strided(node.body, last) < strided(node.body, node.bound[-1])


def in_order(free: Sequence[Index], body: Expr) -> tuple[Sequence[Index], Sequence[Index]]:
    """The target's indices outside of a sum, and the last ones innermost: several if what is summed
    lies behind each other through all of them, as heads and their columns do."""
    start, elements = len(free) - 1, free[-1].size
    for first in range(start - 1, -1, -1):
        elements *= free[first].size
        last = tuple(free[first:])
        moving = [a.where for a in accesses(body) if a.free_symbols & set(last)]
        if not (elements.is_Integer and elements <= NEAR) or any(
                where[-len(last):] != last for where in moving):
            break
        start = first
    return free[:start], free[start:]


def strided(body: Expr, index: Index) -> int:
    """How many accesses jump in memory from one value of ``index`` to the next."""
    count = 0
    for access in accesses(body):
        *front, final = access.where or (S.Zero,)
        jumps = any(index in e.free_symbols for e in front)
        count += jumps or (index in final.free_symbols and final.diff(index) not in (1, -1))
    return count
