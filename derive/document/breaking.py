"""Long formulas: how wide a formula is, and where it is broken."""

from __future__ import annotations

from derive.boxes import (
    Accent,
    Box,
    Cases,
    Colour,
    Fence,
    Frac,
    Radical,
    Row,
    Script,
    Space,
    Token,
    Under,
)


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


def lines(box: Box, limit: float) -> list[Box]:
    """A formula as lines of about ``limit`` letters at most: a list broken behind its commas,
    anything else before the signs of its outermost sum, or as it is where it has none."""
    if width(box) <= 0.85 * limit or not isinstance(box, Row):
        return [box]
    found: list[list[Box]] = [[]]
    commas = [False, *(item == Token(",", "punct") for item in box.items)]
    for item, behind in zip(box.items, commas, strict=False):
        sign = behind if any(commas) else (
            isinstance(item, Token) and item.kind == "op" and item.text in "+−=")
        if sign and found[-1] and width(Row(tuple(found[-1]))) > 0.45 * limit:
            found.append([])
        found[-1].append(item)
    return [Row(tuple(line)) for line in found] if len(found) > 1 else [box]
