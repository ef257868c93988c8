"""Trees of formulas → values: every reading that fits, and one only is allowed to be left.

Where a formula can be read in several ways (``f(x)`` as a function or a product, ``A B ⊙ C``, a
superscript T), all of them are followed; those whose shapes do not fit are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatchmethod
from itertools import product
from typing import Any

import sympy
from sympy import Expr, Rational, S

from derive.functions import absolute
from derive.nodes import Index
from derive.tex import tree as t
from derive.tex.calls import call, norm
from derive.tex.combine import OTHERWISE, both, joined, power, where, without_words
from derive.tex.derivatives import declared_derivative
from derive.tex.names import FUNCTIONS, Entry, Layout, Names, items, named, node_key, ways
from derive.tex.sequence import sequence_values
from derive.tex.source import MAX_EXPONENT, Source
from derive.tex.symbols import index_readings, symbol_values, tensor_values
from derive.tex.values import (
    MisfitError,
    Value,
    alike,
    as_number,
    at,
    entrywise,
    is_condition,
    transposed,
)

MAX_READINGS = 48
_RELATIONS: dict[str, Callable[[Expr, Expr], Any]] = {
    "=": sympy.Eq, "!=": sympy.Ne, "<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge}


class Reader:
    """Reads the formulas of one derivation. ``letters`` are the indices in use."""

    def __init__(self, source: Source, names: Names, layout: Layout, base: int = 0) -> None:
        self.source, self.names, self.layout, self.base = source, names, layout, base
        self.letters: set[str] = set()
        self.labels_wanted = False
        self.limits: dict[str, Expr] = {}  # letters that sums say to be sizes
        self.upper: set[str] = set()  # letters that may be such
        self.batch = names.orientation(layout).batch

    # -- names, as lines define them (`derive.tex.statements` adds to this) -------------------
    def lookup(self, key: str) -> list[Entry]:
        found = self.names.entries.get(key)
        return [found] if found is not None else []

    def adjoint(self, name: str, place: int) -> Entry:
        """The adjoint of a tensor as a line defines it."""
        if name in self.names.adjoints:
            return self.names.adjoints[name]
        raise MisfitError(f"the adjoint of {name} is used, and no line says what it is",
                          rf"a line \frac{{\partial L}}{{\partial {name}}} = …", at=place)

    def target(self, key: str) -> str | None:
        """The tensor that a symbol is, of which there may be an adjoint."""
        found = self.lookup(key)
        return found[0].tensor.name if found else None

    def size(self, key: str) -> Expr | None:
        if key in self.names.sizes:
            return self.names.sizes[key]
        if key in self.upper:
            return self.limits.get(key, sympy.Symbol(f"?{key}", integer=True, positive=True))
        return None

    def onehot(self, labels: str) -> list[Value]:
        self.labels_wanted = True
        try:
            (value,) = tensor_values(self, Entry(self.names.program.tensors[labels]), ())
        finally:
            self.labels_wanted = False
        made = call("onehot", [value], 0, None)
        return [transposed(made) if self.layout.samples == "columns" else made]

    def function(self, node: t.Node) -> str | None:
        """The function that a sign is, if it is one."""
        base = node.base if isinstance(node, t.Scripted) else node
        if isinstance(base, t.Mark):
            return FUNCTIONS.get(base.text) if base.kind == "FUNC" else None
        key = node_key(base)
        if key is None:
            return None
        return self.names.functions.get(key) or (
            FUNCTIONS.get(key) if isinstance(base, t.Word) or key == "σ" else None)

    # -- combining readings -------------------------------------------------------------------
    def each(self, combine: Callable[..., Value], place: int, *choices: Sequence[Value]
             ) -> list[Value]:
        """Every combination that fits.

        Raises:
            MisfitError: none does.
        """
        found: list[Value] = []
        trouble: MisfitError | None = None
        for chosen in product(*choices):
            try:
                found.append(combine(*chosen))
            except MisfitError as misfit:
                misfit.at = place if misfit.at is None else misfit.at
                trouble = trouble or misfit
        if not found:
            assert trouble is not None
            raise trouble
        return self.distinct(found)

    def distinct(self, values: Sequence[Value]) -> list[Value]:
        """Readings that are not written the same."""
        found: dict[Any, Value] = {}
        for value in values:
            names = {a: Index(f"_axis{n}", a.size) for n, a in enumerate(value.axes) if a}
            found.setdefault((value.body.xreplace(names), tuple(a and a.size for a in value.axes)),
                             value)
        if len(found) > MAX_READINGS:
            raise MisfitError("the formula has too many readings",
                              mend="write parentheses and commas, or split the line")
        return list(found.values())

    # -- nodes --------------------------------------------------------------------------------
    @singledispatchmethod
    def values(self, node: Any) -> list[Value]:
        """All readings of a node.

        Raises:
            MisfitError: there is none.
        """
        raise MisfitError("this is no expression", at=getattr(node, "at", None))

    @values.register
    def _(self, node: t.Num) -> list[Value]:
        return [Value(Rational(node.text))]

    @values.register(t.Sym)
    @values.register(t.Word)
    def _(self, node: t.Node) -> list[Value]:
        return symbol_values(self, node)

    @values.register
    def _(self, node: t.Mark) -> list[Value]:
        if node.kind == "INFTY":
            return [Value(S.Infinity)]
        return sequence_values(self, (node,), node.at)

    @values.register
    def _(self, node: t.Seq) -> list[Value]:
        return sequence_values(self, node.pieces, node.at)

    @values.register
    def _(self, node: t.Sum) -> list[Value]:
        found: list[Value] = []
        for n, (negative, term) in enumerate(node.terms):
            here = [v.with_body(-v.body) if negative else v
                    for v in map(as_number, self.values(term))]
            found = here if not n else self.each(
                lambda a, b: entrywise(sympy.Add, a, b, "added"), term.at, found, here)
        return found

    @values.register
    def _(self, node: t.Frac) -> list[Value]:
        adjoint = self.derivative(node)
        if adjoint is not None:
            return adjoint
        return self.divided(self.values(node.above), self.values(node.below), node.at)

    def divided(self, above: Sequence[Value], below: Sequence[Value], place: int) -> list[Value]:
        return self.each(lambda a, b: entrywise(lambda x, y: x / y, a, b, "divided"), place,
                         list(map(as_number, above)), below)

    def derivative(self, node: t.Node) -> list[Value] | None:
        """``∂L/∂W`` as the adjoint that a line defines, ``∂y_i/∂x_j`` as what the network says it
        is; None where it is a plain fraction."""
        declared = declared_derivative(self, node)
        if declared is not None:
            return tensor_values(self, *declared)
        found = self.derived(node)
        if found is None:
            return None
        name, rest = found
        return tensor_values(self, self.adjoint(name, node.at), rest)

    def derived(self, node: t.Node) -> tuple[str, Sequence[Any]] | None:
        """The tensor, with its indices, that the loss is differentiated by."""
        if not isinstance(node, t.Frac):
            return None
        above, below = self.differential(node.above), self.differential(node.below)
        if above is None or below is None:
            return None
        if node_key(above) not in self.names.losses:
            text = node_key(above) or "this"
            raise MisfitError(f"the derivative of {text} is not read: {text} is not the loss",
                              "the loss " + " or ".join(sorted(self.names.losses)),
                              'a line for each adjoint, or names={"' + text + '": "L"}', node.at)
        return self.subject(below)

    def differential(self, node: t.Node) -> t.Node | None:
        """What stands behind ∂ or d."""
        if not isinstance(node, t.Seq) or len(node.pieces) != 2:
            return None
        sign, what = node.pieces
        if isinstance(what, t.Op):
            return None
        if isinstance(sign, t.Mark) and sign.kind == "PARTIAL":
            return what
        plain_d = isinstance(sign, t.Sym) and sign.letter == "d" and not sign.accents
        return what if plain_d and not self.lookup("d") and isinstance(
            what, t.Sym | t.Scripted | t.Word) else None

    def subject(self, node: t.Node) -> tuple[str, Sequence[Any]]:
        """The tensor that a symbol names, and the indices at it."""
        from derive.tex.symbols import above, unknown

        base = node.base if isinstance(node, t.Scripted) else node
        subs, sups = (node.subs, node.sups) if isinstance(node, t.Scripted) else ((), ())
        if node_key(base) is None:
            raise MisfitError("this is no symbol", "a tensor", at=node.at)
        below = [i for n, s in enumerate(subs) for i in items(s, -n - 1)]
        for reading in above(sups):
            for names, rest in ways([*reading.found, *below],
                                    lambda n: self.target(named(base, n)) is not None,
                                    self.letters):
                name = self.target(named(base, names))
                if name is not None and reading.power is None:
                    if reading.turned:
                        raise MisfitError(f"a derivative by the transpose of {name}",
                                          rf"by {name} itself, and the whole transposed",
                                          at=node.at)
                    return name, rest
        raise unknown(self, base, below)

    @values.register
    def _(self, node: t.Root) -> list[Value]:
        degree = self.values(node.degree)[0].body if node.degree is not None else S(2)
        if not degree.is_Integer or not 0 < degree <= MAX_EXPONENT:
            raise MisfitError("the degree of a root is a small number", at=node.at)
        return [v.with_body(v.body ** (1 / degree)) for v in self.values(node.body)]

    @values.register
    def _(self, node: t.Group) -> list[Value]:
        if isinstance(node.body, t.Listed):
            conditions = [self.values(p) for p in node.body.parts]
            return self.each(lambda *c: as_number(both(c)), node.at, *conditions)
        found = self.values(node.body)
        if node.kind == "|":
            return [v.with_body(absolute(v.body)) for v in found]
        if node.kind == "‖":
            return [norm(v, "") for v in found]
        if node.kind == "⌊":
            return [v.with_body(sympy.floor(v.body)) for v in found]
        return list(map(as_number, found))

    @values.register
    def _(self, node: t.Scripted) -> list[Value]:
        if isinstance(node.base, t.Sym | t.Word):
            return symbol_values(self, node)
        if isinstance(node.base, t.Mark):
            return sequence_values(self, (node,), node.at)
        subs = node.subs
        if isinstance(node.base, t.Group) and node.base.kind == "‖":
            return self.scripted(self._norm(node, node.base), (), node.sups, node.primes, node.at)
        return self.scripted(self.values(node.base), subs, node.sups, node.primes, node.at)

    def _norm(self, node: t.Scripted, group: t.Group) -> list[Value]:
        kinds = ["∞" if isinstance(s, t.Mark) and s.kind == "INFTY" else node_key(s)
                 for s in node.subs]
        if len(kinds) > 1 or any(k not in ("1", "2", "F", "∞") for k in kinds):
            raise MisfitError(f"the norm ‖·‖_{kinds[0]} is not read",
                              r"‖·‖, ‖·‖_1, ‖·‖_2, ‖·‖_\infty or ‖·‖_F", at=node.at)
        return self.each(lambda v: norm(v, str(kinds[0]) if kinds else ""), node.at,
                         self.values(group.body))

    def scripted(self, found: list[Value], subs: Sequence[t.Node], sups: Sequence[t.Node],
                 primes: int, place: int) -> list[Value]:
        """Values with indices, transposes and powers at them."""
        from derive.tex.symbols import above, no_transpose

        below = [i for n, s in enumerate(subs) for i in items(s, -n - 1)]
        where = [index_readings(self, i) for i in below]
        out: list[Value] = []
        trouble: MisfitError | None = None
        for value, reading in product(found, above(sups)):
            if reading.found:
                continue
            try:
                if primes and (primes > 1 or not value.axes):
                    raise no_transpose("this", primes)
                made = transposed(value) if reading.turned != bool(primes % 2) else value
                for chosen in product(*where):
                    one = at(made, chosen) if chosen else made
                    out += self.powers(one, reading.power) if reading.power else [one]
            except MisfitError as misfit:
                trouble = misfit
        if out:
            return self.distinct(out)
        raise trouble or MisfitError("this superscript is not read", "a power or ^\\top", at=place)

    def powers(self, value: Value, node: t.Node) -> list[Value]:
        """A value to the power of what stands above it; ``⊙ 2`` is meant entry by entry."""
        entries = False
        if isinstance(node, t.Sum) and isinstance(node.terms[0][1], t.Seq) \
                and len(node.terms) == 2 and len(node.terms[0][1].pieces) == 1:
            node = t.Seq((*node.terms[0][1].pieces, t.Sum(node.terms[1:], node.at)), node.at)
        if isinstance(node, t.Seq) and isinstance(node.pieces[0], t.Op):
            sign, *rest = node.pieces
            entries = isinstance(sign, t.Op) and sign.text in ("odot", "circ")
            if not entries or len(rest) != 1 or isinstance(rest[0], t.Op):
                raise MisfitError("this superscript is not read", r"^{\odot 2}, ^{\odot -1}",
                                  at=node.at)
            node = rest[0]
        return self.each(lambda e: power(value, e, entries), node.at, self.values(node))

    @values.register
    def _(self, node: t.Relation) -> list[Value]:
        if node.ops == ("equiv",) and len(node.parts) == 2:
            return self._congruent(node)
        sides = [self.values(p) for p in node.parts]
        if any(op not in _RELATIONS for op in node.ops):
            raise MisfitError(f"\\{node.ops[0]} is not read here", "= ≠ < ≤ > ≥", at=node.at)
        found = []
        for n, op in enumerate(node.ops):
            found.append(self.each(
                lambda a, b, op=op: entrywise(self._relation(op), a, b, "compared"),
                node.parts[n].at, sides[n], sides[n + 1]))
        return self.each(lambda *c: both(c), node.at, *found)

    def _relation(self, op: str) -> Callable[[Expr, Expr], Any]:
        def compare(a: Expr, b: Expr) -> Any:
            both = a.is_integer and b.is_integer and self.base
            return _RELATIONS[op](a - self.base, b - self.base) if both else _RELATIONS[op](a, b)

        return compare

    def _congruent(self, node: t.Relation) -> list[Value]:
        """``a ≡ r (mod n)``."""
        last = node.parts[1]
        pieces = last.pieces if isinstance(last, t.Seq) else ()
        group = pieces[1] if len(pieces) == 2 else None
        inside = group.body if isinstance(group, t.Group) else None
        word, modulus = inside.pieces if isinstance(inside, t.Seq) and len(inside.pieces) == 2 \
            else (None, None)
        if not isinstance(word, t.Word) or word.text != "mod" or isinstance(pieces[0], t.Op):
            raise MisfitError("≡ is read with a modulus", r"a \equiv 0\,(\text{mod }2)", at=node.at)
        return self.each(
            lambda a, r, m: Value(sympy.Eq(sympy.Mod(a.body - r.body, m.body), 0)), node.at,
            self.values(node.parts[0]), self.values(pieces[0]), self.values(modulus))

    @values.register
    def _(self, node: t.Junction) -> list[Value]:
        parts = [self.values(p) for p in node.parts]
        join = sympy.Or if node.op == "or" else sympy.And
        return self.each(lambda *c: joined(join, c), node.at, *parts)

    @values.register
    def _(self, node: t.Negation) -> list[Value]:
        return [v.with_body(sympy.Not(v.body)) for v in self.values(node.body)]

    @values.register
    def _(self, node: t.Listed) -> list[Value]:
        return self.each(lambda *c: both(c), node.at, *map(self.values, node.parts))

    @values.register
    def _(self, node: t.Cases) -> list[Value]:
        rows = [(self.values(value), self._when(when)) for value, when in node.rows]
        if rows[-1][1] is not None:
            conditions = [r[1] for r in rows]
            covered = sympy.Or(*(alike(c.body) for c in conditions if c is not None))
            if covered != True:  # noqa: E712  (SymPy's true)
                raise MisfitError("the cases do not say what is meant otherwise",
                                  r"a last row with \text{otherwise}", at=node.at)
        found = list(map(as_number, rows[-1][0]))
        for choices, when in reversed(rows[:-1]):
            assert when is not None
            found = self.each(
                lambda yes, no, w=when: where(w, yes, no), node.at,
                list(map(as_number, choices)), found)
        return found

    def _when(self, node: t.Node | None) -> Value | None:
        if node is None:
            raise MisfitError("a row of the cases has no condition", "value & condition")
        node = without_words(node)
        if isinstance(node, t.Word) and node.text.strip(" .,") in OTHERWISE:
            return None
        found = [v for v in self.values(node) if is_condition(v.body)]
        if len(found) != 1:
            raise MisfitError("this is no condition", "a comparison such as z > 0", at=node.at)
        return found[0]
