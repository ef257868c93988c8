"""The parts of a derivation: every expression that stands inside one of its equations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import sympy
from sympy import Expr

from derive.nodes import Access, Index, Reduction
from derive.program import Equation, Program, Tensor

_MOST = 400
_FACTORS = 5  # of a product, of which every subset is a part


def parts_of(program: Program) -> Iterator[Equation]:
    """Each part once (some hundreds at most), as the equation of a tensor of its own."""
    seen: set[Expr] = set()
    for eq in program.equations:
        for body in _inside(eq.body):
            if body in seen or len(seen) > _MOST:
                continue
            seen.add(body)
            free = tuple(sorted((s for s in body.free_symbols if isinstance(s, Index)),
                                key=lambda i: i.name))
            yield Equation(Tensor("_part", free), free, body)


def _inside(body: Expr) -> Iterator[Expr]:
    for node in sympy.preorder_traversal(body):
        if isinstance(node, sympy.Add | sympy.Mul | sympy.Pow | sympy.Function | Reduction) \
                and not isinstance(node, Access) and node.atoms(Access):
            yield node
            if node.is_Pow and node.exp.could_extract_minus_sign():
                yield 1 / node
            if isinstance(node, sympy.Mul | sympy.Add) and 2 < len(node.args) <= _FACTORS:
                for count in range(2, len(node.args)):
                    yield from (node.func(*some) for some in combinations(node.args, count))
