"""The makers of formulas: program, symbols, language and folding in one place.

`Maker` is what every section is written with; it numbers equations and turns an equation of the
program into one of the document, with its matrix form, shape check and reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import sympy
from sympy import Expr

from derive import notation as n
from derive.boxes import Box, Fence, Frac, Row, Script, Token, row
from derive.convolutions import Sign, convolution_form
from derive.document.expected import equal_scores, is_log_loss
from derive.document.folding import Fold, Folding
from derive.document.record import Entry, Helper, entries
from derive.document.tree import Equation as Shown
from derive.document.tree import Math, Ref, Span, Spans, Words, listed
from derive.einsum import einsum_text
from derive.errors import unknown_name
from derive.layout import Setter
from derive.matrix import matrix_form, whole
from derive.nodes import Access, Index, bound_indices
from derive.notate import Builder, statement
from derive.notation import Node
from derive.orientation import Orientation
from derive.program import Equation, Program
from derive.symbols import Style, Symbols
from derive.text import node_text


@dataclass
class Maker:
    """Makes the formulas of one document.

    ``detail`` is "summary", "standard" or "full".
    """

    program: Program
    words: Words
    detail: str
    style: Style
    numbers: dict[str, int] = field(default_factory=dict)
    rules: dict[str, None] = field(default_factory=dict)  # used, in order

    def __post_init__(self) -> None:
        self.plain = Symbols(self.program, self.style)
        self.forward = self._forward_equations()
        self.folding = Folding(self.program, self.forward)
        self.told_norms: dict[object, tuple[str, str]] = {}  # where each kind was told, of what
        self.appendix = self.detail != "summary"  # where the rules stand
        self.fold: Fold | None = None  # the fold whose layer ℓ is being written about
        self._story: list[Entry | Helper] | None = None
        self._layers: dict[Fold, Symbols] = {}
        self._said: set[Box] = set()  # definitions of signs
        self.recurrent = {eq.name: group for group in self.program.groups if group.recurrent
                          for eq in group.equations}
        self.orientation = _orientation(self.program, self.style)
        known = {i.name for eq in self.program.equations for i in (*eq.indices, *bound_indices(
            eq.body))} if self.style.indices else set()
        for kind, named, there in (("tensor", self.style.names, self.program.tensors),
                                   ("index", self.style.indices, known)):
            for name in named:
                if name not in there:
                    raise unknown_name(kind, name, there)

    def _forward_equations(self) -> tuple[Equation, ...]:
        generated = {"softmax", "ties", "prod", "adjoint"}
        return tuple(eq for eq in self.program.equations if eq.why not in generated)

    @cached_property
    def equal_scores(self) -> tuple[str, int, str] | None:
        """The scores, classes and loss of a classifier; see `derive.document.expected`."""
        return equal_scores(self.program)

    @cached_property
    def log_loss(self) -> bool:
        """Whether that loss is minus the logarithm of the softmax at the label."""
        return self.equal_scores is not None and is_log_loss(self.program, *self.equal_scores)

    @property
    def story(self) -> list[Entry | Helper]:
        if self._story is None:
            self._story = entries(self.program)
        return self._story

    # -- which tensors are written about ------------------------------------------------------
    def hidden(self, name: str) -> bool:
        """Whether another layer stands for the layer of this tensor."""
        place = self.folding.places.get(name)
        if place is None or place.layer == place.fold.shown:
            return False
        eq = self.program.defined.get(name)
        return eq is None or self.folding.alike(eq) is not None

    def fold_of(self, name: str) -> Fold | None:
        """The fold that ``name`` stands for, if it is the one that is shown."""
        place = self.folding.places.get(name)
        return place.fold if place and place.layer == place.fold.shown else None

    def number_of(self, name: str) -> int | None:
        """The number of the equation that defines ``name``, or of its likeness in layer ℓ."""
        place = self.folding.places.get(name)
        if name not in self.numbers and place is not None:
            name = self.folding.partner(name, place.fold.shown) or name
        return self.numbers.get(name)

    def new_number(self, name: str) -> int:
        self.numbers[name] = len(self.numbers) + 1
        return self.numbers[name]

    # -- formulas -----------------------------------------------------------------------------
    @property
    def symbols(self) -> Symbols:
        if self.fold is None:
            return self.plain
        if self.fold not in self._layers:
            self._layers[self.fold] = self.folding.symbols(self.plain, self.fold)
        return self._layers[self.fold]

    def setter(self) -> Setter:
        made = Setter(self.symbols)
        made.when, made.otherwise = self.words.text("if"), self.words.text("otherwise")
        return made

    def node(self, node: Node | n.Statement) -> Math:
        return Math(self.setter().set(node), self.text(node))

    @staticmethod
    def text(node: Node | n.Statement) -> str:
        if isinstance(node, n.Statement):
            return f"{node_text(node.left)} = {node_text(node.right)}"
        return node_text(node)

    def expr(self, expr: Expr, indices: Iterable[Index] = ()) -> Math:
        return self.node(Builder(indices).build(expr))

    def equals(self, left: Access, indices: Iterable[Index], body: Expr) -> Math:
        return self.node(statement(left, indices, body))

    def symbol(self, name: str, bold: bool = False) -> Math:
        rank = self.program.tensors[name].rank if name in self.program.tensors else 0
        return self.node(whole(name, rank if bold else 0))

    def label(self, name: str) -> Box:
        """A symbol in a picture: a derivative on one line, with a slash."""
        setter = self.setter()
        setter.small = True
        return setter.symbol(self.symbols.tensor(name))

    def index(self, name: str) -> Math:
        return self.node(n.Name(name, "index"))

    def derivative(self, above: Access, below: Access, value: Expr,
                   indices: Iterable[Index]) -> Math:
        """``∂above/∂below = value``."""
        builder, setter = Builder(indices), self.setter()
        top, bottom = builder.build(above), builder.build(below)
        made = builder.build(value)
        box: Box = row(
            Frac(row(Token("∂"), setter.set(top)), row(Token("∂"), setter.set(bottom))),
            Token("=", "op"), setter.set(made),
        )
        return Math(box, f"d {self.text(top)} / d {self.text(bottom)} = {self.text(made)}")

    def chain(self, left: Access | None, parts: list[Expr], indices: Iterable[Index]) -> Math:
        """``left = part = part …``."""
        builder, setter = Builder(indices), self.setter()
        nodes = [builder.build(p) for p in ([left] if left is not None else []) + parts]
        items: list[Box] = []
        for k, node in enumerate(nodes):
            items += [Token("=", "op"), setter.set(node)] if k else [setter.set(node)]
        return Math(row(*items), " = ".join(map(self.text, nodes)))

    def arrow(self, index: Index, value: Expr, variables: Iterable[Index]) -> Math:
        """``p → (m - r)/2``: what stands in the place of an index."""
        builder, setter = Builder(variables), self.setter()
        left, right = builder.build(index), builder.index(value)
        box = row(setter.set(left), Token("→", "op"), setter.set(right))
        return Math(box, f"{self.text(left)} -> {self.text(right)}")

    def shape(self, shape: tuple[Expr, ...]) -> Math:
        """``B × 64``."""
        items: list[Box] = []
        for k, size in enumerate(shape):
            box = self.setter().set(Builder().build(size))
            items += [Token("×", "op"), box] if k else [box]
        return Math(row(*items) if items else Row(()), " x ".join(map(str, shape)))

    # -- references ---------------------------------------------------------------------------
    def ref(self, name: str) -> Span:
        number = self.number_of(name)
        return Ref(f"eq-{number}", f"({number})") if number else self.symbol(name)

    def refs(self, names: Iterable[str]) -> Spans:
        shown = dict.fromkeys(self.ref(name) for name in names)
        return listed([(s,) for s in shown])

    def rule(self, key: str) -> Span:
        """A reference to a rule, which then stands in the appendix, where there is one."""
        stem = key.split(":")[0]
        self.rules.setdefault(stem)
        title = self.words.text(f"rule.{stem}.title")
        if not self.appendix:
            return title
        return Ref(f"rule-{stem}", title)

    # -- equations ----------------------------------------------------------------------------
    def shown(self, eq: Equation, number: int | None = None, result: bool = False,
              note: Spans = (), explain: bool = True) -> Shown:
        """An equation of the program as one of the document."""
        setter = self.setter()
        made = statement(eq.target, eq.indices, eq.body)
        index = Math(setter.set(made), self.text(made))
        note = listed([part for part in (note, self._first_values(setter), self._recursion(eq))
                       if part], "; ")
        sliding = convolution_form(eq, self.program.tensors) if eq.tensor.rank > 2 else None
        if sliding is not None:
            made_of = self.node(sliding.statement)
            return Shown(number, index, made_of, note=note, result=result,
                         reasons=tuple(filter(None, map(self._sliding, sliding.signs))))
        form = None
        if eq.indices or eq.reads:
            form = matrix_form(eq, self.orientation)
        if form is not None and len(self.text(form.statement)) > max(60, 1.6 * len(index.plain)):
            form = None  # a form that is longer than the index form explains nothing
        if form is None:
            contraction = einsum_text(eq) or ""
            if eq.tensor.rank <= 2 and all(
                self.program.tensors[r].rank <= 1 for r in eq.reads
            ):
                contraction = ""  # nothing that a contraction would make clearer
            elif "," not in contraction:
                contraction = ""  # a sum of one tensor says it itself
            return Shown(number, index, None, contraction, note=note, result=result)
        matrix: Math | None = Math(self.setter().set(form.statement),
                                   self.text(form.statement))
        assert matrix is not None
        if matrix.box == index.box or all(
            self.program.tensors[r].rank == 0 for r in (eq.name, *eq.reads)
        ):
            matrix = None  # scalars: one form is enough
        reasons = tuple(
            self.words(f"form.transposed.{t.side}", symbol=self.symbol(t.name, bold=True),
                       index=self.index(t.index))
            for t in form.transposed
        ) if explain else ()
        if reasons:
            self.rules.setdefault("matrix")
        return Shown(number, index, matrix, "", form.shapes, reasons, note, result)

    def _sliding(self, form: Sign) -> Spans:
        """What ⋆ or ∗ means here: said once for each pair of arrays."""
        made = form.node
        setter = self.setter()
        sign = Fence("(", setter.set(replace(made, left=n.Whole(made.left.name),
                                             right=n.Whole(made.right.name))), ")")
        right = setter.set(form.meaning.right)
        box = row(Script(sign, row(*(setter.set(f) for f in made.free))), Token("=", "op"), right)
        if box in self._said:
            return ()
        self._said.add(box)
        formula = Math(box, f"{self.text(made)} = {self.text(form.meaning.right)}")
        said = self.words("form.flipped" if form.flipped else "form.slides", formula=formula,
                          symbol=self.symbol(form.kernel, bold=True))
        if form.strided and form.flipped:
            said = (*said, " ", *self.words("form.spread"))
        return said

    def recursion(self, eq: Equation) -> tuple[Index, int] | None:
        """Of an equation that reads another step of its own recurrence: the index of the steps and
        which way it is worked."""
        group = self.recurrent.get(eq.name)
        if group is None:
            return None
        index = eq.indices[group.axis[eq.name]]
        members = {member.name for member in group.equations}
        if all(a.where[group.axis[a.name]] == index for a in eq.body.atoms(Access)
               if a.name in members):
            return None
        return index, group.step

    def _recursion(self, eq: Equation) -> Spans:
        found = self.recursion(eq)
        if found is None:
            return ()
        index, step = found
        ends = [self.expr(sympy.S.Zero), self.node(Builder().index(index.size - 1))]
        first, last = ends if step > 0 else ends[::-1]
        if (eq.tensor.origin or ("",))[0] == "adjoint":
            return self.words("backward.recursion", index=self.index(index.name), first=first,
                              last=last, rule=self.rule("recursion"))
        return self.words("forward.recursion", index=self.index(index.name), first=first, last=last)

    def _first_values(self, setter: Setter) -> Spans:
        out = [
            self.words("forward.first", formula=self.node(left), condition=self.node(condition))
            for left, condition in setter.notes.items()
        ]
        out += [self.words("forward.padded", symbol=self.symbol(name.code))
                for name in setter.padded]
        return listed(out, "; ")

    def layer_note(self, name: str) -> Spans:
        """``for ℓ = 2, …, 49``: which layers an equation stands for."""
        first, last = self.folding.range_of(name)
        return self.words("layer.range", first=Math(Token(str(first), "number"), str(first)),
                          last=Math(Token(str(last), "number"), str(last)))


def batch_size(program: Program) -> Expr | None:
    """The size that counts the samples: the first one that is known at run time only."""
    sizes = (t.shape[0] for t in program.inputs if t.rank)
    return next((size for size in sizes if not size.is_Integer), None)


def _orientation(program: Program, style: Style) -> Orientation:
    """How the reader's matrices lie, and which indices are steps of a recurrence."""
    gradients = frozenset(
        t.name for t in program.tensors.values()
        if t.role == "gradient" or (t.origin or ("",))[0] == "adjoint")
    times = frozenset(
        eq.indices[group.axis[eq.name]]
        for group in program.groups if group.recurrent for eq in group.equations)
    return Orientation(program.tensors, batch_size(program), style.samples == "columns",
                       style.layout == "numerator", gradients, times)


def is_number(expr: Expr) -> bool:
    return isinstance(expr, sympy.Expr) and bool(expr.is_number)


__all__ = ["Maker", "is_number", "replace"]
