"""The report on a hand-derived gradient: terminal, JSON and HTML from one record."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

from derive.check import Report

_EXIT = {"agrees": 0, "wrong": 1, "undecided": 3}


@dataclass(frozen=True)
class Finding:
    """What is wrong with one gradient: in words, in which equation, the right formula, and the
    worst entry with both numbers."""

    parameter: str
    words: str
    equation: str
    formula: str
    counterexample: str

    def __str__(self) -> str:
        lines = [f"{self.parameter}: {self.words}"]
        if self.equation and self.equation != self.formula:
            lines.append(f"    in      {self.equation}")
        return "\n".join([*lines, f"    right   {self.formula}",
                          f"    example {self.counterexample}"])


@dataclass(frozen=True)
class VerifyReport:
    """The verdict on a hand-derived gradient, its findings, and the numeric table behind it."""

    network: str
    check: Report
    findings: tuple[Finding, ...]
    function: str

    @property
    def verdict(self) -> str:
        """"agrees" (numerically, within the error bars of the table), "wrong" or "undecided"."""
        return {"pass": "agrees", "fail": "wrong", "undecided": "undecided"}[self.check.verdict]

    @property
    def ok(self) -> bool:
        return self.verdict == "agrees"

    @property
    def exit_code(self) -> int:
        return _EXIT[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        return {"network": self.network, "function": self.function, "verdict": self.verdict,
                "findings": [asdict(f) for f in self.findings], "check": self.check.to_dict()}

    def __str__(self) -> str:
        head = {
            "agrees": "agrees with numeric differentiation, within its error bars, everywhere",
            "wrong": f"is wrong in {', '.join(f.parameter for f in self.findings)}",
            "undecided": "could not be decided; the table says why",
        }[self.verdict]
        parts = [f"{self.function} for {self.network!r} {head}", *map(str, self.findings)]
        return "\n\n".join([*parts, str(self.check)])

    def to_html(self) -> str:
        """A page of its own, without script or outside reference."""
        text = html.escape(str(self))
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>{html.escape(self.network)}: {self.verdict}</title>"
            "<style>body{font:1rem/1.5 system-ui;margin:2rem;color-scheme:light dark}"
            "pre{overflow-x:auto}</style>"
            f"<h1>{html.escape(self.network)}: {self.verdict}</h1><pre>{text}</pre></html>\n"
        )
