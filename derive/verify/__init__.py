"""A verdict on a gradient that somebody derived by hand.

`verify` calls the hand-written function at random points and compares every gradient at the one
where it strays most (`derive.verify.where`) with numeric differentiation of the network's own
equations (`derive.check`). Where they agree, the function is run once more on symbolic arrays, so
that its statements become equations (`derive.verify.trace`), and these are proved equal to the
derived ones (`derive.verify.decide`). Where they differ, the one change of the derived program is
looked for that turns it into what was handed in (`derive.verify.edits`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from derive.check import Report, check
from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.points import random_values
from derive.program import Program, as_program
from derive.verify.claim import Claim, ClaimError
from derive.verify.counterexample import smaller_point
from derive.verify.decide import decide
from derive.verify.edits import explain_differences, matrix_text
from derive.verify.factors import NO_PATTERN
from derive.verify.hand import Hand
from derive.verify.place import unread_lines, wrong_line
from derive.verify.precision import DOUBLE, rounding, within
from derive.verify.repair import find_repairs
from derive.verify.repaired import number_place
from derive.verify.report import Finding, Place, Proof, VerifyReport
from derive.verify.snippet import claim_snippet, function_snippet
from derive.verify.source import own_numbers
from derive.verify.trace import size_paths, trace
from derive.verify.where import straying, telling_point, telling_sizes, within_rounding
from derive.verify.written import NAME, Written, read_derivation, symbolic_claim

_EXPLAINED, _UNEXPLAINED = 1.5, 3.0  # seconds for words that a place was found without
_SHRUNK = 1.0  # seconds for a smaller counterexample


def verify(
    net: Any,
    hand: Callable[..., Any] | str | Path | Mapping[Any, Any],
    *,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    seconds: float = 20.0,
    names: Mapping[str, Any] | None = None,
    layout: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Compare a hand-derived gradient with the network's equations.

    Args:
        net: a network or a program with one loss.
        hand: a function whose parameters are called like the network's tensors (any of them, in
            any order), or that takes two dictionaries ``(parameters, inputs)``. It returns a
            dictionary of gradients by parameter name, or a tuple in the order of the parameters.
            Or index equations as text, ``d_W1[i, j] = sum[b](x[b, i]*d_z1[b, j])``, with any
            adjoints on the way, or SymPy expressions by element, ``{W1[i, j]: …}``
            (`derive.verify.written`). Or LaTeX in matrix or index form (`derive.tex`). Texts may
            be the path of a file, and be of some parameters only.
        seed: of the random points.
        sizes: symbolic sizes at the first point; small unequal ones by default.
        values: a point of your own instead of a random one.
        seconds: of processor time for a proof; 0: numbers only.
        names: of a derivation in LaTeX: what its symbols mean where they are not the declared
            names, ``{"X": "x", "N": "B", "y": "onehot(t)", r"\\phi": "tanh"}``.
        layout: of a derivation in LaTeX: ``samples`` are "rows" or "columns", ``weights`` "as
            declared" or "transposed", ``gradients`` in "denominator" or "numerator" layout, a
            vector is a "column" or a "row" (``vectors``), indices begin with ``first``.
            What is not set is recognised by the shapes, and said in the report.

    Returns:
        A report whose ``verdict`` is "proved" (equal by algebra), "kinks" (proved equal except
        where the report says), "agrees" (in numbers, within their error bars; the report says
        what stood in the way of a proof), "wrong" (with a counterexample) or "undecided".

    Raises:
        HandError: the function raises, is random, changes its inputs, or returns what is no
            gradient of these parameters.
        ClaimError, NetFileError, LatexError: the equations are no gradient of these parameters,
            or cannot be read (with line and caret).
    """
    program = as_program(net)
    derived = program if program.gradients else derive(program)
    function: Hand | Written
    if isinstance(hand, str | Path | Mapping):
        claim = _read(hand, derived, names, layout)
        derived = replace(derived, gradients={p: derived.gradients[p] for p in claim.gradients})
        function = Written(claim, derived)
    else:
        function = Hand(hand, derived)
        function.settle(values or random_values(derived, seed, sizes))
    paths: Sequence[Mapping[str, int]] = ({},)
    if isinstance(function, Hand) and sizes is None and values is None:
        paths = size_paths(function, derived)
    point = dict(values) if values is not None else telling_point(
        derived, function, seed, sizes, function.eps)
    report = _checked(derived, function, point, seed)
    branch: Mapping[str, int] = {}
    for path in paths[1:]:  # where its code branches on a size: the other sides
        if report.verdict == "pass":
            branch, point = path, telling_point(derived, function, seed, path, function.eps)
            report = _checked(derived, function, point, seed)
    if function.eps == DOUBLE:
        report = _without_rounding(report, derived, function, point)
    wrong = [row.name for row in report.rows if row.verdict == "fail"]
    findings: tuple[Finding, ...] = ()
    snippet = ""
    if wrong:
        findings, snippet = _with_counterexample(
            derived, function, point, _findings(derived, function, point, wrong, seed, branch))
    proof = Proof() if wrong or not seconds else _prove(derived, function, seconds, paths)
    notes: tuple[str, ...] = ()
    if isinstance(function, Written):
        notes = function.claim.notes
        findings = (*findings, *unread_lines(function.claim, derived, seed))
    return VerifyReport(derived.name, report, findings, function.label, proof, notes, snippet,
                        function.note)


def _checked(derived: Program, function: Hand | Written, point: dict[str, np.ndarray], seed: int
             ) -> Report:
    """The numeric verdict, within the rounding of the precision in which the gradients come."""
    given = function(point)
    limits = rounding(derived, point, function.eps) if function.eps > DOUBLE else None
    return check(derived, point, gradients=given, seed=seed, also=straying(derived, given, point),
                 rounding=limits)


def _without_rounding(report: Report, derived: Program, function: Hand | Written,
                      point: dict[str, np.ndarray]) -> Report:
    """Of several gradients that differ, those that differ by rounding alone are not called wrong;
    for a single one that would have to be sure."""
    wrong = [row.name for row in report.rows if row.verdict == "fail"]
    rounded = within_rounding(derived, function, point, wrong) if len(wrong) > 1 else set()
    if not rounded or rounded == set(wrong):
        return report
    note = "differs by the function's own rounding"
    return replace(report, rows=tuple(
        replace(row, verdict="undecided", note=note) if row.name in rounded else row
        for row in report.rows))


def _read(hand: str | Path | Mapping[Any, Any], derived: Program, names: Mapping[str, Any] | None,
          layout: Mapping[str, Any] | None) -> Claim:
    """A derivation that is no function: LaTeX, index equations, SymPy expressions."""
    from derive.verify.latex import is_latex, read_latex

    if isinstance(hand, Mapping):
        return symbolic_claim(hand, derived)
    file = hand if isinstance(hand, Path) else None
    if file is not None and not file.is_file():
        raise ClaimError(f"there is no file {str(file)!r}", expected="the file of a derivation")
    text = str(hand) if file is None else file.read_text(encoding="utf-8")
    if file is None and Path(text.strip()).suffix in (".tex", ".txt", ".net", ".py") \
            and "=" not in text:
        raise ClaimError(f"{text.strip()[:80]!r} is no derivation", expected="equations, as text",
                         mend="the path of a file is handed in as Path(…), a function by itself")
    if is_latex(text) or (file is not None and file.suffix == ".tex"):
        return read_latex(text, derived, name=str(file or NAME), names=names, layout=layout)
    return read_derivation(text, derived)


def _claim(function: Hand | Written, derived: Program, sizes: Mapping[str, int] | None = None
           ) -> Claim:
    return function.claim if isinstance(function, Written) else trace(function, derived, sizes)


def _prove(derived: Program, function: Hand | Written, seconds: float,
           paths: Sequence[Mapping[str, int]]) -> Proof:
    """What algebra says of gradients whose numbers agree, on each path through the code."""
    if isinstance(function, Hand) and function.library:
        return Proof(untraced=f"its arrays are {function.library}'s, and NumPy's only are read")
    try:
        return Proof(tuple(
            decision for path in paths
            for decision in decide(_claim(function, derived, path), derived,
                                   seconds / len(paths))))
    except ChainruleError as stopped:
        where = f" (line {stopped.where.line}: {stopped.where.source})" if stopped.where else ""
        return Proof(untraced=stopped.what + where)


def _findings(
    derived: Program, function: Hand | Written, point: dict[str, np.ndarray], names: list[str],
    seed: int, branch: Mapping[str, int],
) -> tuple[Finding, ...]:
    """What is wrong with each gradient: the same change must explain it at two points, on the
    same branch of the code."""
    other = random_values(derived, seed + 1, {**_other_sizes(derived), **branch})
    points = [(point, function(point)), (other, function(other))]
    places = _places(derived, function, [point, other], names, seed)
    # a change of the function says more than one of the derivation
    seconds = _EXPLAINED if set(names) <= set(places) else _UNEXPLAINED
    numbers = own_numbers(function.function) if isinstance(function, Hand) else {}
    with within(function.eps):
        found = explain_differences(derived, names, points, seconds, numbers)
    places |= {f.parameter: place for f in found if isinstance(function, Hand) and (
        place := number_place(function, f.words, numbers))}
    if branch:
        at = ", ".join(f"{n} = {s}" for n, s in branch.items())
        found = [replace(f, words=f"where the code branches to {at}: {f.words}") for f in found]
    return tuple(
        _belonging(replace(f.at(places[f.parameter]), words=f.words.removesuffix(NO_PATTERN)),
                   derived) if f.parameter in places else f for f in found)


def _belonging(finding: Finding, derived: Program) -> Finding:
    """The finding with the formula of the adjoint that should stand at its place, where that is
    what was found."""
    named = re.search(r"it should be (\w+)$", finding.place)
    eq = derived.defined.get(named[1]) if named else None
    if eq is None or finding.equation:
        return finding
    return replace(finding, formula=str(eq), matrix=matrix_text(eq))


def _with_counterexample(derived: Program, function: Hand | Written, point: dict[str, np.ndarray],
                         findings: tuple[Finding, ...]) -> tuple[tuple[Finding, ...], str]:
    """The findings with entries at the smallest point that shows them all, and a program that
    shows these."""
    smaller = smaller_point(derived, function, point, [f.parameter for f in findings],
                            seconds=_SHRUNK, eps=function.eps)
    entries = {e.parameter: str(e) for e in smaller.entries}
    text = (function_snippet(function, smaller) if isinstance(function, Hand)
            else claim_snippet(function.claim, smaller))
    return tuple(replace(f, counterexample=entries[f.parameter]) for f in findings), text


def _places(derived: Program, function: Hand | Written, points: list[dict[str, np.ndarray]],
            names: list[str], seed: int) -> dict[str, Place]:
    """Where each gradient goes wrong: the one operation of a function that mends it, else the
    first line whose value the derivation does not have."""
    repairs: dict[str, Place] = {}
    if isinstance(function, Hand):
        for repair in find_repairs(function, derived, points, names):
            made = Place(str(repair), repair.source, repair.corrected)
            repairs |= dict.fromkeys(repair.mends, made)
    if set(names) <= set(repairs):
        return repairs
    try:
        place = wrong_line(_claim(function, derived), derived, names, seed)
    except ChainruleError:  # it cannot be read as equations: there are no lines to compare
        return repairs
    return {**(dict.fromkeys(names, Place(str(place))) if place else {}), **repairs}


def _other_sizes(program: Program) -> dict[str, int]:
    """Other sizes than the first point's, so that a factor 3 and a factor B are told apart."""
    return {name: size + 1 for name, size in telling_sizes(program).items()}


def assert_gradient(net: Any, hand: Callable[..., Any] | str | Path | Mapping[Any, Any],
                    **options: Any) -> None:
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
