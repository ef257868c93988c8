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

from dataclasses import dataclass, replace

import sympy
from sympy import Add, Expr, Mul, S, Symbol

from derive.flow.axes import Kind, classify_axes, fan_ins
from derive.flow.integrals import GaussianIntegral, GaussianMoment, SoftmaxSecondMoment
from derive.flow.moments import X
from derive.flow.terms import Algebra, Root, Term, Unsupported, roots_of, separate
from derive.lift import name_reductions
from derive.nodes import Access, Index, IntegerAccess, LogSumExpOver, Reduction, Select, SumOver
from derive.program import Equation, Group, Program, Tensor, as_program
from derive.simplify import alpha_key

COMMON, OWN, START, END = "common part of ", "own part of ", " at the start", " at the end"


@dataclass(frozen=True)
class Relation:
    """What the equations say of one tensor's elements.

    ``kind`` is "given", "sum" (normal by the central limit theorem), "pointwise" (a function of
    others), "average" (a number: the law of large numbers) or "unknown", with the reason in
    ``why``. ``step`` is "" or, in a recurrence, "first" or "next".
    """

    name: str
    kind: str
    mean: Expr
    second: Expr
    cross: Expr
    why: str = ""
    step: str = ""

    def __str__(self) -> str:
        if self.kind == "unknown":
            return f"q({self.name}) is not known: {self.why}"
        text = f"q({self.name}) = {self.second}"
        return text if self.mean == 0 else f"{text},  m({self.name}) = {self.mean}"


@dataclass(frozen=True)
class Flow:
    """The relations of a program, in an order of computation, one tuple per group."""

    program: Program
    groups: tuple[tuple[Relation, ...], ...]
    axes: dict[str, tuple[Kind, ...]]

    @property
    def relations(self) -> dict[str, Relation]:
        """The relation of each tensor (of a recurrence, that of a step inside)."""
        return {r.name: r for group in self.groups for r in group if r.step != "first"}

    @property
    def unknown(self) -> dict[str, str]:
        """Tensors whose moments could not be derived, with the reason."""
        return {r.name: r.why for r in self.relations.values() if r.kind == "unknown"}

    def __str__(self) -> str:
        return "\n".join(map(str, self.relations.values()))


@dataclass(frozen=True)
class _Known:
    kind: str
    root: Root
    indices: tuple[Index, ...] = ()
    body: Expr | None = None


def symbol(kind: str, name: str) -> Symbol:
    """q(name), m(name), r(name) or v(name)."""
    return Symbol(f"{kind}({name})", real=True, nonnegative=kind in "qv" or None)


def drawn(tensor: Tensor) -> bool:
    """Whether a parameter starts at random (against zeros, ones, or a bias's zero)."""
    return tensor.role == "parameter" and tensor.initial not in ("zeros", "ones")


def random_parameters(program: Program) -> set[str]:
    """Parameters that are drawn: those with a standard deviation, and "auto" ones with a fan-in
    or looked up by token (an additive "auto" parameter starts at 0)."""
    fans = fan_ins(program)
    gathered = {
        a.name
        for eq in program.equations if eq.tensor.role != "gradient"
        for a in roots_of(eq.body) if any(isinstance(w, IntegerAccess) for w in a.where)
    }
    return {
        t.name for t in program.parameters
        if drawn(t) and (t.initial != "auto" or t.name in fans or t.name in gathered)
    }


def propagate(program: Program) -> Flow:
    """The relations between the moments of a program's tensors.

    Args:
        program: a `Program` or a network; a derived one gives the adjoints as well.

    Returns:
        A `Flow`; tensors that no rule covers are marked "unknown", with the reason, and so is
        what depends on them. `derive.flow.forecast.forecast` puts in numbers.
    """
    return _Walk(name_reductions(as_program(program))).run()


class _Walk:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.random = random_parameters(program)
        self.axes = classify_axes(program, self.random)
        self.readers: dict[str, list[Equation]] = {}
        for eq in program.equations:
            for name in eq.reads:
                self.readers.setdefault(name, []).append(eq)
        self.known: dict[str, _Known] = {}
        self.arguments: dict[tuple, str] = {}
        self.named: dict[Expr, Expr] = {}
        self.averages: dict[Expr, Symbol] = {}
        self.out: list[Relation] = []
        self.algebra = Algebra(self._root)
        self.loop: Index | None = None
        self.carried: dict[str, int] = {}
        self.step = ""

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
        self.known[name] = _Known(kind, root)
        self.out.append(Relation(name, kind, root.mean, root.second, root.cross, why))

    # -- equations --------------------------------------------------------------------------
    def _equation(self, eq: Equation) -> None:
        try:
            self._derive(eq)
        except Unsupported as error:
            self._unknown(eq, str(error.what))

    def _unknown(self, eq: Equation, why: str) -> None:
        name = eq.name
        m, q, r = (symbol(kind, name) for kind in "mqr")
        self.known[name] = _Known("unknown", Root(m, q, r, self.axes[name]))
        self.out.append(Relation(name, "unknown", m, q, r, why, self.step))

    def _derive(self, eq: Equation) -> None:
        body = eq.body
        if isinstance(body, LogSumExpOver):
            return self._log_sum_exp(eq, body)
        if isinstance(body, Reduction) and not isinstance(body, SumOver):
            raise Unsupported(f"no rule for the moments of a {body.op}")
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

    def _moments(self, eq: Equation, terms: list[Term]) -> tuple[Expr, Expr, Expr]:
        kinds = self.axes[eq.name]
        samples = frozenset(i for i, k in zip(eq.indices, kinds) if k == "sample")
        second = self.algebra.second(terms)
        cross = self.algebra.second(terms, samples) if samples else second
        return self.algebra.mean(terms), second, cross

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
        self.known[COMMON + name] = _Known(
            "sum", Root(root.mean, root.cross, root.cross, axes))
        self.known[OWN + name] = _Known("sum", Root(S.Zero, rest, S.Zero, root.axes))

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

    # -- bodies -----------------------------------------------------------------------------
    def inline(self, expr: Expr) -> Expr:
        """A body over roots: pointwise tensors replaced by their functions of roots."""
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

    def _define(self, eq: Equation, kind: str, moments: tuple[Expr, Expr, Expr], why: str,
                body: Expr | None = None) -> None:
        """Name the moments of a tensor; zeros and equalities stay visible to what follows."""
        mean, second, cross = (e.xreplace(self.named) for e in moments)
        name, axes = eq.name, self.axes[eq.name]
        m = mean if mean.is_number else symbol("m", name)
        q = symbol("q", name)
        if kind == "average":
            q = m**2
        r = _name_cross(symbol("r", name), (mean, second, cross), (m, q))
        if kind == "average":
            r = q
        self.known[name] = _Known(kind, Root(m, q, r, axes), eq.indices, body)
        for expr, mark in ((cross, r), (second, q), (mean, m)):
            if isinstance(expr, GaussianIntegral) and isinstance(mark, Symbol):
                self.named[expr] = mark  # later relations read q(h1), not its integral
        self.out.append(Relation(name, kind, mean, second, cross, why, self.step))

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

    def _carried(self, access: Access) -> Access:
        """An access of the recurrence at another step, under a name of its own."""
        if self.loop is None or access.name not in self.group.axis:
            return access
        axis = self.group.axis[access.name]
        shift = access.where[axis] - self.loop
        if shift == 0:
            return access
        name = f"{access.name}@{shift}"
        self.carried[name] = int(shift)
        mean = S.Zero if self.zero_means else symbol("m", name)
        root = Root(mean, symbol("q", name), symbol("r", name), self.axes[access.name])
        self.known[name] = _Known("sum", root)
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


def resolve_edge(body: Expr, loop: Index, first: bool, direction: int) -> Expr:
    """A body with selections by the loop index decided: at the first step or inside."""
    size = loop.size if loop.size.is_Integer else 1000
    at = (0 if direction > 0 else size - 1) if first else size // 2
    sizes = dict.fromkeys(loop.size.free_symbols, 1000)
    mapping = {}
    for node in body.atoms(Select):
        if node.condition.free_symbols <= {loop, *loop.size.free_symbols}:
            truth = node.condition.subs({loop: at}).subs(sizes)
            mapping[node] = node.yes if truth == True else node.no  # noqa: E712
    new = body.xreplace(mapping) if mapping else body
    return resolve_edge(new, loop, first, direction) if mapping else new
