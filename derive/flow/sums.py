"""Sums that are nearly numbers, and sums whose part common to all samples is what counts."""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Add, Expr, Mul, S

from derive.flow.bodies import Bodies
from derive.flow.integrals import GaussianMoment
from derive.flow.moments import X
from derive.flow.relations import COMMON, OWN
from derive.flow.terms import Root, Term, roots_of
from derive.nodes import Access, SumOver
from derive.program import Equation


class Sums(Bodies):
    """What becomes of a sum in the limit of many terms."""

    def _concentrates(self, terms: list[Term]) -> bool:
        """Sums whose mean is not 0 and whose elements are independent: nearly a number."""
        for term in terms:
            if not term.bound:
                return False
            if self.algebra.mean([term]) == 0:
                if not self._averages_out(term):
                    return False
                continue
            single = replace(term, coefficient=S.One, bound=(), guard=S.true)
            apart = self.algebra.second([single], frozenset(term.bound))
            if sympy.expand(apart - self.algebra.mean([single]) ** 2) != 0:
                return False
        return True

    def _averages_out(self, term: Term) -> bool:
        """A mean over features (or over what each sample has of its own) of something with mean
        0, without a weight: of order 1/√n, and in the limit 0."""
        count = Mul(*(i.size for i in term.bound))
        if not (term.coefficient * count).is_number or abs(term.coefficient * count) > 2:
            return False
        if any(a.name in self.random for a in term.factors):
            return False
        return any(
            (kind == "feature" or a.name.startswith(OWN)) and where.free_symbols & {i}
            for i in term.bound for a in term.factors
            for kind, where in zip(self._root(a).axes, a.where)
        ) and all(i.size.is_Symbol or i.size >= 8 for i in term.bound)

    def _given_back(self, eq: Equation, terms: list[Term]) -> bool:
        """Whether a sum is added to what it was summed over (a mean that is subtracted): then
        only the part that all samples share matters, the rest is small against each sample's."""
        summed = {a.name.removeprefix(OWN).removeprefix(COMMON) for t in terms for a in t.factors}
        seen, todo = {eq.name}, [eq.name]
        while todo:
            for reader in self.readers.get(todo.pop(), ()):
                if reader.body.has(SumOver) or reader.name in seen:
                    continue
                if "sample" in self.axes[reader.name]:
                    roots = {
                        a.name for r in reader.reads if r in self.known and r not in seen
                        for a in roots_of(self.known[r].body or Access(r))
                    }
                    if roots & summed:
                        return True
                    continue
                seen.add(reader.name)
                todo.append(reader.name)
        return False

    def _common(self, terms: list[Term]) -> Expr | None:
        """The part of a sum over samples that all samples share, to leading order in their
        number: factors that are independent from sample to sample count by their mean, and one
        that is linear in a root by the common part of that root."""
        parts = [self._common_part(t) for t in terms]
        if any(p is None for p in parts) or all(p == 0 for p in parts):
            return None
        for term in terms:
            for access in term.factors:
                if not self._independent(self._root(access)):
                    self._split(access.name)
        return Add(*(p for p in parts if p is not None))

    @staticmethod
    def _independent(root: Root) -> bool:
        return root.cross == root.mean**2

    def _common_part(self, term: Term) -> Expr | None:
        if term.guard != S.true or not term.bound:
            return None
        parts: list[Expr] = [term.coefficient, *(i.size for i in term.bound)]
        bound, shared = set(term.bound), False
        for access, f in term.factors.items():
            root = self._root(access)
            touched = [k for k, w in zip(root.axes, access.where) if w.free_symbols & bound]
            if set(touched) != {"sample"}:
                return None
            if self._independent(root):
                parts.append(self._average(GaussianMoment(f, root.mean, root.second)))
                continue
            if (f / X).has(X):
                return None
            shared = True
            where = [w for k, w in zip(root.axes, access.where) if k != "sample"]
            parts.append(f / X * Access(COMMON + access.name, *where))
        return Mul(*parts) if shared else None
