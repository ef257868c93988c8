"""A small network worked with numbers, as on a blackboard: equation by equation, element by
element, with the values put in; what flows forward and what flows back have their colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import sympy
from sympy import Add, Expr, Integer, Mul

from derive import notation as n
from derive.boxes import Box, Token, row
from derive.document.forms import Maker
from derive.document.picture import graph_picture
from derive.document.tree import (
    Block,
    Coloured,
    Display,
    Figure,
    Math,
    Paragraph,
    Section,
    Spans,
    Table,
)
from derive.errors import DataError
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
)
from derive.notate import Builder
from derive.program import Equation

_MOST = 24  # values that a blackboard has room for, in one tensor
_LINES = 4  # elements of one equation that are worked
_TERMS = 8  # terms of a sum that are written out
_SYMBOLIC = 48  # letters of a formula that is repeated before its numbers


def numbers_section(maker: Maker, values: Mapping[str, Any]) -> Section:
    """The network worked at a point: a picture, each equation with its numbers, all values.

    Raises:
        DataError: a tensor has too many values to be worked by hand.
    """
    from derive.reference import evaluate

    program, words = maker.program, maker.words
    found = {k: np.asarray(v) for k, v in {**values, **evaluate(program, values)}.items()}
    for name in (*(t.name for t in program.given), *program.defined):
        if found[name].size > _MOST:
            raise DataError(
                f"{name!r} has {found[name].size} values: too many to work with numbers",
                expected=f"at most {_MOST} values in each tensor",
            )
    board = _Board(maker, found)
    forward = {eq.name for eq in maker.forward}
    picture = Figure(graph_picture(maker, board.label), words("numbers.caption"))
    ways: tuple[tuple[str, list[Equation]], ...] = (
        ("forward", list(maker.forward)),
        ("backward", [eq for eq in program.equations if eq.name not in forward]),
    )
    parts: list[Block] = [Paragraph(words("numbers.intro")), picture]
    for way, equations in ways:
        blocks: list[Block] = [block for eq in equations for block in board.worked(eq)]
        if blocks:
            parts.append(Section(words(f"numbers.{way}"), f"numbers-{way}", 2, tuple(blocks)))
    parts.append(Section(words("numbers.all"), "numbers-all", 2, (board.table(),)))
    return Section(words("section.numbers"), "numbers", 1, tuple(parts))


def number(value: float, digits: int = 5) -> str:
    """A value as it would be written on a board."""
    text = f"{value:.{digits}g}"
    return "0" if text == "-0" else text.replace("-", "−")


class _TooLongError(Exception):
    """An element whose numbers would not fit a line."""


class _Board:
    """The values of a program, put into its formulas."""

    def __init__(self, maker: Maker, values: Mapping[str, np.ndarray]) -> None:
        self.maker, self.values = maker, values
        self.sizes: dict[Expr, Integer] = {}
        for tensor in maker.program.tensors.values():
            if tensor.name in values:
                self.sizes |= {s: Integer(k) for s, k in zip(
                    tensor.shape, values[tensor.name].shape, strict=True) if s.is_Symbol}

    def way(self, name: str) -> str:
        tensor = self.maker.program.tensors[name]
        back = tensor.role == "gradient" or (tensor.origin or ("",))[0] == "adjoint"
        return "backward" if back else "forward"

    # -- one equation ---------------------------------------------------------------------------
    def worked(self, eq: Equation) -> list[Block]:
        """Its first elements with their numbers."""
        value = self.values[eq.name]
        places = list(itertools.product(*map(range, value.shape)))
        shown = places if len(places) <= _LINES else places[:_LINES - 1]
        lines = [((self.maker.ref(eq.name),), self.line(eq, place)) for place in shown]
        blocks: list[Block] = [Display(tuple(lines))]
        if len(shown) < len(places):
            more = str(len(places) - len(shown))
            blocks.append(Paragraph(self.maker.words("numbers.more", count=more), quiet=True))
        return blocks

    def line(self, eq: Equation, place: tuple[int, ...]) -> Math:
        """``h[0] = σ(u[0]) = σ(0.6) = 0.64566``."""
        setter, builder = self.maker.setter(), Builder(eq.indices)
        at = tuple(map(Integer, place))
        left = builder.build(eq.tensor.at(*at))
        parts: list[n.Node] = [left]
        try:
            env = dict(zip(eq.indices, at, strict=True))
            inside: n.Node = builder.build(self.put(eq.body, env))
            if len(self.maker.text(inside)) <= _SYMBOLIC:
                parts.append(inside)
            parts.append(self.filled(inside))
        except _TooLongError:
            pass
        value = self.coloured(eq.name, place)
        if parts[-1] != value:  # a plain copy has its value already
            parts.append(value)
        items: list[Box] = []
        for k, part in enumerate(parts):
            items += [Token("=", "op"), setter.set(part)] if k else [setter.set(part)]
        return Math(row(*items), " = ".join(map(self.maker.text, parts)))

    def put(self, expr: Expr, env: Mapping[Index, Expr]) -> Any:
        """``expr`` at given indices, its sums written out."""
        if isinstance(expr, Index):
            return env[expr]
        if expr in self.sizes:
            return self.sizes[expr]
        if isinstance(expr, Access):
            at = tuple(self.put(w, env) for w in expr.where)
            if isinstance(expr, IntegerAccess):
                return Integer(int(self.values[expr.name][tuple(map(int, at))]))
            return Access(expr.name, *at)
        if isinstance(expr, Reduction):
            return self.written_out(expr, env)
        if isinstance(expr, Select):
            condition = self.put(expr.condition, env)
            if condition in (sympy.true, sympy.false):
                return self.put(expr.yes if condition == sympy.true else expr.no, env)
            return Select(condition, self.put(expr.yes, env), self.put(expr.no, env))
        return expr.func(*(self.put(a, env) for a in expr.args)) if expr.args else expr

    def written_out(self, expr: Reduction, env: Mapping[Index, Expr]) -> Expr:
        extents = [int(index.size.xreplace(self.sizes)) for index in expr.bound]
        terms = [
            self.put(expr.body, {**env, **dict(zip(expr.bound, map(Integer, k), strict=True))})
            for k in itertools.product(*map(range, extents))
        ]
        if len(terms) > _TERMS:
            raise _TooLongError
        if isinstance(expr, SumOver):
            return Add(*terms)
        if isinstance(expr, ProdOver):
            return Mul(*terms)
        if isinstance(expr, LogSumExpOver):
            return sympy.log(Add(*map(sympy.exp, terms)))
        raise _TooLongError

    def filled(self, node: Any) -> Any:
        """A formula with each element's value in its place."""
        if isinstance(node, n.Element):
            at = tuple(int(w.text) for w in node.where if isinstance(w, n.Number))
            return self.coloured(node.name.code, at)
        if isinstance(node, tuple):
            return tuple(map(self.filled, node))
        if is_dataclass(node) and not isinstance(node, type):
            return replace(node, **{f.name: self.filled(getattr(node, f.name))
                                    for f in fields(node)})
        return node

    def coloured(self, name: str, place: tuple[int, ...]) -> n.Number:
        return n.Number(number(float(self.values[name][place])), self.way(name))

    # -- all values -----------------------------------------------------------------------------
    def label(self, name: str) -> str:
        """The value of a tensor for the picture, where it has room."""
        value = self.values.get(name)
        return "" if value is None or value.size > _LINES else _listed(value, 3)

    def table(self) -> Table:
        """Every tensor with its value and its gradient."""
        maker, rows = self.maker, []
        program = maker.program
        shown = [*(t.name for t in program.given), *(eq.name for eq in maker.forward)]
        for name in shown:
            adjoint = program.gradients.get(name, f"_d_{name.lstrip('_')}")
            back: Spans = ()
            if adjoint in self.values:
                back = (Coloured(_listed(self.values[adjoint]), "backward"),)
            ref: Spans = (maker.ref(name),) if name in maker.numbers else ()
            value = Coloured(_listed(self.values[name]), "forward")
            rows.append((ref, (maker.symbol(name),), (value,), back))
        words = maker.words
        head = ((), words("numbers.name"), words("numbers.value"), words("numbers.gradient"))
        return Table(head, tuple(rows), "clll")


def _listed(array: np.ndarray, digits: int = 5) -> str:
    """Values in a line: rows between semicolons."""
    if array.ndim == 0:
        return number(float(array), digits)
    if array.ndim == 1:
        inner = ", ".join(number(float(v), digits) for v in array)
        return inner if len(array) == 1 else f"({inner})"
    return "; ".join(_listed(part, digits) for part in array)
