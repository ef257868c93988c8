"""Schedule → memory plan: where each tensor lies in its flat buffer.

Parameters, their gradients and every moment of the optimizer share one layout: an offset for each
parameter, aligned to 16 elements (a cache line in single precision). Intermediates lie in one
arena whose offsets are polynomials in the run-time sizes, so that it is allocated once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sympy
from sympy import Expr, Integer, Mul

from derive.errors import DeclarationError
from derive.program import Program, Tensor

ALIGN = 16
GIVEN = "given "  # the buffer of a tensor that is handed in is its own, whatever its name


@dataclass(frozen=True)
class Slot:
    """A tensor's place: ``buffer`` is p (parameters), d (their gradients), s (states), n (the
    states' next values), w (arena), or `GIVEN` and the name of a tensor that is handed in."""

    buffer: str
    offset: Expr
    shape: tuple[Expr, ...]

    @property
    def elements(self) -> Expr:
        return Mul(*self.shape)


@dataclass(frozen=True)
class Layout:
    """The flat buffer of parameters (or states): offsets, shapes, total length."""

    slots: dict[str, Slot]
    total: int


@dataclass(frozen=True)
class Plan:
    """Where everything lies: ``slots`` by tensor, ``arena`` the arena's length in elements."""

    slots: dict[str, Slot]
    arena: Expr

    def __str__(self) -> str:
        width = max((len(n) for n in self.slots), default=0)
        rows = [f"{n:{width}}  {s.buffer}[{s.offset} : {sympy.expand(s.offset + s.elements)}]"
                f"  {tuple(s.shape)}" for n, s in self.slots.items()]
        return "\n".join([*rows, f"arena: {self.arena} elements"])


def flat_layout(tensors: Iterable[Tensor], buffer: str) -> Layout:
    """Consecutive aligned places for tensors of fixed size.

    Raises:
        DeclarationError: a tensor has a size that is not a number.
    """
    slots: dict[str, Slot] = {}
    at = 0
    for tensor in tensors:
        if any(not s.is_Integer for s in tensor.shape):
            raise DeclarationError(
                f"the {tensor.role} {tensor.name!r} has a size that is known only at run time",
                expected="a number for every dim of a tensor that is kept",
                got=f"({', '.join(map(str, tensor.shape))})",
                mend="give the dim a number, or make it an input",
                where=tensor.where,
            )
        slots[tensor.name] = Slot(buffer, Integer(at), tensor.shape)
        at += aligned(int(Mul(*tensor.shape)))
    return Layout(slots, at)


def aligned(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


def arena_size(shape: tuple[Expr, ...]) -> Expr:
    """Elements of a place in the arena: the fixed part rounded up, times the run-time sizes."""
    fixed = Mul(*(s for s in shape if s.is_Integer))
    return Integer(aligned(int(fixed))) * Mul(*(s for s in shape if not s.is_Integer))


def plan_memory(program: Program, parameters: Layout, states: Layout) -> Plan:
    """A place for every tensor of a program."""
    slots: dict[str, Slot] = {}
    back = {gradient: name for name, gradient in program.gradients.items()}
    after = {new: old for old, new in program.updates.items() if old in states.slots}
    at: Expr = Integer(0)
    for name, tensor in program.tensors.items():
        if name in parameters.slots:
            slots[name] = parameters.slots[name]
        elif name in states.slots:
            slots[name] = states.slots[name]
        elif name in back and back[name] in parameters.slots:
            own = parameters.slots[back[name]]
            slots[name] = Slot("d", own.offset, tensor.shape)
        elif name in after:
            slots[name] = Slot("n", states.slots[after[name]].offset, tensor.shape)
        elif name in program.defined:
            slots[name] = Slot("w", at, tensor.shape)
            at = sympy.expand(at + arena_size(tensor.shape))
        else:
            slots[name] = Slot(GIVEN + name, Integer(0), tensor.shape)
    return Plan(slots, at)
