"""The document as Markdown with ``$…$`` and ``$$…$$`` as GitHub draws them.

GitHub reads a formula after Markdown has been read, so formulas that hold characters with a
meaning in Markdown stand between ``$`` and backticks.
"""

from __future__ import annotations

from functools import singledispatch

from derive.document import tree as t
from derive.graph import picture_mermaid
from derive.latex import box_latex


def markdown_text(document: t.Document) -> str:
    """The document as the text of a .md file."""
    parts = [f"# {plain(document.title)}"]
    parts += [_block(section) for section in document.sections]
    parts += ["---", f"<!-- chainrule -->\n*{plain(document.made)}*"]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Running text with nothing in it that Markdown or HTML would act on."""
    for sign in "\\`*_{}[]#|$~":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _spans(spans: t.Spans) -> str:
    return "".join(map(_span, spans))


@singledispatch
def _span(span: t.Span) -> str:
    raise TypeError(f"no Markdown for {type(span).__name__}")


@_span.register
def _(span: str) -> str:
    return plain(span)


@_span.register
def _(span: t.Math) -> str:
    return f"$`{_latex(span)}`$"


def _latex(formula: t.Math) -> str:
    return _known(box_latex(formula.box).replace("\n", " "))


def _known(latex: str) -> str:
    """Colours by names that GitHub's renderer knows."""
    for way, colour in (("forward", "green"), ("backward", "red")):
        latex = latex.replace(rf"\textcolor{{{way}}}", rf"\textcolor{{{colour}}}")
    return latex


@_span.register
def _(span: t.Ref) -> str:
    return f"[{plain(span.text)}](#{span.target})"


@_span.register
def _(span: t.Code) -> str:
    ticks = "``" if "`" in span.text else "`"
    return f"{ticks}{span.text}{ticks}"


@_span.register
def _(span: t.Strong) -> str:
    return f"**{plain(span.text)}**"


@_span.register
def _(span: t.Coloured) -> str:
    digits = span.text.replace("−", "-").replace(" ", r"\ ")
    return "$`" + _known(rf"\textcolor{{{span.way}}}{{{digits}}}") + "`$"


@singledispatch
def _block(block: t.Block) -> str:
    raise TypeError(f"no Markdown for {type(block).__name__}")


@_block.register
def _(block: t.Paragraph) -> str:
    return _spans(block.spans)


@_block.register
def _(block: t.Display) -> str:
    return "\n\n".join(_display(f) for _, f in block.lines)


def _display(formula: t.Math, number: int | None = None) -> str:
    tag = rf" \tag{{{number}}}" if number else ""
    return f"```math\n{_latex(formula)}{tag}\n```"


@_block.register
def _(block: t.Equation) -> str:
    return _equation(block, True)


def _equation(block: t.Equation, anchor: bool) -> str:
    parts = [f'<a id="{block.anchor}"></a>'] if block.number and anchor else []
    parts.append(_display(block.index, block.number))
    if block.matrix is not None:
        parts.append(_display(block.matrix))
    elif block.contraction:
        parts.append(f"`{block.contraction}`")
    notes = [*([_spans(block.note)] if block.note else []),
             *([", ".join(block.shapes)] if block.shapes else []), *map(_spans, block.reasons)]
    if notes:
        parts.append("  \n".join(notes))
    return "\n\n".join(parts)


@_block.register
def _(block: t.Boxed) -> str:
    inner = "\n\n".join(_equation(e, False) for e in block.equations)
    return "\n".join(f"> {line}".rstrip() for line in inner.splitlines())


@_block.register
def _(block: t.Table) -> str:
    rule = {"l": ":--", "r": "--:", "c": ":-:"}
    align = block.align.ljust(len(block.head), "l")
    rows = [block.head, *block.rows]
    lines = ["| " + " | ".join(map(_spans, row)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(rule[c] for c in align) + "|")
    return "\n".join(lines)


@_block.register
def _(block: t.Figure) -> str:
    return f"```mermaid\n{picture_mermaid(block.picture)}\n```\n\n*{_spans(block.caption)}*"


@_block.register
def _(block: t.Listing) -> str:
    fence = "````" if "```" in block.text else "```"
    return f"{fence}{block.language}\n{block.text}\n{fence}"


@_block.register
def _(block: t.Section) -> str:
    title = f'<a id="{block.anchor}"></a>\n\n{"#" * (block.level + 1)} {_spans(block.title)}'
    return "\n\n".join([title, *map(_block, block.blocks)])
