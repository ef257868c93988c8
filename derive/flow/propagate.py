"""Mean, variance and sample covariance of every tensor of a program, from its equations.

Program → `Flow`: one relation per tensor, such as ``q(z1) = 64*v(W1)*q(x) + v(c1)`` and
``q(h1) = q(z1)/2``, where q is a second moment, m a mean, r the expectation of a product over two
samples and v the variance of a parameter. Names are let-bound, so that a deep network costs as
many relations as it has equations. The adjoints of a derived program are equations like any
other and get their relations by the same rules.

Assumptions, stated where the forecast is: widths are large, weights are drawn independently with
mean 0, and the adjoint that arrives at a layer is independent of the weights before it (exact in
the limit for a readout with fresh weights; Yang and Schoenholz 2017).
"""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Add, Expr, Mul, S

from derive.flow.integrals import LargestMoment, SoftmaxSecondMoment
from derive.flow.moments import X, increasing
from derive.flow.relations import Flow, Known, Relation, resolve_edge, symbol
from derive.flow.sums import Sums
from derive.flow.terms import Root, Term, Unsupported, roots_of, separate
from derive.lift import name_reductions
from derive.nodes import LogSumExpOver, MaxOver, Reduction, Select, SumOver
from derive.program import Equation, Group, Program, as_program


def propagate(program: Program) -> Flow:
    """The relations between the moments of a program's tensors.

    Args:
        program: a `Program` or a network; a derived one gives the adjoints as well.

    Returns:
        A `Flow`; tensors that no rule covers are marked "unknown", with the reason, and so is
        what depends on them. `derive.flow.forecast.forecast` puts in numbers.
    """
    return _Walk(name_reductions(as_program(program))).run()


class _Walk(Sums):
    """The walk over a program in order of computation."""

    def run(self) -> Flow:
        groups: list[tuple[Relation, ...]] = []
        for tensor in self.program.given:
            self._given(tensor)
        groups.append(tuple(self.out))
        for group in self.program.groups:
            self.out = []
            if group.recurrent:
                self._recurrence(group)
            else:
                self._equation(group.equations[0])
            groups.append(tuple(self.out))
        return Flow(self.program, tuple(groups), self.axes)

    def _equation(self, eq: Equation) -> None:
        try:
            self._derive(eq)
        except Unsupported as error:
            self._unknown(eq, str(error.what))

    def _unknown(self, eq: Equation, why: str) -> None:
        name = eq.name
        m, q, r = (symbol(kind, name) for kind in "mqr")
        self.known[name] = Known("unknown", Root(m, q, r, self.axes[name]))
        self.out.append(Relation(name, "unknown", m, q, r, why, self.step))

    def _derive(self, eq: Equation) -> None:
        body = eq.body
        if isinstance(body, LogSumExpOver):
            return self._log_sum_exp(eq, body)
        if isinstance(body, MaxOver):
            return self._largest(eq, body)
        if isinstance(body, Reduction) and not isinstance(body, SumOver):
            raise Unsupported(f"no rule for the moments of a {body.op}")
        if eq.tensor.origin is not None and eq.tensor.origin[0] == "ties":
            return self._define(eq, "average", (S.One,) * 3, "ties have no share")
        if body.has(SumOver):
            return self._sum(eq)
        soft = self._softmax(eq)
        if soft is not None:
            return self._define(eq, "sum", soft, "softmax: exact over independent logits")
        expr = self._arguments(self.inline(body), eq)
        terms = separate(expr)
        if not any(t.factors for t in terms) and all(t.guard == S.true for t in terms):
            value = Add(*(t.coefficient for t in terms))
            return self._define(eq, "average", (value, value**2, value**2), "a constant")
        moments = self._moments(eq, terms)
        shared = len({a for t in terms for a in t.factors}) < sum(len(t.factors) for t in terms)
        moved = any(a.name in self.carried for t in terms for a in t.factors)
        guarded = any(t.guard != S.true for t in terms)
        if (len(terms) > 1 and not shared) or moved or guarded:
            why = "an uncorrelated sum" if len(terms) > 1 else "one term"
            return self._define(eq, "sum", moments, why)
        self._define(eq, "pointwise", moments, "a function of one element", expr)

    def _sum(self, eq: Equation) -> None:
        terms: list[Term] = []
        for addend in Add.make_args(eq.body):
            sums = [f for f in Mul.make_args(addend) if isinstance(f, SumOver)]
            if not sums:
                terms += separate(self._arguments(self.inline(addend), eq))
                continue
            front = self.inline(addend / sums[0])
            inner = self._arguments(self.inline(sums[0].body), eq)
            for term in separate(inner):
                for outside in separate(front):
                    terms.append(replace(term.times(outside), bound=sums[0].bound))
        moments = self._moments(eq, terms)
        if self._given_back(eq, terms):
            if all(self._common_part(t) == 0 for t in terms):
                why = "of lower order than what it is added to"
                return self._define(eq, "sum", moments, why, S.Zero)
            common = self._common(terms)
            if common is not None:
                return self._define(eq, "pointwise", moments, "the part all samples share", common)
        if self._concentrates(terms):
            return self._define(eq, "average", moments, "law of large numbers")
        self._define(eq, "sum", moments, "a sum of uncorrelated terms")

    def _largest(self, eq: Equation, body: MaxOver) -> None:
        """The largest of a window: of a monotone function of one normal variable."""
        inner = body.body.yes if isinstance(body.body, Select) else body.body
        terms = separate(self.inline(inner))
        if len(terms) != 1 or len(terms[0].factors) != 1 or terms[0].guard != S.true:
            raise Unsupported("the largest of what is no function of one variable")
        (access, f), = terms[0].factors.items()
        f = terms[0].coefficient * f
        if f.free_symbols != {X} or not increasing(f):
            raise Unsupported(f"the largest of {f}, which is not increasing")
        root, count = self._root(access), Mul(*(i.size for i in body.bound))
        kinds = {
            k for k, w in zip(root.axes, access.where) if w.free_symbols & set(body.bound)
        }
        among = root.mean**2 if "feature" in kinds else root.cross
        self.winners[eq.name] = count
        mean, second, cross = (
            LargestMoment(g, root.mean, root.second, among, count, pairs)
            for g, pairs in ((f, S.Zero), (f**2, S.Zero), (f, S.One))
        )
        self._define(eq, "sum", (mean, second, cross), f"the largest of {count}")

    def _log_sum_exp(self, eq: Equation, body: LogSumExpOver) -> None:
        logit, count, variance = self._logit(body)
        value = sympy.log(count) + logit.mean + variance / 2
        self._define(eq, "average", (value, value**2, value**2),
                     "log of the number of terms plus half the variance of a logit")

    def _logit(self, body: LogSumExpOver) -> tuple[Root, Expr, Expr]:
        """The logit's moments, how many there are, and their variance among each other."""
        inner = body.body.yes if isinstance(body.body, Select) else body.body
        terms = separate(self.inline(inner))
        kinds: set[str] = set()
        for term in terms:
            for access in term.factors:
                for kind, where in zip(self._root(access).axes, access.where):
                    if where.free_symbols & set(body.bound):
                        kinds.add(kind)
        mean, second = self.algebra.mean(terms), self.algebra.second(terms)
        cross = self.algebra.second(terms, frozenset(body.bound)) if "sample" in kinds else mean**2
        root = Root(mean, second, cross, ())
        return root, Mul(*(i.size for i in body.bound)), second - cross

    def _softmax(self, eq: Equation) -> tuple[Expr, Expr, Expr] | None:
        """exp(z - L) with L = logsumexp of the same z."""
        body = eq.body.yes if isinstance(eq.body, Select) else eq.body
        if not isinstance(body, sympy.exp) or not isinstance(body.args[0], Add):
            return None
        for access in roots_of(body):
            source = self.program.defined.get(access.name)
            if source is None or not isinstance(source.body, LogSumExpOver):
                continue
            inner = source.body.body
            inner = inner.yes if isinstance(inner, Select) else inner
            rest = body.args[0] + access
            if {a.name for a in roots_of(rest)} != {a.name for a in roots_of(inner)}:
                continue
            logit, count, variance = self._logit(source.body)
            mean, second = 1 / count, SoftmaxSecondMoment(variance, count)
            share = self._logit_correlation(source, logit)
            return mean, second, mean**2 * (count**2 * second) ** share
        return None

    def _logit_correlation(self, eq: Equation, logit: Root) -> Expr:
        """Of the logits of two samples. E[p p'] = E[p²]^ρ in units of 1/n² is right at ρ = 0 and
        1, and in between for many terms, where it is exp(covariance)."""
        bound = eq.body.bound
        terms = separate(self.inline(eq.body.body)) if not eq.body.body.has(Select) else []
        kinds = {
            k for t in terms for a in t.factors
            for k, w in zip(self._root(a).axes, a.where) if w.free_symbols & set(bound)
        }
        samples = frozenset(
            i for i, k in zip(eq.indices, self.axes[eq.name]) if k == "sample"
        )
        if kinds != {"feature"} or not samples:
            return S.Zero
        covariance = self.algebra.second(terms, samples) - logit.mean**2
        return covariance / (logit.second - logit.mean**2)

    # -- recurrences ------------------------------------------------------------------------
    def _recurrence(self, group: Group) -> None:
        outside = self.named
        for zero in (True, False):
            self.out = []
            for step in ("first", "next"):
                self.named = dict(outside)
                self._one_step(group, step, zero)
            means = {r.name: r.mean for r in self.out if r.step == "next"}
            first = {r.name: r.mean for r in self.out if r.step == "first"}
            if all(means[n] == 0 and first[n] == 0 for n in {c.split("@")[0] for c in self.carried}
                   if n in means):
                break
        self.step, self.loop, self.named = "", None, outside
        for eq in group.equations:
            known = self.known[eq.name]
            if known.body is not None and any(a.name in self.carried for a in roots_of(known.body)):
                self.known[eq.name] = replace(known, kind="sum", body=None)
        self.carried = {}

    def _one_step(self, group: Group, step: str, zero: bool) -> None:
        self.step, self.group, self.zero_means = step, group, zero
        for eq in group.equations:
            loop = eq.indices[group.axis[eq.name]]
            self.loop = loop
            body = resolve_edge(eq.body, loop, step == "first", group.step)
            self._equation(replace(eq, body=body))
