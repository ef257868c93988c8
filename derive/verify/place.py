"""The line of a traced function in which a gradient goes wrong, without a catalogue of mistakes.

Every line's value is compared with everything that the derivation computes (its tensors and the
parts of their equations, in any order of axes, up to a factor). Lines that agree with something are
right, and so is what they are computed from. Of the others the first is the suspect; if the
derivation's value in its place makes the gradients right, the line is proved to be the only wrong
one, and that value's formula is the correction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import sympy

from derive.nodes import Access
from derive.points import random_values
from derive.program import Equation, Program
from derive.reference import evaluate, evaluate_equation
from derive.text import expression_text
from derive.verify.claim import Claim, Line
from derive.verify.decide import combined
from derive.verify.edits import matrix_text
from derive.verify.factors import counterexample
from derive.verify.parts import parts_of
from derive.verify.report import Finding
from derive.verify.stated import misstated
from derive.verify.where import telling_sizes

_POINTS = 2
_AXES = 4  # of the arrays whose axes are tried in every order


@dataclass(frozen=True)
class Place:
    """The wrong line, and what belongs there (empty: nothing that the derivation has does);
    ``reads`` is the line before it of which nothing is known, if there is one; ``alone``: with
    what belongs there, all gradients are right."""

    line: Line
    right: str = ""
    reads: Line | None = None
    alone: bool = True

    def __str__(self) -> str:
        text = " ".join(self.line.text.split())
        said = f"line {self.line.where.line}: {text}" if self.line.where else text
        if self.line.callers:
            caller = self.line.callers[0]
            said += f" (called from line {caller.line}: {caller.source})"
        if not self.alone:
            return f"{said}   (the first wrong line: right is {self.right})"
        if not self.right:
            return f"{said}   (the first value that the derivation does not have)"
        either = ""
        if self.reads is not None and self.reads.where:
            either = f", or line {self.reads.where.line}, which it reads"
        return f"{said}{either}   (with {self.right} there, the gradients are right)"


@dataclass(frozen=True)
class _Point:
    arrays: dict[str, np.ndarray]
    sizes: dict[sympy.Symbol, int]


@dataclass(frozen=True)
class _Part:
    """Something that the derivation computes: its text, and its value at each point."""

    text: str
    values: tuple[np.ndarray, ...]
    linear: bool  # an adjoint: right up to a factor that comes later
    whole: bool = False  # a tensor, or a step of a recurrence


def wrong_line(claim: Claim, derived: Program, wrong: Sequence[str], seed: int = 0,
               seconds: float = 3.0) -> Place | None:
    """Where a traced function goes wrong.

    Args:
        claim: the traced function.
        derived: the derived program.
        wrong: the parameters whose gradients are wrong.
        seed: of the points.
        seconds: of processor time for the search.

    Returns:
        The place, or None where every line agrees with something and yet the gradients are wrong
        (a factor, which all lines behind it share), or the time is over.
    """
    deadline = time.process_time() + seconds
    reads = {eq.name: [n for n in eq.reads if claim.line(n)] for eq in claim.equations}
    cone = _closure({claim.gradients[p] for p in wrong}, reads)
    stated = [m for m in misstated(claim, derived, seed) if m.line.target in cone]
    if stated:
        return Place(stated[0].line, str(stated[0].right), alone=False)
    both = combined(claim, derived)
    points = [_point(both, claim, seed + n) for n in range(_POINTS)]
    parts = list(_parts(derived, points))
    lines = [eq.name for eq in claim.equations if eq.name in cone]
    search = _Search(claim, derived, points, tuple(wrong), reads)
    tensors = [part for part in parts if part.whole]
    rest = [part for part in parts if not part.whole]
    known = {n for n in lines if any(_matches(t, n, points, search.only_factor) for t in tensors)}
    known -= {claim.gradients[p] for p in wrong}
    right = _closure(known | {claim.gradients[p] for p in _telling(derived, points)
                              if p in claim.gradients and p not in wrong}, reads)
    suspects = [n for n in lines if n not in right]
    results = {claim.gradients[p] for p in wrong}  # the right gradient repairs any of these
    inner = [n for n in suspects if n not in results]
    outer = [n for n in suspects if n in results]
    for names in (inner, outer):
        found = [f for tried in (tensors, rest) if (f := search.first(names, tried, deadline))]
        if found:
            # a tensor is the surer sign, unless what is computed before it mends all as well
            name, text = found[0]
            if found[-1][0] in _closure({name}, reads) - {name}:
                name, text = found[-1]
            before = [n for n in reads[name] if n in suspects]
            return Place(_line(claim, name), text, _line(claim, before[-1]) if before else None)
    if time.process_time() > deadline:
        return None
    known = {n for n in suspects if any(_matches(t, n, points, True) for t in rest)}
    right |= _closure(known, reads)
    roots = [n for n in suspects if n not in right and all(r in right for r in reads[n])]
    return Place(_line(claim, roots[0])) if len(roots) == 1 else None


def _adjoints(claim: Claim, derived: Program) -> Iterator[tuple[Line, str]]:
    """Lines that say whose adjoint they are, in order, and what the derivation calls it."""
    for eq in claim.equations:
        line = claim.line(eq.name)
        if line and line.claims and f"_d_{line.claims}" in derived.defined:
            yield line, f"_d_{line.claims}"


def _near(mine: np.ndarray, right: np.ndarray) -> bool:
    return _largest(mine - right) <= 1e-9 * _largest(right)


def unread_lines(claim: Claim, derived: Program, seed: int = 0) -> list[Finding]:
    """What is wrong in lines of a derivation that no gradient is computed from: they say whose
    adjoint they are, and nothing else tells that they are wrong."""
    reads = {eq.name: [n for n in eq.reads if claim.line(n)] for eq in claim.equations}
    cone = _closure(set(claim.gradients.values()), reads)
    lines = [(line, adjoint) for line, adjoint in _adjoints(claim, derived)
             if line.target not in cone and not line.named]
    points = [_point(combined(claim, derived), claim, seed + n) for n in range(_POINTS)]
    found = []
    for line, adjoint in lines:
        mine, right = ([_squeezed(p.arrays[n]) for p in points] for n in (line.target, adjoint))
        orders = [o for o in _orders(right[0].ndim)
                  if all(m.shape == r.transpose(o).shape for m, r in zip(mine, right, strict=True))]
        if not orders or any(_near(mine[0], right[0].transpose(o)) for o in orders):
            continue  # right in some layout, or in one that the shapes do not tell
        eq = derived.defined[adjoint]
        where = f"line {line.where.line}: " if line.where else ""
        found.append(Finding(
            str(line.claims), "its adjoint is wrong; no gradient reads it", "", str(eq),
            counterexample(str(line.claims), right[0].transpose(orders[0]), mine[0]),
            matrix_text(eq), where + " ".join(line.text.split())))
    return found


def _telling(derived: Program, points: Sequence[_Point]) -> list[str]:
    """Parameters whose gradient, being right, tells that what it is computed from is right: one
    that is zero by symmetry (a bias in front of batch norm) tells nothing."""
    sizes = {p: max(_largest(point.arrays[g]) for point in points)
             for p, g in derived.gradients.items()}
    return [p for p, size in sizes.items() if size > 1e-9 * max(sizes.values())]


def _line(claim: Claim, name: str) -> Line:
    line = claim.line(name)
    assert line is not None
    return line


def _closure(names: set[str], reads: Mapping[str, list[str]]) -> set[str]:
    """Some claimed tensors and all that they are computed from."""
    found, stack = set(), list(names)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += reads.get(name, [])
    return found


def _point(both: Program, claim: Claim, seed: int) -> _Point:
    sizes = {n: s + 2 * (seed % 2) for n, s in telling_sizes(both).items()} | dict(claim.sizes)
    given = random_values(both, seed + 101, sizes)
    arrays = {**given, **evaluate(both, given, sizes=sizes)}
    return _Point(arrays, {s: sizes[s.name] for s in both.sizes})


# -- what the derivation computes ---------------------------------------------------------------
def _parts(derived: Program, points: Sequence[_Point]) -> Iterator[_Part]:
    """The tensors first, then the parts of their equations, each once."""
    adjoints = {t.name for t in derived.tensors.values() if t.role == "gradient"}
    for tensor in derived.tensors.values():
        yield _Part(str(derived.defined.get(tensor.name, tensor.name)),
                    tuple(p.arrays[tensor.name] for p in points), tensor.name in adjoints, True)
    for group in derived.groups:
        for name, axis in group.axis.items() if group.recurrent else ():
            for step in range(min(p.arrays[name].shape[axis] for p in points)):
                where = [str(i) for i in derived.tensors[name].indices]
                where[axis] = str(step)
                yield _Part(f"{name}[{', '.join(where)}]",
                            tuple(p.arrays[name].take(step, axis) for p in points),
                            name in adjoints, True)
    for part in parts_of(derived):
        linear = any(a.name in adjoints for a in part.body.atoms(Access))
        values = tuple(evaluate_equation(part, p.arrays, p.sizes) for p in points)
        yield _Part(expression_text(part.body), values, linear)


# -- comparing ----------------------------------------------------------------------------------
def _squeezed(array: np.ndarray) -> np.ndarray:
    return array.reshape([n for n in array.shape if n != 1])


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _factor(mine: np.ndarray, right: np.ndarray) -> float | None:
    """c with mine = c·right, or None."""
    if mine.shape != right.shape:
        return None
    size = float(np.sum(right * right))
    c = float(np.sum(mine * right)) / size if size else 0.0
    return c if c and _largest(mine - c * right) <= 1e-10 * _largest(mine) else None


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    yield from permutations(range(rank)) if rank <= _AXES else [tuple(range(rank))]


def _matches(part: _Part, name: str, points: Sequence[_Point], exactly: bool) -> bool:
    """Whether a line's value is the part's, in some order of axes, up to a factor for adjoints
    (unless ``exactly``: it is a factor that is looked for)."""
    mine = [_squeezed(np.asarray(p.arrays[name], dtype=float)) for p in points]
    right = [_squeezed(np.asarray(v, dtype=float)) for v in part.values]
    if sorted(mine[0].shape) != sorted(right[0].shape) or not mine[0].size > 1:
        return False
    for order in _orders(mine[0].ndim):
        found = [_factor(m, r.transpose(order)) for m, r in zip(mine, right, strict=True)]
        if None not in found and (
                (part.linear and not exactly) or all(abs((c or 0) - 1) < 1e-9 for c in found)):
            return True
    return False


def _learned(claim: Claim, name: str) -> bool:
    """Whether a line depends on a parameter."""
    roles = {t.name for t in claim.program.parameters}
    return bool(roles & {t.name for t in claim.program.only(name).given})


class _Search:
    """Values of the derivation tried in the place of a line."""

    def __init__(self, claim: Claim, derived: Program, points: Sequence[_Point],
                 wrong: tuple[str, ...], reads: Mapping[str, list[str]]) -> None:
        self.claim, self.derived, self.points, self.wrong = claim, derived, points, wrong
        self.reads = reads
        given = [self._factors(p.arrays, p) for p in points]
        self.only_factor = all(given)

    def first(self, names: Sequence[str], parts: Sequence[_Part], deadline: float
              ) -> tuple[str, str] | None:
        """The first line that one of the parts repairs, and that part's text."""
        for name in names:
            if time.process_time() > deadline:
                return None
            if text := self.repair(name, parts):
                return name, text
        return None

    def repair(self, name: str, parts: Sequence[_Part]) -> str:
        """The text of what makes all gradients right in the place of a line; "" if nothing."""
        learned = _learned(self.claim, name)
        behind = [eq for eq in self.claim.equations
                  if eq.name != name and name in _closure({eq.name}, self.reads)]
        for part in parts:
            mine = [np.asarray(p.arrays[name]) for p in self.points]
            right = [_squeezed(np.asarray(v, dtype=float)) for v in part.values]
            if sorted(_squeezed(mine[0]).shape) != sorted(right[0].shape):
                continue
            if part.linear and not learned:  # labels or counts, which no adjoint replaces
                continue
            for order in _orders(right[0].ndim):
                if _squeezed(mine[0]).shape == right[0].transpose(order).shape and all(
                        self._right_with(name, behind, r.transpose(order).reshape(m.shape), p,
                                         part.linear)
                        for m, r, p in zip(mine, right, self.points, strict=True)):
                    return part.text
        return ""

    def _right_with(self, name: str, behind: Sequence[Equation], value: np.ndarray, point: _Point,
                    linear: bool) -> bool:
        arrays = {**point.arrays, name: value}
        with np.errstate(all="ignore"):
            for eq in behind:
                arrays[eq.name] = evaluate_equation(eq, arrays, point.sizes)
        factors = self._factors(arrays, point)
        if linear and not self.only_factor:  # a factor that comes later
            return bool(factors) and max(factors) - min(factors) <= 1e-9 * abs(factors[0])
        return bool(factors) and all(abs(c - 1) < 1e-9 for c in factors)

    def _factors(self, arrays: Mapping[str, np.ndarray], point: _Point) -> list[float]:
        """What each wrong gradient is of the right one; nothing if one is no multiple."""
        pairs = [(arrays[self.claim.gradients[p]], point.arrays[self.derived.gradients[p]])
                 for p in self.wrong]
        sizes = [max(_largest(mine), _largest(right)) for mine, right in pairs]
        found = [_factor(*pair) for pair, size in zip(pairs, sizes, strict=True)
                 if size > 1e-9 * max(sizes)]  # what is zero by symmetry has no factor
        return [] if None in found else [c for c in found if c is not None]
