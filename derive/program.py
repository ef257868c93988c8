"""The one data type between stages: a `Program`, an ordered set of index equations.

A forward network, its gradients, an optimizer's update and a second derivative are all programs;
whatever prints, evaluates, checks, compiles or derives one does so for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sympy import Expr, Symbol

from derive.errors import DerivationError, Location, unknown_name
from derive.nodes import Access, Index, IntegerAccess, accesses, bound_indices, walk

if TYPE_CHECKING:
    import numpy as np

Role = Literal["input", "parameter", "state", "constant", "random", "intermediate", "gradient"]
DType = Literal["float", "int"]


@dataclass(frozen=True)
class Tensor:
    """A named array: its canonical indices (one per dim), dtype and role.

    ``origin`` says of a generated tensor what it is to which other one, e.g. ("adjoint", "W1"):
    the printers make its symbol out of that. ``initial`` is how a parameter starts
    ("auto", "zeros", "ones", or a number: the standard deviation of a normal);
    ``distribution`` says that the entries along the last dim are probabilities that sum to 1.
    """

    name: str
    indices: tuple[Index, ...]
    dtype: DType = "float"
    role: Role = "intermediate"
    origin: tuple[str, str] | None = None
    initial: str | Expr = "auto"
    distribution: bool = False
    where: Location | None = field(default=None, compare=False, repr=False)

    @cached_property
    def shape(self) -> tuple[Expr, ...]:
        """Sizes, each an Integer or a size symbol."""
        return tuple(index.size for index in self.indices)

    @property
    def rank(self) -> int:
        return len(self.indices)

    def at(self, *where: Expr | int) -> Access:
        """The access of this tensor at index expressions, unchecked."""
        return (IntegerAccess if self.dtype == "int" else Access)(self.name, *where)

    @property
    def access(self) -> Access:
        """The access at the canonical indices."""
        return self.at(*self.indices)


@dataclass(frozen=True)
class Equation:
    """``tensor[indices] = body``: for every value of the free indices.

    ``why`` names the rule that made it ("declared" for a user's own).
    """

    tensor: Tensor
    indices: tuple[Index, ...]
    body: Expr
    why: str = "declared"
    where: Location | None = field(default=None, compare=False, repr=False)

    @cached_property
    def name(self) -> str:
        return self.tensor.name

    @property
    def target(self) -> Access:
        return self.tensor.at(*self.indices)

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Names of the tensors that the body reads, in order of first use."""
        return tuple(dict.fromkeys(a.name for a in self.accesses))

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """Every access in the body, outermost first."""
        return tuple(accesses(self.body))

    @cached_property
    def bound(self) -> tuple[Index, ...]:
        """The indices that reductions in the body bind, in order, repeats kept."""
        return tuple(bound_indices(self.body))

    @cached_property
    def sizes(self) -> tuple[Symbol, ...]:
        """The symbolic sizes that stand in the body, as numbers or as those of indices."""
        return tuple(dict.fromkeys(n for n in walk(self.body)
                                   if n.is_Symbol and not isinstance(n, Index)))

    def __str__(self) -> str:
        from derive.text import equation_text

        return equation_text(self)

    def _repr_latex_(self) -> str:
        from derive.latex import equation_latex

        return f"$\\displaystyle {equation_latex(self)}$"


@dataclass(frozen=True)
class Inner:
    """A gradient that a network takes of itself: ``name`` is the adjoint of ``wrt`` for ``of``."""

    name: str
    of: str
    wrt: str


@dataclass(frozen=True)
class Step:
    """One step of a derivation, recorded while it is made.

    ``rule`` is a key of `derive.rules.RULES`; ``target`` is the tensor whose adjoint the step
    works on; ``before`` and ``after`` are scalar bodies in the indices ``indices`` of the target;
    ``source`` is the forward tensor whose equation is differentiated, ``occurrence`` the access
    in it, ``local`` the local derivative with respect to that access, and ``bound`` the indices
    that a reduction around the occurrence binds.
    """

    rule: str
    target: str
    before: Expr | None
    after: Expr
    indices: tuple[Index, ...] = ()
    source: str | None = None
    occurrence: Access | None = None
    local: Expr | None = None
    bound: tuple[Index, ...] = ()


def sweeps(steps: Iterable[Step]) -> list[tuple[str, list[Step]]]:
    """The reverse sweeps of a record: what each differentiates, and its steps. (A program that was
    derived twice has two, each with an adjoint of its own for many a tensor.)"""
    found: list[tuple[str, list[Step]]] = []
    open_steps: list[Step] = []  # since an adjoint was finished: of the sweep whose seed follows
    for step in steps:
        open_steps.append(step)
        if step.rule == "seed":
            found.append((step.source or "", open_steps))
            open_steps = []
        elif step.rule in ENDS:
            (found[-1][1] if found else []).extend(open_steps)
            open_steps = []
    if found:
        found[-1][1].extend(open_steps)
    return found


ENDS = ("adjoint", "copy", "constant")  # the rules of the last step of an adjoint


@dataclass(frozen=True)
class Group:
    """Equations that are computed together: one, or a recurrence over one index.

    For a recurrence, ``axis`` maps each target to the position of its loop index and ``step`` is
    +1 (ascending) or -1 (descending); the equations are in the order within one value of it.
    """

    equations: tuple[Equation, ...]
    axis: Mapping[str, int] = field(default_factory=dict)
    step: int = 0

    @property
    def recurrent(self) -> bool:
        return self.step != 0

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the tensors that others than these equations make."""
        own = {eq.name for eq in self.equations}
        return frozenset(r for eq in self.equations for r in eq.reads if r not in own)


@dataclass(frozen=True)
class Program:
    """Tensors and equations, with the names of losses, gradients and state updates.

    ``losses`` are scalar targets, ``subjects`` the tensors that a loss is to change where these
    are not all parameters; ``gradients`` maps a tensor to the name of its adjoint; ``jacobians``
    names, for each adjoint in ``gradients`` that is a whole Jacobian, the tensor it is of;
    ``declared`` is what the user wrote, in order, where gradients are taken inside the network
    (their equations stand among the others then, and these are in normal form);
    ``updates`` maps a state (or parameter) to the tensor that holds its next value; ``steps`` is
    the record of the derivation.
    """

    name: str
    tensors: Mapping[str, Tensor]
    equations: tuple[Equation, ...]
    losses: tuple[str, ...] = ()
    gradients: Mapping[str, str] = field(default_factory=dict)
    updates: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jacobians: Mapping[str, str] = field(default_factory=dict)
    declared: tuple[Equation | Inner, ...] = ()

    # -- looking things up ------------------------------------------------------------------
    @cached_property
    def defined(self) -> dict[str, Equation]:
        """The equation of each target."""
        return {eq.name: eq for eq in self.equations}

    def __getitem__(self, name: str) -> Equation:
        """``d["W1"]`` is the gradient of W1 where there is one, else the equation of a target."""
        key = self.gradients.get(name, name)
        if key not in self.defined:
            raise unknown_name("equation", name, [*self.defined, *self.gradients])
        return self.defined[key]

    def role(self, *roles: Role) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors.values() if t.role in roles)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.role("parameter")

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.role("input")

    @cached_property
    def given(self) -> tuple[Tensor, ...]:
        """Tensors that no equation defines: what must be handed in."""
        return tuple(t for t in self.tensors.values() if t.name not in self.defined)

    @cached_property
    def sizes(self) -> tuple[Symbol, ...]:
        """The symbolic sizes, in order of first appearance."""
        found = [s for t in self.tensors.values() for e in t.shape
                 if not e.is_Integer for s in e.free_symbols]
        for eq in self.equations:  # a size may stand in a body alone, as a number
            found += eq.sizes
        return tuple(dict.fromkeys(found))

    @property
    def forward(self) -> Program:
        """The program without gradients and their steps: what the losses and updates need."""
        roots = (*self.losses, *self.updates.values())
        if not roots:
            roots = tuple(n for n, t in self.tensors.items() if t.role != "gradient")
        plain = replace(self, gradients={}, jacobians={}, steps=())
        return plain.only(*roots)

    def only(self, *roots: str) -> Program:
        """The equations that ``roots`` need, and the tensors that occur in them."""
        needed: set[str] = set()
        stack = list(roots)
        while stack:
            name = stack.pop()
            if name in needed:
                continue
            needed.add(name)
            if name in self.defined:
                stack.extend(self.defined[name].reads)
        return replace(
            self,
            tensors={n: t for n, t in self.tensors.items() if n in needed},
            equations=tuple(eq for eq in self.equations if eq.name in needed),
            gradients={n: g for n, g in self.gradients.items() if g in needed},
            updates={n: u for n, u in self.updates.items() if u in needed},
            losses=tuple(n for n in self.losses if n in needed),
            subjects={n: s for n, s in self.subjects.items() if n in needed},
            jacobians={n: of for n, of in self.jacobians.items()
                       if self.gradients.get(n) in needed},
            declared=tuple(one for one in self.declared if one.name in needed),
        )

    def unused(self, name: str) -> str:
        """The name, with underscores behind it until no tensor bears it."""
        while name in self.tensors:
            name += "_"
        return name

    # -- order ------------------------------------------------------------------------------
    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The equations in an order of computation; recurrences are groups of their own."""
        from derive.order import order_equations

        return order_equations(self.equations)

    @cached_property
    def hash(self) -> str:
        """A digest of the equations: the same network gives the same 16 hexadecimal digits."""
        from derive.digest import digest

        return digest(self.equations, self.tensors.values())

    # -- what can be done with a program ------------------------------------------------------
    def evaluate(self, values: Mapping[str, Any], outputs: Iterable[str] | None = None) -> dict[
        str, np.ndarray
    ]:
        """Evaluate with the reference evaluator (float64); see `derive.reference.evaluate`."""
        from derive.reference import evaluate

        return evaluate(self, values, outputs)

    def document(self, path: str, **options: Any) -> Any:
        """Write the derivation document; see `derive.document.write_document`."""
        from derive.document import write_document

        return write_document(self, path, **options)

    def with_equations(self, new: Iterable[Equation], **changes: Any) -> Program:
        """This program with further equations (and their tensors) at the end."""
        new = tuple(new)
        taken = [eq.name for eq in new if eq.name in self.defined]
        if taken:
            raise DerivationError(f"tensor {taken[0]!r} already has an equation")
        tensors = {**self.tensors, **{eq.name: eq.tensor for eq in new}}
        unknown = [name for eq in new for name in eq.reads if name not in tensors]
        if unknown:
            raise unknown_name("tensor", unknown[0], tensors)
        return replace(self, tensors=tensors, equations=(*self.equations, *new), **changes)

    def __str__(self) -> str:
        from derive.text import program_text

        return program_text(self)

    def _repr_latex_(self) -> str:
        from derive.latex import program_latex

        return f"${program_latex(self)}$"


def as_program(program: Program | Any) -> Program:
    """The program itself, or that of a network (anything with a ``program()`` method)."""
    return program if isinstance(program, Program) else program.program()
