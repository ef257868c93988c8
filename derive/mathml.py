"""Boxes as presentation MathML (MathML Core): what browsers draw without any script.

Everything that comes from a name is escaped; bold letters are the bold characters of Unicode,
because MathML Core knows no ``mathvariant="bold"``.
"""

from __future__ import annotations

from functools import singledispatch
from html import escape
from typing import TYPE_CHECKING

from derive import boxes as b
from derive.boxes import Box, tall
from derive.layout import Setter
from derive.notate import statement
from derive.symbols import Symbols

if TYPE_CHECKING:
    from derive.program import Equation

_ACCENTS = {"hat": "^", "bar": "¯", "tilde": "~", "dot": "˙", "vec": "→"}
_LONE = (b.Token("−", "op"), b.Token("+", "op"))
_BOLD_GREEK = {
    **{chr(0x3B1 + k): chr(0x1D6C2 + k) for k in range(25)},
    **{chr(0x391 + k): chr(0x1D6A8 + k) for k in range(25)},
}


def equation_mathml(eq: Equation, symbols: Symbols | None = None) -> str:
    """An equation as a ``<math>`` element of its own line."""
    return math(Setter(symbols).set(statement(eq.target, eq.indices, eq.body)), block=True)


def math(box: Box, block: bool = False, follows: bool = False, tight: bool = False) -> str:
    """A box as a ``<math>`` element, in a line of text or displayed; ``follows`` if it goes on
    with a formula that was broken, whose sign stands between what it joins; ``tight`` if it is
    wider than a line."""
    kind = " ".join(["more"] * follows + ["tight"] * tight)
    attributes = (' display="block"' if block else "") + (f' class="{kind}"' if kind else "")
    made = box_mathml(box)
    if follows and isinstance(box, b.Row) and isinstance(box.items[0], b.Token) \
            and box.items[0].kind == "op":
        made = made.replace("<mo>", '<mo form="infix">', 1)
    return f"<math{attributes}>{made}</math>"


@singledispatch
def box_mathml(box: Box) -> str:
    """A box as MathML elements."""
    raise TypeError(f"no MathML for {type(box).__name__}")


@box_mathml.register
def _(box: b.Token) -> str:
    text = escape(box.text)
    if box.kind == "text":
        return f"<mtext>{text.replace(' ', '&#160;')}</mtext>"
    if box.kind == "punct":
        return f'<mo separator="true">{text}</mo>' if text in ",;" else f"<mo>{text}</mo>"
    if box.kind == "op":
        return f"<mo>{text}</mo>"
    if box.kind == "number":
        return f"<mn>{text}</mn>"
    if box.kind == "bold":
        return f'<mi mathvariant="normal">{escape("".join(map(_bold, box.text)))}</mi>'
    if set(box.text) == {"′"}:
        return f"<mo>{text}</mo>"
    upright = ' mathvariant="normal"' if box.kind == "upright" and len(box.text) == 1 else ""
    return f"<mi{upright}>{text}</mi>"


def _bold(letter: str) -> str:
    if "A" <= letter <= "Z":
        return chr(0x1D400 + ord(letter) - ord("A"))
    if "a" <= letter <= "z":
        return chr(0x1D41A + ord(letter) - ord("a"))
    if "0" <= letter <= "9":
        return chr(0x1D7CE + ord(letter) - ord("0"))
    return _BOLD_GREEK.get(letter, letter)


@box_mathml.register
def _(box: b.Row) -> str:
    made = ""
    for k, item in enumerate(box.items):
        before = box.items[k - 1] if k else None
        # behind another sign a minus belongs to what follows, with no space between
        lone = isinstance(item, b.Token) and item in _LONE and (isinstance(before, b.Under) or (
            isinstance(before, b.Token) and before.kind == "op"))
        made += box_mathml(item).replace("<mo>", '<mo form="prefix">') if lone else box_mathml(item)
    return f"<mrow>{made}</mrow>"


@box_mathml.register
def _(box: b.Space) -> str:
    return '<mspace width="0.17em"/>'


@box_mathml.register
def _(box: b.Frac) -> str:
    return f"<mfrac>{box_mathml(box.above)}{box_mathml(box.below)}</mfrac>"


@box_mathml.register
def _(box: b.Script) -> str:
    base = box_mathml(box.base)
    if isinstance(box.sup, b.Token) and set(box.sup.text) == {"′"}:
        # fonts draw the prime raised already: as a superscript it would fly off
        base = f'<mrow>{base}<mo lspace="0" rspace="0">{box.sup.text}</mo></mrow>'
        return f"<msub>{base}{box_mathml(box.sub)}</msub>" if box.sub is not None else base
    if box.sub is not None and box.sup is not None:
        return f"<msubsup>{base}{box_mathml(box.sub)}{box_mathml(box.sup)}</msubsup>"
    if box.sub is not None:
        return f"<msub>{base}{box_mathml(box.sub)}</msub>"
    assert box.sup is not None
    return f"<msup>{base}{box_mathml(box.sup)}</msup>"


@box_mathml.register
def _(box: b.Under) -> str:
    lines = [box_mathml(line) for line in box.lines]
    under = lines[0] if len(lines) == 1 else (
        "<mtable>" + "".join(f"<mtr><mtd>{line}</mtd></mtr>" for line in lines) + "</mtable>"
    )
    # a word as an operator has its limits under it as a big sign has
    sign = box_mathml(box.op) if box.op.kind == "op" else \
        f'<mo movablelimits="false" lspace="0.17em" rspace="0.17em">{escape(box.op.text)}</mo>'
    return f"<munder>{sign}{under}</munder>"


@box_mathml.register
def _(box: b.Fence) -> str:
    grow = "true" if tall(box.body) else "false"

    def side(sign: str, form: str) -> str:
        return f'<mo form="{form}" fence="true" stretchy="{grow}">{escape(sign)}</mo>'

    return (f"<mrow>{side(box.left, 'prefix')}{box_mathml(box.body)}"
            f"{side(box.right, 'postfix')}</mrow>")


@box_mathml.register
def _(box: b.Radical) -> str:
    return f"<msqrt>{box_mathml(box.body)}</msqrt>"


@box_mathml.register
def _(box: b.Accent) -> str:
    wide = isinstance(box.body, b.Token) and len(box.body.text) > 1
    mark = f'<mo stretchy="{str(wide).lower()}">{_ACCENTS[box.kind]}</mo>'
    # a bar drawn as an accent touches the letter in small sizes
    accent = "" if box.kind == "bar" and not wide else ' accent="true"'
    accent += ' class="wide"' if box.kind == "bar" and wide else ""  # few fonts stretch it
    return f"<mover{accent}>{box_mathml(box.body)}{mark}</mover>"


@box_mathml.register
def _(box: b.Colour) -> str:
    return f'<mrow class="{box.way}">{box_mathml(box.body)}</mrow>'


@box_mathml.register
def _(box: b.Cases) -> str:
    rows = "".join(
        f"<mtr><mtd>{box_mathml(value)}</mtd><mtd>{box_mathml(condition)}</mtd></mtr>"
        for value, condition in box.rows
    )
    return (f'<mrow><mo form="prefix" fence="true" stretchy="true">{{</mo>'
            f'<mtable class="cases">{rows}</mtable></mrow>')
