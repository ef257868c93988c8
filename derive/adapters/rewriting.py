"""Rewriting an existing program: new tensors and equations in it, readers turned to another tensor.

In and out: a `Program` without gradients. `Draft` is the program being rewritten; every adapter
works on one and leaves a `Change` behind, which knows how to take the adapter out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sympy import Expr, Mul, S

from derive.errors import DeclarationError
from derive.layers.common import letters
from derive.nodes import Access, Index, Select, accesses, bound_indices
from derive.program import Equation, Program, Tensor

Merge = tuple[Equation, ...]
PENALTY = "if this is a penalty on the weight: the weight is frozen now, leave it out of the loss"


@dataclass(frozen=True)
class Change:
    """What one adapter added.

    ``parameters`` are its own; ``trained`` those of the program itself that it trains (biases);
    ``merges`` give parameters of the program before it, each as an equation in those after it, in
    order; ``refusal`` says why the adapter cannot be merged, where it cannot.
    """

    kind: str
    settings: Mapping[str, object]
    parameters: tuple[str, ...]
    trained: tuple[str, ...] = ()
    merges: Merge = ()
    refusal: str | None = None


@dataclass
class Draft:
    """A program while adapters are put into it."""

    name: str
    tensors: dict[str, Tensor]
    equations: list[Equation]
    added: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)  # what each new parameter stands beside

    @classmethod
    def of(cls, program: Program) -> Draft:
        return cls(program.name, dict(program.tensors), list(program.equations))

    def program(self, before: Program) -> Program:
        """The rewritten program, with the losses of the one before."""
        return replace(before, tensors=dict(self.tensors), equations=tuple(self.equations))

    def __getitem__(self, name: str) -> Equation:
        return next(eq for eq in self.equations if eq.name == name)

    # -- new tensors ------------------------------------------------------------------------
    def name_for(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.tensors:
            number += 1
            name = f"{stem}{number}"
        return name

    def parameter(self, owner: str, stem: str, indices: Sequence[Index],
                  initial: str | Expr) -> Tensor:
        """A new parameter that belongs to a weight or to a tensor (its ``owner``)."""
        tensor = Tensor(self.name_for(stem), distinct(indices), role="parameter", initial=initial)
        self.tensors[tensor.name] = tensor
        self.added.append(tensor.name)
        self.owners[tensor.name] = owner
        return tensor

    def define(self, stem: str, indices: Sequence[Index], body: Expr, before: str | None = None,
               after: str | None = None) -> Tensor:
        """A new equation, placed before or after the one of a tensor."""
        tensor = Tensor(self.name_for(stem), tuple(indices))
        self.tensors[tensor.name] = tensor
        names = [eq.name for eq in self.equations]
        at = names.index(before) if before else names.index(after or names[-1]) + 1
        self.equations.insert(at, Equation(tensor, tuple(indices), body))
        return tensor

    def replace(self, name: str, body: Expr) -> None:
        """Another body for an equation."""
        at = next(n for n, eq in enumerate(self.equations) if eq.name == name)
        self.equations[at] = replace(self.equations[at], body=body)

    def replace_tensor(self, tensor: Tensor, indices: Sequence[Index], body: Expr) -> None:
        """Another shape, and the body that goes with it."""
        at = next(n for n, eq in enumerate(self.equations) if eq.name == tensor.name)
        self.tensors[tensor.name] = tensor
        self.equations[at] = replace(
            self.equations[at], tensor=tensor, indices=tuple(indices), body=body)

    # -- who reads what -----------------------------------------------------------------------
    def readers(self, name: str) -> list[Equation]:
        return [eq for eq in self.equations if name in eq.reads]

    def behind(self, name: str) -> set[str]:
        """Targets that the tensor itself depends on: a reader among them closes a recurrence."""
        defined = {eq.name: eq for eq in self.equations}
        found: set[str] = set()
        stack = list(defined[name].reads) if name in defined else []
        while stack:
            here = stack.pop()
            if here in defined and here not in found:
                found.add(here)
                stack += defined[here].reads
        return found

    def redirect(self, old: str, new: Tensor) -> None:
        """Whatever reads ``old`` reads ``new`` instead, but for ``new`` itself and, in a
        recurrence, what ``old`` is made of: the adapter stands at the outlet of the loop."""
        inside = self.behind(new.name) | {new.name}
        for eq in self.readers(old):
            if eq.name not in inside:
                there = {a: new.at(*a.where) for a in accesses(eq.body) if a.name == old}
                self.replace(eq.name, eq.body.xreplace(there))

    def feature_dims(self, name: str) -> tuple[int, ...]:
        """The dims of a tensor that run over features: their indices stand in a parameter of its
        equation, or in a feature dim of a tensor that it is made of (others run over the data)."""
        return self._features(name, frozenset())

    def _features(self, name: str, seen: frozenset[str]) -> tuple[int, ...]:
        tensor = self.tensors[name]
        if tensor.role in ("parameter", "state", "constant"):
            return tuple(range(tensor.rank))
        if name in seen or not any(eq.name == name for eq in self.equations):
            return ()
        eq = self[name]
        found: set[Index] = set()
        for access in accesses(eq.body):
            own = self._features(access.name, seen | {name})
            found |= {i for d in own for i in access.where[d].free_symbols
                      if not access.where[d].has(Access)}
        return tuple(d for d, i in enumerate(eq.indices) if i in found)


def distinct(indices: Sequence[Index]) -> tuple[Index, ...]:
    """Indices under different names, so that a tensor can be declared with them."""
    names = [i.name for i in indices]
    if len(set(names)) == len(names):
        return tuple(indices)
    return letters((), "".join(dict.fromkeys(n[0] for n in names)), *(i.size for i in indices))


def fresh_index(eq: Equation, letter: str, size: Expr | int) -> Index:
    """An index that the equation has not."""
    taken = [*eq.indices, *bound_indices(eq.body)]
    taken += [s for s in eq.body.free_symbols if isinstance(s, Index)]
    return letters(taken, letter, size)[0]


def cofactor(term: Expr, access: Access) -> Expr | None:
    """What ``access`` is multiplied by in a product, or None where it is no plain factor of it."""
    if term == access:
        return S.One
    if isinstance(term, Select) and term.no == 0 and not term.condition.has(access):
        inner = cofactor(term.yes, access)
        return None if inner is None else Select(term.condition, inner)
    if not isinstance(term, Mul):
        return None
    holders = [f for f in term.args if f.has(access)]
    if len(holders) != 1:
        return None
    inner = cofactor(holders[0], access)
    return None if inner is None else inner * Mul(*(f for f in term.args if f is not holders[0]))


def uses(eq: Equation, name: str) -> list[Access]:
    """The different accesses of a tensor in an equation."""
    return list(dict.fromkeys(a for a in accesses(eq.body) if a.name == name))


def not_in_product(name: str, eq: Equation) -> DeclarationError:
    return DeclarationError(
        f"{name!r} is no factor of a product in the equation of {eq.name!r}",
        expected=f"{name}[…] multiplied by something and summed, or looked up by a gather",
        got=str(eq), mend=PENALTY, where=eq.where,
    )
