"""The document tree as plain text, for the terminal: formulas on one line of ASCII each."""

from __future__ import annotations

import textwrap
from functools import singledispatch

from derive.document import tree as t

_WIDTH = 88


def plain_text(block: t.Block) -> str:
    """A block (usually a section) as lines of text."""
    return "\n".join(_block(block)).strip() + "\n"


def _spans(spans: t.Spans) -> str:
    return "".join(
        s if isinstance(s, str) else s.plain if isinstance(s, t.Math) else s.text for s in spans
    )


@singledispatch
def _block(block: t.Block) -> list[str]:
    raise TypeError(f"no text for {type(block).__name__}")


@_block.register
def _(block: t.Paragraph) -> list[str]:
    return textwrap.wrap(_spans(block.spans), _WIDTH)


@_block.register
def _(block: t.Display) -> list[str]:
    return [f"    {formula.plain}" for _, formula in block.lines]


@_block.register
def _(block: t.Equation) -> list[str]:
    number = f"({block.number})" if block.number else ""
    lines = [f"  {number:<5} {block.index.plain}"]
    if block.matrix is not None:
        check = f"     [{'; '.join(block.shapes)}]" if block.shapes else ""
        lines.append(f"        {block.matrix.plain}{check}")
    elif block.contraction:
        lines.append(f"        {block.contraction}")
    if block.note:
        lines.append(f"        {_spans(block.note)}")
    for reason in block.reasons:
        lines += textwrap.wrap(_spans(reason), _WIDTH, initial_indent="        ",
                               subsequent_indent="        ")
    return lines


@_block.register
def _(block: t.Boxed) -> list[str]:
    return [line for e in block.equations for line in _block(e)]


@_block.register
def _(block: t.Table) -> list[str]:
    rows = [tuple(map(_spans, row)) for row in (block.head, *block.rows)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(block.head))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip()
            for r in rows]


@_block.register
def _(block: t.Figure) -> list[str]:
    return []


@_block.register
def _(block: t.Listing) -> list[str]:
    return block.text.splitlines()


@_block.register
def _(block: t.Section) -> list[str]:
    title = _spans(block.title)
    lines = ["", title, "-" * len(title)]
    for inner in block.blocks:
        lines += _block(inner)
    return lines
