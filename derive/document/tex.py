"""The document as LaTeX: one file that pdfLaTeX compiles, with hyperref where it is there.

Text of users is escaped, formulas come from boxes; long sums are broken at their plus signs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from itertools import zip_longest

from derive.boxes import Box, Row, Token, width
from derive.document import tree as t
from derive.document.breaking import lines
from derive.document.template import render
from derive.graph import picture_tikz
from derive.latex import LETTERS, OPERATORS, box_latex, escape

_SIDES = {"l": r"\raggedright", "r": r"\raggedleft", "c": r"\centering"}
_LINE = 64.0  # letters of a formula that fit a line
_SMALL = 70.0  # letters of code that fit a row of a table
_SIGNS = {
    "×": r"$\times$", "·": r"$\cdot$", "…": r"\dots{}", "−": r"$-$", "“": "``", "”": "''",
    **{c: rf"\textsuperscript{{{k}}}" for k, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "\u202f": r"\,", "’": "'", "–": "--", "‖": r"$\|$",
}  # fmt: skip
_FORMULAS = {c: f"${command}$" for c, command in {**LETTERS, **OPERATORS}.items()}


def tex_text(document: t.Document) -> str:
    """The document as the text of a .tex file."""
    body = "\n\n".join(_block(section) for section in document.sections)
    title, made = text(document.title), text(document.made)
    # other scripts than Latin and Greek need fonts of their own
    chinese = document.lang == "zh" or any("\u2e80" <= c <= "\uffff" for c in body + title)
    return render("document.tex.jinja", title=title, made=made, body=body, chinese=chinese)


def text(words: str) -> str:
    """Running text, with signs that pdfTeX does not have as formulas."""
    return "".join(_SIGNS.get(c) or _FORMULAS.get(c, c) for c in escape(words))


def _spans(spans: t.Spans) -> str:
    return "".join(map(_span, spans))


@singledispatch
def _span(span: t.Span) -> str:
    raise TypeError(f"no LaTeX for {type(span).__name__}")


@_span.register
def _(span: str) -> str:
    return text(span)


@_span.register
def _(span: t.Math) -> str:
    return f"${box_latex(span.box)}$"


@_span.register
def _(span: t.Ref) -> str:
    if span.target.startswith("eq-"):
        return rf"\eqref{{{span.target}}}"
    return rf"\crlink{{{span.target}}}{{{text(span.text)}}}"


@_span.register
def _(span: t.Code) -> str:
    return rf"\texttt{{{text(span.text)}}}"


@_span.register
def _(span: t.Strong) -> str:
    return rf"\textbf{{{text(span.text)}}}"


@_span.register
def _(span: t.Coloured) -> str:
    return rf"\textcolor{{{span.way}}}{{{text(span.text)}}}"


# -- blocks -----------------------------------------------------------------------------------
@singledispatch
def _block(block: t.Block) -> str:
    raise TypeError(f"no LaTeX for {type(block).__name__}")


@_block.register
def _(block: t.Paragraph) -> str:
    words = _spans(block.spans)
    return rf"{{\small\color{{quiet}}{words}\par}}" if block.quiet else words


@_block.register
def _(block: t.Display) -> str:
    lines = "&&\\\\\n".join(
        rf"&\hspace{{\crindent}}{_label(label)}{broken(f.box)}" for label, f in block.lines)
    return f"\\begin{{flalign*}}\n{lines}&&\n\\end{{flalign*}}"


def _label(spans: t.Spans) -> str:
    return rf"\makebox[2.8em][l]{{\small {_spans(spans)}}}" if spans else ""


@_block.register
def _(block: t.Equation) -> str:
    return _equation(block, label=True)


def _equation(block: t.Equation, label: bool) -> str:
    """Index form and matrix form on one line where they fit, else on two."""
    lines = [broken(block.index.box)]
    beside = False
    if block.matrix is not None:
        beside = width(block.index.box) < 0.45 * _LINE and width(block.matrix.box) < 0.4 * _LINE
        if beside:
            lines = [rf"\crcolumn{{{lines[0]}}}{broken(block.matrix.box)}"]
        else:
            lines.append(broken(block.matrix.box))
    elif block.contraction:
        lines.append(rf"\text{{\small\texttt{{{text(block.contraction)}}}}}")
    number = ""
    if block.number:
        number = rf"\tag{{{block.number}}}"
        number += rf"\label{{{block.anchor}}}" if label else ""
    else:
        number = r"\notag"
    inner = lines[0] if len(lines) == 1 else (
        "\\begin{aligned}[c]\n&" + "\\\\\n&".join(lines) + "\n\\end{aligned}")
    out = f"\\begin{{flalign}}\n&\\hspace{{\\crindent}}{inner}&& {number}\n\\end{{flalign}}"
    if block.result and label:
        out = f"\\begin{{crresult}}{out}\\end{{crresult}}"
    shapes = r",\quad ".join(text(s).replace("$ $", " ") for s in block.shapes)
    notes = [
        *([_spans(block.note)] if block.note else []),
        *([r"\crbeside{}" * beside + shapes] if shapes else []),
        *(_spans(reason) for reason in block.reasons),
    ]
    if notes:
        out = "\\crkeep" + out + "\n\\crnote{" + "\\\\\n".join(notes) + "}"
    return out


@_block.register
def _(block: t.Boxed) -> str:
    inner = "\n".join(_equation(replace(e, reasons=()), label=False) for e in block.equations)
    return f"\\begin{{crboxed}}\n{inner}\n\\end{{crboxed}}"


@_block.register
def _(block: t.Table) -> str:
    align = block.align.ljust(len(block.head), "l")
    wide = [sum(_length(row[k]) for row in block.rows[:40]) for k in range(len(block.head))]
    total = [max((_length(row[k]) for row in (block.head, *block.rows)), default=1)
             for k in range(len(block.head))]
    columns = list(align)
    widest = max(range(len(columns)), key=lambda k: (align[k] == "l", wide[k]))
    if sum(total) - total[widest] > 64:  # every column breaks its lines
        columns = [
            rf">{{{_SIDES[align[k]]}\arraybackslash}}p{{{share:.3f}\linewidth}}"
            for k, share in enumerate(_shares(block, total))
        ]
    elif sum(total) > 76:  # the widest column of text does
        rest = sum(total) - total[widest]
        columns[widest] = rf"p{{{max(0.2, 0.9 - rest / 78):.2f}\linewidth}}"
    head = " & ".join(rf"\textbf{{{_spans(cell)}}}" for cell in block.head)
    rows = "\\\\\n".join(" & ".join(map(_spans, row)) for row in block.rows)
    return (f"{{\\small\\setlength{{\\LTleft}}{{0pt}}\\begin{{longtable}}{{@{{}}"
            f"{''.join(columns)}@{{}}}}\n\\toprule\n{head}\\\\\n\\midrule\n\\endhead\n{rows}\\\\\n"
            "\\bottomrule\n\\end{longtable}}")


def _shares(block: t.Table, total: list[float]) -> list[float]:
    """The columns' shares of the line: what cannot be broken stays whole, the rest goes to those
    that have most to break."""
    rows = (block.head, *block.rows)
    least = [max(7.0, *(_longest(row[k]) for row in rows)) for k in range(len(block.head))]
    more = [max(min(size, 40.0) - whole, 1.0) for size, whole in zip(total, least, strict=True)]
    spare = max(0.0, _SMALL - sum(least))
    letters = [whole + spare * part / sum(more) for whole, part in zip(least, more, strict=True)]
    return [0.86 * own / sum(letters) for own in letters]


def _length(spans: t.Spans) -> float:
    return sum(map(_letters, spans))


def _longest(spans: t.Spans) -> float:
    """The letters of the longest part that no line may end in."""
    return max((max(map(len, s.split()), default=0) if isinstance(s, str) else _letters(s)
                for s in spans), default=0.0)


def _letters(span: t.Span) -> float:
    if isinstance(span, t.Math):
        return width(span.box)
    return len(span if isinstance(span, str) else span.text)


@_block.register
def _(block: t.Figure) -> str:
    picture = picture_tikz(block.picture)
    return ("\\begin{center}\n"
            "\\begin{adjustbox}{max width=\\linewidth,max height=0.55\\textheight}\n"
            f"{picture}\n\\end{{adjustbox}}\n\\end{{center}}\n"
            f"{{\\small\\color{{quiet}}{_spans(block.caption)}\\par}}")


@_block.register
def _(block: t.Listing) -> str:
    lines = block.text.replace("\t", "    ").splitlines()
    body = "\\\\\n".join(_code_line(line) for line in lines)
    return f"{{\\footnotesize\\ttfamily\\raggedright\\noindent\n{body}\\par}}"


def _code_line(line: str) -> str:
    kept = line.lstrip(" ")
    return rf"\hspace*{{{0.5 * (len(line) - len(kept)):.1f}em}}{text(kept) or '~'}"


@_block.register
def _(block: t.Section) -> str:
    command = {1: "section", 2: "subsection"}.get(block.level, "paragraph")
    plain = "".join(
        s if isinstance(s, str) else s.plain if isinstance(s, t.Math) else s.text
        for s in block.title
    )
    title = rf"\texorpdfstring{{{_spans(block.title)}}}{{{text(plain)}}}"
    inner = ""
    for part, behind in zip_longest(block.blocks, block.blocks[1:]):
        # an empty line before a formula would be a paragraph, with its space, of its own
        gap = "\n" if isinstance(part, t.Display | t.Equation) else "\n\n"
        made = _block(part)
        if isinstance(behind, t.Display | t.Equation) and made.endswith("\\par}"):
            made = made.removesuffix("\\par}") + "}"
        inner += (gap if inner else "") + made
    return f"\\{command}*{{{title}}}\\crtarget{{{block.anchor}}}\n{inner}"


# -- long formulas ----------------------------------------------------------------------------
def broken(box: Box) -> str:
    """A formula, broken at the signs of its outermost sum where it is too long for a line."""
    rows = [_fitted(line) for line in lines(box, _LINE)]
    if len(rows) == 1:
        return rows[0]
    body = "\\\\\n&\\qquad {}".join(rows)
    return f"\\begin{{aligned}}[t]\n&{body}\n\\end{{aligned}}"


def _fitted(box: Box) -> str:
    """What cannot be broken is made smaller where it must, and what stands left of it is not,
    unless it takes half the line. TeX measures what may be too wide: letters are an estimate."""
    if width(box) <= 0.6 * _LINE:
        return box_latex(box)
    items = box.items if isinstance(box, Row) else (box,)
    cut = max((k + 1 for k, item in enumerate(items[:-1]) if item == Token("=", "op")), default=0)
    left, right = Row(items[:cut]), box_latex(Row(items[cut:]))
    if width(left) > 0.5 * _LINE or "&" in box_latex(left):  # which would end a cell of TeX's
        left, right = Row(()), box_latex(box)
    return rf"\crfit {box_latex(left)}\crright{{{right}}}"
