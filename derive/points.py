"""Random points at which programs are compared: sizes, data and parameters from a seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sympy

from derive.data import label_limits
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    MaxOver,
    MinOver,
    Select,
)
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate
from derive.simplify import opaque_atoms

_DRAWS = 12
_STRIDE = 1_000_003  # draws of one seed are not those of the next
_SIZES = (3, 5, 2, 7, 4)  # unequal, so that a missing transpose cannot hide


def default_sizes(program: Program, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A small value for each symbolic size that is not given."""
    given = dict(sizes or {})
    names = [s.name for s in program.sizes]
    return {name: given.get(name, _SIZES[n % len(_SIZES)]) for n, name in enumerate(names)}


def random_values(
    program: Program, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """A value for everything that must be given: labels in range, distributions that sum to 1,
    weights scaled by their fan-in so that activations neither saturate nor vanish."""
    rng = np.random.default_rng(seed)
    known = default_sizes(program, sizes)
    there = {s: known[s.name] for s in program.sizes}
    limits: dict[str, int] = {}
    for name, size, _ in label_limits(program):
        limit = int(size.xreplace(there))
        limits[name] = min(limit, limits.get(name, limit))
    return {
        t.name: _random(t, tuple(int(s.xreplace(there)) for s in t.shape), rng,
                        limits.get(t.name, 4))
        for t in program.given
    }


def _random(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator,
            limit: int) -> np.ndarray:
    if tensor.dtype == "int":
        return rng.integers(0, limit, shape)
    normal = rng.normal(size=shape)
    if tensor.distribution:
        weights = np.exp(normal)
        return weights / weights.sum(axis=-1, keepdims=True)
    if tensor.role == "parameter":
        if tensor.initial == "ones":
            return 1 + 0.2 * normal
        fan_in = max(1.0, np.prod(shape) / shape[-1]) if len(shape) > 1 else 4.0
        return normal / np.sqrt(fan_in)
    if tensor.role in ("state", "constant"):
        return rng.uniform(0.5, 1.5, shape)  # may stand for a variance or a rate
    return normal


def smooth_point(
    program: Program, of: str, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """`random_values` of the seed, out of several draws, that lie farthest from any kink of the
    equations that the scalar ``of`` needs."""
    kinked, names = kink_program(program.only(of))
    known = default_sizes(program, sizes)
    draws = [random_values(program, seed + _STRIDE * n, sizes) for n in range(_DRAWS)]
    if not names:
        return draws[0]

    def distance(values: dict[str, np.ndarray]) -> float:
        own = {t.name: values[t.name] for t in kinked.given}
        found = [np.abs(a) for a in evaluate(kinked, own, names, known).values()]
        # exact zeros are the attained maxima (and what no draw can move off its kink)
        return min((float(a[a > 0].min()) for a in found if np.any(a > 0)), default=0.0)

    return max(draws, key=distance)


def kink_program(program: Program) -> tuple[Program, tuple[str, ...]]:
    """The program with a tensor for each place where its derivative can jump: the argument of a
    function with kinks less the kink, the two sides of a comparison, who attains a maximum.

    The sign patterns of these tensors tell whether two points lie on the same smooth piece.
    """
    new: list[Equation] = []
    for eq in program.equations:
        for scope, body in _kinks(eq):
            free = tuple(i for i in scope if i in body.free_symbols)
            tensor = Tensor(f"_kink_{len(new)}", free)
            new.append(Equation(tensor, free, body, "kink"))
    return program.with_equations(new), tuple(eq.name for eq in new)


def _kinks(eq: Equation) -> list[tuple[tuple[Index, ...], sympy.Expr]]:
    found: list[tuple[tuple[Index, ...], sympy.Expr]] = []

    def visit(node: sympy.Basic, scope: tuple[Index, ...]) -> None:
        if isinstance(node, Access) or not node.has(Access):
            return
        if isinstance(node, Elementary):
            found.extend((scope, node.args[0] - kink) for kink in type(node).kinks)
        elif isinstance(node, MaxOver | MinOver):
            if node == eq.body:  # zero where the maximum is attained: there alone, if no tie
                found.append(((*scope, *node.bound), eq.target - node.body))
        elif isinstance(node, Select | sympy.Piecewise):
            conditions = [node.condition] if isinstance(node, Select) else [
                c for _, c in node.args]
            for condition in conditions:
                # what stands inside a comparison is visited below, in its own scope
                for relation in opaque_atoms(condition, (sympy.core.relational.Relational,)):
                    if not _whole(relation):
                        found.append((scope, relation.lhs - relation.rhs))
        elif isinstance(node, sympy.Abs):
            found.append((scope, node.args[0]))
        elif isinstance(node, sympy.Max | sympy.Min):
            found.extend((scope, node.args[0] - a) for a in node.args[1:])
        inner = (*scope, *node.bound) if hasattr(node, "bound") else scope
        for arg in node.args:
            visit(arg, inner)

    visit(eq.body, eq.indices)
    return found


def _whole(relation: sympy.Basic) -> bool:
    return not any(
        isinstance(a, Access) and not isinstance(a, IntegerAccess)
        for a in sympy.preorder_traversal(relation)
    )
