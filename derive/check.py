"""Checking a gradient against numeric differentiation: pass, fail or undecided, with error bars.

The tolerance is ``8·error + 64·eps·Σ mᵢ|vᵢ|`` and nothing else: eight times the bound of the
numeric derivative, and the rounding of the gradient under test, where the magnitude m is the
gradient with every term taken absolute (`derive.bounds`; without cancellation it is |g|). Fixed
tolerances are unsound: a gradient of size 1e-6 with its sign flipped passes one of 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from derive.bounds import gradient_magnitudes
from derive.custom import hold_stopped
from derive.data import shape_text
from derive.differentiate import the_loss
from derive.errors import DataError, DerivationError
from derive.jacobians import WEIGHTS, contracted
from derive.numeric import Slopes
from derive.points import default_sizes, smooth_point
from derive.program import Program
from derive.reference import evaluate

_EPS = float(np.finfo(np.float64).eps)
_ALL = 2000  # coordinates that are all checked; beyond, directions and a sample
_UNDECIDED_SHARE = 0.05
_CANCEL = 100.0  # magnitudes grow with depth faster than rounding does: they are capped


@dataclass(frozen=True)
class Row:
    """The result for one tensor. ``worst`` is the coordinate (or direction) with the largest
    ratio of difference to tolerance; ``error`` and ``tolerance`` are absolute, at that place."""

    name: str
    shape: tuple[int, ...]
    method: str
    checked: int
    undecided: int
    error: float
    tolerance: float
    value: float
    expected: float
    worst: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found, a row for each tensor."""

    network: str
    rows: tuple[Row, ...]
    seed: int
    sizes: dict[str, int]

    @property
    def verdict(self) -> str:
        """"fail" if any row fails, else "undecided" if any is, else "pass"."""
        found = {row.verdict for row in self.rows}
        return next(v for v in ("fail", "undecided", "pass") if v in found or v == "pass")

    @property
    def ok(self) -> bool:
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.network, "verdict": self.verdict, "seed": self.seed,
                "sizes": self.sizes, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        head = ("tensor", "shape", "method", "checked", "largest error", "tolerance", "worst at",
                "verdict")
        body = [
            (r.name, str(r.shape), r.method, str(r.checked), f"{r.error:.1e}",
             f"{r.tolerance:.1e}", r.worst, r.verdict + (f" ({r.note})" if r.note else ""))
            for r in self.rows
        ]
        widths = [max(len(row[n]) for row in (head, *body)) for n in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in (head, tuple("-" * w for w in widths), *body)
        ]
        sizes = ", ".join(f"{k}={v}" for k, v in self.sizes.items())
        return "\n".join([*lines, f"{self.verdict}; seed {self.seed}" + (f", {sizes}" if sizes
                                                                         else "")])


Gradients = Mapping[str, Any] | Callable[[dict[str, np.ndarray]], Mapping[str, Any]]


def check(
    program: Program,
    values: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    gradients: Gradients | None = None,
    of: str | None = None,
    digits: int | None = None,
    directions: int | None = None,
    entries: Mapping[str, tuple[int, ...]] | None = None,
    also: Mapping[str, tuple[int, ...]] | None = None,
    rounding: Mapping[str, np.ndarray] | None = None,
) -> Report:
    """Compare gradients with numeric differentiation of the forward program; of a Jacobian, its
    product with random weights.

    Args:
        program: a derived program (its ``gradients`` name what is checked).
        values: the point; by default random, from ``seed``.
        sizes: symbolic sizes, such as ``{"B": 3}``; small unequal ones by default.
        gradients: the gradients under test by tensor, or a function of the values that returns
            them; by default those of the program, from the reference evaluator.
        of: the scalar; by default the loss.
        digits: 50 or 15 forces the method.
        directions: how many Gaussian directions to try for each tensor in place of coordinates,
            for a quick look at a large network.
        entries: of these tensors alone, and of each this one coordinate.
        also: coordinates that are tried whatever else is: of a large tensor only some are.
        rounding: how far rounding may have taken each entry of the gradients, by tensor; by
            default what float64 may do. An entry much smaller than its tensor's largest is then
            judged beside that one.

    Raises:
        DataError: a gradient is missing or has another shape than its tensor.
    """
    if not program.gradients:
        raise DerivationError(
            f"the program {program.name!r} has no gradients to check",
            expected="a derived program", mend="dr.check(dr.derive(net))")
    if program.jacobians:
        settings = {"seed": seed, "sizes": sizes, "digits": digits, "directions": directions}
        return _check_jacobians(program, values, gradients, of, settings)
    of = of or the_loss(program)
    point = dict(values) if values is not None else smooth_point(program, of, seed, sizes)
    known = {} if values is not None else default_sizes(program, sizes)
    names = tuple(program.gradients) if entries is None else tuple(entries)
    found = _gradients(program, names, point, gradients, known or sizes)
    count = sum(directions or min(np.size(found[n]), _ALL) for n in names)
    still, held = hold_stopped(program, point)
    slopes = Slopes(still, of, held, known or sizes, digits=digits, directions=count)
    scale = max((float(np.max(np.abs(g))) for g in found.values() if np.size(g)), default=0.0)
    if rounding is None:
        sure = gradient_magnitudes(program, point, known or sizes)
        limits = {n: 64 * _EPS * np.minimum(sure[n], _CANCEL * scale) for n in names}
    else:
        limits = {n: np.asarray(rounding[n]) for n in names}
    sizes_of = {n: 0.0 if rounding is None else float(np.max(np.abs(found[n]), initial=0.0))
                for n in names}
    rows = tuple(
        _row(slopes, n, found[n], limits[n], sizes_of[n],
             _directions(found[n].shape, seed, slopes.digits == 15, directions, (also or {}).get(n))
             if entries is None else [_coordinate(found[n].shape, entries[n])])
        for n in names)
    return Report(program.name, rows, seed, {s.name: n for s, n in slopes.sizes.items()})


def _check_jacobians(program: Program, values: Mapping[str, Any] | None,
                     gradients: Gradients | None, of: str | None,
                     settings: Mapping[str, Any]) -> Report:
    """Each Jacobian under random weights, and what else is a gradient as it is."""
    plain = {n: g for n, g in program.gradients.items() if n not in program.jacobians}
    reports = []
    if plain:
        rest = replace(program, gradients=plain, jacobians={})
        reports.append(check(rest, values, gradients=gradients, of=of, **settings))
    for part in contracted(program):
        point = values
        if values is not None:
            shape = np.shape(evaluate(program, values, (which := _of(program, part),),
                                      settings["sizes"])[which])
            point = {**values, WEIGHTS: np.random.default_rng(settings["seed"]).normal(size=shape)}
        given = None if gradients is None else _under_weights(gradients, tuple(part.gradients))
        reports.append(check(part, point, gradients=given, **settings))
    rows = tuple(row for report in reports for row in report.rows)
    return replace(reports[-1], rows=rows)


def _of(program: Program, part: Program) -> str:
    return program.jacobians[next(iter(part.gradients))]


def _under_weights(gradients: Gradients, names: tuple[str, ...]) -> Gradients:
    """Jacobians under test as functions of the point, which holds the weights."""
    def product(point: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        weights = point.pop(WEIGHTS)
        found = gradients(point) if callable(gradients) else gradients
        return {n: np.tensordot(weights, np.asarray(found[n], np.float64), np.ndim(weights))
                for n in names if n in found}

    return product


def _gradients(
    program: Program, names: tuple[str, ...], point: dict[str, Any], given: Gradients | None,
    sizes: Mapping[str, int] | None,
) -> dict[str, np.ndarray]:
    if given is None:
        tensors = {n: program.gradients[n] for n in names}
        got = evaluate(program, point, tuple(tensors.values()), sizes)
        return {n: got[g] for n, g in tensors.items()}
    found = given(dict(point)) if callable(given) else given
    out = {}
    for name in names:
        if name not in found:
            raise DataError(f"no gradient is given for {name!r}",
                            expected=", ".join(names), got=", ".join(found))
        out[name] = np.asarray(found[name], dtype=np.float64)
        if out[name].shape != np.shape(point[name]):
            raise DataError(
                f"the gradient of {name!r} has another shape than {name!r}",
                expected=f"{np.shape(point[name])}: "
                f"{name} is declared as {shape_text(program.tensors[name].shape)}",
                got=f"{out[name].shape}")
    return out


def _row(slopes: Slopes, name: str, gradient: np.ndarray, limit: np.ndarray, size: float,
         directions: list[tuple[str, np.ndarray]]) -> Row:
    worst: tuple[float, Row] | None = None
    undecided, trouble = 0, ""
    for label, direction in directions:
        estimate = slopes.along(name, direction)
        value = float(np.sum(gradient * direction))
        rounding = float(np.sum(limit * np.abs(direction)))
        if size:  # the signs of a Gaussian direction are no accomplices of rounding
            rounding = min(rounding, 4 * float(np.linalg.norm(limit * direction)))
        tolerance = 8 * estimate.error + rounding
        difference = abs(value - estimate.value)
        verdict = _verdict(value, estimate.value, difference, tolerance, rounding,
                           size * float(np.linalg.norm(direction)))
        if verdict == "undecided":
            undecided += 1
            trouble = trouble or estimate.trouble or "the error bar is too wide"
        ratio = difference / tolerance if tolerance > 0 else (np.inf if difference > 0 else 0.0)
        rank = np.inf if verdict == "fail" and not np.isfinite(ratio) else ratio
        if verdict != "undecided" and (worst is None or rank > worst[0]):
            worst = (rank, Row(name, gradient.shape, slopes.method, len(directions), 0,
                               difference, tolerance, value, estimate.value, label, verdict))
    if worst is None:
        return Row(name, gradient.shape, slopes.method, len(directions), undecided,
                   float("nan"), float("nan"), float("nan"), float("nan"), "-", "undecided",
                   trouble)
    row = worst[1]
    verdict = row.verdict
    if verdict == "pass" and undecided > _UNDECIDED_SHARE * len(directions):
        verdict = "undecided"
    note = f"{undecided} undecided: {trouble}" if undecided else ""
    return Row(row.name, row.shape, row.method, row.checked, undecided, row.error, row.tolerance,
               row.value, row.expected, row.worst, verdict, note)


def _verdict(value: float, expected: float, difference: float, tolerance: float,
             rounding: float, size: float) -> str:
    """``size``: what counts as large beside a value that is itself small."""
    if not np.isfinite(value) and np.isfinite(expected):
        return "fail"
    if not np.isfinite(tolerance):
        return "undecided"
    if difference > tolerance:
        return "fail"
    # zero, or zero but for the rounding of terms that cancel: there is no sign or size to miss
    if abs(value) <= rounding:
        return "pass"
    return "pass" if tolerance <= 1e-3 * max(abs(value), abs(expected), size) else "undecided"


def _directions(shape: tuple[int, ...], seed: int, costly: bool, few: int | None,
                also: tuple[int, ...] | None) -> list[tuple[str, np.ndarray]]:
    """Every coordinate of a small tensor; of a large one Gaussian directions (directions of ±1
    would miss swapped entries) and a sample of coordinates."""
    size = int(np.prod(shape)) if shape else 1
    rng = np.random.default_rng([seed, size])
    limit = 20 if costly else _ALL
    if few is not None:
        return [(f"direction {n + 1}", rng.normal(size=shape)) for n in range(few)]
    if size <= limit:
        return [_coordinate(shape, place) for place in np.ndindex(shape)]
    gaussian = [(f"direction {n + 1}", rng.normal(size=shape)) for n in range(4)]
    chosen = [np.unravel_index(n, shape) for n in rng.choice(size, 8, replace=False)]
    return gaussian + [_coordinate(shape, p) for p in (*chosen, *([also] if also else []))]


def _coordinate(shape: tuple[int, ...], place: Iterable[Any]) -> tuple[str, np.ndarray]:
    """The direction of one coordinate, and its name."""
    at, direction = [int(p) for p in place], np.zeros(shape)
    direction[tuple(at)] = 1.0
    return str(at), direction
