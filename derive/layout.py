"""Notation set in boxes (`derive.boxes`): one layout, printed twice.

`derive.latex` and `derive.mathml` print boxes and know nothing of tensors; parentheses, spaces,
subscripts and the form of conditions are decided here.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from functools import singledispatchmethod

from derive import notation as n
from derive.boxes import (
    Accent,
    Box,
    Cases,
    Colour,
    Fence,
    Frac,
    Kind,
    Radical,
    Row,
    Script,
    Space,
    Token,
    Under,
    comma_separated,
    op,
    row,
    starts_with_digit,
    tall,
)
from derive.notate import Builder
from derive.notation import Node
from derive.omitted import first_value, is_bounds
from derive.symbols import Symbol, Symbols

_SUM, _PRODUCT, _POWER, _ATOM = range(4)
_SIGNS = {"=": "=", "!=": "≠", "<": "<", "<=": "≤", ">": ">", ">=": "≥"}
_FUNCTIONS = {r"\sigma": "σ", r"\Phi": "Φ"}
MINUS = "−"
_LAYER = re.compile(r"(\d*)ℓ(?:([−+])(\d+))?")


class Setter:
    """Sets nodes with the symbols of a program.

    ``notes`` and ``padded`` collect what a formula leaves out: the first values of recurrences,
    and which tensors are read as 0 outside their bounds.
    """

    def __init__(self, symbols: Symbols | None = None) -> None:
        self.symbols = symbols or Symbols()
        self.notes: dict[n.Statement, n.Relation] = {}
        self.padded: dict[n.Name, None] = {}  # read as 0 outside their bounds
        self.when, self.otherwise = "if ", "otherwise"
        self.small = False  # inside subscripts fractions are set with a slash

    def set(self, node: Node | n.Statement, binding: int = _SUM) -> Box:
        """A node as a box, in parentheses where it binds less than ``binding``."""
        if isinstance(node, n.Statement):
            return row(self.set(node.left), op("="), self.set(node.right))
        box, own = self._set(node)
        return Fence("(", box, ")") if own < binding else box

    # -- symbols --------------------------------------------------------------------------------
    def symbol(self, symbol: Symbol, where: Box | None = None, bold: bool = False,
               rows: Box | None = None) -> Box:
        """A symbol with the indices ``where`` after its own subscripts, and of a Jacobian the
        indices ``rows`` at what is differentiated."""
        if symbol.loss is not None:
            of = symbol.loss
            below = row(Token("∂"), self.symbol(replace(symbol, loss=None, rows=0), where, bold))
            above = row(Token("∂"), self.symbol(of, rows, bold and symbol.rows > 0))
            if symbol.rows and of.loss is not None:  # of a gradient: a second derivative
                above = row(Script(Token("∂"), None, Token("2", "number")), self.symbol(of.loss))
                first = self.symbol(replace(of, loss=None), rows, bold)
                below = row(Token("∂"), first, Space(), below)
            return self._quotient(above, below)[0]
        letter: Box = Token(symbol.letter, "bold" if bold else self._kind(symbol.letter))
        for accent in symbol.accents:
            letter = Accent(accent, letter)
        own = [self.symbol(s) if isinstance(s, Symbol) else self._subscript(s)
               for s in symbol.subs]
        sub: Box | None = comma_separated(own) if own else None
        if where is not None:
            sub = row(sub, Token(";", "punct"), where) if sub else where
        sup = Token("′" * symbol.primes, "upright") if symbol.primes else None
        return Script(letter, sub, sup) if sub or sup else letter

    def _subscript(self, text: str) -> Box:
        """A part of a name; ``ℓ−1``, the layer before, is a difference, ``2ℓ`` is a product."""
        if layer := _LAYER.fullmatch(text):
            factor, sign, rest = layer.groups()
            return row(*[Token(factor, "number")] if factor else [], Token("ℓ"),
                       *[op(sign), Token(rest, "number")] if sign else [])
        return Token(text, "number" if text.isdigit() else self._kind(text))

    @staticmethod
    def _kind(letter: str) -> Kind:
        return "var" if len(letter) == 1 else "upright"

    def _quotient(self, above: Box, below: Box) -> tuple[Box, int]:
        if self.small:
            return row(above, Token("/", "punct"), below), _PRODUCT
        return Frac(above, below), _POWER

    # -- nodes ----------------------------------------------------------------------------------
    @singledispatchmethod
    def _set(self, node: Node) -> tuple[Box, int]:
        raise TypeError(f"no layout for {type(node).__name__}")

    @_set.register
    def _(self, node: n.Number) -> tuple[Box, int]:
        text = "∞" if node.text == "inf" else node.text
        box = Token(text, "var" if text in ("∞", "π", "e") else "number")
        binding = _SUM if text.startswith(MINUS) else _ATOM
        return (Colour(node.way, box) if node.way else box), binding

    @_set.register
    def _(self, node: n.Name) -> tuple[Box, int]:
        by_kind = {"index": self.symbols.index, "size": self.symbols.size}
        return self.symbol(by_kind.get(node.kind, self.symbols.tensor)(node.code)), _ATOM

    @_set.register
    def _(self, node: n.Element) -> tuple[Box, int]:
        return self._indexed(node.name.code, node.where, False)

    def _indexed(self, name: str, where: tuple[Node | None, ...], bold: bool) -> tuple[Box, int]:
        """A symbol with indices; None stands for a dim that is whole."""
        symbol = self.symbols.tensor(name)
        if self._tells(name, where):
            where = tuple(w for w in where if w is not None)
        rows, rest = (self.subscript(part) if part else None
                      for part in (where[: symbol.rows], where[symbol.rows :]))
        box = self.symbol(symbol, rest, bold, rows)
        return box, _POWER if symbol.loss is not None else _ATOM

    def _tells(self, name: str, where: tuple[Node | None, ...]) -> bool:
        """Whether letters say which dims they are of: the first ones, or those whose letters they
        are where the tensor is declared."""
        held = [k for k, w in enumerate(where) if w is not None]
        if any(isinstance(where[k], n.Number) for k in held):
            return False
        tensor = self.symbols.tensors.get(name)
        own = [i.name for i in tensor.indices] if tensor is not None else []
        return held == list(range(len(held))) or not own or all(
            {own[k]} == {x.code for x in n.walk(where[k])
                         if isinstance(x, n.Name) and x.kind == "index"} for k in held)

    def subscript(self, where: tuple[Node | None, ...]) -> Box:
        """Indices side by side where each is one letter, else with commas."""
        was, self.small = self.small, True
        boxes = [Token(":", "punct") if w is None else self.set(w) for w in where]
        self.small = was
        plain = all(isinstance(b, Token) and len(b.text) == 1 and b.kind == "var" for b in boxes)
        return row(*boxes) if plain else comma_separated(boxes)

    @_set.register
    def _(self, node: n.Sum) -> tuple[Box, int]:
        items: list[Box] = []
        for k, (negative, term) in enumerate(node.terms):
            if k or negative:
                items.append(op(MINUS if negative else "+"))
            items.append(self.set(term, _PRODUCT))
        return row(*items), _SUM

    @_set.register
    def _(self, node: n.Product) -> tuple[Box, int]:
        items: list[Box] = []
        last = len(node.factors) - 1
        for k, factor in enumerate(node.factors):
            open_ended = isinstance(factor, n.Big | n.Choice) and k < last
            box = self.set(factor, _POWER if open_ended else _PRODUCT)
            if k:
                digits = starts_with_digit(box)
                items.append(op("·") if digits else Space())
            items.append(box)
        return row(*items), _PRODUCT

    @_set.register
    def _(self, node: n.Fraction) -> tuple[Box, int]:
        needs = _PRODUCT if self.small else _SUM
        below = self.set(node.below, _POWER if self.small else _SUM)
        return self._quotient(self.set(node.above, needs), below)

    @_set.register
    def _(self, node: n.Power) -> tuple[Box, int]:
        base = self.set(node.base, _ATOM)
        was, self.small = self.small, True
        exponent = self.set(node.exponent)
        self.small = was
        if isinstance(node.base, n.Call) and isinstance(node.exponent, n.Number) \
                and isinstance(base, Row) and isinstance(base.items[0], Token):
            name, *rest = base.items  # tanh² x
            return row(Script(name, None, exponent), *rest), _ATOM
        if isinstance(base, Script) and base.sup is None:
            return Script(base.base, base.sub, exponent), _POWER
        if isinstance(base, Script):
            base = Fence("(", base, ")")
        return Script(base, None, exponent), _POWER

    @_set.register
    def _(self, node: n.Root) -> tuple[Box, int]:
        return Radical(self.set(node.body)), _ATOM

    @_set.register
    def _(self, node: n.Call) -> tuple[Box, int]:
        args = [self.set(a) for a in node.args]
        if node.function == "absolute":
            return Fence("|", args[0], "|"), _ATOM
        if node.function == "step":
            return Fence("[", row(args[0], op(">"), Token("0", "number")), "]"), _ATOM
        if node.function == "exp" and not tall(args[0]) and not has_array(node):
            was, self.small = self.small, True
            exponent = self.set(node.args[0])
            self.small = was
            return Script(Token("e"), None, exponent), _POWER
        if node.function == "floor":
            return Fence("⌊", args[0], "⌋"), _ATOM
        if node.function == "mod":
            left, right = (self.set(a, _POWER) for a in node.args)
            return row(left, Token(" mod ", "text"), right), _SUM
        if node.function == "norm":
            return Fence("‖", args[0], "‖"), _ATOM
        if node.function == "power":
            return Script(self.set(node.args[0], _ATOM), None, row(op("⊙"), args[1])), _POWER
        name: Box = _function_name(node)
        if len(args) > 1:
            name = Script(name, comma_separated(args[1:]))
        return row(name, Fence("(", args[0], ")")), _ATOM

    @_set.register
    def _(self, node: n.Big) -> tuple[Box, int]:
        bound = comma_separated([self.set(b) for b in node.bound])
        lines = [bound]
        limits = [row(self.set(b), op("<"), self.set(size))
                  for b, size in zip(node.bound, node.limits, strict=False) if size is not None]
        lines += [comma_separated(limits)] if limits else []
        if node.condition is not None:
            parts = node.condition.parts if isinstance(node.condition, n.Junction) \
                and node.condition.op == "and" else (node.condition,)
            was, self.small = self.small, True
            lines += [self.set(p) for p in parts]
            self.small = was
        if node.op == "logsumexp":
            inner = self.set(n.Call("exp", (node.body,)), _PRODUCT)
            return row(Token("log", "upright"), Under(Token("∑", "op"), tuple(lines)), inner), \
                _PRODUCT
        sign = {"sum": Token("∑", "op"), "prod": Token("∏", "op")}.get(
            node.op, Token(node.op, "upright"))
        return row(Under(sign, tuple(lines)), self.set(node.body, _PRODUCT)), _PRODUCT

    @_set.register
    def _(self, node: n.Choice) -> tuple[Box, int]:
        if node.no == n.ZERO and is_bounds(node, self._shape(node.yes)):
            assert isinstance(node.yes, n.Element)
            self.padded[node.yes.name] = None
            return self._set(node.yes)
        if node.no == n.ZERO:
            bracket = Fence("[", self.set(node.condition), "]")
            return row(bracket, Space(), self.set(node.yes, _PRODUCT)), _PRODUCT
        start = first_value(node)
        if start is not None:
            self.notes[start[0]] = start[1]
            return self._set(node.yes)
        rows: list[tuple[Box, Box]] = []
        rest: Node = node
        while isinstance(rest, n.Choice):
            when = row(Token(self.when, "text"), self.set(rest.condition))
            rows.append((self.set(rest.yes), when))
            rest = rest.no
        rows.append((self.set(rest), Token(self.otherwise, "text")))
        return Cases(tuple(rows)), _SUM

    def _shape(self, node: Node) -> tuple[Node, ...] | None:
        """The sizes of the tensor that an element is of, where they are known."""
        tensor = self.symbols.tensors.get(node.name.code) if isinstance(node, n.Element) else None
        return None if tensor is None else tuple(Builder().build(size) for size in tensor.shape)

    @_set.register
    def _(self, node: n.Bracket) -> tuple[Box, int]:
        return Fence("[", self.set(node.condition), "]"), _ATOM

    @_set.register
    def _(self, node: n.Relation) -> tuple[Box, int]:
        items = [self.set(node.parts[0])]
        for sign, part in zip(node.ops, node.parts[1:], strict=True):
            items += [op(_SIGNS[sign]), self.set(part)]
        return row(*items), _SUM

    @_set.register
    def _(self, node: n.Congruent) -> tuple[Box, int]:
        modulus = Fence("(", row(Token("mod ", "text"), self.set(node.modulus)), ")")
        return row(self.set(node.body), op("≡"), self.set(node.rest), Space(), modulus), _SUM

    @_set.register
    def _(self, node: n.Junction) -> tuple[Box, int]:
        parts = [self.set(p, _PRODUCT if isinstance(p, n.Junction) else _SUM) for p in node.parts]
        if node.op == "and":
            return comma_separated(parts), _SUM
        items: list[Box] = []
        for k, part in enumerate(parts):
            items += [op("∨"), part] if k else [part]
        return row(*items), _SUM

    @_set.register
    def _(self, node: n.Negation) -> tuple[Box, int]:
        body = node.body
        if isinstance(body, n.Relation) and body.ops == ("=",):
            return self._set(replace(body, ops=("!=",)))
        return row(Token("¬", "op"), Fence("(", self.set(body), ")")), _SUM

    # -- whole arrays ---------------------------------------------------------------------------
    @_set.register
    def _(self, node: n.Whole) -> tuple[Box, int]:
        return self._indexed(node.name.code, node.at, node.name.kind == "array")

    @_set.register
    def _(self, node: n.Transposed) -> tuple[Box, int]:
        base = self.set(node.body, _ATOM)
        sup = Token("⊤", "upright")
        if isinstance(base, Script) and base.sup is None:
            return Script(base.base, base.sub, sup), _ATOM
        return Script(Fence("(", base, ")") if isinstance(base, Script) else base, None, sup), _ATOM

    @_set.register
    def _(self, node: n.Chain) -> tuple[Box, int]:
        boxes = [self.set(f, _POWER) for f in node.factors]
        items: list[Box] = []
        for k, box in enumerate(boxes):
            items += [Space(), box] if k else [box]
        return row(*items), _PRODUCT

    @_set.register
    def _(self, node: n.Hadamard) -> tuple[Box, int]:
        items: list[Box] = []
        for k, factor in enumerate(node.factors):
            box = self.set(factor, _POWER)
            items += [op("⊙"), box] if k else [box]
        return row(*items), _PRODUCT

    @_set.register
    def _(self, node: n.Convolved) -> tuple[Box, int]:
        left, right = self.set(node.left, _POWER), self.set(node.right, _POWER)
        return row(left, op(node.op), right), _PRODUCT

    @_set.register
    def _(self, node: n.Ones) -> tuple[Box, int]:
        return Script(Token("1", "bold"), self.set(node.size)), _ATOM


def _function_name(node: n.Call) -> Token:
    if node.symbol in _FUNCTIONS:
        return Token(_FUNCTIONS[node.symbol], "var")
    if node.symbol.startswith(r"\operatorname{"):
        return Token(node.symbol.removeprefix(r"\operatorname{").rstrip("}"), "upright")
    return Token(node.function, "upright")


def has_array(node: object) -> bool:
    """Whether whole arrays occur in a node: e^A would be read as another thing than exp(A)."""
    if isinstance(node, n.Whole):
        return node.name.kind == "array"
    if isinstance(node, tuple):
        return any(map(has_array, node))
    return is_dataclass(node) and any(has_array(getattr(node, f.name)) for f in fields(node))
