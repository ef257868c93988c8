"""A verdict on a gradient that somebody derived by hand.

`verify` calls the hand-written function at random points, compares every gradient at the one where
it strays most (`derive.verify.where`) with numeric differentiation of the network's own equations
(`derive.check`), and looks for the one change of the derived program that turns it into what was
handed in (`derive.verify.edits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from derive.check import check
from derive.differentiate import derive
from derive.points import random_values
from derive.program import Program, as_program
from derive.verify.edits import explain_differences
from derive.verify.hand import Hand
from derive.verify.report import Finding, VerifyReport
from derive.verify.where import telling_point, telling_sizes


def verify(
    net: Any,
    hand: Callable[..., Any],
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Compare a hand-derived gradient with the network's equations.

    Args:
        net: a network or a program with one loss.
        hand: a function whose parameters are called like the network's tensors (any of them, in
            any order), or that takes two dictionaries ``(parameters, inputs)``. It returns a
            dictionary of gradients by parameter name, or a tuple in the order of the parameters.
        seed: of the random points.
        sizes: symbolic sizes at the first point; small unequal ones by default.
        values: a point of your own instead of a random one.

    Returns:
        A report whose ``verdict`` is "agrees", "wrong" or "undecided".

    Raises:
        HandError: the function raises, is random, changes its inputs, or returns what is no
            gradient of these parameters.
    """
    program = as_program(net)
    derived = program if program.gradients else derive(program)
    function = Hand(hand, derived)
    point = dict(values) if values is not None else telling_point(derived, function, seed, sizes)
    given = function(point)
    report = check(derived, point, gradients=given, seed=seed)
    wrong = [row.name for row in report.rows if row.verdict == "fail"]
    findings = _findings(derived, function, point, wrong, seed) if wrong else ()
    return VerifyReport(derived.name, report, findings, function.label)


def _findings(
    derived: Program, function: Hand, point: dict[str, np.ndarray], names: list[str], seed: int
) -> tuple[Finding, ...]:
    """What is wrong with each gradient: the same change must explain it at two points."""
    other = random_values(derived, seed + 1, _other_sizes(derived))
    points = [(point, function(point)), (other, function(other))]
    return tuple(explain_differences(derived, names, points))


def _other_sizes(program: Program) -> dict[str, int]:
    """Other sizes than the first point's, so that a factor 3 and a factor B are told apart."""
    return {name: size + 1 for name, size in telling_sizes(program).items()}


def assert_gradient(net: Any, hand: Callable[..., Any], **options: Any) -> None:
    """A test in one line: fails with the report unless ``hand`` agrees with the network.

    Args:
        net: a network or a program with one loss.
        hand: a gradient by hand, as `verify` takes it.
        options: of `verify`.

    Raises:
        AssertionError: the verdict is "wrong" or "undecided"; its message is the report.
        HandError: the function is no gradient of these parameters.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line and the report alone
    report = verify(net, hand, **options)
    if not report.ok:
        raise AssertionError(str(report))


__all__ = ["VerifyReport", "assert_gradient", "verify"]
