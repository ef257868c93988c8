"""What a wrong gradient is of another one: a factor, or the pattern of what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from derive.data import resolve_sizes
from derive.program import Program
from derive.verify.precision import NEAR

NO_PATTERN = ", in no pattern that a single change of the derivation explains"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.max(np.abs(b))) if b.size else 0.0
    near = np.abs(a - b) <= NEAR.get().close * scale
    return bool(np.all(near)) and bool(np.all(np.isfinite(a)))


def accounts(value: np.ndarray, right: np.ndarray, hand: np.ndarray) -> bool:
    """Whether a value is the gradient that was handed in, and not only near it: of its difference
    from the right one a thousandth is left at most, or what rounding leaves.

    Beside a gradient that is right but for 1e-9, the right one itself is near.
    """
    if not same(hand, value):
        return False
    rounding = NEAR.get().rounding * float(np.max(np.abs(hand), initial=0.0))
    difference = float(np.max(np.abs(hand - right), initial=0.0))
    return float(np.max(np.abs(hand - value), initial=0.0)) <= max(1e-3 * difference, rounding)


@dataclass(frozen=True)
class Compared:
    """A gradient that was handed in and the right one, at two points of different sizes; the
    numbers that the function has names for."""

    program: Program
    right: list[np.ndarray]
    hand: list[np.ndarray]
    places: list[dict[str, np.ndarray]]
    numbers: Mapping[str, float]


def constant_factor(case: Compared, got: list[np.ndarray]) -> str | None:
    """"too large by the factor B" where one factor on ``got`` is what was handed in, at both
    points."""
    found = ratios(got, case.hand)
    if found is None:
        return None
    if found == [0.0, 0.0]:
        return "it is zero everywhere: the gradient is not computed"
    for text, values in _candidate_factors(case):
        if all(accounts(v * g, r, h)
               for v, g, r, h in zip(values, got, case.right, case.hand, strict=True)):
            return text
    return None


def ratios(right: list[np.ndarray], hand: list[np.ndarray]) -> list[float] | None:
    """The factor between the two arrays at each point, where there is one."""
    found = [ratio(r, h) for r, h in zip(right, hand, strict=True)]
    return None if None in found else [r for r in found if r is not None]


def ratio(right: np.ndarray, hand: np.ndarray) -> float | None:
    """The factor that makes one array the other, where there is one."""
    if not np.any(right):
        return None
    found = float(np.vdot(right, hand) / np.vdot(right, right))
    return found if same(hand, found * right) else None


def same_factor(case: Compared, got: list[np.ndarray]) -> float | None:
    """The one factor on ``got`` that is what was handed in, at both points."""
    found = ratios(got, case.hand)
    if found is None or not np.isclose(found[0], found[1], rtol=NEAR.get().close):
        return None
    fits = all(accounts(found[0] * g, r, h)
               for g, r, h in zip(got, case.right, case.hand, strict=True))
    return found[0] if fits else None


def unnamed_factor(case: Compared) -> str | None:
    found = ratios(case.right, case.hand)
    if found is None:
        return None
    if np.isclose(found[0], found[1], rtol=NEAR.get().close):
        off = found[0] - 1
        factor = f"1 {off:+.3g}" if abs(off) < 1e-6 else f"{found[0]:.10g}"
        return f"it is {factor} times the right gradient, everywhere"
    return f"it is a multiple of the right gradient: {found[0]:.6g} and {found[1]:.6g} times"


def _candidate_factors(case: Compared) -> Iterator[tuple[str, list[float]]]:
    program = case.program
    known = [resolve_sizes(program, point) for point in case.places]
    named: list[tuple[str, list[float]]] = [
        (s.name, [float(k[s]) for k in known]) for s in program.sizes]
    fixed = {int(i.size) for t in program.tensors.values() for i in t.indices if i.size.is_Integer}
    named += [(str(n), [float(n)] * 2) for n in sorted(fixed) if n > 2]
    yield "its sign is wrong", [-1.0, -1.0]
    yield "it is too large by the factor 2 (the ½ of the square is missing)", [2.0, 2.0]
    yield "it is too small by the factor 1/2 (the 2 of the square is missing)", [0.5, 0.5]
    for name, values in named:
        yield f"it is too large by the factor {name} (1/{name} is missing)", values
        yield f"it is too small: a factor 1/{name} too much", [1 / v for v in values]
        for extra in (-1.0, 2.0, 0.5):
            label = {-1.0: "the sign is wrong and ", 2.0: "a 2 and ", 0.5: "a ½ and "}[extra]
            yield (f"{label}the factor {name} is too much (1/{name} is missing)",
                   [extra * v for v in values])
            yield f"{label}a factor 1/{name} is too much", [extra / v for v in values]
    for own, number in case.numbers.items():
        said = f"the factor {own} = {number:g} is too much"
        yield said, [number, number]
        for name, values in named:
            yield f"{said}, and {name} is too much (1/{name} is missing)", [
                number * v for v in values]
            yield f"{said}, and so is a factor 1/{name}", [number / v for v in values]


def pattern(program: Program, name: str, right: np.ndarray, hand: np.ndarray) -> str:
    """Which entries differ, and whether the ratio is constant along an index."""
    scale = float(np.max(np.abs(right))) if right.size else 0.0
    off = np.abs(hand - right) > NEAR.get().close * scale
    share = f"{int(off.sum())} of {off.size} entries differ"
    indices = program[name].indices
    for axis, index in enumerate(indices):
        others = tuple(n for n in range(right.ndim) if n != axis)
        rows = off.any(axis=others) if others else off
        if rows.sum() < len(rows):
            listed = ", ".join(str(int(n)) for n in np.flatnonzero(rows)[:8])
            times = ratio(right[off], hand[off])
            factor = f", {times:.6g} times the right ones" if times is not None else ""
            return f"{share}: only those with {index.name} in {{{listed}}}{factor}"
        with np.errstate(all="ignore"):
            parts = np.where(np.abs(right) > NEAR.get().close * scale, hand / right, np.nan)
        spread = np.nanmax(parts, axis=others) - np.nanmin(parts, axis=others) if others else None
        if spread is not None and np.all(spread < 1e-7):
            values = np.nanmean(parts, axis=others)
            listed = ", ".join(f"{v:.5g}" for v in values[:6])
            return f"{share}; the ratio depends on {index.name} only: {listed}"
    if right.ndim == 2 and right.shape[0] == right.shape[1] and same(hand, right.T):
        return "it is transposed"
    return f"{share}{NO_PATTERN}"


def counterexample(name: str, right: np.ndarray, hand: np.ndarray) -> str:
    place = np.unravel_index(int(np.argmax(np.abs(hand - right))), right.shape)
    at = "".join(f"[{int(n)}]" for n in place)
    return f"{name}{at}: yours {hand[place]:.12g}, right {right[place]:.12g}"
