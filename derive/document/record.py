"""The record of a derivation as a story: steps → one entry for each adjoint, in order.

Nothing is derived here: every formula of an entry is one that `derive.differentiate` recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sympy import Expr, Mul, Tuple

from derive.local import local_rules
from derive.nodes import (
    Access,
    Index,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    rename,
)
from derive.program import ENDS, Equation, Program, Step, sweeps

_REDUCTION_RULES = {
    LogSumExpOver: "softmax", MaxOver: "ties", MinOver: "ties", ProdOver: "prod",
}  # fmt: skip


#: of each tensor: the indices and the body (or the name) of its adjoint
Adjoints = dict[str, tuple[tuple[Index, ...], Expr]]


@dataclass(frozen=True)
class Use:
    """One place at which a tensor is read by the equation ``source``.

    ``local`` is the derivative of the source's target with respect to the element read; ``body``
    what the place contributes to the adjoint, in the indices of the tensor.
    """

    source: Equation
    chain: Step  # the local derivative times the adjoint of the source
    gather: Step  # the same, gathered over all places that read one element
    adjoint: tuple[tuple[Index, ...], Expr]

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """The rules that the local derivative follows, the outermost first."""
        reduction = _REDUCTION_RULES.get(type(self.source.body))
        if reduction is not None:
            return (reduction,)
        return local_rules(self.source.body, self.occurrence) or (self.chain.rule,)

    @property
    def occurrence(self) -> Access:
        assert self.chain.occurrence is not None
        return self.chain.occurrence

    @property
    def body(self) -> Expr:
        return self.gather.after

    @cached_property
    def cotangent(self) -> Expr:
        """The adjoint of the source in its own indices; those of a Jacobian's rows stay."""
        indices, body = self.adjoint
        own = self.source.indices
        return rename(body, dict(zip(indices[len(indices) - len(own):], own, strict=True)))

    @cached_property
    def local(self) -> Expr:
        own = self.cotangent
        whole = Mul(self.chain.after, 1 / own)
        left = {a.name for a in whole.atoms(Access)} & {a.name for a in own.atoms(Access)}
        return self.chain.local if left and self.chain.local is not None else whole


@dataclass(frozen=True)
class Entry:
    """How one adjoint was found; ``equation`` is None where it was put in where it is used.

    ``sum`` and ``collected`` are there where several contributions were added, and where common
    factors were taken out.
    """

    name: str
    of: str
    indices: tuple[Index, ...]
    uses: tuple[Use, ...]
    seeded: bool
    sum: Expr | None
    collected: Expr | None
    final: Expr
    equation: Equation | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Helper:
    """An equation that a derivative needs: a softmax, a count of ties, a product of others."""

    rule: str
    equation: Equation


def entries(program: Program) -> list[Entry | Helper]:
    """The derivation in the order in which it was made."""
    made = _Teller(program)
    for _, steps in sweeps(program.steps):
        stated = [program.defined[s.target] for s in steps
                  if s.rule == "adjoint" and s.target in program.defined]
        of = {s.target: s.source for s in steps if s.rule == "adjoint" and s.source}
        made.adjoints = {of[eq.name]: (eq.indices, eq.target) for eq in stated}
        for step in steps:
            made.take(step)
    return made.told


class _Teller:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.told: list[Entry | Helper] = []
        self.steps: dict[str, list[Step]] = {}
        self.adjoints: Adjoints = {}

    def take(self, step: Step) -> None:
        if step.rule == "name":
            return
        if step.rule in ("softmax", "ties", "prod") and step.occurrence is None:
            if step.target in self.program.defined:
                self.told.append(Helper(step.rule, self.program.defined[step.target]))
            return
        self.steps.setdefault(step.target, []).append(step)
        if step.rule in ENDS:
            self._finish(step)

    def _finish(self, last: Step) -> None:
        steps = self.steps.pop(last.target)
        of = self._of(last, steps)
        equation = self.program.defined.get(last.target) if last.rule == "adjoint" else None
        if last.rule == "adjoint" and equation is None:
            return  # an adjoint that nothing needed
        if last.rule != "adjoint":
            self.adjoints[of] = (last.indices, last.after)
        chains = [s for s in steps if s.occurrence is not None and s.rule != "indices"]
        gathers = [s for s in steps if s.occurrence is not None and s.rule == "indices"]
        uses = tuple(
            Use(self.program.defined[c.source], c, g, self.adjoints[c.source])
            for c, g in zip(chains, gathers, strict=True)
            # an adjoint that was dropped contributed 0
            if c.source in self.adjoints
        )
        sums = [s for s in steps if s.rule == "accumulate"]
        collected = [s for s in steps if s.rule == "collect"]
        self.told.append(Entry(
            last.target, of, last.indices, uses, any(s.rule == "seed" for s in steps),
            sums[0].after if sums else None, collected[0].after if collected else None,
            last.after, equation, tuple(steps),
        ))

    def _of(self, last: Step, steps: list[Step]) -> str:
        if last.rule == "adjoint" and last.source is not None:
            return last.source
        named = [s.occurrence.name for s in steps if s.occurrence is not None]
        if named:
            return named[0]
        stem = last.target.removeprefix("_d_")
        return next((n for n in self.program.tensors if n.lstrip("_") == stem), stem)


def contributions(step: Step) -> tuple[Expr, ...]:
    """The parts that an "accumulate" step adds."""
    return tuple(step.before) if isinstance(step.before, Tuple) else ()
