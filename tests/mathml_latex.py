"""MathML, read element by element into LaTeX: what a browser is handed, by none of the printers.

What the LaTeX of the same formula says, token by token, is what its MathML says, if `tokens` of
both are equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from xml.etree import ElementTree

from derive.tex.lexer import MathLexer
from derive.tex.source import Source

_SIGNS = {
    "−": "-", "·": r"\cdot", "≠": r"\neq", "≤": r"\leq", "≥": r"\geq", "≡": r"\equiv",
    "∑": r"\sum", "∏": r"\prod", "⊙": r"\odot", "∨": r"\lor", "¬": r"\lnot", "×": r"\times",
    "∗": r"\ast", "⋆": r"\star", "∂": r"\partial", "∞": r"\infty", "⊤": r"\top", "′": r"\prime",
    "⌊": r"\lfloor", "⌋": r"\rfloor", "{": r"\{", "}": r"\}", "ℓ": r"\ell", "ς":
    r"\varsigma", "…": r"\dots", "→": r"\to", "⟹": r"\implies", "∈": r"\in",
}  # fmt: skip
_BARS = {"|": "vert", "‖": "Vert"}
_ACCENTS = {"^": "hat", "¯": "bar", "~": "tilde", "˙": "dot", "→": "vec"}
_WIDE = {"hat": "widehat", "bar": "overline", "tilde": "widetilde"}
_COMBINING = {"\u0302": "hat", "\u0304": "bar", "\u0303": "tilde", "\u0307": "dot",
              "\u20d7": "vec"}
_FUNCTIONS = {"exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "max", "min", "det"}
_NAMES = {"epsilon": "varepsilon", "phi": "varphi", "final sigma": "varsigma", "lamda": "lambda"}


def mathml_latex(text: str) -> str:
    """The LaTeX that a ``<math>`` element says."""
    return _read(ElementTree.fromstring(text))


def tokens(latex: str) -> list[tuple[str, str]]:
    """What a formula's LaTeX consists of, spaces and braces around one thing left out."""
    out: list[tuple[str, str]] = []
    for part in re.split(r"\\(?:to|implies)(?![a-z])", latex):  # no signs of equations
        source = Source(part, "a document")
        found = MathLexer(source, [(0, len(part))]).tokens()
        out += [(t.type, str(t)) for t in found] + [("TO", "→")]
    return out[:-1]


def mathml_letters(text: str) -> list[str]:
    """The letters, signs and accents of a ``<math>`` element, sorted."""
    found: list[str] = []
    for node in ElementTree.fromstring(text).iter():
        if node.tag == "mfrac":
            found.append("/")
        elif node.tag in ("mi", "mn", "mo", "mtext"):
            text = node.text or ""
            found += [_ACCENTS[text]] if text in _ACCENTS else list(_plain(text))
    return sorted(found)


def svg_letters(text: str) -> list[str]:
    """The same of what stands in a ``<text>`` of a picture."""
    found: list[str] = []
    for node in ElementTree.fromstring(f"<text>{text}</text>").iter():
        found += ["bar"] if node.get("text-decoration") else []
        for letter in unicodedata.normalize("NFD", node.text or ""):
            found.append(_COMBINING.get(letter, letter))
    return sorted(c for c in found if c != "\u200b")


def _read(node: ElementTree.Element) -> str:
    return _ELEMENTS[node.tag](node)


def _row(node: ElementTree.Element) -> str:
    children = list(node)
    cases = len(children) == 2 and children[1].get("class") == "cases"
    inside = " ".join(map(_read, children[1:] if cases else children))
    way = node.get("class")
    return inside if way is None else rf"\textcolor{{{way}}}{{{inside}}}"


def _letter(char: str) -> str:
    """A letter as its command, by what Unicode calls it."""
    if char in _SIGNS or char.isascii():
        return _SIGNS.get(char, char)
    name = unicodedata.name(char, "")
    for case in ("SMALL", "CAPITAL"):
        stem = f"GREEK {case} LETTER "
        if name.startswith(stem):
            word = name.removeprefix(stem).lower()
            word = _NAMES.get(word, word) if case == "SMALL" else word.capitalize()
            return word[0] if word == "omicron" else f"\\{word}"
    return rf"\text{{{char}}}"


def _plain(text: str) -> str:
    """Letters that Unicode has in bold as plain ones."""
    return "".join(unicodedata.normalize("NFKC", c) if ord(c) >= 0x1D400 else c for c in text)


def _identifier(node: ElementTree.Element) -> str:
    text = node.text or ""
    plain = _plain(text)
    bold = "MATHEMATICAL BOLD" in unicodedata.name(text[:1] or " ", "")
    if len(plain) == 1:
        letter = _letter(plain)
        return rf"\boldsymbol{{{letter}}}" if bold else letter
    if plain in _FUNCTIONS:
        return f"\\{plain}"
    if not plain.isascii():
        return rf"\text{{{plain}}}"
    escaped = plain.replace("_", r"\_")
    return rf"\mathbf{{{escaped}}}" if bold else rf"\mathrm{{{escaped}}}"


def _operator(node: ElementTree.Element) -> str:
    text = node.text or ""
    if set(text) == {"′"}:
        return f"^{{{' '.join([_SIGNS['′']] * len(text))}}}"
    if text in _BARS:
        return rf"\{'l' if node.get('form') == 'prefix' else 'r'}{_BARS[text]}"
    if len(text) > 1 and text.isalpha():
        return f"\\{text}" if text in _FUNCTIONS else rf"\operatorname{{{text}}}"
    return _SIGNS.get(text, text)


def _under(node: ElementTree.Element) -> str:
    sign, below = node
    if below.tag == "mtable":
        rows = r" \\ ".join(_row(cell) for line in below for cell in line)
        return rf"{_read(sign)}_{{\substack{{{rows}}}}}"
    return f"{_read(sign)}_{{{_read(below)}}}"


def _accent(node: ElementTree.Element) -> str:
    body, mark = node
    kind = _ACCENTS[mark.text or ""]
    kind = _WIDE.get(kind, kind) if mark.get("stretchy") == "true" else kind
    return rf"\{kind}{{{_read(body)}}}"


def _cases(node: ElementTree.Element) -> str:
    rows = r" \\ ".join(" & ".join(_row(cell) for cell in line) for line in node)
    return rf"\begin{{cases}} {rows} \end{{cases}}"


def _scripted(sub: bool, sup: bool) -> Callable[[ElementTree.Element], str]:
    def read(node: ElementTree.Element) -> str:
        base, *scripts = map(_read, node)
        letter, *primes = list(node[0]) if node[0].tag == "mrow" else [node[0]]
        if sub and len(primes) == 1 and set(primes[0].text or "") == {"′"}:  # drawn at the letter
            return f"{_read(letter)}_{{{scripts[0]}}}{_read(primes[0])}"
        if sub and sup:
            return f"{base}_{{{scripts[0]}}}^{{{scripts[1]}}}"
        return f"{base}{'_' if sub else '^'}{{{scripts[0]}}}"

    return read


_ELEMENTS: dict[str, Callable[[ElementTree.Element], str]] = {
    "math": _row, "mrow": _row, "mtd": _row, "mspace": lambda node: r"\,", "mi": _identifier,
    "mo": _operator, "mn": lambda node: (node.text or "").replace("−", "-"),
    "mtext": lambda node: rf"\text{{{(node.text or '').replace(chr(160), ' ')}}}",
    "mfrac": lambda node: r"\frac{%s}{%s}" % tuple(map(_read, node)),  # noqa: UP031
    "msqrt": lambda node: rf"\sqrt{{{_row(node)}}}", "munder": _under, "mover": _accent,
    "mtable": _cases, "msub": _scripted(True, False), "msup": _scripted(False, True),
    "msubsup": _scripted(True, True),
}
