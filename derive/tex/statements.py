"""Formulas → claimed equations: what a line defines, which adjoint it says to be, in which reading.

A line may use what a later line defines; it is then read first. Of several readings that fit, the
values decide whether they are the same; if they are not, the line is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np
from sympy import Expr, S

from derive.bodies import guarded
from derive.nodes import Access, Index, accesses
from derive.points import default_sizes, random_values
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate
from derive.tex import tree as t
from derive.tex.heads import Head, HeadReader, is_letter
from derive.tex.letters import lettered, plain
from derive.tex.names import Entry, Layout, Names, node_key
from derive.tex.parsed import Statement, slides, upper_letters
from derive.tex.source import Source
from derive.tex.symbols import shown_key, turned
from derive.tex.values import UNKNOWN, MisfitError, Value, as_number, fits, put, shape


@dataclass
class Made:
    """A claimed equation with its place and what it claims."""

    equation: Equation
    claims: str | None
    at: int
    named: bool = False


@dataclass
class Reading:
    head: Head
    indices: tuple[Index, ...]
    body: Expr
    row: bool
    notes: tuple[str, ...] = field(default=())


class Derivation(HeadReader):
    """Reads the lines of a derivation into equations on top of a forward program."""

    def __init__(self, source: Source, names: Names, layout: Layout, base: int,
                 statements: Sequence[Statement], forward: Program) -> None:
        super().__init__(source, names, layout, base)
        self.statements = [Statement(s.left, s.right) for s in statements]
        self.forward = forward
        self.made: list[Made] = []
        self.notes: dict[str, None] = {}
        self.taken = set(forward.tensors)
        self.reserved: dict[str, Tensor] = {}  # of lines that are being read
        for statement in self.statements:
            for node in statement.right:
                self.upper |= upper_letters(node, names)
        self._name_adjoints()

    # -- the lines, each when it is needed ----------------------------------------------------
    def run(self) -> Program:
        for statement in self.statements:
            self._read(statement)
        return self.program

    @property
    def program(self) -> Program:
        return self.forward.with_equations(m.equation for m in self.made)

    def _name_adjoints(self) -> None:
        r"""Lines such as ``\delta = \frac{\partial L}{\partial z}``, which only name."""
        for statement in list(self.statements):
            (node, *more) = statement.right
            adjoint = None if more else self.adjoint_head(node)
            if adjoint is None or adjoint.of is None or adjoint.found \
                    or self.adjoint_head(statement.left) is not None \
                    or self._says(adjoint.of, statement):
                continue
            key = node_key(statement.left)
            if key is not None:
                self.names.named_adjoints[key] = adjoint.of
                self.statements.remove(statement)

    def _says(self, name: str, but: Statement) -> bool:
        """Whether another line says what the adjoint of a tensor is."""
        return name in self.names.adjoints or any(
            h.of == name for s in self.statements if s is not but for h in self.heads(s.left))

    def _stated(self, name: str) -> bool:
        """Whether a line says so in so many words: ``∂L/∂z``, and not only ``δ_z``."""
        return any(h.of == name and not h.named for s in self.statements
                   for h in self.heads(s.left))

    def _also(self, statement: Statement) -> Head | None:
        """In ``a = ∂L/∂z = …`` the adjoint that a is said to be."""
        for node in statement.right[:-1]:
            head = self.adjoint_head(node)
            if head is not None and head.of is not None and not self._says(head.of, statement):
                return head
        return None

    def lookup(self, key: str) -> list[Entry]:
        waiting = [s for s in self.statements if s.state == "waiting"]
        for statement in waiting:
            if key not in self.names.entries and any(
                    (h.of is None or h.named) and h.key == key for h in self.heads(statement.left)):
                self._inside(statement)
        return super().lookup(key)

    def adjoint(self, name: str, place: int) -> Entry:
        waiting = [s for s in self.statements if s.state == "waiting"]
        for sure, statement in product((True, False), waiting):
            heads = [*self.heads(statement.left), self._also(statement)]
            if name not in self.names.adjoints and statement.state == "waiting" and any(
                    h and h.of == name and h.named != sure for h in heads):
                self._inside(statement)
        return super().adjoint(name, place)

    def target(self, key: str) -> str | None:
        found = self.names.entries.get(key)
        return found.tensor.name if found is not None else None

    def _inside(self, statement: Statement) -> None:
        """Another line read in the middle of one."""
        letters, wanted = self.letters, self.labels_wanted
        try:
            self._read(statement)
        finally:
            self.letters, self.labels_wanted = letters, wanted

    def _read(self, statement: Statement) -> None:
        if statement.state != "waiting":
            return
        statement.state = "reading"
        heads = list(self.heads(statement.left))
        also = self._also(statement)
        steps = [node for node in statement.right
                 if also is None or self.adjoint_head(node) != also]
        for node in steps:
            self._step([also] if also else heads, statement.left, node, node is steps[-1])
        if also is not None and also.of is not None:
            named = [h for h in heads if len(h.found) == len(also.found)]
            self.names.entries |= {h.key: self.names.adjoints[also.of] for h in named[:1]}
        statement.state = "read"

    # -- one step -----------------------------------------------------------------------------
    def _step(self, heads: Sequence[Head], left: t.Node, node: t.Node, last: bool) -> None:
        found: list[Reading] = []
        trouble: MisfitError | None = None
        for head in heads:
            try:
                found += self._readings(head, node)
            except MisfitError as misfit:
                misfit.at = node.at if misfit.at is None else misfit.at
                trouble = _better(trouble, misfit)
        if not found:
            raise trouble or MisfitError("the left side is no symbol", at=left.at)
        equations = [self._equation(r, last) for r in found]
        chosen = self._only(found, equations, node)
        self._add(found[chosen], equations[chosen], left, node, last)

    def _readings(self, head: Head, node: t.Node) -> list[Reading]:
        letters = [str(i.text) for i in head.found]
        known = self.names.adjoints.get(head.of or "")
        if not all(map(is_letter, head.found)) or len(set(letters)) < len(letters):
            raise MisfitError("the indices on the left are letters, each once", "W_{ij}",
                              at=head.found[0].node.at)
        self._no_labels(head)
        self.letters = set(letters)
        tensor = self.forward.tensors.get(head.of or "") or self._local_of(head)
        provisional = self._provisional(head, tensor, letters)
        try:
            values = list(map(as_number, self.values(node)))
        finally:
            self.letters = set()
            if provisional:
                self.names.adjoints.pop(head.of or "", None)
                self.names.adjoints |= {head.of: known} if head.of and known else {}
                self.names.entries.pop(head.key, None)
                self.names.entries |= {k: e for k, e in [provisional] if e is not None}
        found, trouble = [], None
        for value in values:
            try:
                if head.of is not None and tensor is not None:
                    found.append(self._for_tensor(head, tensor, letters, value))
                else:
                    found.append(self._for_local(head, letters, value))
            except MisfitError as misfit:
                trouble = trouble or misfit
        if not found and trouble is not None:
            raise trouble
        return found

    def _no_labels(self, head: Head) -> None:
        r"""``\nabla_{w_{y_i}} L``, with a label y_i: some elements of a gradient, and which ones
        differs."""
        for item in head.found:
            entry = self.names.entries.get(item.text or "")
            if entry is not None and entry.tensor.dtype == "int" and not entry.tensor.rank:
                raise MisfitError(f"the label {entry.tensor.name} stands as an index on the left",
                                  r"a letter, and on the right \mathbb{1}[letter = label]",
                                  at=item.node.at)

    def _local_of(self, head: Head) -> Tensor | None:
        """The tensor of a line whose adjoint is meant."""
        return next((m.equation.tensor for m in self.made if m.equation.name == head.of), None)

    def _provisional(self, head: Head, tensor: Tensor | None, letters: Sequence[str]
                     ) -> tuple[str, Entry | None] | None:
        """What a recurrence may read of itself while it is read."""
        if head.of is not None and tensor is not None:
            own = Tensor(self._name(f"d_{tensor.name.lstrip('_')}"), tensor.indices)
            before = self.names.entries.get(head.key)
            self.reserved[own.name] = own
            if head.named:
                self.names.entries[head.key] = Entry(own, of=tensor)
            if not head.named or not self._stated(head.of):
                self.names.adjoints[head.of] = Entry(own, of=tensor)
            return head.key, before
        if letters and head.key:
            before = self.names.entries.get(head.key)
            indices = tuple(Index(x, UNKNOWN) for x in letters)
            own = Tensor(self._name(plain(head.key)), indices)
            self.names.entries[head.key] = Entry(own, declared=False)
            self.reserved[own.name] = own
            return head.key, before
        return None

    def _for_tensor(self, head: Head, tensor: Tensor, letters: Sequence[str], value: Value
                    ) -> Reading:
        """A value as the adjoint of a tensor, in the tensor's own dims."""
        from derive.tex.symbols import _dims

        notes = value.notes
        dims = _dims(Entry(tensor, of=tensor), head.found)[0]
        rest = [d for d in range(tensor.rank) if d not in dims]
        indices: list[Index] = list(tensor.indices)
        for letter, dim in zip(letters, dims, strict=True):
            indices[dim] = Index(letter, tensor.indices[dim].size)
        kept = value.kept
        if len(rest) == 2 and turned(self, Entry(tensor, of=tensor), rest[0]):
            kept = kept[::-1]
        if len(kept) != len(rest) and not (not kept and value.body.is_number):
            raise MisfitError(
                f"the right side is {shape(value)}, and {tensor.name} "
                f"({', '.join(map(str, tensor.shape)) or 'scalar'}) leaves {len(rest)} dims",
                "the shape of the left side")
        pairs: dict[Index, Expr] = {}
        for axis, dim in zip(kept, rest, strict=False):
            if not fits(axis, indices[dim]):
                raise MisfitError(
                    f"the right side is {shape(value)}, and the left side is "
                    + "×".join(str(indices[d].size) for d in rest),
                    mend="transpose it, or sum over an axis that is too many")
            name = f"_{tensor.indices[dim].name}{dim}"
            pairs[axis] = indices[dim] = Index(name, indices[dim].size)
        if len(rest) == 1 and len(value.axes) == 2 and value.axes[0] is None:
            notes = (*notes, f"a row is meant as the vector {shown_key(head.key)}")
        body = self._settled(put(value.body, pairs), indices)
        return Reading(head, tuple(indices), body, False, notes)

    def _for_local(self, head: Head, letters: Sequence[str], value: Value) -> Reading:
        body, indices = value.body, []
        for letter in letters:
            sizes = {s.size for s in body.free_symbols
                     if isinstance(s, Index) and s.name == letter} - {UNKNOWN}
            if len(sizes) != 1:
                raise MisfitError(
                    f"index {letter} of {shown_key(head.key)} "
                    + ("does not occur on the right" if not sizes else "has two sizes there"))
            indices.append(Index(letter, sizes.pop()))
        if any(axis.size == UNKNOWN for axis in value.kept):
            raise MisfitError("the size of the right side is not known",
                              "arrays of declared sizes")
        indices += value.kept
        body = self._settled(body, indices)
        own = self._name(plain(head.key))
        if any(a.name == own and len(a.where) != len(indices) for a in accesses(body)):
            raise MisfitError(f"{shown_key(head.key)} is used before its shape is known",
                              "an adjoint, whose shape is declared",
                              r"\frac{\partial L}{\partial …} = …, or all indices")
        row = bool(value.axes) and value.axes[0] is None
        return Reading(head, tuple(indices), body, row, value.notes)

    def _settled(self, body: Expr, indices: Sequence[Index]) -> Expr:
        """A body in which every letter has its size."""
        known = {i.name: i for i in indices}
        body = put(body, {s: known[s.name] for s in body.free_symbols
                          if isinstance(s, Index) and s.size == UNKNOWN and s.name in known})
        for symbol in sorted(body.free_symbols, key=str):
            name = str(symbol)
            if isinstance(symbol, Index) and symbol not in indices:
                if symbol.name in known:
                    raise MisfitError(f"index {name} ranges over {symbol.size} and over "
                                      f"{known[name].size}", "one size")
                raise MisfitError(f"index {name} is neither on the left nor summed over",
                                  f"{name} on the left, or a sum over it")
            if name.startswith("?") and len(name) > 1:
                limit = self.limits.get(name[1:])
                if limit is None:
                    raise MisfitError(f"the size {name[1:]} is not known",
                                      mend=f'names={{"{name[1:]}": …}}')
                body = body.xreplace({symbol: limit})
        return body

    # -- equations ----------------------------------------------------------------------------
    def _name(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"your_{stem}" if number == 2 else f"your_{stem}{number - 1}"
        return name

    def _equation(self, reading: Reading, last: bool) -> Equation:
        stem = f"d_{reading.head.of.lstrip('_')}" if reading.head.of else plain(reading.head.key)
        name = self._name(stem)
        tensor = Tensor(name, reading.indices)
        tensors = {**self.forward.tensors, **self.reserved,
                   **{m.equation.name: m.equation.tensor for m in self.made}, name: tensor}
        body = guarded(reading.body, tensors, partial(self._outside, name))
        indices, body = lettered(reading.indices, body, self.forward)
        if not last:
            name = self._name(f"{stem}_step")
        return Equation(Tensor(name, indices), indices, body, "claimed")

    def _outside(self, own: str, tensor: Tensor, access: Access, axis: int) -> Expr:
        first = self.names.first_value(tensor.name)
        if first is not None:
            rest = [w for d, w in enumerate(access.where) if d != axis]
            return first.func(*first.args[:1], *rest)  # type: ignore[attr-defined]
        self.notes[f"{tensor.name} reads 0 outside of its range"] = None
        return S.Zero

    def _only(self, found: Sequence[Reading], equations: Sequence[Equation], node: t.Node) -> int:
        """The one reading that is left; those of equal values are one.

        Raises:
            MisfitError: there are several; shows two.
        """
        if len(found) == 1:
            return 0
        known = {*self.forward.tensors, *(m.equation.name for m in self.made)}
        if any(set(eq.reads) - known - {eq.name} for eq in equations):
            raise MisfitError("this line has more than one reading, and reads lines behind it",
                              f"one of\n      {equations[0]}\n      {equations[1]}",
                              "write all indices", node.at)
        values = [self._numbers(eq) for eq in equations]
        for n in range(1, len(found)):
            same = found[n].head.key == found[0].head.key and \
                values[n].shape == values[0].shape and np.allclose(
                    values[n], values[0], 1e-9, 1e-12, equal_nan=True)
            if not same:
                raise MisfitError(
                    "this line has more than one reading",
                    f"one of\n      {equations[0]}\n      {equations[n]}",
                    r"write \\star_{\text{full}}, or valid, or same" if slides(node) else
                    "write parentheses, indices, or commas between indices", node.at)
        return 0

    def _numbers(self, eq: Equation) -> np.ndarray:
        program = self.program.with_equations([eq])
        sizes = default_sizes(program)
        return evaluate(program, random_values(program, 5, sizes), (eq.name,), sizes)[eq.name]

    def _add(self, reading: Reading, eq: Equation, left: t.Node, node: t.Node, last: bool) -> None:
        self.taken.add(eq.name)
        self.reserved.pop(eq.name, None)
        claims = reading.head.of if reading.head.of in self.forward.tensors else None
        at = left.at if last and len(self.made) == 0 else node.at
        self.made.append(Made(eq, claims, at, reading.head.named))
        self.notes |= dict.fromkeys(reading.notes)
        if not last:
            return
        if reading.head.of is not None:
            of = self.forward.tensors.get(reading.head.of) or self._local_of(reading.head)
            entry = Entry(eq.tensor, of=of)
            if reading.head.named:
                self.names.entries[reading.head.key] = entry
            if not reading.head.named or not self._stated(reading.head.of):
                self.names.adjoints[reading.head.of] = entry
        else:
            self.names.entries[reading.head.key] = Entry(
                eq.tensor, row=reading.row, declared=False)


def _better(old: MisfitError | None, new: MisfitError) -> MisfitError:
    """Of two troubles that which went further."""
    return new if old is None or (new.at or 0) > (old.at or 0) else old
