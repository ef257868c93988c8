"""LoRA (Hu et al. 2022): ``W + (alpha/r) A B`` in place of W, without ever building the sum.

Wherever an equation holds ``sum over i of x[…, i] W[i, j]``, it gets the term
``alpha/r · sum over r of a[…, r] B[r, j]`` with ``a[…, r] = sum over i of x[…, i] A[i, r]``.
Which dims of W are inputs (those that its first use sums over, or looks up) and which are outputs
follows from the equations: products, convolutions, embeddings, gates, tied weights are one case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import sympy
from sympy import Add, Expr, Mul

from derive.adapters.rewriting import (
    PENALTY,
    Change,
    Draft,
    cofactor,
    fresh_index,
    not_in_product,
    uses,
)
from derive.errors import DeclarationError
from derive.freezing import matching
from derive.nodes import Access, Index, Reduction, SumOver, exact, walk
from derive.program import Equation, Program, Tensor
from derive.simplify import alpha_key


@dataclass(frozen=True)
class LowRank:
    """The settings of LoRA; made by `lora`."""

    weights: tuple[str, ...]
    rank: int
    alpha: Expr
    initial: str

    def apply(self, draft: Draft, program: Program) -> Change:
        """Put A and B beside each weight."""
        start = len(draft.added)
        merges = []
        for name in matching(program, self.weights):
            merges.append(_adapt(draft, name, self))
        settings = {"weights": list(self.weights), "rank": self.rank, "alpha": str(self.alpha),
                    "initial": self.initial}
        return Change("lora", settings, tuple(draft.added[start:]), merges=tuple(merges))


def lora(*weights: str, rank: int = 8, alpha: float | None = None,
         initial: Literal["zeros", "normal"] = "zeros") -> LowRank:
    """Low-rank updates of weights.

    Args:
        weights: names or shell patterns of parameters with at least two dims.
        rank: r, the size between A and B.
        alpha: the update is scaled by alpha/r; by default alpha = r.
        initial: how B starts. "zeros": the network starts as it was; "normal": with variance 1/r.
            A starts with variance 1/(number of its inputs).
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise DeclarationError("the rank of LoRA is a whole number of at least 1", got=repr(rank))
    number = isinstance(alpha, int | float) and math.isfinite(alpha)
    if alpha is not None and (not number or isinstance(alpha, bool)):
        raise DeclarationError("alpha is a number", got=repr(alpha))
    if initial not in ("zeros", "normal"):
        raise DeclarationError(f"B cannot start as {initial!r}", expected='"zeros" or "normal"')
    if not weights:
        raise DeclarationError("lora needs the names of weights", expected='lora("Wq*", "Wv*")')
    return LowRank(weights, rank, exact(rank if alpha is None else alpha), initial)


@dataclass(frozen=True)
class _Factors:
    """A and B of one weight: ``inputs`` are the dims of W that A has;
    ``known`` the products with A (or B) so far, by what they are."""

    weight: Tensor
    inputs: tuple[int, ...]
    low: Tensor
    high: Tensor
    scale: Expr
    known: dict[tuple, Tensor] = field(default_factory=dict)

    def ends(self, access: Access, r: Index) -> tuple[Expr, Expr]:
        """The elements of A and B at an access of W."""
        first = [w for d, w in enumerate(access.where) if d in self.inputs]
        last = [w for d, w in enumerate(access.where) if d not in self.inputs]
        return self.low.at(*first, r), self.high.at(r, *last)


def _adapt(draft: Draft, name: str, settings: LowRank) -> Equation:
    weight = draft.tensors[name]
    readers = draft.readers(name)
    if weight.rank < 2 or not readers:
        raise DeclarationError(
            f"{name!r} has no low-rank update", expected="a weight with two dims or more that an "
            "equation reads", got=f"{weight.rank} dims, {len(readers)} readers", where=weight.where,
        )
    factors = _factors(draft, weight, _inputs(readers[0], name), settings)
    for eq in readers:
        for access in uses(eq, name):
            _substitute(draft, eq.name, access, factors)
    r = fresh_index(Equation(weight, weight.indices, weight.access), "r", settings.rank)
    low, high = factors.ends(weight.access, r)
    body = weight.access + factors.scale * SumOver(low * high, r)
    return Equation(weight, weight.indices, body, "merged")


def _inputs(eq: Equation, name: str) -> tuple[int, ...]:
    """The dims of a weight that its first use looks up or sums over."""
    access = uses(eq, name)[0]
    bound = {i for node in _around(eq.body, access)[:1] for i in node.bound}
    looked_up = tuple(d for d, w in enumerate(access.where) if w.has(Access))
    found = looked_up or tuple(d for d, w in enumerate(access.where) if w.free_symbols & bound)
    if not found or len(found) == len(access.where):
        raise not_in_product(name, eq)
    return found


def _around(body: Expr, access: Access) -> list[SumOver]:
    """The innermost sums that hold an access and bind an index of it."""
    sums = [n for n in dict.fromkeys(walk(body)) if isinstance(n, SumOver) and n.has(access)
            and set(n.bound) & access.free_symbols]
    return [n for n in sums if not any(n is not m and n.body.has(m) for m in sums)]


def _factors(draft: Draft, weight: Tensor, inputs: tuple[int, ...], settings: LowRank) -> _Factors:
    taken = {i.name for i in weight.indices}
    r = Index(next(c for c in "rsuvwkl" if c not in taken), settings.rank)
    first = [weight.indices[d] for d in inputs]
    last = [i for d, i in enumerate(weight.indices) if d not in inputs]
    spread = 1 / sympy.sqrt(Mul(*(i.size for i in first)))
    low = draft.parameter(weight.name, f"{weight.name}_A", (*first, r), spread)
    start = "zeros" if settings.initial == "zeros" else 1 / sympy.sqrt(sympy.Integer(r.size))
    high = draft.parameter(weight.name, f"{weight.name}_B", (r, *last), start)
    return _Factors(weight, inputs, low, high, settings.alpha / settings.rank)


def _substitute(draft: Draft, name: str, access: Access, factors: _Factors) -> None:
    """The low-rank term beside each occurrence of an access of the weight."""
    eq = draft[name]
    sums = _around(eq.body, access)
    if not sums:  # looked up: both factors are small at one place
        if not any(w.has(Access) for w in access.where):
            raise not_in_product(access.name, eq)
        r = fresh_index(eq, "r", factors.low.shape[-1])
        low, high = factors.ends(access, r)
        new = access + factors.scale * SumOver(low * high, r)
        draft.replace(name, eq.body.xreplace({access: new}))
        return
    turned = _turned(eq, access, sums, factors)
    there = {}
    for around in sums:
        extra = [_term(draft, eq, term, around, access, factors, turned)
                 for term in Add.make_args(around.body) if term.has(access)]
        there[around] = around + Add(*extra)
    draft.replace(name, eq.body.xreplace(there))


def _turned(eq: Equation, access: Access, sums: list[SumOver], factors: _Factors) -> bool:
    """Whether the sums run over the outputs of the weight, which is then transposed here."""
    bound = [{d for d, w in enumerate(access.where) if w.free_symbols & set(s.bound)}
             for s in sums]
    inputs = set(factors.inputs)
    outputs = set(range(len(access.where))) - inputs
    if bound[0] not in (inputs, outputs) or any(b != bound[0] for b in bound):
        raise DeclarationError(
            f"the uses of {access.name!r} sum over different dims of it",
            expected=f"dims {sorted(inputs)}, or the others in a transposed use",
            got=f"dims {sorted(bound[0])} in {eq}", mend=PENALTY, where=eq.where,
        )
    return bound[0] == outputs


def _term(draft: Draft, eq: Equation, term: Expr, around: SumOver, access: Access,
          factors: _Factors, turned: bool) -> Expr:
    """``scale · sum over r of a B`` for one product, after the equation of a (A and B change
    places where the weight is transposed)."""
    rest = cofactor(term, access)
    if rest is None:
        raise not_in_product(access.name, eq)
    r = fresh_index(eq, "r", factors.low.shape[-1])
    low, high = factors.ends(access, r)
    if turned:
        low, high = high, low
    body = SumOver(rest * low, *around.bound)
    scope = [*eq.indices, *(i for node in walk(eq.body) if isinstance(node, Reduction)
                            and node != around and node.has(around) for i in node.bound)]
    free = [i for i in scope if i in body.free_symbols]
    key = alpha_key((*free, r), body)
    if key not in factors.known:  # two equations may take the same product
        factors.known[key] = draft.define(f"{access.name}_x", (*free, r), body, before=eq.name)
    return factors.scale * SumOver(factors.known[key].at(*free, r) * high, r)
