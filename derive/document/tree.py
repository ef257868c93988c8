"""The document tree: what a derivation says, before it is LaTeX, HTML, Markdown or a notebook.

Formulas are boxes (`derive.layout`), with the same as one line of text for terminals and code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from derive.boxes import Box
from derive.graph import Picture
from derive.mathtext import read_math
from derive.messages import message


@dataclass(frozen=True)
class Math:
    """A formula in a line of text; ``plain`` is the same on one line of ASCII."""

    box: Box
    plain: str


@dataclass(frozen=True)
class Ref:
    """A reference to a numbered equation (``eq-3``) or to a rule (``rule-chain``)."""

    target: str
    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Strong:
    text: str


@dataclass(frozen=True)
class Coloured:
    """A value that flows forward or a gradient that flows backward."""

    text: str
    way: str  # "forward" or "backward"


Span = str | Math | Ref | Code | Strong | Coloured
Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Paragraph:
    spans: Spans
    quiet: bool = False


@dataclass(frozen=True)
class Display:
    """Formulas on lines of their own, without numbers; a label may stand before each."""

    lines: tuple[tuple[Spans, Math], ...]


@dataclass(frozen=True)
class Equation:
    """A numbered equation in index form, beside it the matrix form where it has one.

    ``note`` follows the index form (for which values it holds); ``shapes`` are shape checks,
    ``reasons`` say why something is transposed; ``contraction`` is the einsum form.
    """

    number: int | None
    index: Math
    matrix: Math | None = None
    contraction: str = ""
    shapes: tuple[str, ...] = ()
    reasons: tuple[Spans, ...] = ()
    note: Spans = ()
    result: bool = False

    @property
    def anchor(self) -> str:
        return f"eq-{self.number}"


@dataclass(frozen=True)
class Boxed:
    """What the document is about: framed."""

    equations: tuple[Equation, ...]


@dataclass(frozen=True)
class Table:
    head: tuple[Spans, ...]
    rows: tuple[tuple[Spans, ...], ...]
    align: str = ""  # a letter of "lrc" for each column
    total: bool = False  # whether the last row is a total


@dataclass(frozen=True)
class Figure:
    picture: Picture
    caption: Spans


@dataclass(frozen=True)
class Listing:
    text: str
    language: str = "python"


@dataclass(frozen=True)
class Section:
    title: Spans
    anchor: str
    level: int
    blocks: tuple[Block, ...]


Block = Paragraph | Display | Equation | Boxed | Table | Figure | Listing | Section


@dataclass(frozen=True)
class Document:
    """A whole document; ``words`` are the few words that writers themselves need."""

    title: str
    lang: str
    made: str
    sections: tuple[Section, ...]
    words: Words


@dataclass(frozen=True)
class Words:
    """The messages of a language as spans: ``{name}`` is filled, ``$…$`` is a formula.

    The catalogues write adjoints with a bar; ``adjoint`` is how the reader does (see `Style`).
    """

    lang: str
    adjoint: str = "bar"

    def __call__(self, key: str, **values: Span | Spans) -> Spans:
        text = message(self.lang, key)
        if self.adjoint != "bar" and key not in ("result.bar", "result.delta"):
            text = _BARRED.sub(_with_delta if self.adjoint == "delta" else _as_derivative, text)
        return fill(text, values)

    def text(self, key: str, **values: object) -> str:
        return message(self.lang, key, **values)


_BARRED = re.compile(r"\\bar (\w|\\mathbf\{\w\})(?:_(?:\{([^}]*)\}|(\w)))?")


def _with_delta(found: re.Match[str]) -> str:
    below = found[2] or found[3]
    return rf"\delta_{{{found[1]}{';' + below if below else ''}}}"


def _as_derivative(found: re.Match[str]) -> str:
    below = found[2] or found[3]
    return rf"\frac{{\partial L}}{{\partial {found[1]}{f'_{{{below}}}' if below else ''}}}"


_PLACES = re.compile(r"(\$[^$]+\$|\{[a-z]+\})")


def fill(text: str, values: dict[str, Span | Spans] | None = None) -> Spans:
    """A message as spans."""
    out: list[Span] = []
    for part in _PLACES.split(text):
        if part.startswith("$"):
            out.append(Math(read_math(part[1:-1]), _spoken(part[1:-1])))
        elif part.startswith("{") and values is not None:
            value = values[part[1:-1]]
            out.extend(value if isinstance(value, tuple) else (value,))
        elif part:
            out.append(part)
    return tuple(out)


def _spoken(formula: str) -> str:
    """A formula of the project's own texts for a terminal: without its backslashes."""
    plain = re.sub(r"\\frac\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}",
                   r"(\1)/(\2)", formula)
    plain = plain.replace(r"\,", " ").replace("\\", "")
    return re.sub(r"\{(\w)\}", r"\1", plain).replace("{", "(").replace("}", ")")


def listed(items: Sequence[Spans], between: str = ", ") -> Spans:
    """Items one after another with commas."""
    out: list[Span] = []
    for k, item in enumerate(items):
        out += [between, *item] if k else item
    return tuple(out)
