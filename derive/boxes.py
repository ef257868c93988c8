"""Boxes: how a formula is set, before it is LaTeX or MathML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["var", "bold", "upright", "number", "op", "punct", "text"]


@dataclass(frozen=True)
class Token:
    """One character or word; ``kind`` says how it is set and spaced."""

    text: str
    kind: Kind = "var"


@dataclass(frozen=True)
class Row:
    items: tuple[Box, ...]


@dataclass(frozen=True)
class Space:
    """A thin space between factors: an invisible product."""


@dataclass(frozen=True)
class Frac:
    above: Box
    below: Box


@dataclass(frozen=True)
class Script:
    base: Box
    sub: Box | None = None
    sup: Box | None = None


@dataclass(frozen=True)
class Under:
    """A big operator with what stands under it, line by line."""

    op: Token
    lines: tuple[Box, ...]


@dataclass(frozen=True)
class Fence:
    left: str
    body: Box
    right: str


@dataclass(frozen=True)
class Radical:
    body: Box


@dataclass(frozen=True)
class Accent:
    kind: str
    body: Box


@dataclass(frozen=True)
class Cases:
    """Values with their conditions."""

    rows: tuple[tuple[Box, Box], ...]


@dataclass(frozen=True)
class Colour:
    """A value that flows "forward", or a gradient that flows "backward"."""

    way: str
    body: Box


Box = Token | Row | Space | Frac | Script | Under | Fence | Radical | Accent | Cases | Colour


def row(*items: Box) -> Box:
    """Items side by side, rows inside rows opened."""
    flat: list[Box] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Row) else (item,))
    return flat[0] if len(flat) == 1 else Row(tuple(flat))


def op(text: str) -> Token:
    return Token(text, "op")


def comma_separated(boxes: list[Box]) -> Box:
    out: list[Box] = []
    for k, box in enumerate(boxes):
        out += [Token(",", "punct"), box] if k else [box]
    return row(*out)


def starts_with_digit(box: Box) -> bool:
    while True:
        if isinstance(box, Row):
            box = box.items[0]
        elif isinstance(box, Script):
            box = box.base
        elif isinstance(box, Colour):
            box = box.body
        else:
            return isinstance(box, Token) and box.kind == "number"


def tall(box: Box) -> bool:
    """Whether a box is higher than a line, so that its fences must grow."""
    if isinstance(box, Frac | Under | Cases | Radical):
        return True
    if isinstance(box, Row):
        return any(map(tall, box.items))
    if isinstance(box, Script):
        return tall(box.base)
    if isinstance(box, Fence | Accent | Colour):
        return tall(box.body)
    return False


def width(box: Box | None) -> float:
    """A rough width of a formula in letters."""
    if box is None or isinstance(box, Space):
        return 0.3
    if isinstance(box, Token):
        return len(box.text) + (1.2 if box.kind == "op" else 0.0)
    if isinstance(box, Row):
        return sum(map(width, box.items))
    if isinstance(box, Frac):
        return max(width(box.above), width(box.below)) + 0.5
    if isinstance(box, Script):
        return width(box.base) + 0.7 * max(width(box.sub), width(box.sup))
    if isinstance(box, Under):
        return max(1.8, *(0.7 * width(line) for line in box.lines))
    if isinstance(box, Fence | Radical):
        return width(box.body) + 1.2
    if isinstance(box, Cases):
        return max(width(v) + width(c) for v, c in box.rows) + 4
    return width(box.body) if isinstance(box, Accent | Colour) else 1.0
