"""The report on a hand-derived gradient: terminal, JSON and HTML from one record."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Any

from derive.check import Report
from derive.verify.decide import Decision

_EXIT = {"proved": 0, "kinks": 0, "agrees": 0, "wrong": 1, "undecided": 3}
_HEADS = {
    "proved": "is proved equal to the derived gradient",
    "kinks": "is proved equal to the derived gradient except at kinks",
    "agrees": "agrees with numeric differentiation, within its error bars, everywhere",
    "undecided": "could not be decided; the table says why",
}


RERUN = "to see it yourself, paste and run:"
_MARGIN = " " * 12  # of what stands behind "at", "in", "right"


def difference(old: str, new: str) -> str:
    """A line of carets below ``new``: what is not in ``old``; where something is only left out,
    one below what follows."""
    marks = [" "] * (len(new) + 1)
    for what, _, _, start, end in steps(old, new):
        if what != "equal":
            marks[start:max(end, start + 1)] = "^" * max(end - start, 1)
    return "".join(marks).rstrip()


def steps(old: str, new: str) -> list[tuple[str, int, int, int, int]]:
    """What turns one line into another: (what, from, to in the old, from, to in the new). Spaces
    are "equal" to none: a changed operation is printed with others than it was typed with."""
    found = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [("equal" if not (old[a:b] + new[c:d]).strip() else what, a, b, c, d)
            for what, a, b, c, d in found]


@dataclass(frozen=True)
class Place:
    """Where a function goes wrong, in words; the line as it is and, if that was found, as it
    makes the gradient right."""

    words: str
    source: str = ""
    mended: str = ""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one gradient, in words.

    ``equation`` is the equation of the derivation that was changed, as if by the mistake (empty:
    none was found); ``formula`` the same as it is right, or else that of the gradient, in index
    form, and ``matrix`` in matrix form where it has one; ``counterexample`` the worst entry with
    both numbers. ``place`` says where the function goes wrong, ``source`` is that line as it was
    written and ``mended`` as it makes the gradients right (empty: not found).
    """

    parameter: str
    words: str
    equation: str
    formula: str
    counterexample: str
    matrix: str = ""
    place: str = ""
    source: str = ""
    mended: str = ""

    def at(self, place: Place) -> Finding:
        """The same finding with its place in the function."""
        return replace(self, place=place.words, source=place.source, mended=place.mended)

    def __str__(self) -> str:
        lines = [f"{self.parameter}: {self.words}"]
        if self.place:
            lines.append(f"    at      {self.place}")
        marks = []
        if self.equation:
            lines.append(f"    as if   {self.equation}")
            marks = [_MARGIN + difference(self.equation, self.formula)]
        lines += [f"    right   {self.formula}", *marks]
        if self.matrix:
            lines.append(_MARGIN + self.matrix)
        return "\n".join([*lines, f"    example {self.counterexample}"])


@dataclass(frozen=True)
class Proof:
    """What algebra says: a decision for each gradient, or why the function was not read at all
    (both empty: nobody asked)."""

    decisions: tuple[Decision, ...] = ()
    untraced: str = ""

    @property
    def verdict(self) -> str | None:
        """"proved", "kinks", or None where a gradient is not proved."""
        found = {d.verdict for d in self.decisions}
        if not found or not found <= {"proved", "kinks"}:
            return None
        return "kinks" if "kinks" in found else "proved"

    def __str__(self) -> str:
        if self.untraced:
            return f"no proof: the function could not be read as equations: {self.untraced}"
        return "\n".join(["proof", *("  " + _decision_line(d) for d in self.decisions)])


def _decision_line(decision: Decision) -> str:
    sizes = ", ".join(f"{n} = {s}" for n, s in decision.sizes.items())
    scope = f"for {sizes}" if sizes else "for all sizes"
    scope += f" with {decision.when}" if decision.when else ""
    words = {"proved": f"equal {scope}", "kinks": f"equal {scope}, except at kinks"}
    said = words.get(decision.verdict, "not proved")
    return f"{decision.parameter}: {said}" + (f"; {decision.note}" if decision.note else "")


@dataclass(frozen=True)
class VerifyReport:
    """The verdict on a hand-derived gradient, its findings, the numeric table and the proof."""

    network: str
    check: Report
    findings: tuple[Finding, ...]
    function: str
    proof: Proof = Proof()
    notes: tuple[str, ...] = ()  # how a derivation was read
    snippet: str = ""  # of a wrong gradient: a program that shows an entry of it and the right one
    computed: str = ""  # in which precision, where that is not double

    @property
    def verdict(self) -> str:
        """"proved", "kinks" (proved, except where the proof says), "agrees" (numerically, within
        the error bars of the table), "wrong" or "undecided"."""
        if self.findings:  # also of a line that no gradient reads
            return "wrong"
        numbers = {"pass": "agrees", "fail": "wrong", "undecided": "undecided"}[self.check.verdict]
        return numbers if numbers == "wrong" else self.proof.verdict or numbers

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        return _EXIT[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.network, "function": self.function, "verdict": self.verdict,
                "findings": [asdict(f) for f in self.findings],
                "proof": [asdict(d) for d in self.proof.decisions],
                "untraced": self.proof.untraced, "read_as": list(self.notes),
                "computed": self.computed, "counterexample": self.snippet,
                "check": self.check.to_dict()}

    @property
    def head(self) -> str:
        """The verdict in a sentence."""
        wrong = ", ".join(f.parameter for f in self.findings)
        said = _HEADS.get(self.verdict, f"is wrong in {wrong}")
        return f"{self.function} for {self.network!r} {said}"

    @property
    def findings_once(self) -> tuple[Finding, ...]:
        """The findings; a place that the one before has too is not said again."""
        found: list[Finding] = []
        for finding, before in zip(self.findings, (None, *self.findings), strict=False):
            if before and finding.place and finding.place == before.place:
                short = finding.place.partition(":")[0]
                finding = replace(finding, place=f"{short}, as above", mended="")
            found.append(finding)
        return tuple(found)

    def __str__(self) -> str:
        parts = [self.head, *([self.computed] if self.computed else []),
                 *map(str, self.findings_once)]
        if self.snippet:
            parts.append(f"{RERUN}\n\n{self.snippet.rstrip()}")
        if self.proof != Proof():
            parts.append(str(self.proof))
        if self.notes:
            parts.append("\n  ".join(["read as", *self.notes]))
        return "\n\n".join([*parts, str(self.check)])

    def to_html(self) -> str:
        """A page of its own, without script or outside reference."""
        from derive.verify.page import report_page

        return report_page(self)

    def _repr_html_(self) -> str:
        from derive.verify.page import report_cell

        return report_cell(self)
