"""The grammar of `.net` text: tokens, and expressions by recursive descent. Nothing is evaluated
but the numbers, functions and operators named here.

    choice  = either [ "if" either "else" choice ]
    either  = both { "or" both }            both = negated { "and" negated }
    negated = "not" negated | comparison    comparison = sum [ ("<" | "<=" | "==" | …) sum ]
    sum     = ["-"] product { ("+" | "-") product }
    product = factor { ("*" | "/" | "//" | "%") factor }
    factor  = "-" factor | atom [ "**" factor ]
    atom    = number | "(" choice ")" | reduction | name [ "(" … ")" | "[" … "]" ]
    reduction = ("sum" | "mean" | "max" | "min" | "prod" | "logsumexp")
                "[" indices "]" "(" choice ")"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import sympy
from sympy import Add, Expr, Mul, Rational, S
from sympy.codegen.cfunctions import expm1, log1p

from derive import functions
from derive.affine import bounds
from derive.errors import DeclarationError, nearest
from derive.functions import REGISTRY, Elementary
from derive.nodes import REDUCTIONS, Index, Reduction, Select, SumOver
from derive.randomness import uniform

MAX_DEPTH = 60  # nested parentheses
MAX_EXPONENT = 64  # of a number: 9**9**9 would not end
_TOKEN = re.compile(
    r"(?P<space>[ \t\r]+|\#[^\n]*)|(?P<newline>\n)|(?P<number>\d+(\.\d*)?([eE][+-]?\d{1,3})?)"
    r"|(?P<name>[^\W\d]\w*)|(?P<text>\"(?:[^\"\\\n]|\\.)*\")"
    r"|(?P<sign>\*\*|//|<=|>=|==|!=|[-+*/%<>=()\[\],:])"
)


class NetFileError(DeclarationError):
    """A `.net` text is wrong: says the line, shows it with a caret, what was expected."""


@dataclass(frozen=True)
class Source:
    """The text that is read and what it is called in messages."""

    text: str
    name: str

    def fail(self, at: int, what: str, expected: str | None = None,
             mend: str | None = None) -> NoReturn:
        number = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].split("\n", 1)[0]
        shown = f"{self.name}, line {number}, column {at - start + 1}: {what}\n"
        caret = "".join("\t" if c == "\t" else " " for c in line[: at - start]) + "^"
        raise NetFileError(f"{shown}    {line}\n    {caret}", expected=expected, mend=mend)


@dataclass(frozen=True)
class Token:
    """``kind``: number, name, text, sign, newline or end."""

    kind: str
    text: str
    at: int


def tokens(source: Source) -> list[Token]:
    """The tokens of a text; line ends inside parentheses and brackets do not count."""
    found: list[Token] = []
    at = depth = 0
    while at < len(source.text):
        match = _TOKEN.match(source.text, at)
        if match is None:
            source.fail(at, f"unexpected character {source.text[at]!r}")
        kind, text = str(match.lastgroup), match.group()
        if kind == "sign":
            depth += (text in "([") - (text in ")]")
        if kind != "space" and not (kind == "newline" and depth > 0):
            found.append(Token(kind, text, at))
        at = match.end()
    return [*found, Token("newline", "", at), Token("end", "", at)]


class Names(Protocol):
    """What a text may refer to: given by the reader of statements."""

    def tensors(self) -> list[str]: ...
    def access(self, name: str, where: list[Expr]) -> Expr: ...
    def size(self, name: str, new: bool = False) -> Expr | None: ...
    def index(self, name: str) -> Index | None: ...


# what bodies may say that is no function of ours
KNOWN: dict[str, Callable[..., Expr]] = {
    **{name: getattr(sympy, name) for name in (
        "exp", "log", "tanh", "sinh", "cosh", "sin", "cos", "tan", "asin", "acos", "atan",
        "asinh", "acosh", "atanh", "atan2", "erf", "erfc", "sqrt", "gamma", "loggamma")},
    "log1p": log1p, "expm1": expm1, "uniform": uniform,
}
CONSTANTS: dict[str, Expr] = {
    "pi": sympy.pi, "inf": S.Infinity, "EulerGamma": S.EulerGamma, "Catalan": S.Catalan,
    "GoldenRatio": S.GoldenRatio,
}


def _known_functions() -> dict[str, Callable[..., Expr]]:
    """Ours and SymPy's; one that a user gave is known where the text itself gives it."""
    ours = {name: f for name, f in REGISTRY.items() if not hasattr(f, "given")}
    return KNOWN | ours | {
        "abs": functions.absolute, "maximum": functions.maximum, "minimum": functions.minimum}


_REDUCTIONS: dict[str, type[Reduction]] = {node.op: node for node in REDUCTIONS}
_COMPARE = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "==": sympy.Eq,
            "!=": sympy.Ne}
KEYWORDS = ("if", "else", "and", "or", "not", "mean", *CONSTANTS, *_REDUCTIONS)


class Reader:
    """A stream of tokens and the expressions in it. ``scope`` holds the indices in use."""

    def __init__(self, source: Source, names: Names) -> None:
        self.source, self.names = source, names
        self.stream, self.place = tokens(source), 0
        self.scope: dict[str, Expr] = {}
        self.functions = _known_functions()
        self.depth = 0

    # -- tokens -------------------------------------------------------------------------------
    @property
    def now(self) -> Token:
        return self.stream[self.place]

    def fail(self, what: str, expected: str | None = None, mend: str | None = None,
             at: int | None = None) -> NoReturn:
        self.source.fail(self.now.at if at is None else at, what, expected, mend)

    def take(self, *texts: str) -> str | None:
        """The text of this token if it is one of ``texts``, and on to the next."""
        if self.now.kind in ("sign", "name") and self.now.text in texts:
            self.place += 1
            return self.stream[self.place - 1].text
        return None

    def need(self, text: str, after: str) -> None:
        if self.take(text) is None:
            self.fail(f"unexpected {self._seen()}", f"{text!r} after {after}")

    def need_kind(self, kind: str, expected: str) -> Token:
        token = self.now
        if token.kind != kind:
            self.fail(f"unexpected {self._seen()}", expected)
        self.place += 1
        return token

    def _seen(self) -> str:
        names = {"newline": "end of the line", "end": "end of the text"}
        return names.get(self.now.kind, repr(self.now.text))

    def guarded(self) -> bool:
        """Whether a condition follows in this statement, which may guard what is read here."""
        for token in self.stream[self.place :]:
            if token.kind == "newline":
                return False
            if token.kind == "name" and token.text == "if":
                return True
        return False

    # -- indices ------------------------------------------------------------------------------
    def indices(self, after: str) -> tuple[Index, ...]:
        """``[i, j:3]``: a size stands with the index, or in a line ``index i:64`` before."""
        made: list[Index] = []
        self.need("[", after)
        while True:
            token = self.need_kind("name", "an index")
            index = self._index(token)
            if index.name in {i.name for i in made}:
                self.fail(f"index {index.name!r} stands twice", at=token.at)
            made.append(index)
            if self.take("]"):
                return tuple(made)
            self.need(",", f"the index {index.name!r}")

    def _index(self, token: Token) -> Index:
        if self.take(":"):
            return Index(token.text, self.size())
        index = self.names.index(token.text)
        if index is None:
            self.fail(f"the size of index {token.text!r} is not known",
                      f"{token.text}:64, or a line such as: index {token.text}:64", at=token.at)
        return index

    def size(self) -> Expr:
        token = self.now
        if token.kind == "number" and token.text.isdigit() and int(token.text) > 0:
            self.place += 1
            return sympy.Integer(token.text)
        self.need_kind("name", "a size: a whole number of at least 1, or a name")
        size = self.names.size(token.text, new=True)
        if size is None:
            self.fail(f"{token.text!r} is a tensor, not a size", at=token.at)
        return size

    # -- expressions --------------------------------------------------------------------------
    def choice(self) -> Expr:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("the expression is nested too deeply", f"at most {MAX_DEPTH} levels")
        value = self.either()
        if self.take("if"):
            condition = self.condition()
            self.need("else", "the condition")
            value = Select(condition, value, self.choice())
        self.depth -= 1
        return value

    def condition(self) -> Expr:
        at, condition = self.now.at, self.either()
        if not isinstance(condition, sympy.logic.boolalg.Boolean):
            self.fail("this is no condition", "a comparison such as t >= 1", at=at)
        return condition

    def either(self) -> Expr:
        return self._joined("or", sympy.Or, self.both)

    def both(self) -> Expr:
        return self._joined("and", sympy.And, self.negated)

    def _joined(self, word: str, join: Callable[..., Expr], part: Callable[[], Expr]) -> Expr:
        parts = [part()]
        while self.take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(*parts)

    def negated(self) -> Expr:
        return sympy.Not(self.negated()) if self.take("not") else self.comparison()

    def comparison(self) -> Expr:
        left = self.sum()
        sign = self.take(*_COMPARE)
        return left if sign is None else _COMPARE[sign](left, self.sum())

    # SymPy distributes a number over a sum when it meets just the two, so the parts of a sum and
    # of a product are collected first: what was written out reads back as the same expression.
    def sum(self) -> Expr:
        terms = [self.product(self.take("-"))]
        while sign := self.take("+", "-"):
            terms.append(self.product(sign))
        return terms[0] if len(terms) == 1 else Add(*terms)

    def product(self, sign: str | None = None) -> Expr:
        factors = [S.NegativeOne] if sign == "-" else []
        factors.append(self.factor())
        while operator := self.take("*", "/", "//", "%"):
            at, other = self.now.at, self.factor()
            if operator == "*":
                factors.append(other)
                continue
            if other == 0:
                self.fail("division by zero", at=at)
            if operator == "/":
                factors.append(1 / other)
            else:
                left = Mul(*factors)
                factors = [sympy.floor(left / other) if operator == "//"
                           else sympy.Mod(left, other)]
        return factors[0] if len(factors) == 1 else Mul(*factors)

    def factor(self) -> Expr:
        if self.take("-"):
            return -self.factor()
        base = self.atom()
        if self.take("**"):
            at, exponent = self.now.at, self.factor()
            reach = bounds(exponent) if base.is_number and not exponent.is_number else None
            ends = reach or (exponent, exponent)
            if base.is_number and not all(e.is_number and abs(e) <= MAX_EXPONENT for e in ends):
                self.fail("the exponent of a number is too large",
                          f"at most {MAX_EXPONENT}", at=at)
            return base**exponent
        return base

    def atom(self) -> Expr:
        token = self.now
        if token.kind == "number":
            self.place += 1
            return Rational(token.text)
        if self.take("("):
            value = self.choice()
            self.need(")", "the expression")
            return value
        if token.kind != "name" or token.text in ("if", "else", "and", "or"):
            self.fail(f"unexpected {self._seen()}", "a number, a name or a parenthesis")
        self.place += 1
        if token.text in CONSTANTS:
            return CONSTANTS[token.text]
        if token.text in _REDUCTIONS or token.text == "mean":
            return self.reduction(token)
        if self.take("("):
            return self.call(token)
        return self.variable(token)

    def reduction(self, token: Token) -> Expr:
        bound = self.indices(token.text)
        outer = dict(self.scope)
        self.scope.update({i.name: i for i in bound})
        self.need("(", f"{token.text} and its indices")
        body = self.choice()
        self.need(")", "what is reduced")
        self.scope = outer
        if token.text == "mean":
            return SumOver(body, *bound) / Mul(*(i.size for i in bound))
        return _REDUCTIONS[token.text](body, *bound)

    def call(self, token: Token) -> Expr:
        arguments = [self.choice()]
        while self.take(","):
            arguments.append(self.choice())
        self.need(")", f"the arguments of {token.text}")
        function = self.functions.get(token.text)
        if function is None:
            guess = nearest(token.text, [*self.functions, *_REDUCTIONS])
            self.fail(f"there is no function {token.text!r}", "an elementary function",
                      f"did you mean {guess!r}?" if guess else None, at=token.at)
        try:
            if isinstance(function, type) and issubclass(function, Elementary):
                taken = function.nargs if isinstance(function.nargs, sympy.FiniteSet) else {1}
                if len(arguments) not in taken:
                    raise TypeError
            return function(*arguments)
        except TypeError:
            self.fail(f"{token.text} does not take {len(arguments)} arguments", at=token.at)

    def variable(self, token: Token) -> Expr:
        """A tensor's element, an index as a number, or a size."""
        name = token.text
        if self.take("["):
            where = [self.sum()]
            while self.take(","):
                where.append(self.sum())
            self.need("]", f"the indices of {name}")
            if name not in self.names.tensors():
                self._unknown(token)
            return self._access(token, where)
        if name in self.scope:
            return self.scope[name]
        if name in self.names.tensors():
            return self._access(token, [])
        size = self.names.size(name)
        return size if size is not None else self._unknown(token)

    def _access(self, token: Token, where: list[Expr]) -> Expr:
        try:
            return self.names.access(token.text, where)
        except NetFileError:
            raise
        except DeclarationError as error:
            self.fail(error.what, str(error.expected) if error.expected else None, error.mend,
                      at=token.at)

    def _unknown(self, token: Token) -> NoReturn:
        if self.names.index(token.text):
            self.fail(f"index {token.text!r} is neither free nor bound here",
                      "a free index of the target, or a reduction over it",
                      f"sum[{token.text}](…), or {token.text} in the target", at=token.at)
        known = [*self.scope, *self.names.tensors()]
        guess = nearest(token.text, known)
        self.fail(f"{token.text!r} is not declared",
                  ("one of " + ", ".join(known)) if known else "a declaration before its use",
                  f"did you mean {guess!r}?" if guess else None, at=token.at)
