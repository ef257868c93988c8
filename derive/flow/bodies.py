"""Bodies of equations over roots, while `derive.flow.propagate` walks a program: what is known of
each tensor, functions of one element inlined, recurrences and shared parts under their names."""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Expr, Mul, S, Symbol

from derive.flow.axes import classify_axes
from derive.flow.integrals import GaussianIntegral
from derive.flow.relations import (
    COMMON,
    END,
    OWN,
    START,
    Known,
    Relation,
    random_parameters,
    symbol,
)
from derive.flow.terms import Algebra, Root, Term, Unsupported, roots_of, separate
from derive.nodes import Access, Index
from derive.program import Equation, Group, Program, Tensor
from derive.simplify import alpha_key


class Bodies:
    """The state of a walk; `out` collects the relations of the group at hand."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.random = random_parameters(program)
        self.axes = classify_axes(program, self.random)
        self.readers: dict[str, list[Equation]] = {}
        for eq in program.equations:
            for name in eq.reads:
                self.readers.setdefault(name, []).append(eq)
        self.known: dict[str, Known] = {}
        self.arguments: dict[tuple, str] = {}
        self.named: dict[Expr, Expr] = {}
        self.winners: dict[str, Expr] = {}
        self.averages: dict[Expr, Symbol] = {}
        self.out: list[Relation] = []
        self.algebra = Algebra(self._root)
        self.loop: Index | None = None
        self.carried: dict[str, int] = {}
        self.step = ""
        self.group: Group | None = None
        self.zero_means = True

    # -- what is given ----------------------------------------------------------------------
    def _given(self, tensor: Tensor) -> None:
        if tensor.dtype == "int":
            return
        name, axes = tensor.name, self.axes[tensor.name]
        if tensor.role == "parameter" and name in self.random:
            v = symbol("v", name)
            gathered = tensor.rank > 1 and "sample" in axes
            cross = v / tensor.shape[axes.index("sample")] if gathered else v
            self._keep(name, "given", Root(S.Zero, v, cross, axes), "drawn with mean 0")
        elif tensor.role in ("parameter", "state") and tensor.initial in ("auto", "zeros", "ones"):
            value = S.One if tensor.initial == "ones" or self._scales(tensor) else S.Zero
            self._keep(name, "average", Root(value, value, value, axes), f"starts at {value}")
        elif tensor.role == "constant" and tensor.rank == 0:
            value = Symbol(name, real=True)
            self._keep(name, "average", Root(value, value**2, value**2, axes), "a setting")
        else:
            root = Root(symbol("m", name), symbol("q", name), symbol("r", name), axes)
            self._keep(name, "given", root, "data")

    def _scales(self, tensor: Tensor) -> bool:
        """Whether an "auto" parameter that is not contracted is a factor (it starts at 1)."""
        if tensor.initial != "auto" or tensor.role != "parameter":
            return False
        first = next((eq for eq in self.program.equations if tensor.name in eq.reads), None)
        return first is not None and any(
            isinstance(a, Access) and a.name == tensor.name
            for node in first.body.atoms(Mul) for a in node.args
        )

    def _keep(self, name: str, kind: str, root: Root, why: str) -> None:
        self.known[name] = Known(kind, root)
        self.out.append(Relation(name, kind, root.mean, root.second, root.cross, why))

    # -- bodies -----------------------------------------------------------------------------
    def inline(self, expr: Expr) -> Expr:
        """A body over roots: pointwise tensors replaced by their functions of roots."""
        expr = self._winners(expr)
        mapping: dict[Expr, Expr] = {}
        for access in roots_of(expr):
            access_now = self._carried(access)
            known = self.known[access_now.name]
            if known.kind == "unknown":
                raise Unsupported(f"it depends on {access.name!r}, which is not known")
            if known.kind == "average":
                mapping[access] = known.root.mean
            elif known.body is not None:
                there = dict(zip(known.indices, access_now.where, strict=True))
                mapping[access] = known.body.xreplace(there)
            elif access_now != access:
                mapping[access] = access_now
        expr = expr.xreplace(mapping) if mapping else expr
        expr = self._ends(expr)
        names = {a.name for a in roots_of(expr) if a.name.startswith(COMMON)}
        apart = {
            a: Access(COMMON + a.name, *self._shared_where(a)) + Access(OWN + a.name, *a.where)
            for a in roots_of(expr) if COMMON + a.name in names
        }
        if not apart:
            return expr
        split = expr.xreplace(apart)
        rest = {a.name for a in roots_of(split) if a.name.startswith(COMMON)}
        return sympy.expand_mul(split) if rest else split

    def _winners(self, expr: Expr) -> Expr:
        """Whether an element is the largest of its window holds once per window."""
        hits = {}
        for node in expr.atoms(sympy.Eq):
            for access in roots_of(node):
                if access.name in self.winners:
                    hits[node] = sympy.Eq(Index("winner", self.winners[access.name]), 0)
        return expr.xreplace(hits) if hits else expr

    def _shared_where(self, access: Access) -> list[Expr]:
        axes = self._root(access).axes
        return [w for k, w in zip(axes, access.where) if k != "sample"]

    def _arguments(self, expr: Expr, eq: Equation) -> Expr:
        """Functions of several roots get a root of their own for the argument."""
        while True:
            mixed = [
                node for node in sympy.preorder_traversal(expr)
                if isinstance(node, sympy.Function) and len(roots_of(node.args[0])) > 1
            ]
            if not mixed:
                return expr
            argument = mixed[-1].args[0]
            indices = tuple(i for i in eq.indices if i in argument.free_symbols) or eq.indices
            key = alpha_key(indices, argument)
            name = self.arguments.get(key)
            if name is None:
                name = f"argument {len(self.arguments) + 1}"
                self.arguments[key] = name
                kinds = dict(zip(eq.indices, self.axes[eq.name]))
                self.axes[name] = tuple(kinds[i] for i in indices)
                tensor = Tensor(name, indices)
                terms = separate(argument)
                helper = Equation(tensor, indices, argument)
                self._define(helper, "sum", self._moments(helper, terms), "a sum inside")
            expr = expr.xreplace({argument: Access(name, *indices)})

    def _root(self, access: Access) -> Root:
        return self.known[access.name].root

    def _moments(self, eq: Equation, terms: list[Term]) -> tuple[Expr, Expr, Expr]:
        kinds = self.axes[eq.name]
        samples = frozenset(i for i, k in zip(eq.indices, kinds) if k == "sample")
        second = self.algebra.second(terms)
        cross = self.algebra.second(terms, samples) if samples else second
        return self.algebra.mean(terms), second, cross

    def _define(self, eq: Equation, kind: str, moments: tuple[Expr, Expr, Expr], why: str,
                body: Expr | None = None) -> None:
        """Name the moments of a tensor; zeros and equalities stay visible to what follows."""
        mean, second, cross = (e.xreplace(self.named) for e in moments)
        if any(isinstance(s, Index) for e in moments for s in e.free_symbols):
            raise Unsupported(f"a moment of {eq.name!r} would depend on an index")
        name, axes = eq.name, self.axes[eq.name]
        m = mean if mean.is_number else symbol("m", name)
        q = symbol("q", name)
        if kind == "average":
            q = m**2
        r = _name_cross(symbol("r", name), (mean, second, cross), (m, q))
        if kind == "average":
            r = q
        self.known[name] = Known(kind, Root(m, q, r, axes), eq.indices, body)
        for expr, mark in ((cross, r), (second, q), (mean, m)):
            if isinstance(expr, GaussianIntegral) and isinstance(mark, Symbol):
                self.named[expr] = mark  # later relations read q(h1), not its integral
        self.out.append(Relation(name, kind, mean, second, cross, why, self.step))

    def _average(self, value: Expr) -> Expr:
        """A name for a number that an expectation gives, so that bodies stay small."""
        if value.is_number:
            return value
        if value not in self.averages:
            name = f"average {len(self.averages) + 1}"
            self.averages[value] = symbol("m", name)
            self.out.append(Relation(name, "average", value, value**2, value**2,
                                     "an expectation over one sample", self.step))
        return self.averages[value]

    def _split(self, name: str) -> None:
        """A root as the sum of a part that all samples share and a part of each sample's own."""
        root = self.known[name].root
        axes = tuple(k for k in root.axes if k != "sample")
        rest = root.second - root.cross
        self.known[COMMON + name] = Known(
            "sum", Root(root.mean, root.cross, root.cross, axes))
        self.known[OWN + name] = Known("sum", Root(S.Zero, rest, S.Zero, root.axes))

    def _carried(self, access: Access) -> Access:
        """An access of the recurrence at another step, under a name of its own."""
        if self.loop is None or self.group is None or access.name not in self.group.axis:
            return access
        axis = self.group.axis[access.name]
        shift = access.where[axis] - self.loop
        if shift == 0:
            return access
        name = f"{access.name}@{shift}"
        self.carried[name] = int(shift)
        mean = S.Zero if self.zero_means else symbol("m", name)
        root = Root(mean, symbol("q", name), symbol("r", name), self.axes[access.name])
        self.known[name] = Known("sum", root)
        return Access(name, *access.where)

    def _ends(self, expr: Expr) -> Expr:
        """Accesses of a recurrence's result at a fixed step: the first of its index or the last."""
        mapping = {}
        for access in roots_of(expr):
            known = self.known[access.name]
            fixed = [
                n for n, (k, w) in enumerate(zip(known.root.axes, access.where))
                if k == "loop" and not any(isinstance(s, Index) for s in w.free_symbols)
            ]
            if not fixed or access.name.endswith((START, END)):
                continue
            name = access.name + (START if access.where[fixed[0]] == 0 else END)
            if name not in self.known:
                old = known.root
                mean = old.mean if old.mean.is_number else symbol("m", name)
                self.known[name] = replace(
                    known, root=Root(mean, symbol("q", name), symbol("r", name), old.axes))
            mapping[access] = Access(name, *access.where)
        return expr.xreplace(mapping) if mapping else expr


def _name_cross(r: Symbol, given: tuple[Expr, Expr, Expr], named: tuple[Expr, Expr]) -> Expr:
    mean, second, cross = given
    if cross == second:
        return named[1]
    if cross == 0 or cross == mean**2:
        return named[0] ** 2
    return r
