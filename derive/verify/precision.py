"""Gradients computed in single or half precision: how far rounding alone may take them.

A function that returns float32 claims no more digits than that; by the bar of float64 every right
one would be wrong. Its rounding is measured on the derived equations: the value of each, and every
array that goes in, is shifted by a few units of the last place of what its terms add up to without
their signs (running error analysis: Higham 2002, section 3.3), and the gradients are looked at for
how far they stray. That knows of sums that cancel and of how errors grow on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from derive.bounds import magnitude
from derive.data import resolve_sizes
from derive.nodes import Access, MaxOver, MinOver
from derive.program import Program, Tensor
from derive.reference import evaluate

DOUBLE = float(np.finfo(np.float64).eps)
_UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}


@dataclass(frozen=True)
class Near:
    """How near two gradients must be to be called the same, relative to the largest entry, and
    what rounding alone leaves between them."""

    close: float = 1e-9
    rounding: float = 1e-13


NEAR: ContextVar[Near] = ContextVar("NEAR", default=Near())  # noqa: B039 - it is frozen
_DRAWS, _SHIFT, _LAST = 6, 8, 64  # shifts in units; the last operations, relative, as in `check`
_PREFIX = "_shift_of_"


@contextmanager
def within(eps: float) -> Iterator[None]:
    """Gradients of that precision are looked at meanwhile."""
    before = NEAR.set(Near(256 * eps, 64 * eps) if eps > DOUBLE else Near())
    try:
        yield
    finally:
        NEAR.reset(before)


def unit(name: str) -> float:
    """The distance from 1 to the next number of a dtype."""
    return _UNITS.get(name, DOUBLE)


def rounding(program: Program, point: Mapping[str, Any], eps: float,
             names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """How far arithmetic of a precision may take each gradient from the exact one, by entry.

    Args:
        program: a derived program.
        point: an array for each tensor that no equation defines.
        eps: of the precision.
        names: of the gradients; all of them by default.
    """
    wanted = {n: program.gradients[n] for n in names or tuple(program.gradients)}
    point = {n: np.asarray(a) for n, a in point.items()}
    sizes = resolve_sizes(program, point)
    exact = evaluate(program, point, tuple(wanted.values()))
    spread = {n: np.zeros(np.shape(exact[g])) for n, g in wanted.items()}
    shifted = _shifted(program.only(*wanted.values()))
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        values = {n: a * (1 + eps * rng.uniform(-1, 1, a.shape)) if a.dtype.kind == "f" else a
                  for n, a in point.items()}
        for tensor in (t for t in shifted.given if t.name.startswith(_PREFIX)):
            shape = [int(s.xreplace(sizes)) for s in tensor.shape]
            values[tensor.name] = _SHIFT * eps * rng.uniform(-1, 1, shape)
        found = evaluate(shifted, values, tuple(wanted.values()),
                         {s.name: n for s, n in sizes.items()})
        for n, g in wanted.items():
            spread[n] = np.fmax(spread[n], np.abs(found[g] - exact[g]))
    return {n: spread[n] + _LAST * eps * np.abs(exact[g]) for n, g in wanted.items()}


def _shifted(program: Program) -> Program:
    """The program with each equation's value plus its magnitude times an array of its own.

    A maximum rounds nothing, and who reads it asks which element it is.
    """
    tensors, equations = dict(program.tensors), []
    for eq in program.equations:
        if eq.tensor.dtype != "float" or isinstance(eq.body, Access | MaxOver | MinOver):
            equations.append(eq)
            continue
        shift = Tensor(_PREFIX + eq.name, eq.tensor.indices, role="input")
        tensors[shift.name] = shift
        body = eq.body + magnitude(eq.body) * Access(shift.name, *eq.indices)
        equations.append(replace(eq, body=body))
    return replace(program, tensors=tensors, equations=tuple(equations))
