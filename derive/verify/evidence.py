"""What is said of two tensors whose equality no algebra decides: both at random rational points.

Exactly, modulo a large prime (`derive.verify.residues`), with a bound of the probability that
tensors which are not equal come out as equal; and to 50 digits, which decides the signs of roots
and stands alone where a residue has no meaning. Neither is a proof.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from sympy import Symbol

from derive.errors import ChainruleError
from derive.points import random_values
from derive.program import Program
from derive.scalar import DIGITS, Elements, fifty_digits
from derive.verify.residues import SCALE, VALUES, Redraw, Residues, random_prime
from derive.verify.terms import Undecided

_POINTS = 2
_DRAWS = 400  # of one point, until every square root in it has a residue
_COARSE = 20  # bits behind the point of the part of a coordinate that says where the point lies
_LIKELY = 1e-6  # a probability of error that is not small enough to be stated
_ROUNDING = 46  # of 50 digits: what is smaller beside the largest value met is rounding
_SAME = 38  # of 50 digits: what rounding leaves of two formulas that are equal
_ELEMENTS = 4000  # of all tensors that are still evaluated element by element
Pair = tuple[str, str]


def evidence(program: Program, pairs: Mapping[str, Pair], sizes: Mapping[str, int]
             ) -> dict[str, tuple[str, str]]:
    """For each pair of tensors the verdict ("agrees", "differs" or "undecided"), and why.

    Args:
        program: the tensors and all that they need.
        sizes: a number for each symbolic size.
    """
    names = [n for pair in pairs.values() for n in pair]
    try:
        needed = program.only(*names)
        symbols = {s: sizes[s.name] for s in needed.sizes}
        if _elements(needed, symbols) > _ELEMENTS:
            return dict.fromkeys(pairs, ("undecided", f"it is too large for {DIGITS} digits"))
        with fifty_digits():
            return _at_points(needed, pairs, symbols, sizes)
    except (ChainruleError, RecursionError, TypeError, ValueError, ArithmeticError) as stopped:
        return dict.fromkeys(pairs, ("undecided", str(stopped)))


def _elements(program: Program, symbols: Mapping[Symbol, int]) -> int:
    return sum(math.prod(int(n.xreplace(symbols)) for n in eq.tensor.shape)
               for eq in program.equations)


@dataclass
class _Found:
    """What the points say of one pair so far."""

    off: float = 0.0
    chance: float = 0.0
    trouble: str = ""
    pieces: bool = False

    def verdict(self, sizes: str) -> tuple[str, str]:
        """``sizes``: those of the points, in words."""
        points = f"at {_POINTS} random rational points" + (f" with {sizes}" if sizes else "")
        if self.off >= 10.0**-_SAME:
            return "differs", f"the formulas differ by {self.off:.1e} of the largest entry"
        if self.trouble or self.chance > _LIKELY:
            why = self.trouble or "the degrees are too high"
            return "agrees", (f"equal to {_SAME} digits {points}, without a bound of the "
                              f"probability of error: {why}")
        where = "on the pieces that these points lie in" if self.pieces else "in general"
        return "agrees", (f"equal {points}, modulo a random prime of 250 bits and to {_SAME} "
                          f"digits: the probability of that, were they not equal {where}, is "
                          f"below {_power_of_ten(self.chance)}")


def _at_points(program: Program, pairs: Mapping[str, Pair], symbols: dict[Symbol, int],
               sizes: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    found = {name: _Found() for name in pairs}
    prime = random_prime()
    for seed in range(_POINTS):
        base = random_values(program, seed + 23, sizes)
        for last in reversed(range(_DRAWS)):
            values = _drawn(program, base)
            real = Elements(program, {n: _real(a) for n, a in values.items()}, symbols)
            residues = Residues(program, values, symbols, real, prime)
            try:
                for name, pair in pairs.items():
                    _look_exactly(residues, pair, found[name])
                break
            except Redraw:
                if not last:
                    for one in found.values():
                        one.trouble = "no point was found at which every root has a residue"
        for name, pair in pairs.items():
            found[name].off = max(found[name].off, _off(real, pair))
    at = ", ".join(f"{s.name} = {n}" for s, n in symbols.items())
    return {name: one.verdict(at) for name, one in found.items()}


def _power_of_ten(chance: float) -> str:
    return f"1e{math.ceil(math.log10(chance)):+03d}" if chance else "1e-99"


def _drawn(program: Program, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A point near a float64 one: whole numbers over 2^SCALE, with their last bits at random."""
    found = {}
    for name, array in base.items():
        if array.dtype.kind == "i":
            found[name] = array
            continue
        out = np.empty(array.shape, dtype=object)
        for place in np.ndindex(array.shape):
            whole = round(float(array[place]) * 2**_COARSE)
            out[place] = (whole << (SCALE - _COARSE)) + secrets.randbits(VALUES)
        if program.tensors[name].distribution:
            out[..., -1] = 2**SCALE - out[..., :-1].sum(axis=-1)
        found[name] = out
    return found


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    out = np.empty(array.shape, dtype=object)
    for place in np.ndindex(array.shape):
        out[place] = mpmath.ldexp(mpmath.mpf(array[place]), -SCALE)
    return out


def _places(elements: Elements, name: str) -> Iterator[tuple[int, ...]]:
    indices = elements.program.tensors[name].indices
    return np.ndindex(*(elements.size(i) for i in indices))


def _look_exactly(residues: Residues, pair: Pair, found: _Found) -> None:
    """Compare both sides modulo the prime; the probability of error grows."""
    if found.trouble:
        return
    try:
        for place in _places(residues.real, pair[0]):
            one, two = (residues.element(name, place) for name in reversed(pair))
            if one is None or two is None:
                raise Undecided("an element without a value")
            difference = residues.minus(two, one)
            if difference.value:
                raise Undecided("the residues differ: equal by a law of a function, if at all")
            found.chance = max(found.chance, residues.chance(difference))
            # a root of a square has the sign that it has here
            found.pieces = found.pieces or residues.pieces or bool(residues.roots)
    except Undecided as stopped:
        found.trouble = str(stopped)


def _off(real: Elements, pair: Pair) -> float:
    """The largest difference of the two sides at 50 digits, relative to the largest entry; what
    the rounding of larger terms leaves of a zero is none."""
    sides: list[list[Any]] = [
        [real.element(name, place) for place in _places(real, pair[0])] for name in pair]
    off = max((abs(a - b) for a, b in zip(*sides, strict=True)), default=mpmath.mpf(0))
    largest = max((abs(x) for x in real.known.values() if x is not None), default=mpmath.mpf(0))
    if off <= largest * mpmath.mpf(10) ** -_ROUNDING:
        return 0.0
    scale = max((abs(x) for x in sides[1]), default=mpmath.mpf(0))
    return float(off / scale) if scale else float(off)
