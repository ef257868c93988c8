"""A claim decided: proved by algebra, equal except at kinks, agreeing in exact numbers, or not.

First with every index a letter, which proves all sizes at once; then with those indices written
out that the claim reads at numbers (loops over time or pixels); then modulo kinks. What algebra
cannot decide is evaluated at random rational points (`derive.verify.evidence`): that is evidence,
and called so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational

from derive.errors import ChainruleError
from derive.functions import Elementary
from derive.nodes import MaxOver, MinOver, Select, walk
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from derive.verify.branches import witness
from derive.verify.claim import Claim
from derive.verify.evidence import evidence
from derive.verify.kinks import kink_words
from derive.verify.masked import unmasked
from derive.verify.prove import Prover, Values
from derive.verify.reading import Unrolled
from derive.verify.separate import separated
from derive.verify.terms import Undecided
from derive.verify.unroll import unrolling

_POINTS = 2
_LETTERS = 0.05  # of the time for a proof, where indices are written out after it


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
    claimed = [eq for eq in claim.program.equations if eq.name not in derived.defined]
    both = derived.with_equations(separated(unmasked(claimed), claim.gradients.values()))
    values = _points(both, claim)
    deadline = time.process_time() + seconds
    pairs = {p: (target, derived.gradients[p]) for p, target in claim.gradients.items()}
    found: dict[str, Decision] = {}
    for parameter, (mine, right) in pairs.items():
        if not all(_close(mine, right, arrays) for arrays, _ in values):
            found[parameter] = Decision(parameter, "differs", {})
    trouble: list[str] = []
    ways = _unrollings(both, claim, values, trouble)
    for n, unrolled in enumerate(ways):
        # a claim that reads at numbers is seldom proved in letters
        end = deadline if n == len(ways) - 1 else time.process_time() + _LETTERS * seconds
        for kinks in (False, True) if _has_kinks(both) else (False,):
            left = {p: pair for p, pair in pairs.items() if p not in found}
            now = time.process_time()
            if left and now < end:  # what differs at kinks alone is not to use the time up
                until = end if kinks or not _has_kinks(both) else now + (end - now) / 3
                found |= _prove(both, left, unrolled, values, kinks, trouble, until)
    left = {p: pair for p, pair in pairs.items() if p not in found}
    reason = trouble[-1] if trouble else "the normal forms differ, although the numbers agree"
    for parameter, (verdict, note) in evidence(both, left, sizes_of(both, claim)).items():
        said = f"{note}; no proof: {reason}" if verdict != "differs" else note
        found[parameter] = Decision(parameter, verdict, dict(claim.sizes), said)
    when = " and ".join(_relation(c) for c in claim.conditions)
    return tuple(replace(found[p], when=when) for p in pairs)


def _has_kinks(program: Program) -> bool:
    """Whether a proof modulo kinks can say more than one without."""
    return any(isinstance(node, Select | MaxOver | MinOver | Relational)
               or (isinstance(node, Elementary) and type(node).kinks)
               for eq in program.equations for node in walk(eq.body))


def _relation(condition: Any) -> str:
    """A condition on sizes as people write it: B > 40."""
    signs = {sympy.Eq: "=", sympy.Ne: "≠", sympy.Gt: ">", sympy.Ge: "≥", sympy.Lt: "<",
             sympy.Le: "≤"}
    left, right = (sympy.sstr(side).replace("Mod", "mod") for side in condition.args)
    return f"{left} {signs[type(condition)]} {right}"


def sizes_of(program: Program, claim: Claim, more: int = 0) -> dict[str, int]:
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
        sizes = sizes_of(program, claim, 2 * seed)
        given = random_values(program, seed + 11, sizes)
        found.append(({**given, **evaluate(program, given, sizes=sizes)}, sizes))
    return found


def _close(mine: str, right: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether it is worth to look for a proof; a gradient that vanishes (of a bias in front of a
    norm) is what the rounding of all that it is made of leaves."""
    a, b = arrays[mine], arrays[right]
    largest = max((float(np.max(np.abs(one))) for one in arrays.values()
                   if one.size and one.dtype.kind == "f" and np.all(np.isfinite(one))), default=0.0)
    scale = float(np.max(np.abs(b))) if b.size else 0.0
    within = 1e-6 * scale + 1e-12 * max(1.0, largest)
    return bool(np.all(np.isfinite(a)) and np.all(np.abs(a - b) <= within))


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
            note = kink_words(prover)
            verdict = "kinks" if note else "proved"
            found[parameter] = Decision(parameter, verdict, dict(unrolled.sizes), note)
    if prover.trouble:
        trouble.append(prover.trouble)
    return found
