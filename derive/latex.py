r"""Boxes as LaTeX (with amsmath).

Names are data: every letter goes through a table, so that no name can bring a command; letters of
scripts that pdfTeX does not know stand in ``\text{…}``.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from derive import boxes as b
from derive.boxes import Box, tall
from derive.layout import Setter
from derive.notate import notation, statement
from derive.symbols import Symbols

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sympy import Expr

    from derive.nodes import Index
    from derive.program import Equation, Program

LETTERS = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon",
    "ζ": r"\zeta", "η": r"\eta", "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa", "λ": r"\lambda",
    "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "ο": "o", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma",
    "ς": r"\varsigma", "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi", "χ": r"\chi",
    "ψ": r"\psi", "ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta",
    "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi", "Σ": r"\Sigma", "Υ": r"\Upsilon", "Φ": r"\Phi",
    "Ψ": r"\Psi", "Ω": r"\Omega", "∂": r"\partial", "∞": r"\infty", "⊤": r"\top", "ℓ": r"\ell",
    "ı": r"\imath", "ȷ": r"\jmath",
}  # fmt: skip
OPERATORS = {
    "−": "-", "·": r"\cdot", "≠": r"\neq", "≤": r"\leq", "≥": r"\geq", "≡": r"\equiv",
    "∑": r"\sum", "∏": r"\prod", "⊙": r"\odot", "∨": r"\lor", "¬": r"\lnot", "×": r"\times",
    "→": r"\to", "∗": r"\ast", "⋆": r"\star", "∈": r"\in", "…": r"\dots", "⟹": r"\implies",
}  # fmt: skip
_FUNCTIONS = {"exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "max", "min", "det"}
_ACCENTS = {"hat": "hat", "bar": "bar", "tilde": "tilde", "dot": "dot", "vec": "vec"}
_WIDE = {"hat": "widehat", "bar": "overline", "tilde": "widetilde", "dot": "dot", "vec": "vec"}
_FENCES = {"⌊": (r"\lfloor", ""), "⌋": ("", r"\rfloor"),
           "|": (r"\lvert ", r"\rvert"), "‖": (r"\lVert ", r"\rVert")}
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "^": r"\textasciicircum{}",
    "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def equation_latex(eq: Equation, align: bool = False, symbols: Symbols | None = None) -> str:
    r"""An equation as LaTeX; with ``align`` a tab stop stands at the equals sign.

    Needs amsmath. ``symbols`` are those of the program; without them a name says what it is.
    """
    setter = Setter(symbols)
    made = statement(eq.target, eq.indices, eq.body)
    left, right = box_latex(setter.set(made.left)), box_latex(setter.set(made.right))
    return f"{left} {'&' if align else ''}= {right}"


def expression_latex(
    expr: Expr, indices: Iterable[Index] = (), symbols: Symbols | None = None
) -> str:
    """A scalar body as LaTeX."""
    return box_latex(Setter(symbols).set(notation(expr, indices)))


def program_latex(program: Program) -> str:
    """All equations, aligned at their equals signs."""
    symbols = Symbols(program)
    rows = (" \\\\\n".join(equation_latex(eq, True, symbols) for eq in program.equations))
    return f"\\begin{{aligned}}\n{rows}\n\\end{{aligned}}"


def escape(text: str) -> str:
    """Running text with nothing in it that TeX would act on."""
    return "".join(_SPECIAL.get(c, c) for c in text)


@singledispatch
def box_latex(box: Box) -> str:
    """A box as LaTeX source for math mode."""
    raise TypeError(f"no LaTeX for {type(box).__name__}")


@box_latex.register
def _(box: b.Token) -> str:
    text = box.text
    if box.kind == "text":
        return rf"\text{{{escape(text)}}}"
    if box.kind in ("op", "punct"):
        return OPERATORS.get(text, text)
    if set(text) == {"′"}:
        return r"\prime" * len(text)
    if box.kind == "number":
        return text.replace("−", "-")
    if box.kind == "upright" and text in _FUNCTIONS:
        return rf"\{text}"
    if box.kind == "upright" and text in LETTERS:
        return LETTERS[text]
    return _letters(text, box.kind)


def _letters(text: str, kind: str) -> str:
    if len(text) == 1 and text in LETTERS:
        return rf"\boldsymbol{{{LETTERS[text]}}}" if kind == "bold" else LETTERS[text]
    if not text.isascii():
        known = all(c.isascii() or c in LETTERS for c in text)
        if not known:
            return rf"\text{{{escape(text)}}}"
        text = "".join(f"{LETTERS[c]} " if c in LETTERS else c for c in text)
    else:
        text = escape(text)
    if kind == "bold":
        return rf"\mathbf{{{text}}}"
    return text if kind == "var" else rf"\mathrm{{{text}}}"


@box_latex.register
def _(box: b.Row) -> str:
    out = ""
    for k, item in enumerate(box.items):
        text = box_latex(item)
        before = box.items[k - 1] if k else None
        is_op = isinstance(item, b.Token) and item.kind == "op"
        after_op = isinstance(before, b.Token) and before.kind == "op"
        if out and (is_op or after_op or _glues(out, text)):
            out += " "
        out += text
    return out


def _glues(before: str, after: str) -> bool:
    """Whether a command's name would run into the letter behind it."""
    command = before[before.rfind("\\") + 1:] if "\\" in before else ""
    return command.isalpha() and after[:1].isalpha()


@box_latex.register
def _(box: b.Space) -> str:
    return r"\,"


@box_latex.register
def _(box: b.Frac) -> str:
    return rf"\frac{{{box_latex(box.above)}}}{{{box_latex(box.below)}}}"


@box_latex.register
def _(box: b.Script) -> str:
    out = box_latex(box.base)
    if box.sub is not None:
        out += f"_{{{box_latex(box.sub)}}}"
    if box.sup is not None:
        out += f"^{{{box_latex(box.sup)}}}"
    return out


@box_latex.register
def _(box: b.Under) -> str:
    op = box_latex(box.op)
    if box.op.kind == "upright" and box.op.text not in _FUNCTIONS:
        op = rf"\operatorname*{{{box.op.text}}}"
    lines = [box_latex(line) for line in box.lines]
    under = lines[0] if len(lines) == 1 else r"\substack{" + r" \\ ".join(lines) + "}"
    return f"{op}_{{{under}}} "


@box_latex.register
def _(box: b.Fence) -> str:
    body = box_latex(box.body)
    left = _FENCES.get(box.left, (box.left, ""))[0]
    right = _FENCES.get(box.right, ("", box.right))[1]
    if tall(box.body):
        return rf"\left{left}{body}\right{right}"
    return f"{left}{' ' if _glues(left, body) else ''}{body}{right}"


@box_latex.register
def _(box: b.Radical) -> str:
    return rf"\sqrt{{{box_latex(box.body)}}}"


@box_latex.register
def _(box: b.Accent) -> str:
    wide = isinstance(box.body, b.Token) and len(box.body.text) > 1
    return rf"\{(_WIDE if wide else _ACCENTS)[box.kind]}{{{box_latex(box.body)}}}"


@box_latex.register
def _(box: b.Colour) -> str:
    return rf"\textcolor{{{box.way}}}{{{box_latex(box.body)}}}"


@box_latex.register
def _(box: b.Cases) -> str:
    rows = r" \\ ".join(
        f"{box_latex(value)} & {box_latex(condition)}" for value, condition in box.rows
    )
    return rf"\begin{{cases}} {rows} \end{{cases}}"
