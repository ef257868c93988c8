"""What a repair of a hand-written function says: the line, what is wrong in it, and as it is right.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from derive.program import Program
from derive.verify.changes import Edit
from derive.verify.events import Record, Site
from derive.verify.hand import Hand
from derive.verify.mend import Mend
from derive.verify.operation_text import assigned_to, parsed
from derive.verify.report import Place, difference
from derive.verify.source import lines_reading


@dataclass(frozen=True)
class Repair:
    """A change of one operation after which gradients are right: which, where, what is wrong
    there in words, the line as it is and as it should be ("": no text for it), and the lines that
    called the function that it is in."""

    mends: tuple[str, ...]
    file: str
    line: int
    words: str
    operation: str
    source: str
    corrected: str
    callers: tuple[tuple[str, int], ...] = ()
    passed: tuple[int, str] | None = None  # a line that gives what is assigned here another name

    def __str__(self) -> str:
        said = f"line {self.line}: {self.source}"
        if self.passed:
            said += f" (passed on in line {self.passed[0]}: {self.passed[1]})"
        if self.callers:
            file, number = self.callers[0]
            said += f"   (called from line {number}: {linecache.getline(file, number).strip()})"
        of = f"`{self.operation}`: " if self.operation != self.source else ""
        said += f"\n            {of}{self.words}"
        if not self.corrected:
            return said
        marks = difference(self.source, self.corrected)
        return f"{said}\n    mended  {self.corrected}\n            {marks}"


def spelled(hand: Hand, derived: Program, record: Record) -> dict[str, str]:
    """How the code at a place can write the sizes: ``len(x)`` for B."""
    there = record.events[0].names()
    found: dict[str, str] = {}
    for name in hand.arguments or ():
        for axis, size in enumerate(derived.tensors[name].shape):
            if size.is_Symbol and name in there and there[name].ndim > axis:
                found.setdefault(str(size), f"{name}.shape[{axis}]" if axis else f"len({name})")
    return found


def repaired(record: Record, edit: Edit, mends: tuple[str, ...], spelling: Mapping[str, str]
            ) -> Repair:
    site = record.site
    for size, text in spelling.items():
        words, code = (re.sub(rf"\b{re.escape(size)}\b(?!\()", text, part)
                       for part in (edit.words, edit.text))
        edit = replace(edit, words=words, text=code)
    first, start, last, end = site.span
    lines = [text.rstrip("\n") for text in
             linecache.getlines(site.code.co_filename)[first - 1:last]]
    source = " ".join(text.strip() for text in lines)
    corrected = ""
    if edit.text and start >= 0 and lines:
        head = lines[0].encode()[:start].decode() + assigned_to(site.text)
        tail = lines[-1].encode()[end:].decode()
        corrected = _put(head, edit.text, tail, site.text)
    return Repair(mends, site.code.co_filename, site.line, edit.words, site.text, source, corrected,
                  tuple(record.callers), _passed_on(site))


def _put(head: str, new: str, tail: str, old: str) -> str:
    """A line with something else in the place of an operation's text, in brackets only where they
    are needed."""
    safe = (head + f"({new})" + tail).strip()
    want = _meaning(safe)
    operation = getattr(parsed(old), "op", None)
    if isinstance(operation, ast.MatMult):  # (a @ b) * c is how people write it
        old = ""
    for inner, outer in ((old, new), (f"({old})", new), (old, f"({new})")):
        text = (head + (outer.replace(f"({old})", inner, 1) if old else outer) + tail).strip()
        if want and _meaning(text) == want:
            return text
    loose = isinstance(parsed(new), ast.BinOp | ast.UnaryOp | ast.Compare | ast.IfExp)
    alone = (head + tail).strip().endswith("=") or (head.rstrip().endswith(("(", ",", ":", "="))
                                                    and tail.startswith((")", ",", "}", "]")))
    return (head + new + tail).strip() if alone or not loose else safe


def _meaning(line: str) -> str:
    """The tree of a line in text; empty where it is no whole statement."""
    try:
        return ast.dump(ast.parse(line))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _passed_on(site: Site) -> tuple[int, str] | None:
    """The line of the same function that gives a line's result another name (``h = z``): nothing
    is computed there, so what is missing there is found where the result comes from."""
    name = re.match(rf"\s*(\w+) = {re.escape(site.text)}$",
                    linecache.getline(site.code.co_filename, site.line).rstrip())
    last = max((line for *_, line in site.code.co_lines() if line), default=0)
    for number in range(site.line + 1, last + 1) if name else ():
        text = linecache.getline(site.code.co_filename, number).strip()
        if name and re.fullmatch(rf"\w+ = {re.escape(name[1])}", text):
            return number, text
    return None


def reworded(mend: Mend, mends: tuple[str, ...]) -> Repair:
    return Repair(mends, mend.file, mend.line, mend.words, mend.operation, mend.source,
                  mend.corrected)


def number_place(hand: Hand, words: str, numbers: Mapping[str, float]) -> Place | None:
    """Where a number is read that words say is too much in a gradient."""
    name = next((n for n in numbers if f"the factor {n} = " in words), None)
    lines = [] if name is None or hand.where is None else lines_reading(hand.function, name)
    if not lines or hand.where is None:
        return None
    text = linecache.getline(hand.where.file, lines[0]).strip()
    more = f" (and in line{'s' * (len(lines) > 2)} {', '.join(map(str, lines[1:]))})" \
        if len(lines) > 1 else ""
    said = f"`{name}` belongs in the step that is taken, not in the gradient{more}"
    return Place(f"line {lines[0]}: {text}\n            {said}", text)
