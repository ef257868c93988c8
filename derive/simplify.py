"""Algebra on scalar bodies: sums, selections, common factors. Each rewrite has a rule's name.

SymPy does the algebra on bodies whose accesses, reductions and selections are opaque symbols, so
that it can neither capture an index nor look inside what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import sympy
from sympy import Add, Expr, Mul, S, Symbol

from derive.affine import coefficients, inside, nonnegative_forms
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    MaxOver,
    MinOver,
    Reduction,
    Select,
    SumOver,
    contains,
    walk,
)
from derive.program import Tensor
from derive.randomness import uniform

_PLACEHOLDERS: list[Symbol] = []


def placeholder(number: int) -> Symbol:
    """The n-th placeholder: equal bodies of different layers become one and the same object, so
    that what SymPy found for the first is found again for the others."""
    while len(_PLACEHOLDERS) <= number:
        _PLACEHOLDERS.append(Symbol(f"_{len(_PLACEHOLDERS)}", real=True))
    return _PLACEHOLDERS[number]


def opaque_atoms(expr: Expr, kinds: tuple[type, ...]) -> list[Expr]:
    """The outermost nodes of the given kinds, each once, in order of appearance."""
    found: dict[Expr, None] = {}
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, kinds):
            found.setdefault(node)
        else:
            stack.extend(reversed(node.args))
    return list(found)


def sum_over(body: Expr, bound: Iterable[Index]) -> Expr:
    """The sum of ``body``: constants in front, guards that do not vary outside, indices that an
    equality determines substituted, indices that do not occur counted."""
    left = tuple(bound)
    if body == 0 or (not left and not isinstance(body, Select)):
        return body
    if isinstance(body, Select) and body.no == 0:
        constant, rest = split_constant(body.yes)
        if constant != 1:
            return constant * sum_over(Select(body.condition, rest), left)
        if not left:
            return body
        sifted = _sift(body, left)
        if sifted is not None:
            return sifted
        conditions = body.condition.args if body.condition.func is sympy.And else (body.condition,)
        outside = [c for c in conditions if not c.free_symbols & set(left)]
        if outside:
            within = [c for c in conditions if c.free_symbols & set(left)]
            return Select(sympy.And(*outside), sum_over(Select(sympy.And(*within), body.yes), left))
    factors = Mul.make_args(body)
    varying = [f for f in factors if f.free_symbols & set(left)]
    constant = [f for f in factors if not f.free_symbols & set(left)]
    guards = [f for f in varying if isinstance(f, Select) and f.no == 0]
    if len(factors) > 1 and any(_sift(g, left) is not None for g in guards):
        guard = sympy.And(*(g.condition for g in guards))
        value = Mul(*(g.yes for g in guards), *(f for f in varying if f not in guards))
        return Mul(*constant) * sum_over(Select(guard, value), left)
    inner = Mul(*varying)
    if isinstance(inner, Select) and len(factors) > 1:
        return Mul(*constant) * sum_over(inner, left)
    count = Mul(*(i.size for i in left if i not in inner.free_symbols))
    used = tuple(i for i in left if i in inner.free_symbols)
    if isinstance(inner, Add) and constant == [] and all(_is_sum(a) for a in inner.args):
        return count * Add(*(sum_over(a, used) for a in inner.args))
    return Mul(*constant) * count * (SumOver(inner, *used) if used else inner)


def split_constant(expr: Expr) -> tuple[Expr, Expr]:
    """A product as its numbers and sizes, and the rest."""
    factors = Mul.make_args(expr)
    constant = [f for f in factors if not contains(f, Access, Index, Reduction, Select)]
    return Mul(*constant), Mul(*(f for f in factors if f not in constant))


def _is_sum(expr: Expr) -> bool:
    return any(isinstance(f, SumOver) for f in Mul.make_args(expr))


def _sift(body: Select, left: tuple[Index, ...]) -> Expr | None:
    """``sum over k of [k = e] f(k)`` is ``f(e)``: where e lies in the range of k."""
    conditions = body.condition.args if body.condition.func is sympy.And else (body.condition,)
    for condition in conditions:
        for index, value in _fixes(condition, left):
            if index in left and index not in value.free_symbols and value.is_integer:
                # a gather is in range by declaration; other values are guarded
                guards = [] if isinstance(value, IntegerAccess) else inside(value, index.size)
                rest = [c for c in conditions if c is not condition]
                guard = sympy.And(*rest, *guards).xreplace({index: value})
                inner = Select(guard, body.yes.xreplace({index: value}))
                return sum_over(inner, tuple(i for i in left if i != index))
    return None


def _fixes(condition: Expr, left: tuple[Index, ...]) -> list[tuple[Expr, Expr]]:
    """Pairs (index, value) that a condition may force: ``k = e``, or ``t < 1``, which is t = 0."""
    if isinstance(condition, sympy.Eq):
        return [condition.args, condition.args[::-1]]
    found = []
    for form in nonnegative_forms(condition):
        for index in coefficients(form, left) or ():
            for end, inward in ((S.Zero, S.One), (index.size - 1, index.size - 2)):
                beyond = sympy.expand(form.xreplace({index: inward}))
                if beyond.is_negative and sympy.expand(form.xreplace({index: end})) == 0:
                    found.append((index, end))
    return found


def one_from_distributions(expr: Expr, tensors: Mapping[str, Tensor]) -> Expr:
    """A declared distribution sums to 1 along its last dim."""
    found = {}
    for node in walk(expr):
        if isinstance(node, SumOver) and isinstance(node.body, Access):
            tensor = tensors.get(node.body.name)
            last = node.body.where[-1] if node.body.where else None
            if tensor is not None and tensor.distribution and last in node.bound:
                found[node] = sum_over(S.One, [i for i in node.bound if i != last])
    return expr.xreplace(found) if found else expr


_OPAQUE = (Access, Reduction, Select, uniform)  # what has indices in it is left as it is


def collect(expr: Expr) -> Expr:
    """Terms under the same guard under one, and common factors of a sum's terms taken out in
    front: p/N - t/N becomes (p - t)/N."""
    if not contains(expr, Add):
        return expr
    expr = _merge_guards(expr)
    atoms = opaque_atoms(expr, _OPAQUE)
    there = {a: placeholder(n) for n, a in enumerate(atoms)}
    short = _collect(expr.xreplace(there))
    return short.xreplace({p: a for a, p in there.items()})


def _merge_guards(expr: Expr) -> Expr:
    """[c]·a + [c]·b is [c]·(a + b)."""
    if not contains(expr, Select):
        return expr
    under: dict[Expr, list[tuple[Expr, Expr]]] = {}
    for term in Add.make_args(expr):
        guards = [f for f in Mul.make_args(term) if isinstance(f, Select) and f.no == 0]
        if len(guards) == 1:
            inner = guards[0].yes * Mul(*(f for f in Mul.make_args(term) if f is not guards[0]))
            under.setdefault(guards[0].condition, []).append((term, inner))
    for condition, terms in under.items():
        if len(terms) > 1:
            one = Select(condition, collect(Add(*(inner for _, inner in terms))))
            expr = expr - Add(*(term for term, _ in terms)) + one
    return expr


@lru_cache(maxsize=4096)
def _collect(expr: Expr) -> Expr:
    return sympy.factor_terms(expr)


def alpha_key(indices: Iterable[Index], body: Expr) -> tuple:
    """A key that is equal for equations that differ in the names of their indices only."""
    mapping: dict[Index, Expr] = {}
    for number, index in enumerate(indices):
        mapping[index] = index.renamed(f"_f{number}")
    for node in walk(body):
        if isinstance(node, Index) and node not in mapping:
            mapping[node] = node.renamed(f"_r{len(mapping)}")
    return tuple(i.size for i in indices), body.xreplace(mapping)


def is_linear_sum(expr: Expr) -> bool:
    """Whether ``expr`` is a sum of terms that are free of reductions, or a constant times a plain
    sum: the form in which an equation is differentiated term by term."""
    for term in Add.make_args(expr):
        sums = [f for f in Mul.make_args(term) if isinstance(f, SumOver)]
        rest = Mul(*(f for f in Mul.make_args(term) if not isinstance(f, SumOver)))
        if len(sums) > 1 or contains(rest, Reduction) or (sums and contains(rest, Access, Select)):
            return False
        if sums and contains(sums[0].body, Reduction):
            return False
    return True


def is_normal(expr: Expr) -> bool:
    """A linear sum, or one reduction of another kind over a body without reductions."""
    if isinstance(expr, MaxOver | MinOver):
        return is_stored(expr.body)
    if isinstance(expr, Reduction) and not isinstance(expr, SumOver):
        return not contains(expr.body, Reduction)
    return is_linear_sum(expr)


def is_stored(expr: Expr) -> bool:
    """Whether an expression has no arithmetic: an element, a number, or a choice of these."""
    if isinstance(expr, Select):
        parts = (expr.yes, expr.no)
        return all(map(is_stored, parts)) and not contains(expr.condition, Reduction)
    return isinstance(expr, Access) or expr.is_number


