r"""Formulas inside sentences: a small part of LaTeX's notation → boxes.

Only for the project's own texts (`derive.messages`), whose translators write ``$\bar x_i$``;
nothing of a user's is ever read by this.
"""

from __future__ import annotations

import re
from functools import lru_cache

from derive.boxes import Accent, Box, Fence, Frac, Radical, Row, Script, Space, Token, Under, row
from derive.latex import _ACCENTS, _FUNCTIONS, LETTERS, OPERATORS

_WORDS = {v[1:]: k for k, v in LETTERS.items() if v.startswith("\\")}
_SIGNS = {v[1:]: k for k, v in OPERATORS.items() if v.startswith("\\")}
_TOKENS = re.compile(r"\\[A-Za-z]+|\\.|[{}_^']|\d+(?:\.\d+)?|\s+|.")
_BIG = {"sum": Token("∑", "op"), "prod": Token("∏", "op"), "max": Token("max", "upright")}


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = [t for t in _TOKENS.findall(text) if not t.isspace()]
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def until(self, *ends: str) -> Box:
        items: list[Box] = []
        while self.peek() and self.peek() not in ends:
            items.append(self.scripted(self.atom()))
        return row(*items) if items else Row(())

    def group(self) -> Box:
        if self.peek() != "{":
            return self.atom()
        self.next()
        body = self.until("}")
        self.next()
        return body

    def scripted(self, base: Box) -> Box:
        sub: Box | None = None
        sup: Box | None = None
        while self.peek() in ("_", "^", "'"):
            sign = self.next()
            if sign == "'":
                sup = Token("′", "upright")
            elif sign == "_":
                sub = self.group()
            else:
                sup = self.group()
        if sub is None and sup is None:
            return base
        if isinstance(base, Token) and base in _BIG.values() and sub is not None:
            return Under(base, (sub,))
        return Script(base, sub, sup)

    def atom(self) -> Box:
        token = self.next()
        if token == "{":
            self.place -= 1
            return self.group()
        if not token.startswith("\\"):
            if token[0].isdigit():
                return Token(token, "number")
            if token in ",;/":
                return Token(token, "punct")
            if token == "|":
                body = self.until("|")
                return Fence(token, body, self.next())
            if token in "([":
                body = self.until(")", "]")
                return Fence(token, body, self.next())
            return Token(token, "var" if token.isalpha() else "op") if token != "-" \
                else Token("−", "op")
        return self.command(token[1:])

    def command(self, word: str) -> Box:
        if word == "frac":
            return Frac(self.group(), self.group())
        if word == "sqrt":
            return Radical(self.group())
        if word == ",":
            return Space()
        if word == "mathbf":
            return Token(self.letters(), "bold")
        if word in ("mathrm", "operatorname"):
            return Token(self.letters(), "upright")
        if word == "text":
            return Token(self.letters(), "text")
        if word in _ACCENTS:
            return Accent(word, self.group())
        if word in _BIG:
            return _BIG[word]
        if word in _FUNCTIONS:
            return Token(word, "upright")
        if word in _SIGNS:
            return Token(_SIGNS[word], "op")
        if word in _WORDS:
            return Token(_WORDS[word], "upright" if word == "top" else "var")
        raise ValueError(f"no such command in the texts: \\{word}")

    def letters(self) -> str:
        assert self.next() == "{"
        out = ""
        while self.peek() != "}":
            out += self.next()
        self.next()
        return out


@lru_cache(maxsize=1024)
def read_math(text: str) -> Box:
    """A formula of the project's own texts as a box."""
    return _Reader(text).until()
