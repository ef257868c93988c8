"""The text that is read: messages with line and caret, limits, and what is refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from derive.errors import DeclarationError, Location

MAX_LENGTH = 200_000  # characters
MAX_LINES = 500  # formulas
MAX_DEPTH = 40  # braces and parentheses inside each other
MAX_EXPONENT = 64  # of a number
_REFUSED = re.compile(
    r"\\(write\d*|immediate|input|include|openin|openout|read|def|gdef|edef|xdef|let|newcommand"
    r"|renewcommand|providecommand|DeclareMathOperator|csname|catcode|expandafter|directlua"
    r"|special|loop|newenvironment|ShellEscape|lstinputlisting|verbatiminput)(?![A-Za-z])")


class LatexError(DeclarationError):
    """A derivation in LaTeX is wrong: says the line, shows it with a caret, what was expected."""


@dataclass(frozen=True)
class Source:
    """A text and what it is called in messages (the path of a file)."""

    text: str
    name: str

    def checked(self) -> Source:
        """The text itself, if it is neither too long nor holds a command that is refused.

        Raises:
            LatexError: it is, or does.
        """
        if len(self.text) > MAX_LENGTH:
            self.fail(0, "the text is too long", f"at most {MAX_LENGTH} characters")
        found = _REFUSED.search(without_comments(self.text))
        if found:
            self.fail(found.start(), f"\\{found[1]} is refused",
                      "formulas: nothing that a text hands in is run, expanded or read from files",
                      "write the formula itself")
        return self

    def fail(self, at: int, what: str, expected: str | None = None,
             mend: str | None = None) -> NoReturn:
        raise self.error(at, what, expected, mend)

    def error(self, at: int, what: str, expected: str | None = None,
              mend: str | None = None) -> LatexError:
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].split("\n", 1)[0]
        begin = max(0, at - start - 60)  # of a long line, what is around the place
        shown, caret = line[begin : at - start + 60], at - start - begin
        pad = "".join("\t" if c == "\t" else " " for c in shown[:caret])
        head = f"{self.name}, line {self.line(at)}, column {at - start + 1}: {what}\n"
        return LatexError(f"{head}    {shown}\n    {pad}^", expected=expected, mend=mend)

    def line(self, at: int) -> int:
        """The number of the line that a character stands in."""
        return self.text.count("\n", 0, at) + 1

    def location(self, at: int) -> Location:
        return Location(self.name, self.line(at))


def without_comments(text: str) -> str:
    r"""The text with blanks in the place of what stands behind a ``%`` that is no ``\%``."""
    return re.sub(r"(?<!\\)((?:\\\\)*)%[^\n]*",
                  lambda m: m[1] + " " * (len(m[0]) - len(m[1])), text)
