"""Scalar bodies as sums of products of functions of independent roots, and their second moments.

A *root* is a tensor whose elements are taken as normal (a weight, an input, a sum over many
terms); everything else is a function of roots. The second moment of a sum over indices is counted
exactly over pairs of its elements: a pair whose elements meet different weights is independent, a
pair that differs in the sample only has the covariance of the two samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import sympy
from sympy import Add, Expr, Mul, Pow, S

from derive.errors import DerivationError
from derive.flow.axes import Kind
from derive.flow.integrals import GaussianMoment, PairMoment, product
from derive.flow.moments import X
from derive.nodes import Access, Index, IntegerAccess, Select
from derive.randomness import uniform
from derive.simplify import opaque_atoms


class Unsupported(DerivationError):
    """A body whose moments the rules here do not give; the message says why."""


@dataclass(frozen=True)
class Root:
    """What is known of a tensor's elements: mean, second moment, E over two samples, axes."""

    mean: Expr
    second: Expr
    cross: Expr
    axes: tuple[Kind, ...]


@dataclass(frozen=True)
class Term:
    """``coefficient`` times the product of one function of `X` per root, where ``guard`` holds,
    summed over ``bound``; ``weight`` varies with indices only (a position's own factor)."""

    coefficient: Expr = S.One
    factors: Mapping[Access, Expr] = field(default_factory=dict)
    guard: Expr = S.true
    bound: tuple[Index, ...] = ()
    weight: Expr = S.One

    def times(self, other: Term) -> Term:
        factors = dict(self.factors)
        for root, f in other.factors.items():
            factors[root] = factors.get(root, S.One) * f
        return replace(
            self, coefficient=self.coefficient * other.coefficient, factors=factors,
            guard=sympy.And(self.guard, other.guard), weight=self.weight * other.weight,
        )


def roots_of(expr: Expr) -> list[Access]:
    """The float accesses of a body, gathers inside their indices left out."""
    return [a for a in opaque_atoms(expr, (Access,)) if not isinstance(a, IntegerAccess)]


def _is_guard(condition: Expr) -> bool:
    return not roots_of(condition)


def _has_guard(expr: Expr) -> bool:
    return any(_is_guard(s.condition) for s in expr.atoms(Select))


def separate(expr: Expr) -> list[Term]:
    """An inlined body as a sum of `Term`s.

    Raises:
        Unsupported: a function mixes several roots in a way that no rule separates.
    """
    roots = roots_of(expr)
    if not _has_guard(expr) and len(roots) <= 1 and not _adds_by_index(expr, roots):
        return [_of_one_root(expr, roots[0] if roots else None)]
    if isinstance(expr, Add):
        return [t for part in _by_root(expr) for t in separate(part)]
    if isinstance(expr, Mul):
        terms = [Term()]
        for factor in expr.args:
            terms = [a.times(b) for a in terms for b in separate(factor)]
        return terms
    if isinstance(expr, Pow) and expr.exp.is_Integer and 1 < expr.exp <= 4:
        return separate(Mul(*[expr.base] * int(expr.exp), evaluate=False))
    if isinstance(expr, Select):
        return _selection(expr)
    raise Unsupported(f"the moments of {expr} do not separate into functions of one variable")


def _adds_by_index(expr: Expr, roots: list[Access]) -> bool:
    """Whether something that varies with an index itself is added: a position, or noise."""
    plain = expr.xreplace(dict.fromkeys(roots, X))
    return isinstance(expr, Add) and len(roots) == 1 and any(
        isinstance(s, Index) for s in plain.free_symbols
    )


def _of_one_root(expr: Expr, root: Access | None) -> Term:
    """A function of one root (or none) times what varies with indices only."""
    f = expr.xreplace({root: X}) if root is not None else expr
    indices = [s for s in f.free_symbols if isinstance(s, Index)]
    weight: Expr = S.One
    if indices:
        f, weight = f.as_independent(*indices, as_Add=False)
        if weight.has(X):
            raise Unsupported(f"{expr} is a function of an element and of its index")
    return Term(S.One, {root: f}, weight=weight) if root is not None else Term(f, weight=weight)


@lru_cache(maxsize=1024)
def average(weight: Expr) -> Expr:
    """The mean of a function of indices over all their values; sizes must be numbers."""
    if weight.has(uniform):
        return _average_of_draws(weight)
    indices = sorted((s for s in weight.free_symbols if isinstance(s, Index)), key=str)
    if not indices:
        return weight
    if weight.free_symbols - set(indices) or not all(i.size.is_Integer for i in indices):
        raise Unsupported(f"the mean of {weight} over {', '.join(map(str, indices))} is not known")
    sizes = [int(i.size) for i in indices]
    total = int(np.prod(sizes))
    if total <= 64:
        values = [
            weight.xreplace(dict(zip(indices, map(sympy.Integer, at), strict=True)))
            for at in np.ndindex(*sizes)
        ]
        return Add(*values) / total
    if total > 4_000_000:
        raise Unsupported(f"the mean of {weight} runs over {total} values")
    grid = np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij")
    found = sympy.lambdify(indices, weight, modules="numpy")(*(g.ravel() for g in grid))
    return sympy.Float(float(np.mean(found)))


def _average_of_draws(weight: Expr) -> Expr:
    """The mean of a function of at most two numbers drawn uniformly from (0, 1): normal noise."""
    draws = sorted(weight.atoms(uniform), key=str)
    marks = [sympy.Dummy(f"u{n}", positive=True) for n in range(len(draws))]
    plain = weight.xreplace(dict(zip(draws, marks, strict=True)))
    if len(draws) > 2 or plain.free_symbols - set(marks):
        raise Unsupported(f"the mean of {weight} over its random numbers is not known")
    node, share = np.polynomial.legendre.leggauss(400)
    node, share = (node + 1) / 2, share / 2
    call = sympy.lambdify(marks, plain, modules="numpy")
    if len(draws) == 1:
        value = float(share @ np.broadcast_to(call(node), node.shape))
    else:
        value = float(share @ np.broadcast_to(
            call(node[:, None], node[None, :]), (400, 400)) @ share)
    return sympy.Float(value) if abs(value) >= 1e-12 else S.Zero


def _by_root(expr: Add) -> list[Expr]:
    """Addends with the same single root brought together: z - relu(z) is one function of z."""
    together: dict[tuple, list[Expr]] = {}
    for number, addend in enumerate(expr.args):
        roots = roots_of(addend)
        single = len(roots) == 1 and not _has_guard(addend)
        together.setdefault((roots[0],) if single else (number,), []).append(addend)
    return [Add(*parts) for parts in together.values()]


def _selection(expr: Select) -> list[Term]:
    condition = expr.condition
    if _is_guard(condition):
        yes = [Term(guard=condition).times(t) for t in separate(expr.yes)]
        no = [Term(guard=sympy.Not(condition)).times(t) for t in separate(expr.no)]
        return yes + ([] if expr.no == 0 else no)
    roots = roots_of(condition)
    if len(roots) != 1 or condition.has(sympy.Eq):
        raise Unsupported(f"the selection by {condition} compares several variables")
    hit = condition.xreplace({roots[0]: X})
    yes = [Term(S.One, {roots[0]: Select(hit, S.One)}).times(t) for t in separate(expr.yes)]
    if expr.no == 0:
        return yes
    miss = Term(S.One, {roots[0]: Select(sympy.Not(hit), S.One)})
    return yes + [miss.times(t) for t in separate(expr.no)]


@lru_cache(maxsize=4096)
def probability(guard: Expr) -> Expr:
    """The share of index values at which a guard holds, every index uniform.

    Counted where all sizes are numbers. With a symbolic size an equality holds once per size and
    an inequality everywhere but at a vanishing share.
    """
    if guard in (S.true, S.false):
        return S.One if guard == S.true else S.Zero
    if guard.has(uniform):
        return _chance(guard)
    gathers = [c for c in guard.atoms(sympy.Eq) if c.atoms(IntegerAccess)]
    if gathers and isinstance(guard, sympy.Not):
        return 1 - probability(guard.args[0])
    if gathers:  # an index met by a label or a token: once in its range
        rest = guard.xreplace(dict.fromkeys(gathers, S.true))
        return Mul(*(_one_in_range(g) for g in gathers)) * probability(rest)
    indices = sorted((s for s in guard.free_symbols if isinstance(s, Index)), key=str)
    sizes = [i.size for i in indices]
    if guard.free_symbols == set(indices) and all(s.is_Integer for s in sizes):
        total = int(Mul(*sizes))
        if total <= 4_000_000:
            grid = np.meshgrid(*(np.arange(int(s)) for s in sizes), indexing="ij")
            held = sympy.lambdify(indices, guard, modules="numpy")(*(g.ravel() for g in grid))
            count = int(np.broadcast_to(held, (total,)).sum())
            return sympy.Rational(count, total)
    if isinstance(guard, sympy.Eq):
        return _one_in_range(guard)
    if isinstance(guard, sympy.Ne):
        return 1 - _one_in_range(sympy.Eq(*guard.args))
    if isinstance(guard, sympy.And):
        return Mul(*(probability(part) for part in guard.args))
    if isinstance(guard, sympy.Or):
        return S.One - Mul(*(1 - probability(part) for part in guard.args))
    return _inequality(guard)


@lru_cache(maxsize=1024)
def both(first: Expr, second: Expr, apart: tuple[Index, ...]) -> Expr:
    """The share of pairs, with different values of ``apart``, at which both guards hold."""
    there = {i: i.renamed(f"{i.name}_") for i in apart}
    different = [sympy.Ne(i, j) for i, j in there.items()]
    joint = sympy.And(first, second.xreplace(there), *different)
    indices = [s for s in joint.free_symbols if isinstance(s, Index)]
    countable = joint.free_symbols == set(indices) and all(i.size.is_Integer for i in indices)
    if joint.has(uniform) or not countable or Mul(*(i.size for i in indices)) > 4_000_000:
        return probability(first) * probability(second)
    pairs = Mul(*(1 - 1 / i.size for i in apart))
    return probability(joint) / pairs if pairs != 0 else S.Zero


def _chance(guard: Expr) -> Expr:
    """The probability of a condition on numbers drawn uniformly from (0, 1), such as a mask."""
    if isinstance(guard, sympy.Not):
        return 1 - probability(guard.args[0])
    if isinstance(guard, sympy.And):
        return Mul(*(probability(part) for part in guard.args))
    if isinstance(guard, sympy.Rel) and not isinstance(guard, sympy.Eq | sympy.Ne):
        at_most = guard if isinstance(guard, sympy.Le | sympy.Lt) else guard.reversed
        if isinstance(at_most.rhs, uniform) and at_most.lhs.is_number:  # c <= u
            return 1 - sympy.Min(1, sympy.Max(0, at_most.lhs))
        if isinstance(at_most.lhs, uniform) and at_most.rhs.is_number:  # u <= c
            return sympy.Min(1, sympy.Max(0, at_most.rhs))
    raise Unsupported(f"the probability of {guard} is not known")


def _one_in_range(equality: Expr) -> Expr:
    sizes = [a.size for a in equality.args if isinstance(a, Index)]
    if not sizes:
        raise Unsupported(f"how often {equality} holds is not known")
    return 1 / sizes[0]


def _inequality(guard: Expr) -> Expr:
    """Of a symbolic size, only whether the guard holds in the middle of the range counts."""
    middle = {i: (i.size / 2) for i in guard.free_symbols if isinstance(i, Index)}
    far = guard.subs(middle)
    sizes = dict.fromkeys(far.free_symbols, 10 ** 6)
    truth = far.subs(sizes)
    if truth not in (S.true, S.false):
        raise Unsupported(f"how often {guard} holds is not known")
    return S.One if truth == S.true else S.Zero


class Algebra:
    """First and second moments of lists of terms, given what is known of each root."""

    def __init__(self, root: Callable[[Access], Root]) -> None:
        self.root = root

    def one(self, access: Access, f: Expr) -> Expr:
        known = self.root(access)
        return GaussianMoment(f, known.mean, known.second)

    def mean(self, terms: list[Term]) -> Expr:
        return Add(*(
            product([t.coefficient, average(t.weight), *(i.size for i in t.bound),
                     probability(t.guard),
                     *(self.one(a, f) for a, f in t.factors.items())])
            for t in terms
        ))

    def second(self, terms: list[Term], differ: frozenset[Index] = frozenset()) -> Expr:
        """E[S S'], where S' is S with the indices in ``differ`` at other values."""
        total: Expr = S.Zero
        for n, a in enumerate(terms):
            total += self._pair(a, a, differ)
            for b in terms[n + 1:]:
                total += 2 * self._pair(a, b, differ)
        return total

    def _pair(self, a: Term, b: Term, differ: frozenset[Index]) -> Expr:
        scale = a.coefficient * b.coefficient
        if a.bound != b.bound:  # sums of different make: every pair meets at different elements
            count = Mul(*(i.size for i in (*a.bound, *b.bound)))
            apart = differ | set(a.bound) | set(b.bound)
            return scale * count * self._meet(a, b, apart)
        total = self._meet(a, b, differ)
        everything = Mul(*(i.size for i in a.bound))
        values: dict[Expr, Expr] = {}
        for size in range(1, len(a.bound) + 1):
            for chosen in combinations(a.bound, size):
                value = self._meet(a, b, differ, chosen)
                if value != 0:
                    pairs = Mul(*(i.size - 1 for i in chosen))
                    values[value] = values.get(value, S.Zero) + pairs
        if len(values) == 1 and len(a.bound) > 1:
            value, pairs = values.popitem()
            whole = everything - 1
            pairs = whole if sympy.expand(pairs - whole) == 0 else pairs
            values = {value: pairs}
        return scale * everything * (total + Add(*(v * n for v, n in values.items())))

    def _meet(self, a: Term, b: Term, differ: frozenset[Index],
              chosen: tuple[Index, ...] = ()) -> Expr:
        """The expectation of one product of an element of ``a`` and one of ``b``: of elements
        with other values of ``differ``, and of the summed indices ``chosen``."""
        guards = [a.guard, b.guard]
        if any(g.free_symbols & differ for g in guards):
            share = [probability(g) for g in guards]
        elif any(g.free_symbols & set(chosen) for g in guards):
            share = [both(a.guard, b.guard, chosen)]
        else:
            share = [probability(sympy.And(*guards))]
        differ = differ | set(chosen)
        factors = [s for s in share if s != 1]
        if (a.weight.free_symbols | b.weight.free_symbols) & differ:
            factors += [average(a.weight), average(b.weight)]
        else:
            factors.append(average(a.weight * b.weight))
        if any(s == 0 for s in share):
            return S.Zero
        other = dict(b.factors)
        for access, f in a.factors.items():
            match = access if access in other else next(
                (o for o in other if o.name == access.name and o not in a.factors), None
            )
            g = other.pop(match) if match is not None else S.One
            factors.append(self._one_pair(access, match, f, g, differ))
            if factors[-1] == 0:
                return S.Zero
        factors += [self.one(access, g) for access, g in other.items()]
        return product(factors)

    def _one_pair(self, a: Access, b: Access | None, f: Expr, g: Expr,
                  differ: frozenset[Index]) -> Expr:
        known = self.root(a)
        if b is None:
            return GaussianMoment(f, known.mean, known.second)
        touched = {
            kind
            for kind, where, there in zip(known.axes, a.where, b.where, strict=True)
            if where.free_symbols & differ or where != there
        }
        if not touched:
            return GaussianMoment(f * g, known.mean, known.second)
        if touched == {"sample"}:
            return PairMoment(f, g, known.mean, known.second, known.cross)
        return product([GaussianMoment(h, known.mean, known.second) for h in (f, g)])
