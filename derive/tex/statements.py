"""Formulas → claimed equations: what a line defines, which adjoint it says to be, in which reading.

A line may use what a later line defines; it is then read first. Of several readings that fit, the
values decide whether they are the same; if they are not, the line is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from string import ascii_lowercase

import numpy as np
from sympy import Expr, S

from derive.bodies import guarded
from derive.nodes import Access, Index, accesses, walk
from derive.points import default_sizes, random_values
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate
from derive.tex import tree as t
from derive.tex.grammar import parse
from derive.tex.lines import formulas
from derive.tex.names import Entry, Item, Layout, Names, items, node_key, splits
from derive.tex.source import Source
from derive.tex.symbols import above, adjoint_stem, shown_key, turned
from derive.tex.terms import Reader
from derive.tex.values import UNKNOWN, MisfitError, Value, as_number, fits, put, shape


@dataclass(frozen=True)
class Head:
    """What stands left of an equals sign: the adjoint of a tensor, or a name of its own, with
    letters behind it."""

    key: str
    of: str | None
    found: tuple[Item, ...]


@dataclass
class Statement:
    """One line: its left side, and what it is said to be, step by step."""

    left: t.Node
    right: tuple[t.Node, ...]
    state: str = "waiting"


@dataclass
class Made:
    """A claimed equation with its place and what it claims."""

    equation: Equation
    claims: str | None
    at: int


@dataclass
class Reading:
    head: Head
    indices: tuple[Index, ...]
    body: Expr
    row: bool
    notes: tuple[str, ...] = field(default=())


class Derivation(Reader):
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
                self.upper |= _upper_letters(node, names)
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
            adjoint = None if more else self._adjoint_head(node)
            if adjoint is None or adjoint.of is None or adjoint.found \
                    or self._adjoint_head(statement.left) is not None \
                    or self._says(adjoint.of, statement):
                continue
            key = node_key(statement.left)
            if key is not None:
                self.names.named_adjoints[key] = adjoint.of
                self.statements.remove(statement)

    def _says(self, name: str, but: Statement) -> bool:
        """Whether another line says what the adjoint of a tensor is."""
        return name in self.names.adjoints or any(
            h.of == name for s in self.statements if s is not but for h in self._heads(s.left))

    def _also(self, statement: Statement) -> Head | None:
        """In ``a = ∂L/∂z = …`` the adjoint that a is said to be."""
        for node in statement.right[:-1]:
            head = self._adjoint_head(node)
            if head is not None and head.of is not None and not self._says(head.of, statement):
                return head
        return None

    def lookup(self, key: str) -> list[Entry]:
        waiting = [s for s in self.statements if s.state == "waiting"]
        for statement in waiting:
            if key not in self.names.entries and any(
                    h.of is None and h.key == key for h in self._heads(statement.left)):
                self._inside(statement)
        return super().lookup(key)

    def adjoint(self, name: str, place: int) -> Entry:
        for statement in [s for s in self.statements if s.state == "waiting"]:
            heads = [*self._heads(statement.left), self._also(statement)]
            if name not in self.names.adjoints and any(h and h.of == name for h in heads):
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
        heads = list(self._heads(statement.left))
        also = self._also(statement)
        steps = [node for node in statement.right
                 if also is None or self._adjoint_head(node) != also]
        for node in steps:
            self._step([also] if also else heads, statement.left, node, node is steps[-1])
        if also is not None and also.of is not None:
            named = [h for h in heads if len(h.found) == len(also.found)]
            self.names.entries |= {h.key: self.names.adjoints[also.of] for h in named[:1]}
        statement.state = "read"

    # -- left sides ---------------------------------------------------------------------------
    def _heads(self, node: t.Node) -> Iterator[Head]:
        adjoint = self._adjoint_head(node)
        if adjoint is not None:
            yield adjoint
            return
        base = node.base if isinstance(node, t.Scripted) else node
        if not isinstance(base, t.Sym | t.Word):
            raise MisfitError("the left side is no symbol", "a name, or an adjoint such as "
                              r"\frac{\partial L}{\partial W}", at=node.at)
        subs, sups = (node.subs, node.sups) if isinstance(node, t.Scripted) else ((), ())
        primes = "'" * (node.primes if isinstance(node, t.Scripted) else 0)
        reading = above(sups)[-1]
        found = [*reading.found, *(i for n, s in enumerate(subs) for i in items(s, -n - 1))]
        known = [h for names, rest in splits(found)
                 if (h := self._known_head(base, names, rest, primes)) is not None]
        if known:
            yield known[0]
            return
        for names, rest in splits(found):
            if all(_is_letter(i) for i in rest):
                yield Head(_key(base, names) + primes, None, rest)

    def _known_head(self, base: t.Node, names: Sequence[str], rest: tuple[Item, ...], primes: str
                    ) -> Head | None:
        key = _key(base, names) + primes
        if key in self.names.named_adjoints:
            return Head(key, self.names.named_adjoints[key], rest)
        entry = self.names.entries.get(key)
        if entry is not None and entry.declared and len(rest) <= entry.tensor.rank:
            return Head(key, None, rest)
        stem = adjoint_stem(self, base, names)
        return Head(key, stem, rest) if stem is not None else None

    def _adjoint_head(self, node: t.Node) -> Head | None:
        found = self.derived(node)
        if found is None and isinstance(node, t.Seq):
            found = self._differential_head(node)
        return Head(f"∂{found[0]}", found[0], tuple(found[1])) if found is not None else None

    def _differential_head(self, node: t.Seq) -> tuple[str, Sequence[Item]] | None:
        """``∂L/∂W``, ``∇_W L`` and ``dW``."""
        pieces = node.pieces
        if len(pieces) == 5 and isinstance(pieces[2], t.Op) and pieces[2].text == "/":
            above_, below = pieces[:2], pieces[3:]
            return self.derived(t.Frac(t.Seq(above_, node.at), t.Seq(below, node.at), node.at))
        if len(pieces) != 2:
            return None
        first, second = pieces
        if isinstance(first, t.Op) or isinstance(second, t.Op):
            return None
        if isinstance(first, t.Scripted) and isinstance(first.base, t.Mark) \
                and first.base.kind == "NABLA" and (node_key(second) or "") in self.names.losses:
            return self.subject(first.subs[0])
        if isinstance(first, t.Sym) and first.letter == "d" and isinstance(
                second, t.Sym | t.Scripted | t.Word):
            return self.subject(second)
        return None

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
        if not all(map(_is_letter, head.found)) or len(set(letters)) < len(letters):
            raise MisfitError("the indices on the left are letters, each once", "W_{ij}",
                              at=head.found[0].node.at)
        self.letters = set(letters)
        tensor = self.forward.tensors.get(head.of or "") or self._local_of(head)
        provisional = self._provisional(head, tensor, letters)
        try:
            values = list(map(as_number, self.values(node)))
        finally:
            self.letters = set()
            if provisional:
                self.names.adjoints.pop(head.of or "", None)
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

    def _local_of(self, head: Head) -> Tensor | None:
        """The tensor of a line whose adjoint is meant."""
        return next((m.equation.tensor for m in self.made if m.equation.name == head.of), None)

    def _provisional(self, head: Head, tensor: Tensor | None, letters: Sequence[str]
                     ) -> tuple[str, Entry | None] | None:
        """What a recurrence may read of itself while it is read."""
        if head.of is not None and tensor is not None:
            own = Tensor(self._name(f"d_{tensor.name.lstrip('_')}"), tensor.indices)
            self.names.adjoints[head.of] = Entry(own, of=tensor)
            self.reserved[own.name] = own
            return head.key, self.names.entries.get(head.key)
        if letters and head.key:
            before = self.names.entries.get(head.key)
            indices = tuple(Index(x, UNKNOWN) for x in letters)
            own = Tensor(self._name(_plain(head.key)), indices)
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
        own = self._name(_plain(head.key))
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
        stem = f"d_{reading.head.of.lstrip('_')}" if reading.head.of else _plain(reading.head.key)
        name = self._name(stem)
        tensor = Tensor(name, reading.indices)
        tensors = {**self.forward.tensors, **self.reserved,
                   **{m.equation.name: m.equation.tensor for m in self.made}, name: tensor}
        body = guarded(reading.body, tensors, partial(self._outside, name))
        indices, body = _lettered(reading.indices, body, self.forward)
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
        self.made.append(Made(eq, claims, left.at if last and len(self.made) == 0 else node.at))
        self.notes |= dict.fromkeys(reading.notes)
        if not last:
            return
        if reading.head.of is not None:
            of = self.forward.tensors.get(reading.head.of) or self._local_of(reading.head)
            self.names.adjoints[reading.head.of] = Entry(eq.tensor, of=of)
        else:
            self.names.entries[reading.head.key] = Entry(
                eq.tensor, row=reading.row, declared=False)


def _better(old: MisfitError | None, new: MisfitError) -> MisfitError:
    """Of two troubles that which went further."""
    return new if old is None or (new.at or 0) > (old.at or 0) else old


def _is_letter(item: Item) -> bool:
    node = item.node.base if isinstance(item.node, t.Scripted) else item.node
    return item.text is not None and isinstance(node, t.Sym) and not isinstance(item.node, t.Num)


def _key(base: t.Node, names: Sequence[str]) -> str:
    return (node_key(base) or "") + (f"_{{{','.join(names)}}}" if names else "")


def _plain(key: str) -> str:
    """A key as a name: δ_{2} as δ2, y~hat as y_hat."""
    stem, _, rest = key.replace("}", "").replace("'", "_prime").partition("_{")
    stem = stem.replace("~", "_")
    parts = [p for p in rest.replace("_{", ",").split(",") if p]
    made = stem + ("" if parts and parts[0].isdigit() else "_" * bool(parts)) + "_".join(parts)
    made = "".join(c if c.isalnum() or c == "_" else "_" for c in made)
    return made if made.isidentifier() else f"v_{made}"


def _lettered(indices: tuple[Index, ...], body: Expr, program: Program
              ) -> tuple[tuple[Index, ...], Expr]:
    """An equation whose generated indices have letters: the network's own for a size."""
    generated = [i for i in indices if i.name.startswith("_")]
    generated += [i for node in walk(body) for i in getattr(node, "bound", ())
                  if i.name.startswith("_")]
    used = {s.name for s in (*indices, *body.atoms(Index)) if not s.name.startswith("_")}
    usual = [i for tensor in program.tensors.values() for i in tensor.indices]
    pairs: dict[Index, Expr] = {}
    for index in dict.fromkeys(generated):
        letters = [i.name for i in usual if i.size == index.size]
        letters += list(ascii_lowercase[8:] + ascii_lowercase[:8])
        letters += [f"{c}{n}" for n in range(1, 99) for c in "ijk"]
        name = next(x for x in letters if x not in used)
        used.add(name)
        pairs[index] = Index(name, index.size)
    primes = {i: Index(i.name.replace("'", "1"), i.size) for i in (*indices, *body.atoms(Index))
              if "'" in i.name}
    pairs |= {i: new for i, new in primes.items() if new.name not in used}
    return tuple(pairs.get(i, i) for i in indices), put(body, pairs)  # type: ignore[misc]


# -- parsing --------------------------------------------------------------------------------------
def statements(source: Source) -> list[Statement]:
    """The statements of a text.

    Raises:
        LatexError: a formula is none, or no equation.
    """
    found = []
    for formula in formulas(source):
        node = parse(source, formula.spans)
        parts = node.parts if isinstance(node, t.Listed) else (node,)
        for part in parts:
            inner = part.body if isinstance(part, t.Group) and part.kind == "{" else part
            if not isinstance(inner, t.Relation) or any(
                    op not in ("=", "equiv") for op in inner.ops):
                source.fail(part.at, "this is no equation", "left = right")
            found.append(Statement(inner.parts[0], inner.parts[1:]))
    if not found:
        source.fail(0, "there is no formula", r"for example \frac{\partial L}{\partial W} = …")
    return found


def first_index(found: Sequence[Statement], source: Source) -> int:
    """The number that indices begin with, as the bounds of sums say: 0 or 1."""
    firsts: dict[str, int] = {}
    for statement in found:
        for node in statement.right:
            for sub in _sums(node):
                for part in (sub.parts if isinstance(sub, t.Listed) else (sub,)):
                    if isinstance(part, t.Relation) and part.ops == ("=",) \
                            and isinstance(part.parts[1], t.Num):
                        firsts.setdefault(part.parts[1].text, part.at)
    if "0" in firsts and "1" in firsts:
        source.fail(firsts["1"], "one sum begins at 1, another at 0", "one of them throughout",
                    "first=0 or first=1")
    return 1 if "1" in firsts else 0


def _sums(node: object) -> Iterator[t.Node]:
    """What stands below sums."""
    for inner in _inside(node):
        if isinstance(inner, t.Scripted) and isinstance(inner.base, t.Mark) \
                and inner.base.kind == "BIG":
            yield from inner.subs


def _upper_letters(node: t.Node, names: Names) -> set[str]:
    """Letters that stand as upper bounds and are not declared."""
    out = set()
    for inner in _inside(node):
        if isinstance(inner, t.Scripted) and isinstance(inner.base, t.Mark) \
                and inner.base.kind == "BIG" and inner.sups:
            key = node_key(inner.sups[0])
            if key is not None and not key.isdigit() and key not in names.sizes \
                    and key not in names.entries:
                out.add(key)
    return out


def _inside(node: object) -> Iterator[object]:
    yield node
    if isinstance(node, tuple):
        children: tuple[object, ...] = node
    else:
        children = tuple(getattr(node, f) for f in getattr(node, "__dataclass_fields__", ()))
    for child in children:
        if isinstance(child, tuple) or hasattr(child, "__dataclass_fields__"):
            yield from _inside(child)

