"""Random programs: networks of what the language can say, which few people would write.

`random_network` makes a network from choices that someone else makes: Hypothesis in the tests (so
that a failing one shrinks), a seeded generator in `benchmarks/random_programs.py`. Shapes are
built from sizes 1, 2, 3, 5 and two run-time sizes; bodies from affine accesses that may leave
their bounds, quotients and remainders, gathers (also of gathers), every reduction, selections by
indices and by values, elementary functions, softmax, stopped gradients, random numbers, states
with updates, recurrences in both directions (alone and mutual), and tensors that are read several
times. There are one or two losses. With ``quotients`` factors are also divided: by elements of
tensors that keep away from zero, their powers, and expressions that do; it changes what a seed
means, so programs without have the seeds that they always had. `tests.judge` says whether the
gradients of one are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sympy
from sympy import Expr, Rational, S

import derive as dr
from derive.bodies import misses
from derive.functions import stop_gradient
from derive.network import Handle, Network
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    Reduction,
    Select,
    accesses,
    fresh,
    walk,
)
from derive.program import Program
from derive.randomness import keeps, normal, uniform

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]

SIZES = (1, 2, 3, 5)
_FUNCTIONS: tuple[Callable[[Expr], Expr], ...] = (
    dr.tanh, dr.sigmoid, dr.sin, dr.cos, dr.relu, dr.softplus, dr.gelu, dr.silu, dr.abs, dr.elu,
    dr.leaky_relu, lambda e: e**2, lambda e: dr.exp(dr.tanh(e)), lambda e: dr.sqrt(1 + e**2),
    lambda e: dr.log(2 + dr.sin(e)), lambda e: 1 / (2 + dr.cos(e)), dr.identity,
    lambda e: dr.clip(e, -0.5, 0.75), lambda e: dr.maximum(e, dr.sin(e) / 2),
    lambda e: dr.minimum(e**2, 1 - e), dr.stopped, lambda e: dr.straight_through(e**3, e),
    lambda e: _piecewise(e),  # noqa: PLW0108  (it stands below)
)


def _piecewise(e: Expr) -> Expr:
    """SymPy's own form of a choice; it does not build one over a condition with choices in it."""
    if e.has(Select, sympy.Piecewise):
        return dr.where(e > 0.1, e**2, e / 2)
    return sympy.Piecewise((e**2, e > 0.1), (e / 2, True))


@dataclass
class _Maker:
    choose: Choose
    net: Network
    floats: list[Handle] = field(default_factory=list)
    whole: list[Handle] = field(default_factory=list)
    seed: Handle | None = None
    quotients: bool = False
    positive: list[Handle] = field(default_factory=list)  # at least 1 wherever they are

    def chance(self, one_in: int) -> bool:
        return self.choose(range(one_in)) == one_in - 1

    def size(self) -> int | str:
        return self.choose((*SIZES, *SIZES, "B", "B", "T"))

    def indices(self, rank: int) -> tuple[Index, ...]:
        return tuple(
            dr.indices(f"{name}:{self.size()}") for name in self.choose(_ORDERS)[:rank]
        )

    # -- accesses -----------------------------------------------------------------------------
    def place(self, size: Expr, scope: list[Index], bound: list[Index]) -> Expr:
        """An index expression for a dim: a new bound index, one in scope, or an affine one."""
        fitting = [i for i in (*scope, *bound) if i.size == size]
        kind = self.choose(("plain", "plain", "bound", "new", "affine", "constant", "gather",
                            "part"))
        if kind == "bound":  # an index that another factor of the product has bound
            fitting = [i for i in bound if i.size == size] or fitting
        if kind in ("plain", "bound") and fitting:
            return self.choose(fitting)
        if kind == "constant" and size.is_Integer:
            return sympy.Integer(self.choose(range(int(size))))
        if kind == "gather" and self.whole:
            return self.gathered(scope, bound)
        every = [*scope, *bound]
        if kind == "affine" and every:
            where = self.choose((1, 2, -1, 3, -2)) * self.choose(every)
            if self.chance(2):
                where = where + self.choose((1, -1, 2)) * self.choose(every)
            where = sympy.expand(where + self.choose((0, 1, -1, 2)))
            return S.Zero if misses(where, size) else where
        if kind == "part" and every:
            index, divisor = self.choose(every), self.choose((2, 3))
            where = (index // divisor) if self.chance(2) else index % divisor
            return S.Zero if misses(where, size) else where
        taken = {i.name for i in every}
        new = fresh(Index("r", size), taken)
        bound.append(new)
        return new

    def gathered(self, scope: list[Index], bound: list[Index]) -> Expr:
        chosen = self.choose(self.whole)
        where = []
        for size in chosen.shape:
            others = [n for n in self.whole if n.tensor.rank < chosen.tensor.rank]
            if others and self.chance(3):  # a gather of a gather
                inner = self.choose(others)
                if not inner.tensor.rank:
                    where.append(inner.tensor.access)
                    continue
            fitting = [i for i in (*scope, *bound) if i.size == size]
            if not fitting:
                bound.append(fresh(Index("r", size), {i.name for i in (*scope, *bound)}))
                fitting = bound[-1:]
            where.append(self.choose(fitting))
        return chosen[tuple(where)] if where else chosen.tensor.access

    def access(self, scope: list[Index], bound: list[Index]) -> Expr:
        tensor = self.choose(self.floats)
        where = [self.place(size, scope, bound) for size in tensor.shape]
        where = [S.Zero if isinstance(e, Index) and e.size != size else e
                 for e, size in zip(where, tensor.shape, strict=True)]
        return tensor[tuple(where)] if where else tensor.tensor.access

    # -- bodies -------------------------------------------------------------------------------
    def factor(self, scope: list[Index], bound: list[Index]) -> Expr:
        if self.quotients and self.chance(3):
            return self._factor(scope, bound) / self.denominator(scope, bound)
        return self._factor(scope, bound)

    def denominator(self, scope: list[Index], bound: list[Index]) -> Expr:
        """What is never near zero: no access in it leaves its bounds without being squared."""
        if self.positive and self.chance(2):
            tensor = self.choose(self.positive)
            where = [self.within(size, scope, bound) for size in tensor.shape]
            base = tensor[tuple(where)] if where else tensor.tensor.access
        else:
            inner = self.access(scope, bound)
            base = self.choose((2 + inner**2, dr.exp(dr.tanh(inner)), 1 + dr.sigmoid(inner)))
        return base ** self.choose((1, 1, 2, 2, 3, Rational(1, 2), Rational(3, 2)))

    def within(self, size: Expr, scope: list[Index], bound: list[Index]) -> Expr:
        """An index expression that stays inside a dim of that size."""
        fitting = [i for i in (*scope, *bound) if i.size == size]
        if size.is_Integer and self.chance(4):
            return sympy.Integer(self.choose(range(int(size))))
        if not fitting:
            bound.append(fresh(Index("r", size), {i.name for i in (*scope, *bound)}))
            fitting = bound[-1:]
        index = self.choose(fitting)
        return size - 1 - index if self.chance(4) else index

    def _factor(self, scope: list[Index], bound: list[Index]) -> Expr:
        kind = self.choose(("access",) * 6 + ("function",) * 2 + ("number", "index", "random",
                                                               "softmax"))
        if kind == "random" and self.seed is not None:
            return self.random(scope)
        if kind == "softmax":
            share = self.access(scope, bound)
            over = [i for i in scope if i in share.free_symbols]
            return dr.softmax(share, self.choose(over)) if over else share
        if kind == "number":
            return self.choose((S.One, Rational(1, 2), Rational(-3, 4), S(2)))
        if kind == "index" and scope:
            return (1 + self.choose(scope)) / sympy.Integer(4)
        if kind == "function":
            inner = self.access(scope, bound)
            if self.chance(2):
                inner = inner - self.access(scope, bound) / 2
            return self.choose(_FUNCTIONS)(inner)
        return self.access(scope, bound)

    def random(self, scope: list[Index]) -> Expr:
        """Normal noise, or a mask as of dropout; the same again where the stream is the same."""
        assert self.seed is not None
        stream, where = self.choose((1, 2)), scope[: self.choose((0, 1, 2))]
        if self.chance(2):
            return normal(self.seed.tensor.access, stream, *where)
        return Select(keeps(self.seed.tensor.access, stream, 0.25, *where), Rational(4, 3))

    def term(self, scope: list[Index], depth: int) -> Expr:
        """A product under a reduction over every index that it needs."""
        bound: list[Index] = []
        product = self.factor(scope, bound)
        for _ in range(self.choose((0, 1, 1, 2))):
            product = product * self.factor(scope, bound)
        if depth and self.chance(3):
            product = product * self.term([*scope, *bound], depth - 1)
        if self.chance(5):
            condition = self.condition([*scope, *bound], bound)
            product = Select(condition, product, self.choose((S.Zero, S.One)))
        used = [i for i in bound if i in product.free_symbols]
        if not used:
            return product
        reduce = self.choose((dr.sum, dr.sum, dr.sum, dr.mean, dr.max, dr.min, dr.prod,
                              dr.logsumexp))
        reduced = reduce(dr.tanh(product) if reduce is dr.prod else product, *used)
        return self.choose(_FUNCTIONS)(reduced) if self.chance(3) else reduced

    def condition(self, scope: list[Index], bound: list[Index]) -> Expr:
        """A comparison of indices, of values, or two of them together."""
        if not scope or self.chance(3):
            value = self.access(scope, bound)
            other = self.access(scope, bound) if self.chance(2) else Rational(1, 10)
            return self.choose((value > other, value <= other))
        left, right = self.choose(scope), self.choose(scope)
        made = self.choose((sympy.Le(left, right), sympy.Gt(left, 1), sympy.Ne(left, right),
                            sympy.Eq(sympy.Mod(left, 2), 0)))
        if self.chance(4):
            both = self.choose((sympy.And, sympy.Or))
            return both(made, sympy.Ge(self.choose(scope), 1))
        return made

    def body(self, free: tuple[Index, ...], depth: int = 1) -> Expr:
        total = self.term(list(free), depth)
        for _ in range(self.choose((0, 0, 1))):
            total = total + self.term(list(free), depth)
        return self.choose(_FUNCTIONS)(total)

    # -- statements ---------------------------------------------------------------------------
    def recurrence(self, number: int) -> list[Handle]:
        """One or two equations that read each other a step or two before (or after)."""
        free = self.indices(self.choose((1, 2, 2)))
        t, step = free[0], self.choose((-1, -1, 1, -2))
        first: Handle | Expr = self.choose((S.Zero, Rational(1, 2)))
        made = [self.net.declare(f"h{number}{n}", *free, initial=first)
                for n in range(self.choose((1, 1, 2)))]
        for n, handle in enumerate(made):
            body = self.body(free, 0)
            for other in made:
                now = made.index(other) < n and self.chance(2)
                where: list[Expr] = [t if now else t + step, *free[1:]]
                if len(free) == 2 and self.chance(2):
                    r = fresh(Index("r", free[1].size), {i.name for i in free})
                    body = body + dr.sum(other[(t + step, r)], r) / 3
                    continue
                body = body + other[tuple(where)] / 2
            self.net.define(handle, free, dr.tanh(body))
        return made


_ORDERS = (("i", "j", "k"), ("j", "i", "k"), ("b", "i", "j"), ("t", "b", "i"))


def random_network(choose: Choose, quotients: bool = False) -> Network:
    """A network with one to eight equations and one or two scalar losses, L and perhaps L2."""
    make = _Maker(choose, Network("random"), quotients=quotients)
    net = make.net
    for n in range(choose((1, 2, 3))):
        dims = [make.size() for _ in range(choose((0, 1, 2, 2, 3)))]
        make.floats.append(net.parameter(f"p{n}", *dims))
    for n in range(choose((0, 0, 1, 1, 2))):
        dims = [make.size() for _ in range(choose((0, 1, 1, 2)))]
        make.whole.append(net.input(f"n{n}", *dims, dtype=int))
    if make.chance(5):
        make.seed = net.random("seed")
    state = None
    if make.chance(6):
        state = net.state("s0", *(choose(SIZES) for _ in range(choose((0, 1, 2)))))
        make.floats.append(state)
    targets: list[Handle] = []
    for n in range(choose((0, 1, 2)) if quotients else 0):
        free = make.indices(choose((0, 1, 2)))
        body = make.choose((lambda e: 1 + e**2, lambda e: 2 + dr.sin(e)))(make.body(free, 0))
        make.positive.append(net.define(f"q{n}", free, body))
        targets += make.positive[-1:]
    for n in range(choose((1, 2, 3, 4))):
        if make.chance(4):
            made = make.recurrence(n)
        else:
            free = make.indices(choose((0, 1, 2, 2, 3)))
            made = [net.define(f"y{n}", free, make.body(free))]
        make.floats += made
        targets += made
    if state is not None:
        net.update(state, dr.tanh(make.term(list(state.indices), 0)) + state.tensor.access / 2)
    net.loss(_weighted(net, targets, "w"))
    if make.chance(6):
        net.loss(_weighted(net, targets[-1:], "v") ** 2, "L2")
    return net


def _weighted(net: Network, targets: Sequence[Handle], stem: str) -> Expr:
    """A sum of elements under random weights: a plain sum hides mistakes."""
    total: Expr = S.Zero
    for n, target in enumerate(targets):
        if target.tensor.rank:
            weight = net.input(f"{stem}{n}", *target.shape)
            product = target.tensor.access * weight[target.indices]
            total += dr.sum(product, *target.indices)
        else:
            total += Rational(3, 4) * target.tensor.access
    return total


def reached(program: Program, of: str | None = None) -> list[str]:
    """The parameters that a loss (by default the first) depends on."""
    return [t.name for t in program.only(of or program.losses[0]).parameters]


# -- what a program is made of ---------------------------------------------------------------------
def features(program: Program) -> frozenset[str]:
    """The names of what stands in a program, for counting what a generator really makes."""
    found: set[str] = set()
    reads: Counter[str] = Counter()
    for eq in program.equations:
        for node in walk(eq.body):
            if isinstance(node, Access):
                reads[node.name] += 1
                found |= {name for where in node.where for name in _of_index(where)}
                if len(set(node.where)) < len(node.where):
                    found.add("diagonal")
            else:
                found |= _of_node(node)
    given = {t.name for t in program.given}
    if any(count > 1 and name not in given for name, count in reads.items()):
        found.add("shared intermediate")
    if any(reads[t.name] > 1 for t in program.parameters):
        found.add("shared parameter")
    for group in program.groups:
        if group.recurrent:
            found |= {"recurrence", f"recurrence of {len(group.equations)}",
                      f"recurrence {'forwards' if group.step > 0 else 'backwards'}"}
    sizes = {str(size) if size.is_Integer else "run-time"
             for t in program.tensors.values() for size in t.shape}
    found |= {f"size {size}" for size in sizes}
    found |= {role for role, there in (("state", program.updates), ("two losses",
              program.losses[1:])) if there}
    return frozenset(name.replace(" ", "_") for name in found)


def _of_index(where: Expr) -> set[str]:
    if isinstance(where, Index):
        return set()
    if where.is_Integer:
        return {"constant index"}
    inner = accesses(where)
    if inner:
        deep = any(accesses(e) for a in inner for e in a.where)
        return {"gather", "gather of a gather"} if deep else {"gather"}
    if where.has(sympy.floor, sympy.Mod):
        return {"quotient or remainder"}
    steep = any(abs(c) != 1 for c in where.as_coefficients_dict().values()
                if c.is_Integer and c != where.as_coeff_Add()[0])
    several = len(where.free_symbols) > 1
    return {"affine"} | ({"affine with a stride"} if steep else set()) | (
        {"affine in several indices"} if several else set())


def _of_node(node: Expr) -> set[str]:
    if isinstance(node, Reduction):
        return {node.op}
    if isinstance(node, Select):
        by = "values" if any(not isinstance(a, IntegerAccess)
                             for a in accesses(node.condition)) else "indices"
        return {f"selection by {by}"}
    if isinstance(node, sympy.Piecewise):
        return {"Piecewise"}
    if isinstance(node, (stop_gradient, uniform)):
        return {type(node).__name__}
    if isinstance(node, sympy.Pow) and node.exp.could_extract_minus_sign() and accesses(node.base):
        by = "an element" if isinstance(node.base, Access) else "an expression"
        return {f"quotient by {by}"} | ({"quotient by a power"} if node.exp != -1 else set())
    return {"elementary function"} if isinstance(node, sympy.Function) else set()
