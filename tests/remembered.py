"""Documents whose formulas remember what they were made from: `printed` builds one, and says of
every formula in it, of every label in its pictures, which expressions or equation it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from unittest import mock

from derive.boxes import Box, Row, Token
from derive.convolutions import convolution_form
from derive.document.blackboard import _Board
from derive.document.build import build_document
from derive.document.forms import Maker
from derive.document.tex import broken
from derive.document.tree import Document, Math
from derive.graph import Picture
from derive.nodes import Index
from derive.program import Equation, Program
from derive.symbols import Symbols


@dataclass(frozen=True)
class Printed:
    """A formula of a document with what it was made from.

    ``parts``: what stands between its equals signs, as expressions over ``indices`` (a pair is a
    derivative: of the first by the second); of a matrix form its equation. ``written``: LaTeX that
    stands for the formula in the place of that of a document.
    """

    kind: str
    math: Math
    program: Program
    symbols: Symbols
    indices: tuple[Index, ...] = ()
    parts: tuple[Any, ...] = ()
    equation: Equation | None = None
    node: Any = None
    written: str = ""

    @property
    def latex(self) -> str:
        return self.written or broken(self.math.box)


class RememberingMaker(Maker):
    """A maker that keeps what each of its formulas was made from."""

    kept: dict[int, Printed]  # by the formula, or by the box of a label
    contractions: dict[tuple[str, str], Equation]

    def _keep(self, kind: str, math: Math, **what: Any) -> Math:
        self.kept[id(math)] = Printed(kind, math, self.program, self.symbols, **what)
        return math

    def node(self, node):
        return self._keep("note", super().node(node), node=node)

    def symbol(self, name, bold=False):
        return self._keep("symbol", super().symbol(name, bold), parts=(name,))

    def label(self, name):
        box = super().label(name)
        self.kept[id(box)] = Printed("label", Math(box, name), self.program, self.symbols,
                                     parts=(name,))
        return box

    def index(self, name):
        return self._keep("index", super().index(name), parts=(name,))

    def expr(self, expr, indices=()):
        return self._keep("step", super().expr(expr, indices), indices=tuple(indices),
                          parts=(expr,))

    def equals(self, left, indices, body):
        return self._keep("closed form", super().equals(left, indices, body),
                          indices=tuple(indices), parts=(left, body))

    def derivative(self, above, below, value, indices):
        return self._keep("local derivative", super().derivative(above, below, value, indices),
                          indices=tuple(indices), parts=((above, below), value))

    def chain(self, left, parts, indices):
        whole = ((left,) if left is not None else ()) + tuple(parts)
        return self._keep("step", super().chain(left, parts, indices), indices=tuple(indices),
                          parts=whole)

    def arrow(self, index, value, variables):
        return self._keep("arrow", super().arrow(index, value, variables),
                          parts=(index, value))

    def shape(self, shape):
        return self._keep("shape", super().shape(shape), parts=tuple(shape))

    def shown(self, eq, *args, **kwargs):
        made = super().shown(eq, *args, **kwargs)
        if made.contraction:
            self.contractions[made.contraction, eq.name] = eq
        self._keep("index form", made.index, indices=eq.indices, parts=(eq.target, eq.body),
                   equation=eq)
        if made.matrix is not None:
            sliding = eq.tensor.rank > 2 and convolution_form(eq, self.program.tensors)
            self._keep("convolution" if sliding else "matrix form", made.matrix,
                       indices=eq.indices, equation=eq)
            for formula in _formulas(made.reasons) if sliding else ():
                if Token("=", "op") in getattr(formula.box, "items", ()):
                    self._keep("meaning", formula, equation=eq, node=made.matrix)
        return made


class RememberingBoard(_Board):
    """A blackboard that keeps of each line which element it works."""

    def line(self, eq, place):
        return self.maker._keep("board", super().line(eq, place), equation=eq)


def printed(program: Program, **options: Any) -> tuple[Document, list[Printed]]:
    """A document and every formula in it, in order; those of the catalogue of messages are of the
    kind "text"."""
    kept: dict[int, Printed] = {}
    contractions: dict[tuple[str, str], Equation] = {}
    made = type("Maker", (RememberingMaker,), {"kept": kept, "contractions": contractions})
    with mock.patch("derive.document.build.Maker", made), \
            mock.patch("derive.document.sections.Maker", made), \
            mock.patch("derive.document.blackboard._Board", RememberingBoard):
        document = build_document(program, **options)
    plain = Symbols(program)
    found = [kept.get(id(m), Printed("text", m, program, plain))
             for m in _formulas(document.sections)]
    found += [kept[id(box)] for box in _labels(document.sections)]
    found += [Printed("contraction", Math(Row(()), text), program, plain, equation=eq)
              for (text, _), eq in contractions.items()]
    return document, found


def _labels(node: Any) -> Iterator[Box]:
    """What stands in the boxes of pictures."""
    if isinstance(node, Picture):
        for drawn in node.nodes:
            yield from (box for box in (drawn.label, drawn.adjoint) if box is not None)
    elif isinstance(node, tuple):
        for part in node:
            yield from _labels(part)
    elif is_dataclass(node):
        for f in fields(node):
            yield from _labels(getattr(node, f.name))


def _formulas(node: Any) -> Iterator[Math]:
    if isinstance(node, Math):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _formulas(part)
    elif is_dataclass(node):
        for f in fields(node):
            yield from _formulas(getattr(node, f.name))
