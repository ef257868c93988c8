"""Printed formulas, read again: what stands in the LaTeX of a document → values → compared.

A document is built by a maker that keeps, of every formula, what it was made from
(`tests.remembered`). The LaTeX of each is then read by the strict grammar of `derive.tex`, whose
symbols are those of the document, and what was read has to have, at a random point, the values of
the derived program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import sympy
from sympy import Expr, S, Symbol
from sympy.logic.boolalg import Boolean

from derive import notation as n
from derive.bodies import guarded
from derive.document.record import Entry as Entry_
from derive.document.record import entries
from derive.errors import ChainruleError
from derive.graph import svg_text
from derive.latex import box_latex
from derive.mathml import math
from derive.nodes import Access, Index
from derive.notate import Builder
from derive.notation import walk
from derive.points import default_sizes, random_values
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate, evaluate_equation
from derive.symbols import Style, Symbols
from derive.tex import tree as t
from derive.tex.grammar import parse
from derive.tex.lines import formulas
from derive.tex.names import Entry, Layout, Names, declared_names, node_key, symbol_key
from derive.tex.source import Source
from derive.tex.terms import Reader
from derive.tex.values import MisfitError, Value, as_number, put
from derive.text import node_text
from tests.mathml_latex import mathml_latex, mathml_letters, svg_letters, tokens
from tests.remembered import Printed
from tests.sliding import Meaning, SlidingReader, meaning, with_slid

#: what breaks a formula into lines
_BREAKS = re.compile(r"\\(begin|end)\{aligned\}(\[t\])?|\\\\\n|^&(\\qquad \{\})?", re.MULTILINE)


class Different(AssertionError):
    """What was printed means something else than what it was made from."""


@dataclass
class Proofreader:
    """Reads the formulas of one program, and compares them at one random point."""

    program: Program
    style: Style = field(default_factory=Style)
    seed: int = 1
    values: Mapping[str, Any] | None = None
    meanings: tuple[Meaning, ...] = ()  # of the signs ∗ and ⋆

    def __post_init__(self) -> None:
        self.sizes = default_sizes(self.program)
        values = self.values or random_values(self.program, self.seed, self.sizes)
        self.arrays = {**{k: np.asarray(v) for k, v in values.items()},
                       **evaluate(self.program, values, None, self.sizes)}
        self.known = {s: self.sizes[s.name] for s in self.program.sizes}
        self.tensors = dict(self.program.tensors)
        self.of = {g: p for p, g in self.program.gradients.items()} | {
            tensor.name: tensor.origin[1] for tensor in self.tensors.values()
            if tensor.origin is not None and tensor.origin[0] == "adjoint"}
        for entry in entries(self.program):
            if isinstance(entry, Entry_) and entry.equation is None:  # put in where it is read
                self.tensors[entry.name] = Tensor(entry.name, tuple(entry.indices))
                self.of[entry.name] = entry.of
                self.arrays[entry.name] = self.value(entry.final, entry.indices)
        self.layout = Layout(samples=self.style.samples, gradients=self.style.layout)
        self.readers: dict[int, tuple[Symbols, Names]] = {}

    # -- reading --------------------------------------------------------------------------------
    def names(self, symbols: Symbols) -> Names:
        """What the symbols of a document (or of its layer ℓ) stand for."""
        if id(symbols) not in self.readers:
            program = self.program
            names = declared_names(program, symbols)
            for name, of in self.of.items():
                symbol, entry = symbols.tensor(name), Entry(self.tensors[name],
                                                            of=program.tensors[of])
                names.entries[symbol_key(symbol)] = entry
                if symbol.loss is None or symbol_key(symbol.loss) in names.losses:
                    names.adjoints[of] = entry
            self.readers[id(symbols)] = symbols, names
        return self.readers[id(symbols)][1]

    def parts(self, item: Printed) -> tuple[Source, list[t.Node]]:
        """What stands between the equals signs of a formula."""
        source = Source(f"0 = {item.latex}", "a document").checked()
        (formula,) = formulas(source)
        tree = parse(source, formula.spans)
        assert isinstance(tree, t.Relation) and set(tree.ops) == {"="}, item.latex
        return source, list(tree.parts[1:])

    def reader(self, item: Printed, source: Source) -> tuple[SlidingReader, dict[str, Index]]:
        names = self.names(item.symbols)
        for part in item.parts:  # the x and y of the table of functions
            if isinstance(part, Expr) and part.atoms(Symbol) - part.atoms(Index) - set(
                    self.program.sizes):
                names = replace(names, entries={x: Entry(Tensor(f"_{x}", ())) for x in "xy"})
        reader = SlidingReader(source, names, self.layout)
        letters = {symbol_key(item.symbols.index(i.name)): i for i in item.indices}
        reader.letters = set(letters)
        return reader, letters

    # -- comparing ------------------------------------------------------------------------------
    def check(self, item: Printed) -> None:
        """
        Raises:
            ChainruleError, MisfitError: the formula cannot be read.
            Different: it has another meaning.
        """
        _CHECKS[item.kind](self, item)

    def _index_form(self, item: Printed) -> None:
        source, nodes = self.parts(item)
        reader, letters = self.reader(item, source)
        if len(nodes) != len(item.parts):
            raise Different(f"{item.latex}: {len(nodes)} parts, not {len(item.parts)}")
        for node, part in zip(nodes, item.parts, strict=True):
            if isinstance(part, tuple):
                self._derivative(reader, letters, node, part)
                continue
            found = [self._scalar(v, letters) for v in map(as_number, reader.values(node))]
            letter = {s: Access(f"_{s.name}") for s in part.atoms(Symbol) if s.name in ("x", "y")}
            for body in found:
                self._same(item, body, part.xreplace(letter))

    def _scalar(self, value: Value, letters: Mapping[str, Index]) -> Expr:
        if value.axes:
            raise Different(f"an array, not a number: {value}")
        return put(value.body, {s: letters[s.name] for s in value.body.free_symbols
                                if isinstance(s, Index) and s.name in letters})

    def _derivative(self, reader: Reader, letters: Mapping[str, Index], node: t.Node,
                    pair: tuple[Access, Access]) -> None:
        assert isinstance(node, t.Frac), "a derivative is a fraction"
        for side, access in zip((node.above, node.below), pair, strict=True):
            assert isinstance(side, t.Seq) and len(side.pieces) == 2
            sign, what = side.pieces
            assert isinstance(sign, t.Mark) and sign.kind == "PARTIAL"
            found = {self._scalar(v, letters) for v in reader.values(what)}
            if found != {access}:
                raise Different(f"{found} is printed for {access}")

    def value(self, body: Expr, indices: Sequence[Index]) -> np.ndarray:
        target = Tensor("_read", tuple(indices))
        tensors = {**self.tensors, "_read": target}
        letters = {s for s in body.atoms(Access) if s.name not in tensors}
        arrays = {**self.arrays, **{a.name: np.array(0.3 if a.name == "_x" else 0.7)
                                    for a in letters}}
        tensors |= {a.name: Tensor(a.name, ()) for a in letters}
        body = guarded(body, tensors, self._outside)
        return evaluate_equation(Equation(target, tuple(indices), body), arrays, self.known)

    def _outside(self, tensor: Tensor, access: Access, axis: int) -> Expr:
        """What is read beyond the first step of a recurrence stands beside the formula."""
        first = Names(self.program).first_value(tensor.name)
        if first is None:
            return S.Zero
        rest = [w for d, w in enumerate(access.where) if d != axis]
        return first.func(*first.args[:1], *rest)

    def _same(self, item: Printed, read: Expr, made: Expr) -> None:
        free = [i for i in item.indices if i in made.free_symbols or i in read.free_symbols]
        self._close(item, self.value(read, free), self.value(made, free))

    def _close(self, item: Printed, got: np.ndarray, expected: np.ndarray) -> None:
        if not np.isfinite(expected).any():
            raise Different(f"{item.latex} has no value at this point")
        scale = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
        if not np.allclose(got, expected, rtol=1e-9, atol=1e-11 * scale, equal_nan=True):
            raise Different(f"{item.latex}\n  read as {got.ravel()[:4]}, "
                            f"the program has {expected.ravel()[:4]}")

    def _matrix_form(self, item: Printed, meanings: tuple[Meaning, ...] = ()) -> None:
        source, (left, right) = self.parts(item)
        reader, letters = self.reader(item, source)
        (head,) = reader.values(left)
        # whole numbers that are no labels: lengths, say
        reader.labels_wanted = r"\mathrm{onehot}" not in item.latex
        eq = item.equation
        if not isinstance(head.body, Access) or eq is None or head.body.name != eq.name \
                or [w for w in head.body.where if w not in head.kept] != [
                    w for w, h in zip(eq.target.where, head.body.where, strict=True)
                    if h not in head.kept]:
            raise Different(f"{item.latex} defines {head.body}, not {eq}")
        sizes = [a and a.size for a in head.axes]
        reader.meanings, reader.sizes = meanings, tuple(sizes)
        values = [v for v in map(as_number, reader.values(with_slid(right)))
                  if not v.axes or [a and a.size for a in v.axes] == sizes]
        if not values:
            raise Different(f"{item.latex}: no reading has the sizes {sizes}")
        for value in values:
            pairs = {b: a for a, b in zip(head.axes, value.axes, strict=False) if b is not None}
            known = dict(letters)
            indices = [*letters.values(), *head.kept]
            got, expected = (
                put(put(v.body, pairs), {s: known[s.name] for s in v.body.free_symbols
                                         if isinstance(s, Index) and s.name in known})
                for v in (value, head))
            free = [i for i in indices if i in expected.free_symbols]
            self._close(item, self.value(got, free), self.value(expected, free))

    def _symbol(self, item: Printed) -> None:
        (name,) = item.parts
        source = Source(item.latex, "a document")
        node = parse(source, [(0, len(source.text))])
        reader, _ = self.reader(item, source)
        tensor = self.program.tensors[name]
        if tensor.dtype == "int":
            reader.labels_wanted = True
        for value in reader.values(node):
            if not isinstance(value.body, Access) or value.body.name != name:
                raise Different(f"{item.latex} is read as {value.body}, not as {name}")

    def _index(self, item: Printed) -> None:
        (name,) = item.parts
        node = parse(Source(item.latex, "a document"), [(0, len(item.latex))])
        if node_key(node) != symbol_key(item.symbols.index(name)):
            raise Different(f"{item.latex} is read as {node_key(node)}, not as {name}")

    def _arrow(self, item: Printed) -> None:
        for text, made in zip(item.latex.split(r"\to"), item.parts, strict=True):
            source = Source(text, "a document")
            reader, letters = self.reader(replace(item, indices=tuple(made.atoms(Index))), source)
            (value,) = reader.values(parse(source, [(0, len(text))]))
            if sympy.expand(self._scalar(value, letters) - made) != 0:
                raise Different(f"{item.latex} is read as {value.body}, not as {made}")

    def _shape(self, item: Printed) -> None:
        texts = item.latex.split(r"\times")
        if len(texts) != len(item.parts):
            raise Different(f"{item.latex} has {len(texts)} sizes, not {len(item.parts)}")
        for text, made in zip(texts, item.parts, strict=True):
            source = Source(text, "a document")
            reader, _ = self.reader(item, source)
            (value,) = reader.values(parse(source, [(0, len(text))]))
            if value.body != made:
                raise Different(f"{item.latex} is read as {value.body}, not as {made}")

    def _note(self, item: Printed) -> None:
        """Conditions and first values, compared as notation: they have no indices of their own."""
        if isinstance(item.node, n.Statement):
            source, nodes = self.parts(item)
            made = [item.node.left, item.node.right]
        else:
            source = Source(_BREAKS.sub("", item.latex), "a document")
            nodes, made = [parse(source, [(0, len(source.text))])], [item.node]
        if isinstance(item.node, n.Relation) and isinstance(nodes[0], t.Relation):
            if nodes[0].ops != item.node.ops:
                raise Different(f"{item.latex} has other signs than {node_text(item.node)}")
            nodes, made = list(nodes[0].parts), list(item.node.parts)
        for node, right in zip(nodes, made, strict=True):
            names = {name.code for name in walk(right)
                     if isinstance(name, n.Name) and name.kind == "index"}
            reader = Reader(source, self.names(item.symbols), self.layout)
            back = {symbol_key(item.symbols.index(i)): i for i in names}
            reader.letters = set(back)
            found = {self._noted(v.body, back) for v in reader.values(node)}
            if found != {node_text(right)}:
                raise Different(f"{item.latex} is read as {found}, not as {node_text(right)}")

    def _noted(self, body: Any, back: Mapping[str, str]) -> str:
        body = body.xreplace({s: Index(back[s.name], s.size) for s in body.atoms(Index)
                              if s.name in back})
        condition = isinstance(body, Boolean) and not isinstance(body, Symbol)
        return node_text(Builder().condition(body) if condition else
                         Builder().index(body) if body.has(Index) and not body.has(Access) else
                         Builder().build(body))

    def _contraction(self, item: Printed) -> None:
        """A call of einsum as it stands, by NumPy's own."""
        eq = item.equation
        assert eq is not None
        known = {"einsum": np.einsum, "sqrt": np.sqrt}
        found = eval(item.math.plain, known, {**self.sizes, **self.arrays})
        self._close(item, found, self.arrays[eq.name])

    def _convolution(self, item: Printed) -> None:
        self._matrix_form(item, self.meanings)

    def _meaning(self, item: Printed) -> None:
        """What ∗ or ⋆ means, by the equation that it stands at."""
        shown = replace(item, math=item.node, written="", indices=item.equation.indices)
        self._matrix_form(shown, (meaning(item.latex), *self.meanings))

    def _board(self, item: Printed) -> None:
        """A worked line: every part of it has the value at its end, to the digits written."""
        source, nodes = self.parts(item)
        reader, letters = self.reader(item, source)
        found = [float(self.value(self._scalar(v, letters), ())) for node in nodes
                 for v in map(as_number, reader.values(node))]
        if not np.allclose(found, found[0], rtol=1e-3, atol=1e-4 * max(map(abs, found))):
            raise Different(f"{item.latex}: {found}")


def check_all(program: Program, found: Sequence[Printed], style: Style | None = None,
              values: Mapping[str, Any] | None = None) -> int:
    """Check the formulas of a document; returns how many there were.

    Raises:
        AssertionError: those that are not read, or mean something else.
    """
    wrong: list[str] = []
    count = 0
    for item, trouble in verdicts(program, found, style, values):
        count += 1
        if trouble is not None:
            wrong.append(f"{item.kind}: {item.latex}: {trouble}")
    assert not wrong, "\n".join(wrong)
    return count


def verdicts(program: Program, found: Sequence[Printed], style: Style | None = None,
             values: Mapping[str, Any] | None = None
             ) -> Iterator[tuple[Printed, Exception | None]]:
    """Each formula that can be checked, and why it is not equal, if it is not."""
    readers = {id(program): Proofreader(program, style or Style(), values=values, meanings=tuple(
        meaning(item.latex) for item in found if item.kind == "meaning"))}
    for item in found:
        if item.kind not in CHECKED:
            continue
        if id(item.program) not in readers:  # that of an optimizer
            drawn = random_values(item.program, 1)
            small = {p.name: 0.6 * drawn[p.name] for p in item.program.given
                     if p.role == "constant"}  # decays below 1
            readers[id(item.program)] = Proofreader(item.program, values={**drawn, **small})
        try:
            readers[id(item.program)].check(item)
            yield item, None
        except (Different, ChainruleError, MisfitError) as trouble:
            yield item, trouble


def second_outputs(found: Sequence[Printed]) -> Iterator[tuple[Printed, Exception | None]]:
    """Each formula's MathML, and each label's SVG, beside its LaTeX: whether it says the same."""
    for item in found:
        box = item.math.box
        if item.kind == "contraction":  # is text in every output
            continue
        if item.kind == "label":
            same = svg_letters(svg_text(box)) == mathml_letters(math(box))
            yield item, None if same else Different(f"the SVG says {svg_text(box)}")
            continue
        try:
            made = mathml_latex(math(box))
            same = tokens(made) == tokens(box_latex(box))
        except (ChainruleError, KeyError, ParseError) as trouble:
            yield item, trouble
            continue
        yield item, None if same else Different(f"the MathML says {made}")


_CHECKS = {
    "index form": Proofreader._index_form, "closed form": Proofreader._index_form,
    "step": Proofreader._index_form, "local derivative": Proofreader._index_form,
    "matrix form": Proofreader._matrix_form, "symbol": Proofreader._symbol,
    "index": Proofreader._index, "arrow": Proofreader._arrow, "shape": Proofreader._shape,
    "note": Proofreader._note, "contraction": Proofreader._contraction,
    "convolution": Proofreader._convolution, "meaning": Proofreader._meaning,
    "board": Proofreader._board, "label": Proofreader._symbol,
}  # fmt: skip
#: kinds of formulas that are read; those of the catalogue of messages have no program
CHECKED = set(_CHECKS)
