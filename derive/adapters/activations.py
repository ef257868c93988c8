"""Adapters that stand behind a tensor: (IA)³ scales it, a bottleneck adds a small network of it.

The tensor keeps its equation and name; whatever reads it reads the adapted one instead. In a
recurrence the adapter stands at its outlet, the loop stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Mul

from derive import functions
from derive.adapters.rewriting import Change, Draft, cofactor, fresh_index, uses
from derive.errors import DeclarationError
from derive.freezing import matching
from derive.nodes import Access, Index, SumOver, accesses, walk
from derive.program import Equation, Program, Tensor

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "relu": functions.relu, "gelu": functions.gelu, "silu": functions.silu, "tanh": sympy.tanh,
}


def _targets(draft: Draft, program: Program, patterns: Sequence[str]) -> list[str]:
    names = matching(program, patterns, "tensor", list(program.defined))
    for name in names:
        if not draft.readers(name):
            raise DeclarationError(f"nothing reads {name!r}, so an adapter behind it does nothing",
                                   where=program.tensors[name].where)
        if not draft.feature_dims(name):
            raise DeclarationError(
                f"{name!r} has no feature dim: it comes from data alone",
                expected="a tensor that depends on a parameter", where=program.tensors[name].where)
    return list(names)


# -- (IA)³ ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scaling:
    """The settings of (IA)³; made by `ia3`."""

    tensors: tuple[str, ...]

    def apply(self, draft: Draft, program: Program) -> Change:
        """Multiply each tensor by a vector over its features."""
        start = len(draft.added)
        merges: list[Equation] = []
        refusal = None
        for name in _targets(draft, program, self.tensors):
            tensor, dims = draft.tensors[name], draft.feature_dims(name)
            own = [tensor.indices[d] for d in dims]
            scale = draft.parameter(name, f"l_{name}", own, "ones")
            folded = _folded(draft, name, dims, scale)
            body = scale.at(*own) * tensor.access
            new = draft.define(f"{name}_scaled", tensor.indices, body, after=name)
            draft.redirect(name, new)
            if folded is None:
                refusal = refusal or (
                    f"{name!r} is neither a sum of terms with one weight each nor read by weights "
                    "alone, so its scale stays a tensor of its own")
            merges += folded or []
        return Change("ia3", {"tensors": list(self.tensors)}, tuple(draft.added[start:]),
                      merges=tuple(merges), refusal=refusal)


def ia3(*tensors: str) -> Scaling:
    """Learned vectors that scale tensors (Liu et al. 2022): keys, values and the activations
    inside a feed-forward network, say ``ia3("k*", "v*", "h*")``. They start at one.

    Args:
        tensors: names or shell patterns of tensors that equations define.
    """
    if not tensors:
        raise DeclarationError("ia3 needs the names of tensors", expected='ia3("k*", "v*")')
    return Scaling(tensors)


def _folded(draft: Draft, name: str, dims: Sequence[int], scale: Tensor) -> list[Equation] | None:
    """The scale multiplied into weights: those that make the tensor, else those that read it."""
    eq = draft[name]
    features = [eq.indices[d] for d in dims]
    made = [_parameters(draft, term, features) for term in Add.make_args(eq.body)]
    if all(len(m) == 1 for m in made) and name not in draft.behind(name):
        return _merges(draft, [m[0] for m in made], features, scale)
    found: dict[tuple[Access, tuple[Expr, ...]], None] = {}
    for reader in draft.readers(name):
        for access in uses(reader, name):
            where = tuple(access.where[d] for d in dims)
            partners = _partners(draft, reader.body, access, where)
            if partners is None:
                return None
            found.update(dict.fromkeys((p, where) for p in partners))
    merges: list[Equation] = []
    for partner, where in found:
        own = _merges(draft, [partner], where, scale)
        if own is None:
            return None
        merges += own
    return merges


def _parameters(draft: Draft, term: Expr, features: Sequence[Index]) -> list[Access]:
    """The parameters that a term is proportional to and that have all of the features as dims."""
    inner = term
    factors = [f for f in Mul.make_args(term) if isinstance(f, SumOver)]
    if len(factors) == 1:
        inner = factors[0].body
    return [a for a in dict.fromkeys(accesses(term))
            if draft.tensors[a.name].role == "parameter" and set(features) <= set(a.where)
            and cofactor(inner, a) is not None and len(Add.make_args(inner)) == 1]


def _partners(draft: Draft, body: Expr, access: Access, where: Sequence[Expr]
              ) -> list[Access] | None:
    """The parameters that an access is multiplied by, one in each product that holds it."""
    found: list[Access] = []
    sums = [n for n in walk(body) if isinstance(n, SumOver) and access in Mul.make_args(n.body)]
    for node in sums:
        factors = [f for f in Mul.make_args(node.body) if isinstance(f, Access)
                   and draft.tensors[f.name].role == "parameter" and set(where) <= set(f.where)]
        if len(factors) != 1:
            return None
        found += factors
    outside = body.xreplace(dict.fromkeys(sums, sympy.S.Zero)).has(access)
    return None if outside or not found else found


def _merges(draft: Draft, factors: Sequence[Access], features: Sequence[Expr], scale: Tensor
            ) -> list[Equation] | None:
    merges = []
    for access in factors:
        readers = draft.readers(access.name)
        if len(readers) > 1 or len(uses(readers[0], access.name)) > 1:
            return None
        tensor = draft.tensors[access.name]
        own = dict(zip(access.where, tensor.indices, strict=True))
        body = tensor.access * scale.at(*(own[f] for f in features))
        merges.append(Equation(tensor, tensor.indices, body, "merged"))
    return merges


# -- bottleneck -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bottleneck:
    """The settings of bottleneck adapters; made by `bottleneck`."""

    tensors: tuple[str, ...]
    size: int
    activation: str

    def apply(self, draft: Draft, program: Program) -> Change:
        """Add a network of two small layers to each tensor."""
        start = len(draft.added)
        for name in _targets(draft, program, self.tensors):
            self._behind(draft, name)
        settings = {"tensors": list(self.tensors), "size": self.size,
                    "activation": self.activation}
        return Change("bottleneck", settings, tuple(draft.added[start:]),
                      refusal="a bottleneck adapter is not linear, so no weight can hold it")

    def _behind(self, draft: Draft, name: str) -> None:
        tensor, dims = draft.tensors[name], draft.feature_dims(name)
        own = [tensor.indices[d] for d in dims]
        rest = [i for d, i in enumerate(tensor.indices) if d not in dims]
        m = fresh_index(draft[name], "m", self.size)
        spread = 1 / sympy.sqrt(Mul(*(i.size for i in own)))
        down = draft.parameter(name, f"{name}_down", (*own, m), spread)
        shift = draft.parameter(name, f"{name}_down_c", (m,), "zeros")
        up = draft.parameter(name, f"{name}_up", (m, *own), "zeros")
        last = draft.parameter(name, f"{name}_up_c", own, "zeros")
        product = SumOver(tensor.access * down.at(*own, m), *own) + shift.at(m)
        z = draft.define(f"{name}_low", (*rest, m), product, after=name)
        h = draft.define(f"{name}_low_h", (*rest, m), ACTIVATIONS[self.activation](z.access),
                         after=z.name)
        body = tensor.access + SumOver(h.access * up.at(m, *own), m) + last.at(*own)
        draft.redirect(name, draft.define(f"{name}_adapted", tensor.indices, body, after=h.name))


def bottleneck(*tensors: str, size: int = 16, activation: str = "relu") -> Bottleneck:
    """Two small layers with a residual behind tensors (Houlsby et al. 2019): ``y + U f(D y)``.
    U starts at zero, so the network starts as it was.

    Args:
        tensors: names or shell patterns of tensors that equations define.
        size: the size between the two layers.
        activation: relu, gelu, silu or tanh.
    """
    if activation not in ACTIVATIONS:
        raise DeclarationError(f"unknown activation {activation!r}",
                               expected=", ".join(ACTIVATIONS))
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise DeclarationError("the size of a bottleneck is a whole number of at least 1",
                               got=repr(size))
    if not tensors:
        raise DeclarationError("bottleneck needs the names of tensors",
                               expected='bottleneck("y2", "y4")')
    return Bottleneck(tensors, size, activation)
