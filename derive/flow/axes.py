"""Which axes of which tensors hold features, and which hold samples: from the equations alone.

A weight is contracted: one of its indices is summed over. Every axis that shares an index with an
axis of such a weight is a *feature* axis: its elements meet different random weights, so they are
independent over the draw of the weights. The other axes (batch, position, time) are *sample*
axes: their elements meet the same weights, so they stay correlated. The axis that a recurrence
loops over is a *loop* axis.
"""

from __future__ import annotations

from typing import Literal

from sympy import Expr, Mul, preorder_traversal

from derive.nodes import Access, Index, IntegerAccess, SumOver, accesses
from derive.program import Program

Kind = Literal["feature", "sample", "loop"]
Axis = tuple[str, int]


class _Classes:
    """Union of axes that share an index."""

    def __init__(self) -> None:
        self.parent: dict[Axis, Axis] = {}

    def find(self, axis: Axis) -> Axis:
        self.parent.setdefault(axis, axis)
        while self.parent[axis] != axis:
            self.parent[axis] = self.parent[self.parent[axis]]
            axis = self.parent[axis]
        return axis

    def join(self, a: Axis, b: Axis) -> None:
        self.parent[self.find(a)] = self.find(b)


def _plain_axes(access: Access) -> list[tuple[Index, Axis]]:
    return [(w, (access.name, n)) for n, w in enumerate(access.where) if isinstance(w, Index)]


def contracted_weights(body: Expr, random: set[str]) -> dict[Access, tuple[Index, ...]]:
    """Accesses of random parameters under a sum that binds one of their indices, with the
    indices that the sum binds (all of them: a kernel's taps and channels)."""
    found: dict[Access, tuple[Index, ...]] = {}
    for node in preorder_traversal(body):
        if not isinstance(node, SumOver):
            continue
        for access in accesses(node.body):
            bound = [i for i in node.bound if any(i in w.free_symbols for w in access.where)]
            if access.name in random and bound:
                found[access] = tuple(bound)
    return found


def classify_axes(program: Program, random: set[str]) -> dict[str, tuple[Kind, ...]]:
    """The kind of each axis of each tensor; ``random`` names the parameters drawn at random."""
    classes, seeds = _Classes(), set()
    for eq in program.equations:
        weights = contracted_weights(eq.body, random)
        by_index: dict[Index, Axis] = dict(_plain_axes(eq.target))
        for access in accesses(eq.body):
            if isinstance(access, IntegerAccess):
                continue
            if access.name in random and access not in weights:
                continue  # a bias, a first state or a position's own vector shares no features
            for index, axis in _plain_axes(access):
                if index in by_index:
                    classes.join(axis, by_index[index])
                by_index.setdefault(index, axis)
                if access in weights:
                    seeds.add(axis)
    for tensor in program.tensors.values():  # an adjoint has the axes of what it is adjoint to
        if tensor.origin is not None and tensor.origin[0] == "adjoint":
            for n in range(tensor.rank):
                classes.join((tensor.name, n), (tensor.origin[1], n))
    feature = {classes.find(axis) for axis in seeds}
    loops = {
        classes.find((name, axis))
        for group in program.groups if group.recurrent
        for name, axis in group.axis.items()
    }

    def kind(axis: Axis) -> Kind:
        root = classes.find(axis)
        return "loop" if root in loops else "feature" if root in feature else "sample"

    gathered = {a.name for eq in program.equations for a in accesses(eq.body)
                if any(isinstance(w, IntegerAccess) for w in a.where)}

    def kinds(name: str, rank: int) -> tuple[Kind, ...]:
        if name in random and name not in gathered:  # every entry of a weight is drawn anew
            return tuple("feature" for _ in range(rank))
        return tuple(kind((name, n)) for n in range(rank))

    return {name: kinds(name, tensor.rank) for name, tensor in program.tensors.items()}


def fan_ins(program: Program) -> dict[str, Expr]:
    """The fan-in of each parameter that is contracted: the product of the sizes of its indices
    that are summed over in the forward equations (a kernel's channels and taps). A bias and an
    embedding have none."""
    names = {t.name for t in program.parameters}
    fans: dict[str, Expr] = {}
    for eq in program.equations:
        if eq.tensor.role != "gradient" and names.intersection(eq.reads):
            for access, bound in contracted_weights(eq.body, names).items():
                fans.setdefault(access.name, Mul(*(i.size for i in bound)))
    return fans
