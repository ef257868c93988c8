"""The document as one HTML file: MathML, SVG and its own style; no script, nothing from outside."""

from __future__ import annotations

import re
from functools import singledispatch
from html import escape

from markupsafe import Markup

from derive.boxes import Box, Row, Token, width
from derive.document import tree as t
from derive.document.breaking import lines
from derive.document.template import render, resource
from derive.graph import picture_svg
from derive.mathml import math

LINE = 80.0  # letters of a formula that fit the page
ENTRIES = 24.0  # of a list in a sentence, between two places where a line may end
BESIDE = (42.0, 35.0)  # of an index form and a matrix form side by side


def html_text(document: t.Document) -> str:
    """The document as HTML5 that is also well-formed XML inside its body."""
    entries = [
        (section.anchor, Markup(_spans(section.title))) for section in document.sections
    ]
    body = "".join(_block(section, document.words) for section in document.sections)
    return render(
        "document.html.jinja", lang=document.lang, title=document.title, made=document.made,
        contents=document.words.text("section.contents"), entries=entries, body=Markup(body),
        style=Markup(resource("document.css")),
    )


def fragment(block: t.Section, words: t.Words) -> str:
    """A section as HTML for a notebook's cell: its style and its anchors are its own, whatever
    the page and other cells have."""
    own = re.sub(r'( id="| href="#)', lambda m: m[1] + escape(block.anchor) + "-",
                 _block(block, words))
    return f'<style>{_scoped(resource("document.css"))}</style><div class="derivation">{own}</div>'


def _scoped(style: str) -> str:
    """The style of a page for a part of one (nested, as CSS has it)."""
    style = re.sub(r"^ *(html|@page) \{.*\}\n", "", style, flags=re.MULTILINE)
    style = re.sub(r"^( *)(:root|body) \{", r"\1& {", style, flags=re.MULTILINE)
    page = "& { margin: 0; padding: 0.5rem 1rem 1rem; } a { color: var(--accent) !important; }"
    return f".derivation {{\n{style}{page}\n}}"


def _spans(spans: t.Spans) -> str:
    return "".join(map(_span, spans))


@singledispatch
def _span(span: t.Span) -> str:
    raise TypeError(f"no HTML for {type(span).__name__}")


@_span.register
def _(span: str) -> str:
    return escape(span)


@_span.register
def _(span: t.Math) -> str:
    """A long list in a sentence is a formula for each few entries: a line ends inside of none."""
    listed = isinstance(span.box, Row) and Token(",", "punct") in span.box.items
    return " ".join(map(math, lines(span.box, ENTRIES))) if listed else math(span.box)


@_span.register
def _(span: t.Ref) -> str:
    return f'<a href="#{escape(span.target)}">{escape(span.text)}</a>'


@_span.register
def _(span: t.Code) -> str:
    return f"<code>{escape(span.text)}</code>"


@_span.register
def _(span: t.Strong) -> str:
    return f"<strong>{escape(span.text)}</strong>"


@_span.register
def _(span: t.Coloured) -> str:
    return f'<span class="{escape(span.way)}">{escape(span.text)}</span>'


@singledispatch
def _block(block: t.Block, words: t.Words) -> str:
    raise TypeError(f"no HTML for {type(block).__name__}")


@_block.register
def _(block: t.Paragraph, words: t.Words) -> str:
    quiet = ' class="quiet"' if block.quiet else ""
    return f"<p{quiet}>{_spans(block.spans)}</p>"


@_block.register
def _(block: t.Display, words: t.Words) -> str:
    shown = []
    for label, formula in block.lines:
        before = f'<span class="label">{_spans(label)}</span>' if label else ""
        shown.append(f'<div class="scroll">{before}{displayed(formula.box)}</div>')
    return f'<div class="display">{"".join(shown)}</div>'


def displayed(box: Box) -> str:
    """A formula on lines of its own."""
    return "".join(math(line, block=True, follows=bool(k), tight=width(line) > LINE)
                   for k, line in enumerate(lines(box, LINE)))


@_block.register
def _(block: t.Equation, words: t.Words) -> str:
    return _equation(block, words)


def _equation(block: t.Equation, words: t.Words, boxed: bool = False) -> str:
    """Index form, matrix form and number in a grid; notes below."""
    # the gradients stand twice: the frame at the top refers to where they are derived
    anchor = f' id="{block.anchor}"' if block.number and not boxed else ""
    kind = "equation result" if block.result and not boxed else "equation"
    note = f'<span class="note">{_spans(block.note)}</span>' if block.note else ""
    cells = [f'<div class="form scroll">{displayed(block.index.box)}{note}</div>']
    if block.matrix is not None:
        shapes = "".join(
            f'<span class="shape">{escape(shape)}</span>' for shape in block.shapes
        )
        cells.append(f'<div class="form matrix scroll">{displayed(block.matrix.box)}{shapes}</div>')
    elif block.contraction:
        cells.append(f'<div class="form matrix scroll"><code>{escape(block.contraction)}</code>'
                     "</div>")
    number = ""
    if block.number:
        text = f"({block.number})"
        number = f'<a class="number" href="#{block.anchor}">{text}</a>'
    beside = block.matrix is None or (width(block.index.box) < BESIDE[0]
                                      and width(block.matrix.box) < BESIDE[1])
    wide = " single" if len(cells) == 1 else "" if beside else " stacked"
    reasons = "".join(f"<p class=\"reason\">{_spans(r)}</p>" for r in block.reasons)
    return (f'<div class="{kind}{wide}"{anchor}><div class="forms">{"".join(cells)}</div>'
            f"{number}{reasons}</div>")


@_block.register
def _(block: t.Boxed, words: t.Words) -> str:
    inner = "".join(_equation(e, words, boxed=True) for e in block.equations)
    return f'<div class="boxed">{inner}</div>'


@_block.register
def _(block: t.Table, _words: t.Words) -> str:
    align = [f' class="{c}"' if c in "rc" else "" for c in block.align.ljust(len(block.head), "l")]

    # on a phone a row of words is a block, with the head of the column before each cell
    words = len(block.head) > 3 and "r" not in block.align
    heads = [f' data-head="{escape(_plain(head))}"' if words else "" for head in block.head]

    def line(cells: tuple[t.Spans, ...], tag: str) -> str:
        return "<tr>" + "".join(
            f"<{tag}{align[k]}{heads[k] if tag == 'td' else ''}>{_spans(cell)}</{tag}>"
            for k, cell in enumerate(cells)) + "</tr>"

    rows = "".join(line(row, "td") for row in block.rows)
    kinds = " ".join(["total"] * block.total + ["wide"] * (len(block.head) > 3)
                     + ["words"] * words)
    return (f'<div class="scroll"><table class="{kinds}"><thead>{line(block.head, "th")}</thead>'
            f"<tbody>{rows}</tbody></table></div>")


def _plain(spans: t.Spans) -> str:
    return "".join(s if isinstance(s, str) else s.plain if isinstance(s, t.Math) else s.text
                   for s in spans)


@_block.register
def _(block: t.Figure, words: t.Words) -> str:
    title = "".join(s for s in block.caption if isinstance(s, str))
    return (f'<figure><div class="scroll">{picture_svg(block.picture, title)}</div>'
            f"<figcaption>{_spans(block.caption)}</figcaption></figure>")


@_block.register
def _(block: t.Listing, words: t.Words) -> str:
    return f'<pre class="scroll"><code>{escape(block.text)}</code></pre>'


@_block.register
def _(block: t.Section, words: t.Words) -> str:
    inner = "".join(_block(b, words) for b in block.blocks)
    level = block.level + 1
    return (f'<section id="{escape(block.anchor)}"><h{level}>{_spans(block.title)}</h{level}>'
            f"{inner}</section>")
