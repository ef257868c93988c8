r"""A text → its formulas: environments, rows, `\\`, `&`, and what goes on from row to row.

In a text with ``align``, ``\[``, ``$$``, … only what stands inside of these is read, and of inline
formulas those with an equals sign; a text without any is formulas as a whole, one a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from derive.tex.source import MAX_LINES, Source, without_comments

Span = tuple[int, int]
_ENVIRONMENTS = r"equation|align|alignat|flalign|gather|multline|eqnarray|displaymath|math|dmath"
_OPEN = re.compile(rf"\\begin\s*\{{({_ENVIRONMENTS})(\*?)\}}(\{{\d+\}})?|\\\[|\$\$|\\\(|(?<!\\)\$")
_INNER = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|split|gathered|alignedat|" + _ENVIRONMENTS
                    + r")\*?\}(?:\[[tcb]\]|\{\d+\})?")
_TOKEN = re.compile(r"\\begin\s*\{d?cases\}|\\end\s*\{d?cases\}|\\substack|\\\\(\[[^\]\n]*\])?"
                    r"|\\[A-Za-z]+|\\.|[{}()\[\]&\n=]|.", re.DOTALL)
_GOES_ON = re.compile(r"\s*(?:\{\}\s*)?(=|\+|-|<|>|\*|/"
                      r"|\\(cdot|times|odot|circ|equiv|le|leq|ge|geq|neq)(?![A-Za-z]))")
_HANGS = re.compile(r"(=|\+|-|,|\\(cdot|times|odot|circ|equiv|,|;)|\*|/)\s*$")
_WORDS = re.compile(r"\s*(\\(Rightarrow|implies|therefore|Longrightarrow|iff|quad|qquad|,|;|boxed)"
                    r"(?![A-Za-z])|\\text\s*\{[^{}]*\}|\\bullet(?![A-Za-z])|\\item)")
_DOTS = re.compile(r"\\(dots|ldots|cdots)(?![A-Za-z])|…")


@dataclass(frozen=True)
class Formula:
    """``spans``: the pieces of the text that it stands in, row by row."""

    spans: tuple[Span, ...]

    @property
    def at(self) -> int:
        return self.spans[0][0]


def formulas(source: Source) -> list[Formula]:
    """The formulas of a text, in order.

    Raises:
        LatexError: an environment is not closed, a row goes on and nothing stands before it, or
            there are too many.
    """
    text = without_comments(source.text)
    text = _INNER.sub(lambda m: m[0] if _display(m[0]) else " " * len(m[0]), text)
    regions = _regions(source, text)
    found: list[Formula] = []
    for start, end, inline in regions:
        if not inline or "=" in text[start:end]:
            found += _joined(source, text, _cells(text, start, end, len(regions) == 1
                                                  and end - start == len(text)))
    if len(found) > MAX_LINES:
        source.fail(found[MAX_LINES].at, "there are too many formulas", f"at most {MAX_LINES}")
    return found


def _display(command: str) -> bool:
    return re.search(r"\{(" + _ENVIRONMENTS + r")\*?\}", command) is not None


def _regions(source: Source, text: str) -> list[tuple[int, int, bool]]:
    """Where formulas stand: from, to, whether inside a sentence."""
    found = []
    at = 0
    while True:
        opened = _OPEN.search(text, at)
        if opened is None:
            break
        sign = opened[0]
        close = {"\\[": "\\]", "$$": "$$", "\\(": "\\)", "$": "$"}.get(sign)
        if close is None:
            closed = re.compile(rf"\\end\s*\{{{opened[1]}{re.escape(opened[2])}\}}").search(
                text, opened.end())
            close = f"\\end{{{opened[1]}{opened[2]}}}"
        else:
            closed = re.compile(re.escape(close)).search(text, opened.end())
        if closed is None:
            source.fail(opened.start(), f"{sign} is never closed", close)
        found.append((opened.end(), closed.start(), sign in ("$", "\\(")))
        at = closed.end()
    if found:
        stray = re.search(r"\\(end)\s*\{(" + _ENVIRONMENTS + r")\*?\}", text[at:])
        if stray:
            source.fail(at + stray.start(), f"{stray[0]} closes nothing", "a \\begin before it")
        return found
    return [(0, len(text), False)]


@dataclass(frozen=True)
class _Cell:
    """A piece of a row: ``same``: it stands in the row of the piece before it; ``equation``: an
    equals sign stands in it, not inside of anything."""

    start: int
    end: int
    same: bool
    equation: bool


def _cells(text: str, start: int, end: int, bare: bool) -> list[_Cell]:
    """The rows of a region, cut at & and wide spaces; in a bare text a line end ends a row, too."""
    found: list[_Cell] = []
    depth = cases = 0
    begin, at, same, equation = start, start, False, False
    while at < end:
        token = _TOKEN.match(text, at, end)
        assert token is not None
        sign = token[0]
        row = sign.startswith("\\\\") or (sign == "\n" and bare)
        if sign.startswith(("\\begin", "\\end")):
            cases += 1 if sign.startswith("\\begin") else -1
        elif sign in ("{", "(", "["):
            depth += 1
        elif sign in ("}", ")", "]"):
            depth -= 1
        elif sign == "=" and depth <= 0:
            equation = True
        elif depth <= 0 and cases <= 0 and (row or sign in ("&", "\\quad", "\\qquad")):
            found.append(_Cell(begin, at, same, equation))
            begin, same, equation = token.end(), not row, False
        at = token.end()
    return [*found, _Cell(begin, end, same, equation)]


def _joined(source: Source, text: str, cells: list[_Cell]) -> list[Formula]:
    """Cells that belong together, as formulas."""
    found: list[list[Span]] = []
    complete = True  # whether the last formula has its equals sign
    for n, cell in enumerate(cells):
        start, end = _stripped(text, cell.start, cell.end)
        ranged = _DOTS.search(text, start, end) and cell.same  # t = 1, …, T
        if start >= end or ranged:
            continue
        row = text[start:end]
        hangs = bool(found) and _HANGS.search(text[found[-1][-1][0] : found[-1][-1][1]])
        on = _GOES_ON.match(row) or hangs or (cell.same and found and (
            not complete or not cell.equation)) or (
            found and complete and not cell.equation and not _is_left(text, cells[n + 1 :]))
        if not on:
            if not complete:
                _no_equation(source, found[-1][0][0])
            found.append([(start, end)])
            complete = cell.equation
        elif not found:
            source.fail(start, "the first row goes on", "what stands left of it")
        else:
            found[-1].append((start, end))
            complete = complete or cell.equation
    if not complete:
        _no_equation(source, found[-1][0][0])
    return [Formula(tuple(_ended(text, spans))) for spans in found]


def _is_left(text: str, after: list[_Cell]) -> bool:
    """Whether what stands before some cells is the left side of what they go on with."""
    for cell in after:
        start, end = _stripped(text, cell.start, cell.end)
        if start < end:
            return text[start] == "="
    return False


def _no_equation(source: Source, at: int) -> None:
    brace = _unclosed(source.text, at)
    if brace is not None:  # it hides what follows, a = among it
        source.fail(brace, "{ is never closed", "} before the end of the formula")
    source.fail(at, "this is no equation", "left = right, or a row that begins with = or +")


def _stripped(text: str, start: int, end: int) -> Span:
    """A row without words in front and blanks around it."""
    while True:
        words = _WORDS.match(text, start, end)
        if words is None or not words[0].strip():
            break
        start = words.end()
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _ended(text: str, spans: list[Span]) -> list[Span]:
    """Without the full stop or comma at the end of a sentence."""
    start, end = spans[-1]
    while end > start and (text[end - 1] in ".,; \n\t" or text[end - 2 : end] in ("\\,", "\\;")):
        end -= 2 if text[end - 2 : end] in ("\\,", "\\;") else 1
    return [*spans[:-1], (start, end)]


def _unclosed(text: str, at: int) -> int | None:
    """The first brace from a place on that nothing closes."""
    left: list[int] = []
    for n in range(at, len(text)):
        if text[n] in "{}" and text[n - 1:n] != "\\":
            if text[n] == "{":
                left.append(n)
            elif left:
                left.pop()
    return left[0] if left else None
