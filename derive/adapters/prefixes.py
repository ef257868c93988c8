"""Prefix tuning (Li and Liang 2021): learned keys and values in front of those of the data.

An attention is found by its equations: ``p`` is a softmax over u of a tensor of scores, the scores
read the keys at u, and ``p`` is summed over u with the values. The dim u then grows by the length
of the prefix in every tensor on the way; masks still speak of the data's positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Integer

from derive.adapters.rewriting import Change, Draft
from derive.errors import DeclarationError
from derive.freezing import matching
from derive.nodes import (
    Access,
    Index,
    LogSumExpOver,
    Reduction,
    Select,
    SumOver,
    accesses,
    walk,
)
from derive.program import Equation, Program, Tensor


@dataclass(frozen=True)
class Prefix:
    """The settings of prefix tuning; made by `prefix`."""

    length: int
    softmaxes: tuple[str, ...]

    def apply(self, draft: Draft, program: Program) -> Change:
        """Put a prefix in front of each attention."""
        known = {a.weights: a for a in attentions(program)}
        if not known:
            raise DeclarationError(
                f"no attention is found in {program.name!r}",
                expected="an equation p = softmax(s) over u, scores s that read keys at u, and "
                "a sum over u of p and values",
            )
        start = len(draft.added)
        chosen = matching(program, self.softmaxes, "attention", known)
        for name in chosen:
            _extend(draft, known[name], self.length)
        settings = {"length": self.length, "softmaxes": list(self.softmaxes)}
        return Change("prefix", settings, tuple(draft.added[start:]),
                      refusal="a prefix adds positions, so no weight can hold it")


def prefix(*softmaxes: str, length: int = 8) -> Prefix:
    """Learned keys and values in front of those of the data.

    Args:
        softmaxes: names or shell patterns of the tensors of attention weights (``p1``, …); by
            default every attention of the network.
        length: how many positions.
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise DeclarationError("the length of a prefix is a whole number of at least 1",
                               got=repr(length))
    return Prefix(length, softmaxes or ("*",))


@dataclass(frozen=True)
class Attention:
    """One attention: names of the weights, keys and values, and their dims of positions."""

    weights: str
    keys: tuple[str, int]
    values: tuple[str, int]


def attentions(program: Program) -> list[Attention]:
    """The attentions of a program, in its order."""
    found = []
    for eq in program.equations:
        totals = eq.body.atoms(LogSumExpOver)
        scores = {a.name for t in totals for a in accesses(t) if a.name in program.defined}
        if len(totals) != 1 or not scores or not eq.body.has(sympy.exp):
            continue
        for axis, index in enumerate(eq.indices):
            values = _partner(program, eq.name, axis)
            for score in scores:
                keys = _along(program, score, eq, index)
                if values and keys:
                    found.append(Attention(eq.name, keys, values))
    return found


def _partner(program: Program, name: str, axis: int) -> tuple[str, int] | None:
    """What the weights are summed with over their positions."""
    for eq in program.equations:
        for node in walk(eq.body):
            if not isinstance(node, SumOver):
                continue
            own = [a for a in accesses(node.body) if a.name == name]
            if len(own) != 1 or own[0].where[axis] not in node.bound:
                continue
            at = own[0].where[axis]
            others = [(a.name, a.where.index(at)) for a in accesses(node.body)
                      if at in a.where and a.name in program.defined and a.name != name]
            if len(others) == 1:
                return others[0]
    return None


def _along(program: Program, score: str, eq: Equation, index: Index) -> tuple[str, int] | None:
    """What the scores read at the positions."""
    outside = [a for a in accesses(eq.body) if a.name == score and index in a.where]
    if not outside or score not in program.defined:
        return None
    made = program.defined[score]
    at = made.indices[outside[0].where.index(index)]
    found = {(a.name, a.where.index(at)) for a in accesses(made.body)
             if at in a.where and a.name in program.defined}
    return found.pop() if len(found) == 1 else None


# -- the rewriting --------------------------------------------------------------------------------
def _extend(draft: Draft, attention: Attention, length: int) -> None:
    """Longer keys and values, and the longer dim in whatever lies between them."""
    longer: dict[str, int] = {}
    news: dict[str, Tensor] = {}
    for (name, axis), stem in ((attention.keys, "keys"), (attention.values, "values")):
        new = _prefixed(draft, name, axis, f"{attention.weights}_{stem}", length)
        longer[new.name], news[name] = axis, new
    score = next(eq.name for eq in draft.readers(attention.keys[0])
                 if eq.name in draft.behind(attention.weights) and eq.name not in longer)
    for eq in list(draft.equations):  # in the program's order: a target grows before it is read
        replaced = {}
        if eq.name == score:
            replaced = news
        elif any(a.name == attention.weights for a in accesses(eq.body)):
            replaced = {n: t for n, t in news.items() if n == attention.values[0]}
        if eq.name in longer:
            continue
        body = eq.body.xreplace({a: replaced[a.name].at(*a.where) for a in accesses(eq.body)
                                 if a.name in replaced})
        _grow(draft, replace(eq, body=body), longer, length)


def _prefixed(draft: Draft, name: str, axis: int, stem: str, length: int) -> Tensor:
    """``[u < n] P[u] + [u >= n] K[u - n]``: the learned positions first."""
    tensor = draft.tensors[name]
    u = tensor.indices[axis]
    dims = [d for d in draft.feature_dims(name) if d != axis]
    own = [tensor.indices[d] for d in dims]
    learned = draft.parameter(name, f"P_{stem}", (Index(u.name, length), *own), Integer(1))
    wide = Index(u.name, u.size + length)
    indices = tuple(wide if d == axis else i for d, i in enumerate(tensor.indices))
    where = tuple(wide - length if d == axis else i for d, i in enumerate(tensor.indices))
    body = Select(wide < length, learned.at(wide, *own), tensor.at(*where))
    return draft.define(f"{name}_prefixed", indices, body, after=name)


def _grow(draft: Draft, eq: Equation, longer: dict[str, int], length: int) -> None:
    """The equation over longer positions, if it reads a longer tensor."""
    grown = {a.where[longer[a.name]] for a in accesses(eq.body) if a.name in longer}
    if not grown:
        return
    for index in grown:
        if not isinstance(index, Index):
            raise _cannot(eq, f"the position {index}")
    wide = {i: Index(i.name, i.size + length) for i in grown}
    for access in accesses(eq.body):
        for d, where in enumerate(access.where):
            own = longer.get(access.name) == d
            if not own and where.free_symbols & set(wide):
                raise _cannot(eq, f"{access} at the same position")
    body = _shifted(eq.body, wide, length)
    free = [d for d, i in enumerate(eq.indices) if i in wide]
    indices = tuple(wide.get(i, i) for i in eq.indices)
    tensor = eq.tensor
    if free:
        longer[eq.name] = free[0]
        tensor = replace(tensor, indices=tuple(
            Index(i.name, i.size + length) if d == free[0] else i
            for d, i in enumerate(tensor.indices)))
    draft.replace_tensor(tensor, indices, body)


def _shifted(expr: Expr, wide: dict[Expr, Index], length: int) -> Expr:
    """Positions in accesses and reductions count from the prefix on, those in conditions (masks)
    from the data on."""
    if isinstance(expr, Access):
        return expr.xreplace(wide)
    if isinstance(expr, Select):
        late = {i: w - length for i, w in wide.items()}
        condition = expr.condition.xreplace(late)
        return Select(condition, _shifted(expr.yes, wide, length),
                      _shifted(expr.no, wide, length))
    if isinstance(expr, Reduction):
        return type(expr)(_shifted(expr.body, wide, length),
                          *(wide.get(i, i) for i in expr.bound))
    if isinstance(expr, Index) and expr in wide:
        return wide[expr] - length
    return expr.func(*(_shifted(a, wide, length) for a in expr.args)) if expr.args else expr


def _cannot(eq: Equation, what: str) -> DeclarationError:
    return DeclarationError(
        f"a prefix cannot be put in front: the equation of {eq.name!r} reads {what}",
        expected="keys, values, scores and weights at plain positions", got=str(eq), where=eq.where,
    )
