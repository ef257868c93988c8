"""A claim decided: proved by algebra, equal except at kinks, agreeing in exact numbers, or not.

First with every index a letter, which proves all sizes at once; then with those indices written
out that the claim reads at numbers (loops over time or pixels); then modulo kinks. What algebra
cannot decide is evaluated at 50 digits at random rational points: that is evidence, and called so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import sympy

from derive.errors import ChainruleError
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from derive.scalar import DIGITS, Elements
from derive.verify.branches import witness
from derive.verify.claim import Claim
from derive.verify.kinks import kink_words
from derive.verify.prove import Prover, Values
from derive.verify.reading import Unrolled
from derive.verify.terms import Undecided
from derive.verify.unroll import unrolling

_POINTS = 2
_SAME = 38  # of 50 digits: what rounding leaves of two formulas that are equal
_ELEMENTS = 4000  # of claimed tensors that are still evaluated at 50 digits


@dataclass(frozen=True)
class Decision:
    """What is known of one claimed gradient.

    ``verdict``: "proved", "kinks", "agrees" (in exact numbers, not proved), "differs" or
    "undecided". ``sizes``: the sizes at which alone the proof holds, by name or axis (empty: all
    sizes); ``when``: what else it takes of the sizes, where the code branches on them. ``note``:
    where the kinks are, how many digits agree, or what stands in the way.
    """

    parameter: str
    verdict: str
    sizes: Mapping[str, int]
    note: str = ""
    when: str = ""


def decide(claim: Claim, derived: Program, seconds: float = 20.0) -> tuple[Decision, ...]:
    """Compare each claimed gradient with the derived one.

    Args:
        claim: equations on top of the network's forward program.
        derived: the program with gradients of the same network.
        seconds: of processor time, after which what is not proved yet stays unproved.

    Raises:
        DeclarationError: a claimed equation bears the name of a derived one.
    """
    both = combined(claim, derived)
    values = _points(both, claim)
    deadline = time.process_time() + seconds
    pairs = {p: (target, derived.gradients[p]) for p, target in claim.gradients.items()}
    found: dict[str, Decision] = {}
    for parameter, (mine, right) in pairs.items():
        if not all(_close(arrays[mine], arrays[right]) for arrays, _ in values):
            found[parameter] = Decision(parameter, "differs", {})
    trouble: list[str] = []
    for unrolled in _unrollings(both, claim, values, trouble):
        for kinks in (False, True):
            left = {p: pair for p, pair in pairs.items() if p not in found}
            if left and time.process_time() < deadline:
                found |= _prove(both, left, unrolled, values, kinks, trouble, deadline)
    for parameter, pair in pairs.items():
        if parameter not in found:
            found[parameter] = _in_digits(both, parameter, pair, claim,
                                          trouble[0] if trouble else "")
    when = " and ".join(_relation(c) for c in claim.conditions)
    return tuple(replace(found[p], when=when) for p in pairs)


def _relation(condition: Any) -> str:
    """A condition on sizes as people write it: B > 40."""
    signs = {sympy.Eq: "=", sympy.Ne: "≠", sympy.Gt: ">", sympy.Ge: "≥", sympy.Lt: "<",
             sympy.Le: "≤"}
    left, right = (sympy.sstr(side).replace("Mod", "mod") for side in condition.args)
    return f"{left} {signs[type(condition)]} {right}"


def _sizes(program: Program, claim: Claim, more: int = 0) -> dict[str, int]:
    """Sizes at which a claim holds: the default ones, or that many more."""
    sizes = {n: s + more for n, s in default_sizes(program).items()} | dict(claim.sizes)
    return witness(claim.conditions, sizes) or sizes


def combined(claim: Claim, derived: Program) -> Program:
    """The derived program with the claimed equations behind it."""
    return derived.with_equations(
        eq for eq in claim.program.equations if eq.name not in derived.defined)


def _points(program: Program, claim: Claim) -> Values:
    """The numbers of every tensor at two points with different sizes."""
    found = []
    for seed in range(_POINTS):
        sizes = _sizes(program, claim, 2 * seed)
        given = random_values(program, seed + 11, sizes)
        found.append(({**given, **evaluate(program, given, sizes=sizes)}, sizes))
    return found


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.max(np.abs(b))) if b.size else 0.0
    return bool(np.all(np.isfinite(a)) and np.all(np.abs(a - b) <= 1e-6 * scale + 1e-12))


def _unrollings(program: Program, claim: Claim, values: Values, trouble: list[str]) -> list[
        Unrolled]:
    """Everything in letters; then with the numbers that the claim reads at written out."""
    found = [Unrolled(sizes=claim.sizes)]
    try:
        more = unrolling(program, values[0][1], frozenset(claim.sizes))
    except (Undecided, ChainruleError) as stopped:
        trouble.append(str(stopped))
        return found
    return [*found, more] if more.axes or more.indices else found


def _prove(program: Program, pairs: Mapping[str, tuple[str, str]], unrolled: Unrolled,
           values: Values, kinks: bool, trouble: list[str], deadline: float
           ) -> dict[str, Decision]:
    here = [(arrays, sizes) for arrays, sizes in values
            if all(sizes[n] == s for n, s in unrolled.sizes.items())]
    prover = Prover(program, unrolled, here, kinks, deadline)
    found = {}
    for parameter, (mine, right) in pairs.items():
        if prover.equal(mine, right):
            verdict = "kinks" if kinks else "proved"
            note = kink_words(prover) if kinks else ""
            found[parameter] = Decision(parameter, verdict, dict(unrolled.sizes), note)
    if prover.trouble:
        trouble.append(prover.trouble)
    return found


def _in_digits(program: Program, parameter: str, pair: tuple[str, str], claim: Claim,
               trouble: str) -> Decision:
    """Both sides at random rational points, to 50 digits."""
    fixed = claim.sizes
    reason = trouble or "the normal forms differ, although the numbers agree"
    worst = 0.0
    try:
        for seed in range(_POINTS):
            off = _relative(program, pair, seed, claim)
            if off is None:
                return Decision(parameter, "undecided", dict(fixed),
                                f"{reason}; and it is too large for {DIGITS} digits")
            worst = max(worst, off)
    except (ChainruleError, RecursionError, TypeError, ValueError, ZeroDivisionError) as stopped:
        return Decision(parameter, "undecided", dict(fixed), f"{reason}; {stopped}")
    if worst < 10.0**-_SAME:
        return Decision(parameter, "agrees", dict(fixed),
                        f"equal to {_SAME} digits at {_POINTS} random rational points; no proof: "
                        f"{reason}")
    return Decision(parameter, "differs", dict(fixed),
                    f"the formulas differ by {worst:.1e} of the largest entry")


def _relative(program: Program, pair: tuple[str, str], seed: int, claim: Claim) -> float | None:
    sizes = _sizes(program, claim)
    needed = program.only(*pair)
    given = random_values(needed, seed + 23, sizes)
    shape = evaluate(program, {**random_values(program, seed + 23, sizes), **given}, pair,
                     sizes)[pair[0]].shape
    symbols = {s: sizes[s.name] for s in needed.sizes}
    count = sum(int(np.prod([int(n.xreplace(symbols)) for n in eq.tensor.shape] or [1]))
                for eq in needed.equations)
    if count > _ELEMENTS:
        return None
    with mpmath.workdps(DIGITS):
        values = {n: _rational(a) for n, a in given.items()}
        elements = Elements(needed, values, symbols)
        sides: list[list[Any]] = [
            [elements.element(name, place) for place in np.ndindex(shape)] for name in pair]
        scale = max((abs(x) for x in sides[1]), default=mpmath.mpf(0))
        off = max((abs(a - b) for a, b in zip(*sides, strict=True)), default=mpmath.mpf(0))
        return float(off / scale) if scale else float(off)


def _rational(array: np.ndarray) -> np.ndarray:
    """Numbers with three decimals, exact at 50 digits."""
    if array.dtype.kind == "i":
        return array
    out = np.empty(array.shape, dtype=object)
    for place in np.ndindex(array.shape):
        out[place] = mpmath.mpf(round(float(array[place]) * 1000)) / 1000
    return out
