"""What `propagate` gives: a `Relation` per tensor, in a `Flow`; and names for the moments."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Symbol

from derive.flow.axes import Kind, fan_ins
from derive.flow.terms import Root, roots_of
from derive.nodes import Index, IntegerAccess, Select
from derive.program import Program, Tensor

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
class Known:
    """A tensor as bodies see it: its moments, and its function of roots where pointwise."""

    kind: str
    root: Root
    indices: tuple[Index, ...] = ()
    body: Expr | None = None


def symbol(kind: str, name: str) -> Symbol:
    """q(name), m(name), r(name) or v(name)."""
    return Symbol(f"{kind}({name})", real=True, nonnegative=kind in "qv" or None)


def drawn(tensor: Tensor) -> bool:
    """Whether a parameter starts at random (against zeros, ones, or a bias's zero)."""
    fixed = ("zeros", "ones", "constant")
    return tensor.role == "parameter" and not str(tensor.initial).startswith(fixed)


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
