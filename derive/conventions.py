"""The kink ledger: which derivative is taken where a function has none, and how to choose.

Each elementary function with a kink says which value it takes there (`Elementary.subgradient`).
Frameworks differ in some; a convention is a table of functions in place of others that are equal
in value and differ at the kink alone. `with_convention` rewrites a program by it before it is
derived, so that nothing depends on a setting made elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from derive.errors import DerivationError
from derive.functions import Elementary, absolute, leaky_relu
from derive.nodes import Access, MaxOver, MinOver, Select, accesses
from derive.program import Program, as_program


class absolute_right(absolute):
    """The absolute value with the derivative from the right at 0, as in JAX."""

    subgradient = "abs'(0) = 1"

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return Select(x >= 0, S.One, S.NegativeOne)


class leaky_relu_right(leaky_relu):
    """`leaky_relu` with the derivative from the right at 0, as in JAX."""

    subgradient = "leaky_relu'(0) = 1"

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return Select(y >= 0, S.One, settings[0])


#: What differs from the functions as they stand, which follow PyTorch.
CONVENTIONS: Mapping[str, Mapping[type[Elementary], type[Elementary]]] = {
    "torch": {},
    "jax": {absolute: absolute_right, leaky_relu: leaky_relu_right},
}


def with_convention(program: Program, convention: str) -> Program:
    """The program with the functions of a convention: the same values everywhere.

    Raises:
        DerivationError: an unknown convention.
    """
    program = as_program(program)
    if convention not in CONVENTIONS:
        raise DerivationError(
            f"unknown convention {convention!r}", expected=" or ".join(CONVENTIONS)
        )
    table = CONVENTIONS[convention]
    back = {new: old for rows in CONVENTIONS.values() for old, new in rows.items()}

    def chosen(node: Expr) -> Expr:
        plain = back.get(node.func, node.func)
        return table.get(plain, plain)(*node.args)

    kinds = (*back, *back.values())
    return replace(program, equations=tuple(
        replace(eq, body=eq.body.replace(lambda e: isinstance(e, kinds), chosen))
        if eq.body.has(*kinds) else eq
        for eq in program.equations
    ))


@dataclass(frozen=True)
class Kink:
    """A place where a program has no derivative: which function, where, and what is taken."""

    function: str
    at: str
    taken: str
    equations: tuple[str, ...]


def ledger(program: Program) -> tuple[Kink, ...]:
    """Every kind of kink that a program has, with the equations that have it."""
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for eq in as_program(program).equations:
        for node in sympy.preorder_traversal(eq.body):
            for entry in _kinks_of(node):
                found.setdefault(entry, {})[eq.name] = None
    return tuple(Kink(*entry, tuple(names)) for entry, names in found.items())


def _kinks_of(node: Expr) -> list[tuple[str, str, str]]:
    if isinstance(node, Elementary):
        name = type(node).__name__
        return [(name, f"x = {point}", type(node).subgradient) for point in type(node).kinks]
    if isinstance(node, MaxOver | MinOver):
        return [(node.op, "ties", "n elements that tie get 1/n each")]
    if isinstance(node, Select) and _compares_floats(node.condition):
        return [("selection", str(node.condition), "the derivative of the branch that is taken")]
    return []


def _compares_floats(condition: Expr) -> bool:
    return any(
        isinstance(access, Access) and not access.is_integer for access in accesses(condition)
    )
