"""Long formulas: where a formula is broken."""

from __future__ import annotations

from derive.boxes import Box, Row, Token, width


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
