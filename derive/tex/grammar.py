"""The grammar of formulas: `MathLexer` → `derive.tex.tree`, by LALR(1) (Lark).

It knows how formulas are written and nothing of what they mean: juxtaposed factors stay a flat
sequence, and whether ``f(x)`` is a product is not asked. That is decided where types are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken
from lark.lexer import Lexer

from derive.tex import tree as t
from derive.tex.lexer import MathLexer
from derive.tex.source import Source

MAX_TOKENS = 4000  # of one formula

_GRAMMAR = r"""
    start: several

    ?several: junction
         | junction (COMMA junction)+ COMMA?  -> listed
         | junction COMMA
    ?junction: both
             | both (OR both)+                -> either
    ?both: negation
         | negation (AND negation)+           -> joined
    ?negation: relation
             | NOT negation                   -> negated
    ?relation: sum
             | sum (REL sum)+                 -> related
    ?sum: product
        | ADD product (ADD product)*          -> signed
        | product (ADD product)+              -> signed
    product: (factor | OP)+
    ?factor: atom
           | atom script+                     -> scripted
    script: SUP arg | SUB arg | PRIME
          | SUP PRIME                         -> primed
          | SUP LBRACE PRIME+ RBRACE          -> primed
    ?arg: simple
        | LBRACE several RBRACE                  -> braces
    ?atom: simple
         | LBRACE several RBRACE                 -> group
         | LBRACE RBRACE                      -> nothing
         | LPAR several RPAR                     -> group
         | LBRACK several RBRACK                 -> group
         | LSET several RSET                     -> group
         | LVERT several RVERT                   -> group
         | LNORM several RNORM                   -> group
         | LFLOOR several RFLOOR                 -> group
         | FRAC arg arg                       -> fraction
         | SQRT arg                           -> root
         | SQRT LBRACK several RBRACK arg        -> root
         | ACCENT arg                         -> accent
         | FONT arg                           -> font
         | CASES case (ROW case)* ROW? ENDCASES  -> cases
         | SUBSTACK LBRACE several (ROW several)* RBRACE  -> stack
    case: several (AMP several)?
    simple: LETTER | WORD | NUMBER | FUNC | BIG | TOP | PARTIAL | NABLA | ONE | INFTY | DOTS | ALL

    %declare COMMA OR AND NOT REL ADD OP SUP SUB PRIME LBRACE RBRACE LPAR RPAR LBRACK RBRACK
    %declare LSET RSET LVERT RVERT LNORM RNORM LFLOOR RFLOOR FRAC SQRT ACCENT FONT CASES ENDCASES
    %declare SUBSTACK ROW AMP LETTER WORD NUMBER FUNC BIG TOP PARTIAL NABLA ONE INFTY DOTS ALL
"""
_KINDS = {"LPAR": "(", "LBRACK": "[", "LBRACE": "{", "LSET": r"\{", "LVERT": "|", "LNORM": "‖",
          "LFLOOR": "⌊"}
_FACTOR = {"LETTER", "NUMBER", "FRAC", "LPAR"}
_EXPECTED = (
    (_FACTOR, "a factor"), ({"ADD", "REL"}, "an operator"), ({"RPAR"}, "')'"), ({"RBRACK"}, "']'"),
    ({"RBRACE"}, "'}'"), ({"RVERT"}, r"'\rvert'"), ({"RNORM"}, r"'\rVert'"),
    ({"RSET"}, r"'\}'"), ({"ENDCASES"}, r"'\end{cases}'"), ({"$END"}, "the end of the formula"),
)


class _Tokens(Lexer):
    """Hands on tokens that are there already."""

    def __init__(self, conf: Any) -> None:
        pass

    def lex(self, data: Any) -> Iterator[Token]:  # type: ignore[override]
        return iter(data)


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer=_Tokens)


def parse(source: Source, pieces: Sequence[tuple[int, int]]) -> t.Node:
    """The tree of a formula, which stands in pieces of a text.

    Raises:
        LatexError: it is no formula, with line and caret.
    """
    tokens = list(MathLexer(source, pieces).tokens())
    if len(tokens) > MAX_TOKENS:
        source.fail(pieces[0][0], "the formula is too long", f"at most {MAX_TOKENS} signs")
    try:
        return _Builder().transform(_parser().parse(tokens))  # type: ignore[arg-type]
    except UnexpectedInput as error:
        found = error
    except RecursionError:
        source.fail(pieces[0][0], "the formula is nested too deeply")
    token = found.token if isinstance(found, UnexpectedToken) else None
    ended = token is None or token.type == "$END"
    start, end = pieces[-1]
    place = start + len(source.text[start:end].rstrip()) if ended else _at(token)
    stop = getattr(token, "end_pos", None)
    seen = "end of the formula" if ended else repr(source.text[place:stop])
    accepted = set(getattr(found, "accepts", None) or getattr(found, "expected", None) or ())
    wanted = [words for kinds, words in _EXPECTED if kinds & accepted]
    source.fail(place, f"unexpected {seen}", " or ".join(wanted) or None)


def _at(token: Any) -> int:
    return int(token.start_pos or 0)


class _Builder(Transformer):
    """Lark's tree → ours."""

    def start(self, parts: list[t.Node]) -> t.Node:
        return parts[0]

    def several(self, parts: list[Any]) -> t.Node:
        return parts[0]  # a comma at the end

    def listed(self, parts: list[Any]) -> t.Node:
        nodes = tuple(p for p in parts if not isinstance(p, Token))
        signs = tuple(str(p) for p in parts if isinstance(p, Token))
        return t.Listed(nodes, signs, nodes[0].at)

    def either(self, parts: list[Any]) -> t.Node:
        nodes = tuple(p for p in parts if not isinstance(p, Token))
        return t.Junction("or", nodes, nodes[0].at)

    def joined(self, parts: list[Any]) -> t.Node:
        nodes = tuple(p for p in parts if not isinstance(p, Token))
        return t.Junction("and", nodes, nodes[0].at)

    def negated(self, parts: list[Any]) -> t.Node:
        return t.Negation(parts[1], _at(parts[0]))

    def related(self, parts: list[Any]) -> t.Node:
        return t.Relation(tuple(parts[::2]), tuple(map(str, parts[1::2])), parts[0].at)

    def signed(self, parts: list[Any]) -> t.Node:
        terms: list[tuple[bool, t.Node]] = []
        negative, at = False, None
        for part in parts:
            if isinstance(part, Token):
                negative = str(part) == "-"
                at = _at(part) if at is None and not terms else at
            elif negative and terms and (open_ := _without_summand(terms[-1][1])):
                inner = t.Group("(", t.Sum(((True, part),), part.at), part.at)
                terms[-1] = terms[-1][0], t.Seq((*open_, inner), open_[0].at)
            else:
                terms.append((negative, part))
        return t.Sum(tuple(terms), terms[0][1].at if at is None else at)

    def product(self, parts: list[Any]) -> t.Node:
        pieces = tuple(t.Op(str(p), _at(p)) if isinstance(p, Token) else p
                       for p in parts if p is not None)
        if not pieces:
            return t.Seq((), 0)
        if len(pieces) == 1 and not isinstance(pieces[0], t.Op):
            return pieces[0]
        return t.Seq(pieces, pieces[0].at)

    def nothing(self, parts: list[Any]) -> None:
        return None

    def script(self, parts: list[Any]) -> tuple[str, Any]:
        if parts[0].type == "PRIME":
            return self.primed(parts)
        return parts[0].type, parts[-1]

    def primed(self, parts: list[Any]) -> tuple[str, Any]:
        return "PRIME", [p for p in parts if p.type == "PRIME"]

    def scripted(self, parts: list[Any]) -> t.Node:
        base, *scripts = parts
        if base is None:
            base = t.Seq((), 0)
        return t.Scripted(
            base, tuple(a for kind, a in scripts if kind == "SUB"),
            tuple(a for kind, a in scripts if kind == "SUP"),
            sum(len(a) for kind, a in scripts if kind == "PRIME"), base.at)

    def braces(self, parts: list[Any]) -> t.Node:
        return parts[1]

    def group(self, parts: list[Any]) -> t.Node:
        left, body, _ = parts
        if left.type == "LBRACE" and not isinstance(body, t.Listed):
            return t.Group("{", body, _at(left)) if _binds(body) else body
        return t.Group(_KINDS[left.type], body, _at(left))

    def fraction(self, parts: list[Any]) -> t.Node:
        return t.Frac(parts[1], parts[2], _at(parts[0]))

    def root(self, parts: list[Any]) -> t.Node:
        return t.Root(parts[-1], parts[2] if len(parts) > 2 else None, _at(parts[0]))

    def accent(self, parts: list[Any]) -> t.Node:
        kind = {"overline": "bar", "widehat": "hat", "widetilde": "tilde"}.get(
            str(parts[0]), str(parts[0]))
        return _accented(kind, parts[1], _at(parts[0]))

    def font(self, parts: list[Any]) -> t.Node:
        return _in_font(str(parts[0]), parts[1], _at(parts[0]))

    def case(self, parts: list[Any]) -> tuple[t.Node, t.Node | None]:
        return parts[0], parts[2] if len(parts) > 1 else None

    def cases(self, parts: list[Any]) -> t.Node:
        return t.Cases(tuple(p for p in parts if isinstance(p, tuple)), _at(parts[0]))

    def stack(self, parts: list[Any]) -> t.Node:
        rows = tuple(p for p in parts if not isinstance(p, Token))
        return t.Stack(rows, _at(parts[0]))

    def simple(self, parts: list[Token]) -> t.Node:
        token = parts[0]
        at = _at(token)
        if token.type == "LETTER":
            return t.Sym(str(token), at)
        if token.type == "WORD":
            return t.Word(str(token), at)
        if token.type == "NUMBER":
            return t.Num(str(token), at)
        return t.Mark(token.type, str(token), at)


def _without_summand(node: t.Node) -> tuple[t.Node | t.Op, ...]:
    r"""The pieces of a product that ends in a big sign: in ``\sum_i -2 x_i`` the minus is behind
    it."""
    pieces = node.pieces if isinstance(node, t.Seq) else (node,)
    last = pieces[-1] if pieces else None
    big = isinstance(last, t.Scripted) and isinstance(last.base, t.Mark) and last.base.kind == "BIG"
    return pieces if big else ()


def _binds(body: t.Node) -> bool:
    """Whether braces around a node hold something together."""
    return isinstance(body, t.Seq | t.Sum | t.Relation | t.Junction | t.Negation | t.Scripted)


def _accented(kind: str, body: t.Node, at: int) -> t.Node:
    if isinstance(body, t.Sym):
        return t.Sym(body.letter, at, (*body.accents, kind), body.font)
    if isinstance(body, t.Word):
        return t.Word(body.text, at, (*body.accents, kind))
    if isinstance(body, t.Scripted) and isinstance(body.base, t.Sym | t.Word):
        return replace(body, base=_accented(kind, body.base, at))
    if isinstance(body, t.Num) and body.text == "0" and kind == "vec":
        return body  # an array of zeros
    return t.Accent(kind, body, at)


def _in_font(font: str, body: t.Node, at: int) -> t.Node:
    if isinstance(body, t.Sym):
        if font in ("mathrm", "mathsf", "rm") and body.letter == "T":
            return t.Mark("TOP", "T", at)
        return t.Sym(body.letter, at, body.accents, font)
    if isinstance(body, t.Num) and body.text == "1" and font in ("mathbf", "mathbb", "boldsymbol",
                                                                "bm", "bf"):
        return t.Mark("ONE", "1", at)
    if isinstance(body, t.Scripted):
        return t.Scripted(_in_font(font, body.base, at), body.subs, body.sups, body.primes, at)
    return body
