"""Random programs, and a quick numeric judgement of their gradients.

`random_network` makes a network from choices that someone else makes: Hypothesis in the tests (so
that a failing one shrinks), a seeded generator in `benchmarks/random_programs.py`. Shapes are
built from sizes 1, 2, 3, 5 and one run-time size; bodies from affine accesses that may leave
their bounds, quotients and remainders, gathers, every reduction, selections, elementary functions,
recurrences in both directions (alone and mutual), and tensors that are read several times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import sympy
from sympy import Expr, Rational, S

import derive as dr
from derive.custom import hold_stopped
from derive.network import Handle, Network
from derive.nodes import Index, Select, fresh
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]

SIZES = (1, 2, 3, 5)
_FUNCTIONS: tuple[Callable[[Expr], Expr], ...] = (
    dr.tanh, dr.sigmoid, dr.sin, dr.cos, dr.relu, dr.softplus, dr.gelu, dr.silu, dr.abs, dr.elu,
    dr.leaky_relu, lambda e: e**2, lambda e: dr.exp(dr.tanh(e)), lambda e: dr.sqrt(1 + e**2),
    lambda e: dr.log(2 + dr.sin(e)), lambda e: 1 / (2 + dr.cos(e)), dr.identity,
)


@dataclass
class _Maker:
    choose: Choose
    net: Network
    floats: list[Handle] = field(default_factory=list)
    whole: list[Handle] = field(default_factory=list)
    letters: int = 0

    def chance(self, one_in: int) -> bool:
        return self.choose(range(one_in)) == one_in - 1

    def size(self) -> int | str:
        return self.choose((*SIZES, "B"))

    def indices(self, rank: int) -> tuple[Index, ...]:
        return tuple(
            dr.indices(f"{name}:{self.size()}") for name in self.choose(_ORDERS)[:rank]
        )

    # -- accesses -----------------------------------------------------------------------------
    def place(self, size: Expr, scope: list[Index], bound: list[Index]) -> Expr:
        """An index expression for a dim: a new bound index, one in scope, or an affine one."""
        fitting = [i for i in (*scope, *bound) if i.size == size]
        kind = self.choose(("plain", "plain", "new", "affine", "constant", "gather", "part"))
        if kind == "plain" and fitting:
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
            return sympy.expand(where + self.choose((0, 1, -1, 2)))
        if kind == "part" and every:
            index, divisor = self.choose(every), self.choose((2, 3))
            return (index // divisor) if self.chance(2) else index % divisor
        taken = {i.name for i in every}
        new = fresh(Index("r", size), taken)
        bound.append(new)
        return new

    def gathered(self, scope: list[Index], bound: list[Index]) -> Expr:
        chosen = self.choose(self.whole)
        where = []
        for size in chosen.shape:
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
        kind = self.choose(("access", "access", "access", "function", "number", "index"))
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

    def term(self, scope: list[Index], depth: int) -> Expr:
        """A product under a reduction over every index that it needs."""
        bound: list[Index] = []
        product = self.factor(scope, bound)
        for _ in range(self.choose((0, 1, 1, 2))):
            product = product * self.factor(scope, bound)
        if depth and self.chance(3):
            product = product * self.term([*scope, *bound], depth - 1)
        if scope and self.chance(5):
            condition = self.condition([*scope, *bound])
            product = Select(condition, product, self.choose((S.Zero, S.One)))
        used = [i for i in bound if i in product.free_symbols]
        if not used:
            return product
        reduce = self.choose((dr.sum, dr.sum, dr.sum, dr.mean, dr.max, dr.min, dr.prod,
                              dr.logsumexp))
        reduced = reduce(dr.tanh(product) if reduce is dr.prod else product, *used)
        return self.choose(_FUNCTIONS)(reduced) if self.chance(3) else reduced

    def condition(self, scope: list[Index]) -> Expr:
        left, right = self.choose(scope), self.choose(scope)
        return self.choose((sympy.Le(left, right), sympy.Gt(left, 1), sympy.Ne(left, right),
                            sympy.Eq(sympy.Mod(left, 2), 0)))

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


def random_network(choose: Choose, fixed: bool = False) -> Network:
    """A network with one to eight equations and a scalar loss.

    ``fixed``: parameters have no run-time size, as a buffer that is kept demands.
    """
    make = _Maker(choose, Network("random"))
    net = make.net
    for n in range(choose((1, 2, 3))):
        dims = [choose(SIZES) if fixed else make.size() for _ in range(choose((0, 1, 2, 2, 3)))]
        make.floats.append(net.parameter(f"p{n}", *dims))
    for n in range(choose((0, 1))):
        dims = [make.size() for _ in range(choose((0, 1, 1)))]
        make.whole.append(net.input(f"n{n}", *dims, dtype=int))
    targets: list[Handle] = []
    for n in range(choose((1, 2, 3, 4))):
        if make.chance(4):
            made = make.recurrence(n)
        else:
            free = make.indices(choose((0, 1, 2, 2, 3)))
            made = [net.define(f"y{n}", free, make.body(free))]
        make.floats += made
        targets += made
    loss: Expr = S.Zero
    for n, target in enumerate(targets):  # random weights: a plain sum hides mistakes
        weight = net.input(f"w{n}", *target.shape) if target.tensor.rank else None
        element = target.tensor.access
        term = element * (weight[target.indices] if weight is not None else Rational(3, 4))
        loss += dr.sum(term, *target.indices) if target.tensor.rank else term
    net.loss(loss)
    return net


def reached(program: Program) -> list[str]:
    """The parameters that the loss depends on."""
    return [t.name for t in program.only(program.losses[0]).parameters]


# -- numeric judgement ----------------------------------------------------------------------------
def disagreement(program: Program, derived: Program, seed: int = 0, of: str | None = None,
                 sizes: dict[str, int] | None = None, directions: int = 1,
                 values: dict[str, Any] | None = None) -> str | None:
    """Where derived gradients differ from numeric ones along random directions, or None.

    Where one step size disagrees, others are tried: a difference counts if they agree with one
    another, so that a kink close by is not taken for a mistake.
    """
    of = of or program.losses[0]
    sizes = default_sizes(derived, sizes)
    rng = np.random.default_rng(seed)
    point = {**random_values(derived, seed, sizes), **(values or {})}
    forward, point = hold_stopped(program.only(of), point, sizes)
    wrt = [n for n in derived.gradients if n in program.tensors]
    found = evaluate(derived, point, [derived.gradients[n] for n in wrt], sizes)

    def value(name: str, step: np.ndarray) -> float:
        moved = {**point, name: point[name] + step}
        return float(evaluate(forward, moved, [of], sizes)[of])

    for name in wrt:
        gradient = found[derived.gradients[name]]
        for _ in range(directions):
            way = rng.normal(size=np.shape(point[name]))
            got, size = float(np.sum(gradient * way)), float(np.sum(np.abs(gradient * way)))
            slopes: list[float] = []
            for h in (1e-3, 1e-4, 1e-5):
                near = (value(name, h * way) - value(name, -h * way)) / (2 * h)
                far = (value(name, 2 * h * way) - value(name, -2 * h * way)) / (4 * h)
                slopes.append((4 * near - far) / 3)
                scale = 1e-6 * (size + abs(slopes[-1])) + 1e-7
                if abs(got - slopes[-1]) <= scale:
                    break
            else:
                if np.ptp(slopes) <= scale:  # else a kink is near, or it is not finite
                    return f"{name}: derived {got:.12g}, numeric {slopes[-1]:.12g}, seed {seed}"
    return None
