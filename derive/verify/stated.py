"""Derivations that state the adjoints on the way: each line on its own, with right ones put in.

A wrong line makes all that reads it wrong, and in a recurrence also what stands before it. So a
line is judged with the derived adjoints in the place of those that other lines state: what is wrong
then is wrong in this line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sympy import Symbol

from derive.points import random_values
from derive.program import Equation, Program
from derive.reference import evaluate, evaluate_equation
from derive.verify.claim import Claim, Line
from derive.verify.decide import combined
from derive.verify.where import telling_sizes

_POINTS = 2
_CLOSE = 1e-9


@dataclass(frozen=True)
class Misstated:
    """A wrong line: the tensor whose adjoint it states, the right equation, and an entry."""

    line: Line
    right: Equation
    entry: str


@dataclass
class _Point:
    """Every array of the derivation at a point, and what stands for each claimed line there."""

    arrays: dict[str, np.ndarray]
    sizes: dict[Symbol, int]


def misstated(claim: Claim, derived: Program, seed: int = 0) -> list[Misstated]:
    """The wrong lines of a derivation that states adjoints of intermediates, in the order written.

    A line whose name only suggests an adjoint (``δ_z``, ``\\bar z``: `Line.named`) may be the
    adjoint of something else, or a multiple of it: then it is a name of its own, and right.

    Args:
        claim: the derivation.
        derived: the network with its gradients.
        seed: of the points.

    Returns:
        Nothing where only gradients of parameters are stated.
    """
    lines = {line.target: line for line in claim.lines
             if line.claims and f"_d_{line.claims}" in derived.defined}
    if all(line.claims in derived.gradients for line in lines.values()):
        return []
    search = _Lines(claim, derived, lines, seed)
    search.settle()
    wrong = {name for name in lines if not search.holds(name, search.meant[name])
             and name not in search.own}
    order = {line.target: n for n, line in enumerate(claim.lines)}
    return [Misstated(lines[name], search.right[search.meant[name]],
                      search.entry(name)) for name in sorted(wrong, key=order.__getitem__)]


class _Lines:
    """Lines with what they are meant to be; ``own``: named lines that are no adjoint."""

    def __init__(self, claim: Claim, derived: Program, lines: Mapping[str, Line],
                 seed: int) -> None:
        both = combined(claim, derived)
        self.right = derived.defined
        self.equations = {eq.name: eq for eq in claim.equations}
        self.lines = dict(lines)
        self.meant = {name: f"_d_{line.claims}" for name, line in lines.items()}
        self.own: set[str] = set()
        self.adjoints = [t.name for t in derived.tensors.values() if t.role == "gradient"]
        self.program = both
        self.points = [self._point(derived, claim, seed + n) for n in range(_POINTS)]

    @staticmethod
    def _point(derived: Program, claim: Claim, seed: int) -> _Point:
        sizes = {n: s + 2 * (seed % 2) for n, s in telling_sizes(derived).items()}
        sizes |= dict(claim.sizes)
        given = random_values(derived, seed + 101, sizes)
        arrays = {**given, **evaluate(derived, given, sizes=sizes)}
        return _Point(arrays, {s: sizes[s.name] for s in derived.sizes})

    def settle(self) -> None:
        """What each line is meant to be that its name only suggests, until nothing changes."""
        named = [n for n in self.equations if n in self.lines and self.lines[n].named]
        for _ in named:
            before = dict(self.meant), set(self.own)
            for name in named:
                fits = next((a for a in self._like(name) if self.holds(name, a)), None)
                if fits is not None:
                    self.meant[name] = fits
                    self.own.discard(name)
                elif self._multiple(name):
                    self.own.add(name)
            if before == (self.meant, self.own):
                break
        for name in named:  # wrong ones: what makes most of the other lines right is meant
            if name not in self.own and not self.holds(name, self.meant[name]):
                self.meant[name] = max(self._like(name), key=partial(self._fitting, name))

    def _like(self, name: str) -> list[str]:
        """Adjoints of the shape of a line, the one that its name suggests first."""
        shapes = {n: p.arrays[n].shape for p in self.points[:1] for n in self.adjoints
                  if n in p.arrays}
        first = f"_d_{self.lines[name].claims}"
        return [first, *(n for n in shapes if n != first and shapes[n] == shapes[first])]

    def _fitting(self, name: str, adjoint: str) -> int:
        before = self.meant[name]
        self.meant[name] = adjoint
        count = sum(self.holds(n, self.meant[n]) for n in self.lines
                    if n != name and name in self._behind(n))
        self.meant[name] = before
        return count

    def _behind(self, name: str) -> set[str]:
        """What a line reads, through lines that state nothing."""
        found: set[str] = set()
        stack = list(self.equations[name].reads)
        while stack:
            read = stack.pop()
            if read in self.equations and read not in found:
                found.add(read)
                if read not in self.lines:
                    stack += self.equations[read].reads
        return found

    def value(self, name: str, meant: str, point: _Point) -> np.ndarray:
        """A line with right adjoints in the place of the lines that it reads."""
        arrays = dict(point.arrays)
        stated = {n: a for n, a in {**self.meant, name: meant}.items()
                  if n == name or n not in self.own}
        arrays |= {n: point.arrays[a] for n, a in stated.items()}
        rest = tuple(eq for n, eq in self.equations.items() if n not in stated)
        wanted = [n for n in self._behind(name) if n not in stated]
        if wanted:
            between = replace(self.program, equations=rest, gradients={}, jacobians={})
            sizes = {s.name: n for s, n in point.sizes.items()}
            arrays |= evaluate(between, arrays, wanted, sizes)
        return evaluate_equation(self.equations[name], arrays, point.sizes)

    def holds(self, name: str, adjoint: str) -> bool:
        """Whether a line is an adjoint at all points."""
        return all(_near(self.value(name, adjoint, p), p.arrays[adjoint]) for p in self.points)

    def _multiple(self, name: str) -> bool:
        """Whether a line is an adjoint but for a factor, which a later line may take."""
        for adjoint in self._like(name):
            pairs = [(self.value(name, adjoint, p), p.arrays[adjoint]) for p in self.points]
            if all(np.any(r) and _near(float(np.vdot(r, v) / np.vdot(r, r)) * r, v)
                   for v, r in pairs):
                return True
        return False

    def entry(self, name: str) -> str:
        """The entry of a line that is furthest from the right one."""
        point, adjoint = self.points[0], self.meant[name]
        mine, right = self.value(name, adjoint, point), point.arrays[adjoint]
        place = np.unravel_index(int(np.argmax(np.abs(mine - right))), right.shape)
        at = "".join(f"[{int(n)}]" for n in place)
        return f"{adjoint}{at}: yours {mine[place]:.12g}, right {right[place]:.12g}"


def _near(mine: np.ndarray, right: np.ndarray) -> bool:
    if mine.shape != right.shape:
        return False
    scale = max(float(np.max(np.abs(right), initial=0.0)), 1e-12)
    return bool(np.max(np.abs(mine - right), initial=0.0) <= _CLOSE * scale)
