r"""Tokens of mathematical LaTeX, for the grammar of `derive.tex.grammar`.

Each token has the place in the text at which it stands. Letters are tokens of their own; a word is
``\mathrm{…}``, ``\text{…}`` or ``\operatorname{…}`` with two letters or more. Commands that only
space or scale are left out; a command that is not in a table here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lark import Token

from derive.errors import nearest
from derive.latex import LETTERS as WRITTEN
from derive.tex.source import MAX_DEPTH, Source

GREEK = {command[1:]: letter for letter, command in WRITTEN.items()
         if command.startswith("\\") and letter not in "∞⊤∂"} | {
    "epsilon": "ε", "vartheta": "θ", "varrho": "ρ", "phi": "φ", "varpi": "π", "hbar": "ℏ",
    "imath": "i", "jmath": "j"}
FUNCTIONS = ("exp", "log", "ln", "tanh", "sinh", "cosh", "sin", "cos", "tan", "max", "min", "det")
_NOTHING = {
    ",", ";", ":", "!", " ", ">", "quad", "qquad", "left", "right", "middle", "big", "Big", "bigg",
    "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr", "displaystyle",
    "textstyle", "scriptstyle", "limits", "nolimits", "notag", "nonumber", "allowbreak",
    "thinspace", "negthinspace", "strut", "mathstrut", "hfill", "crfit", "bigm", "cr@",
}  # fmt: skip
_SIGNS = {
    "+": "ADD", "-": "ADD", "−": "ADD", "*": "OP", "·": "OP", "⊙": "OP", "∘": "OP", "⊘": "OP",
    "∗": "OP", "⋆": "OP", "/": "OP",
    "=": "REL", "<": "REL", ">": "REL", "≤": "REL", "≥": "REL", "≠": "REL", "(": "LPAR",
    ")": "RPAR", "[": "LBRACK", "]": "RBRACK", "{": "LBRACE", "}": "RBRACE", "^": "SUP",
    "_": "SUB", ",": "COMMA", ";": "COMMA", "'": "PRIME", "’": "PRIME", "&": "AMP", "⊤": "TOP",
    "∂": "PARTIAL", "∇": "NABLA", ":": "ALL",
}  # fmt: skip
_COMMANDS = {
    **dict.fromkeys(("cdot", "times", "odot", "circ", "star", "ast", "otimes", "bullet",
                     "oslash"), "OP"),
    **dict.fromkeys(("le", "leq", "leqslant", "ge", "geq", "geqslant", "ne", "neq", "lt", "gt",
                     "equiv", "triangleq", "coloneqq", "doteq", "in"), "REL"),
    **dict.fromkeys(("frac", "tfrac", "dfrac", "cfrac"), "FRAC"),
    **dict.fromkeys(("hat", "bar", "tilde", "dot", "vec", "overline", "widehat", "widetilde"),
                    "ACCENT"),
    **dict.fromkeys(("mathbf", "boldsymbol", "bm", "mathcal", "mathbb", "mathit", "mathsf",
                     "mathrm", "mathfrak", "mathscr", "bf", "rm"), "FONT"),
    **dict.fromkeys(FUNCTIONS, "FUNC"),
    "sum": "BIG", "prod": "BIG", "sqrt": "SQRT", "partial": "PARTIAL", "nabla": "NABLA",
    "top": "TOP", "intercal": "TOP", "prime": "PRIME", "lfloor": "LFLOOR", "rfloor": "RFLOOR",
    "lvert": "LVERT", "rvert": "RVERT", "lVert": "LNORM", "rVert": "RNORM", "lor": "OR",
    "vee": "OR", "land": "AND", "wedge": "AND", "lnot": "NOT", "neg": "NOT", "{": "LSET",
    "}": "RSET", "lbrace": "LSET", "rbrace": "RSET", "lbrack": "LBRACK", "rbrack": "RBRACK",
    "dots": "DOTS", "ldots": "DOTS", "cdots": "DOTS", "infty": "INFTY", "substack": "SUBSTACK",
    "\\": "ROW", "forall": "FORALL",
}  # fmt: skip
_SAME = {"−": "-", "·": "cdot", "⊙": "odot", "∘": "circ", "⊘": "oslash",
         "∗": "ast", "⋆": "star", "le": "<=", "leq": "<=", "≤": "<=",
         "leqslant": "<=", "geqslant": ">=", "ge": ">=", "geq": ">=", "≥": ">=", "ne": "!=",
         "neq": "!=", "≠": "!=", "lt": "<", "gt": ">", "triangleq": "=", "coloneqq": "=",
         "doteq": "=", "ln": "log"}
_OPEN = {"LPAR", "LBRACK", "LBRACE", "LSET", "LVERT", "LNORM", "LFLOOR", "CASES"}
_CLOSE = {"RPAR": "LPAR", "RBRACK": "LBRACK", "RBRACE": "LBRACE", "RSET": "LSET",
          "RVERT": "LVERT", "RNORM": "LNORM", "RFLOOR": "LFLOOR", "ENDCASES": "CASES"}
_SHOWN = {"LPAR": "(", "LBRACK": "[", "LBRACE": "{", "LSET": r"\{", "LVERT": r"\lvert",
          "LNORM": r"\lVert", "LFLOOR": r"\lfloor", "CASES": r"\begin{cases}", "RPAR": ")",
          "RBRACK": "]", "RBRACE": "}", "RSET": r"\}", "RVERT": r"\rvert", "RNORM": r"\rVert",
          "RFLOOR": r"\rfloor", "ENDCASES": r"\end{cases}"}
_ENDS = {"LETTER", "WORD", "NUMBER", "RPAR", "RBRACK", "RBRACE", "RSET", "RVERT", "RNORM",
         "RFLOOR", "ENDCASES", "PRIME", "TOP", "INFTY"}  # tokens that end a factor
_WORD = re.compile(
    r"\\(operatorname\*?|mathrm|mathop|mathit|mathbf|mathsf|boldsymbol|text|textrm|textit|textsf"
    r"|textbf|textnormal|mbox)\s*\{((?:[^\W_]|[ \-.,:]|\\[_ ])*)\}")
_TAGS = re.compile(r"\\(tag\*?|label|textcolor|color|hspace\*?|vspace)\s*\{[^{}]*\}")
_CASES = re.compile(r"\\(begin|end)\s*\{(d?cases)\}")
_SLIDING = re.compile(  # how far a convolution reaches: below its sign, or above it
    r"\\(?:overset|stackrel)\s*\{\s*(?:\\(?:text|mathrm|textrm)\{)?(?P<over>full|same|valid)\}?\s*\}"
    r"\s*\{\s*\\(?P<below>ast|star)\s*\}"
    r"|\\(?P<sign>ast|star)\s*_\s*\{\s*(?:\\(?:text|mathrm|textrm)\{)?(?P<extent>full|same|valid)\}?\s*\}")
_OF_THEIR_OWN = {  # commands that are understood, and why they are not read
    "leftarrow": "an assignment changes what a name means: a name of its own for each step, and =",
    "gets": "an assignment changes what a name means: a name of its own for each step, and =",
    "underbrace": "the formula without its brace", "overbrace": "the formula without its brace",
    "approx": "what is meant exactly, with =", "propto": "what is meant exactly, with =",
}
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"\d+(\.\d+)?|\.\d+")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ONE = ("FRAC", "SUP", "SUB", "FONT", "ACCENT", "SQRT")  # one digit: \frac12, x^2y


class MathLexer:
    """The tokens of a formula, which stands in one or more pieces of a text, from … to …."""

    def __init__(self, source: Source, pieces: Sequence[tuple[int, int]]) -> None:
        self.source, self.pieces = source, pieces
        self.at = self.end = pieces[0][0]
        self.open: list[Token] = []
        self.bare: set[int] = set()  # where a brace ends that groups nothing
        self.last = self.before = ""

    def tokens(self) -> Iterator[Token]:
        for start, end in self.pieces:
            self.at, self.end = start, end
            while self.at < self.end:
                token = self._next()
                if token is not None:
                    self._balance(token)
                    self.before, self.last = self.last, token.type
                    yield token
        if self.open:
            left = self.open[-1]
            self.source.fail(int(left.start_pos or 0), f"{_SHOWN[left.type]} is never closed",
                             f"{_closing(left.type)} before the end of the formula")

    def _balance(self, token: Token) -> None:
        if token.type in _OPEN:
            self.open.append(token)
            if len(self.open) > MAX_DEPTH:
                self.fail("the formula is nested too deeply", f"at most {MAX_DEPTH} levels")
        elif token.type in _CLOSE:
            at = int(token.start_pos or 0)
            if not self.open:
                self.source.fail(at, f"{_SHOWN[token.type]} closes nothing",
                                 f"{_SHOWN[_CLOSE[token.type]]} before it")
            left = self.open.pop()
            if left.type != _CLOSE[token.type]:
                self.source.fail(at, f"{_SHOWN[token.type]} does not close "
                                 f"{_SHOWN[left.type]} of column "
                                 f"{self._column(int(left.start_pos or 0))}",
                                 _closing(left.type))

    def _column(self, at: int) -> int:
        return at - self.source.text.rfind("\n", 0, at)

    def fail(self, what: str, expected: str | None = None, mend: str | None = None) -> None:
        self.source.fail(self.at, what, expected, mend)

    def _token(self, kind: str, value: str, length: int) -> Token:
        made = Token(kind, value, start_pos=self.at, end_pos=self.at + length)
        self.at += length
        return made

    def _next(self) -> Token | None:
        text, at = self.source.text, self.at
        char = text[at]
        if char.isspace() or char == "~" or at in self.bare:
            self.at += 1
            return None
        if char == "%":
            end = text.find("\n", at)
            self.at = self.end if end < 0 else end
            return None
        if char == "\\":
            return self._command()
        if (char.isdigit() and char.isascii()) or (char == "." and text[at + 1 : at + 2].isdigit()):
            return self._number()
        if char == "|":
            return self._bar(1, "LVERT", "RVERT")
        if char == ":" and text[at + 1 : at + 2] == "=":
            return self._token("REL", "=", 2)
        if char in _SIGNS:
            return self._token(_SIGNS[char], _SAME.get(char, char), 1)
        if char.isalpha():
            return self._token("LETTER", char, 1)
        self.fail(f"unexpected character {char!r}", "a formula")
        return None

    def _number(self) -> Token:
        found = _NUMBER.match(self.source.text, self.at, self.end)
        assert found is not None
        second = self.before == "FRAC" and self.last == "NUMBER"  # \frac12
        digits = found[0][0] if self.last in _ONE or second else found[0]
        if len(digits) > 30:
            self.fail("the number is too long", "at most 30 digits")
        return self._token("NUMBER", digits, len(digits))

    def _bar(self, length: int, left: str, right: str, way: str = "") -> Token:
        """A bar opens where a factor may begin, and closes the one that is open."""
        opened = bool(self.open) and self.open[-1].type == left
        closes = way == "right" or (way != "left" and opened and self.last in _ENDS)
        return self._token(right if closes else left, "|" * length, length)

    def _command(self) -> Token | None:
        text = self.source.text
        slid = _SLIDING.match(text, self.at, self.end)
        if slid:
            named = f"{slid['sign'] or slid['below']}:{slid['extent'] or slid['over']}"
            return self._token("OP", named, len(slid[0]))
        for pattern in (_TAGS, _CASES, _WORD):
            found = pattern.match(text, self.at, self.end)
            if found:
                return self._named(pattern, found)
        found = _COMMAND.match(text, self.at, self.end)
        if found is None:
            self.fail("a backslash without a command")
            return None
        name, length = found[1], len(found[0])
        if name in ("left", "right", "bigl", "bigr", "Bigl", "Bigr"):
            return self._sized(name, length)
        if name in _NOTHING:
            self.at += length
            return None
        if name == "crright":
            self._made_smaller(length)
            return None
        if name in ("|", "Vert"):
            return self._bar(length, "LNORM", "RNORM")
        if name in ("vert", "mid"):
            return self._bar(length, "LVERT", "RVERT")
        if name in GREEK:
            return self._token("LETTER", GREEK[name], length)
        if name in _COMMANDS:
            return self._token(_COMMANDS[name], _SAME.get(name, name), length)
        if name in _OF_THEIR_OWN:
            self.fail(f"\\{name} is not read", _OF_THEIR_OWN[name])
        known = [*_COMMANDS, *GREEK, "operatorname", "text", "mathrm", "left", "right"]
        guess = nearest(name, [k for k in known if k.isalpha()])
        self.fail(f"\\{name} is no command that is read", "formulas of amsmath",
                  f"did you mean \\{guess}?" if guess else None)
        return None

    def _made_smaller(self, length: int) -> None:
        r"""The braces of our own ``\crright{− a + b}`` hold a part of a line, and group nothing."""
        self.at += length
        depth = 0
        for found in _BRACES.finditer(self.source.text, self.at, self.end):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if depth == 0:
                self.bare |= {self.at, found.start()}
                break

    def _sized(self, name: str, length: int) -> Token | None:
        r"""``\left|`` opens and ``\right|`` closes, whatever stands around them."""
        self.at += length
        rest = self.source.text[self.at : self.end]
        way = "left" if name in ("left", "bigl", "Bigl") else "right"
        inner = rest.lstrip()
        self.at += len(rest) - len(inner)
        if inner.startswith("|"):
            return self._bar(1, "LVERT", "RVERT", way)
        for sign in (r"\|", r"\Vert"):
            if inner.startswith(sign):
                return self._bar(len(sign), "LNORM", "RNORM", way)
        if inner.startswith("."):
            self.fail(r"\left. and \right. pair nothing", "a parenthesis")
        return None

    def _named(self, pattern: re.Pattern[str], found: re.Match[str]) -> Token | None:
        length = len(found[0])
        if pattern is _TAGS:
            self.at += length
            return None
        if pattern is _CASES:
            kind = "CASES" if found[1] == "begin" else "ENDCASES"
            return self._token(kind, found[0], length)
        command = found[1]
        word = found[2].replace("\\_", "_").replace("\\ ", " ").strip()
        if len(word) == 1:
            bold = command in ("mathbf", "boldsymbol")
            if word.isdigit():
                return self._token("ONE" if bold and word == "1" else "NUMBER", word, length)
            upright = word == "T" and command in ("mathrm", "mathsf", "text", "textrm", "textsf")
            return self._token("TOP" if upright else "LETTER", word, length)
        if not word:
            self.at += length
            return None
        if word.isdigit():
            return self._token("NUMBER", word, length)
        return self._token("COMMA" if word == "and" else "WORD", word, length)


def _closing(kind: str) -> str:
    return next(_SHOWN[right] for right, left in _CLOSE.items() if left == kind)
