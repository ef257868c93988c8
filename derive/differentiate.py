"""Reverse differentiation: Program → Program with an adjoint for every tensor that needs one.

1. `name_reductions` brings every equation into normal form.
2. The equations are visited in reverse, each once. Every access in a body gets a placeholder;
   SymPy differentiates the scalar body with respect to it.
3. The contribution to the adjoint of ``T[g(i)]`` is the sum over all ``i`` with ``g(i) = m``,
   solved exactly over the integers (`derive.affine`): a gather.
4. Contributions are added over occurrences and consumers, and simplified.

Nothing is substituted into anything but constants and plain copies, so the cost is linear in the
number of equations. Recurrent groups need no case of their own: their adjoints refer to each
other, and `derive.order` finds the reversed recurrence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import sympy
from sympy import Add, Expr, S

from derive.errors import DerivationError, unknown_name
from derive.freezing import unfrozen
from derive.lift import Names, name_reductions
from derive.local import local_derivatives, local_rule, pull_back
from derive.nodes import (
    Access,
    Index,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    alpha_rename,
    contains,
    fresh,
    rename,
)
from derive.program import Equation, Program, Step, Tensor, as_program
from derive.simplify import alpha_key, collect, one_from_distributions


@dataclass(frozen=True)
class Contribution:
    """What one occurrence adds to an adjoint: ``body`` in the canonical indices of the tensor."""

    occurrence: Access
    body: Expr
    source: str


def derive(
    program: Program,
    wrt: Sequence[str] | None = None,
    of: str | None = None,
    freeze: str | Sequence[str] = (),
) -> Program:
    """The program with the gradient of a scalar with respect to tensors, and the record of steps.

    Args:
        program: a `Program`, or anything with a ``program()`` method that gives one (a network).
        wrt: names of float tensors that no equation defines; by default all parameters.
        of: the scalar tensor to differentiate; by default the only loss.
        freeze: names or shell patterns of parameters that get no gradient (`derive.freezing`):
            what serves only them is not derived either.

    Returns:
        A program whose ``gradients`` map each name in ``wrt`` to its adjoint, an equation like
        any other: it can be printed, evaluated, compiled, and derived again.

    Raises:
        DerivationError: the loss is no scalar, is not unique, or does not reach a tensor.
    """
    program = as_program(program)
    of = of or the_loss(program)
    if of not in program.tensors:
        raise unknown_name("tensor", of, program.tensors)
    if program.tensors[of].rank != 0:
        raise DerivationError(
            f"{of!r} is not a scalar, so it has no gradient",
            expected="a tensor without dims",
            got=f"shape {program.tensors[of].shape}",
            mend="sum or average it over its indices first",
            where=program.tensors[of].where,
        )
    if wrt is None:
        wrt = program.subjects.get(of) or [t.name for t in program.parameters]
    if freeze:
        wrt = unfrozen(program, wrt, freeze)
    return Reverse(name_reductions(program), tuple(wrt), of).run()


def the_loss(program: Program) -> str:
    """The name of the only loss."""
    if len(program.losses) != 1:
        found = ", ".join(program.losses) or "none"
        raise DerivationError(
            "derive needs to know which scalar to differentiate",
            expected="one loss",
            got=found,
            mend="declare one with net.loss(…), or name it: derive(net, of=…)",
        )
    return program.losses[0]


class Reverse:
    """One reverse sweep: `run` gives the program with adjoints."""

    def __init__(self, program: Program, wrt: tuple[str, ...], of: str,
                 rows: tuple[Index, ...] = ()) -> None:
        """``rows``: indices that every adjoint has in front, one for each dim of ``of``, for a
        whole Jacobian in place of a gradient."""
        self.program, self.wrt, self.of, self.rows = program, wrt, of, rows
        self.names = Names(set(program.tensors))
        self.steps: list[Step] = list(program.steps)
        self.new: list[Equation] = []
        self.contributions: dict[str, list[Contribution]] = {}
        self.adjoint: dict[str, tuple[tuple[Index, ...], Expr]] = {}  # inlined ones too
        self.adjoint_names: dict[str, str] = {}
        self.declared: dict[str, Tensor] = {}
        self.groups = program.only(of).groups
        self.summing = any(tensor.distribution for tensor in program.tensors.values())
        self.asked = frozenset(wrt)
        self.active = self._active()

    @cached_property
    def known(self) -> dict[tuple, Tensor]:
        """What the program already computes, by equation (needed for few reductions only)."""
        return {alpha_key(eq.indices, eq.body): eq.tensor for eq in self.program.equations}

    def _active(self) -> set[str]:
        """Tensors on a path from ``wrt`` to the loss: nothing else gets an adjoint."""
        for name in self.wrt:
            if name not in self.program.tensors:
                raise unknown_name("tensor", name, self.program.tensors)
        reached = set(self.wrt)
        for group in self.groups:
            members = {eq.name for eq in group.equations}
            if any(reached & set(eq.reads) for eq in group.equations):
                reached |= members
        needed = {self.of}
        for group in reversed(self.groups):
            if any(eq.name in needed for eq in group.equations):
                needed |= {r for eq in group.equations for r in eq.reads}
        missing = [n for n in self.wrt if n not in needed]
        if missing:
            tensor = self.program.tensors[missing[0]]
            raise DerivationError(
                f"the loss {self.of!r} does not depend on {', '.join(map(repr, missing))}",
                expected="every parameter reached by the loss",
                got="no equation on the way from the loss reads it",
                mend="use it, remove it, or name the parameters you want: derive(net, wrt=[…])",
                where=tensor.where,
            )
        return {
            n for n in reached & needed if self.program.tensors[n].dtype == "float"
        }

    # -- the sweep --------------------------------------------------------------------------
    def run(self) -> Program:
        last_reader = {
            name: number
            for number, group in reversed(list(enumerate(self.groups)))
            for eq in group.equations
            for name in eq.reads
        }
        due: dict[int, list[str]] = {}
        for name in self.wrt:
            if name not in self.program.defined:
                due.setdefault(last_reader[name], []).append(name)
        for number in range(len(self.groups) - 1, -1, -1):
            group = self.groups[number]
            active = [eq for eq in reversed(group.equations) if eq.name in self.active]
            if group.recurrent:
                for eq in active:
                    self._declare(eq.tensor)
            for eq in active:
                if not group.recurrent:
                    self._finish(eq.tensor)
                self._visit(eq)
            if group.recurrent:
                for eq in active:
                    self._emit(eq.tensor)
            for name in due.get(number, ()):
                self._finish(self.program.tensors[name])
        gradients = dict(self.program.gradients)
        jacobians = {n: of for n, of in self.program.jacobians.items() if n not in self.wrt}
        for name in self.wrt:
            gradients[name] = self.adjoint[name][1].name
            if self.rows:
                jacobians[name] = self.of
        merged = self.program.with_equations(self.new, gradients=gradients, jacobians=jacobians)
        roots = (*merged.losses, *merged.updates.values(), *gradients.values(), self.of)
        declared = [eq.name for eq in self.program.equations]
        return replace(merged.only(*roots, *declared), steps=tuple(self.steps))

    def _name(self, tensor: Tensor) -> str:
        """The name of a tensor's adjoint, whether or not it becomes an equation."""
        if tensor.name not in self.adjoint_names:
            self.adjoint_names[tensor.name] = self.names.new(f"_d_{tensor.name.lstrip('_')}")
        return self.adjoint_names[tensor.name]

    def _declare(self, tensor: Tensor) -> None:
        """Give the adjoint its tensor before its equation is known (recurrences refer to it)."""
        made = Tensor(self._name(tensor), (*self.rows, *tensor.indices), role="gradient",
                      origin=("adjoint", tensor.name), where=tensor.where)
        self.adjoint[tensor.name] = (tensor.indices, made.access)
        self.declared[tensor.name] = made

    def _finish(self, tensor: Tensor) -> None:
        """All contributions are there: state the adjoint as an equation, or inline it."""
        total = self._total(tensor)
        if tensor.name not in self.asked and _is_constant_or_copy(total):
            self.adjoint[tensor.name] = (tensor.indices, total)
            rule = "copy" if isinstance(total, Access) else "constant"
            adjoint = self._name(tensor)
            self.steps.append(Step(rule, adjoint, None, total, tensor.indices))
            return
        self._declare(tensor)
        self._state(tensor, total)

    def _emit(self, tensor: Tensor) -> None:
        self._state(tensor, self._total(tensor))

    def _state(self, tensor: Tensor, total: Expr) -> None:
        made = self.declared[tensor.name]
        self.new.append(Equation(made, made.indices, total, "adjoint", tensor.where))
        self.steps.append(Step("adjoint", made.name, None, total, made.indices, tensor.name))

    def _total(self, tensor: Tensor) -> Expr:
        if tensor.name == self.of:
            pairs = zip(self.rows, tensor.indices, strict=True)
            seed = Select(sympy.And(*(sympy.Eq(r, i) for r, i in pairs)), S.One)
            self.steps.append(Step("seed", self._name(tensor), None, seed, tensor.indices,
                                   tensor.name))
            own = [seed]
        else:
            own = []
        parts = self.contributions.pop(tensor.name, [])
        bodies = own + [c.body for c in parts]
        total = Add(*bodies)
        name = self._name(tensor)
        if len(bodies) > 1:
            listed = sympy.Tuple(*bodies)
            self.steps.append(Step("accumulate", name, listed, total, tensor.indices))
        collected = collect(total)
        if collected != total:
            self.steps.append(Step("collect", name, total, collected, tensor.indices))
        return collected

    # -- one equation -----------------------------------------------------------------------
    def _visit(self, eq: Equation) -> None:
        indices, adjoint = self.adjoint[eq.name]
        cotangent = rename(adjoint, dict(zip(indices, eq.indices, strict=True)))
        if cotangent == 0:
            return
        for occurrence, local, factor, bound in self._locals(eq):
            if occurrence.name in self.active:
                self._contribute(eq, occurrence, local, cotangent * factor * local, bound)

    def _locals(self, eq: Equation) -> Iterator[tuple[Access, Expr, Expr, tuple[Index, ...]]]:
        """Each access with its local derivative, a factor in front, and the indices that
        reductions around it bind."""
        body = eq.body
        if isinstance(body, Reduction) and not isinstance(body, SumOver):
            factor = self._reduction_factor(eq, body)
            for access, local in local_derivatives(body.body, None):
                yield access, local, factor, body.bound
            return
        for node, local in local_derivatives(body, eq.target):
            if isinstance(node, Access):
                yield node, local, S.One, ()
                continue
            for access, inner in local_derivatives(node.body, None):
                yield access, inner, local, node.bound

    def _contribute(
        self, eq: Equation, occurrence: Access, local: Expr, term: Expr, bound: tuple[Index, ...]
    ) -> None:
        if local == 0:
            return
        tensor = self.program.tensors[occurrence.name]
        self.steps.append(
            Step(local_rule(eq.body, occurrence, local), self._name(tensor), term, term, eq.indices,
                 eq.name, occurrence, local, bound)
        )
        body = pull_back(occurrence, term, (*eq.indices, *bound), tensor)
        simple = one_from_distributions(body, self.program.tensors) if self.summing else body
        self.steps.append(
            Step("indices", self._name(tensor), term, simple, tensor.indices, eq.name,
                 occurrence, local, bound)
        )
        self.contributions.setdefault(tensor.name, []).append(
            Contribution(occurrence, simple, eq.name)
        )

    # -- reductions other than sums -----------------------------------------------------------
    def _named(self, stem: str, origin: str, eq: Equation, indices: tuple[Index, ...],
               body: Expr, rule: str) -> Access:
        """A tensor for ``body``, an existing one where the program already computes it."""
        key = alpha_key(indices, body)
        if key not in self.known:
            name = self.names.new(f"{stem}_{eq.name.lstrip('_')}")
            tensor = Tensor(name, indices, origin=(origin, eq.name), where=eq.where)
            self.known[key] = tensor
            self.new.append(Equation(tensor, indices, body, rule, eq.where))
            self.steps.append(Step(rule, name, None, body, indices, eq.name))
        return self.known[key].at(*indices)

    def _reduction_factor(self, eq: Equation, body: Reduction) -> Expr:
        """The derivative of ``y = reduce over r of inner`` with respect to one ``inner``."""
        inner, where = body.body, (*eq.indices, *body.bound)
        if isinstance(body, LogSumExpOver):
            weight = sympy.exp(inner - eq.target)
            if isinstance(inner, Select) and inner.no == S.NegativeInfinity:
                weight = Select(inner.condition, sympy.exp(inner.yes - eq.target))
            return self._named("_p", "softmax", eq, where, weight, "softmax")
        if isinstance(body, MaxOver | MinOver):
            hit = sympy.Eq(inner, eq.target)
            other = alpha_rename(SumOver(Select(hit, S.One), *body.bound),
                                 {i.name for i in where})
            ties = self._named("_n", "ties", eq, eq.indices, other, "ties")
            return Select(hit, 1 / ties)
        if isinstance(body, ProdOver):
            taken = {i.name for i in where}
            others = []
            for index in body.bound:
                new = fresh(index, taken)
                taken.add(new.name)
                others.append(new)
            same = sympy.And(*(sympy.Eq(o, i) for o, i in zip(others, body.bound, strict=True)))
            there = dict(zip(body.bound, others, strict=True))
            rest = ProdOver(Select(sympy.Not(same), rename(inner, there), S.One), *others)
            return self._named("_q", "others", eq, where, rest, "prod")
        raise DerivationError(f"no derivative is known for the reduction {body.op!r}")


def _is_constant_or_copy(total: Expr) -> bool:
    if isinstance(-total, Access):
        total = -total
    if isinstance(total, Access):
        plain = all(isinstance(e, Index) for e in total.where)
        return plain and len(set(total.where)) == len(total.where)
    return not contains(total, Access, Reduction)  # numbers, sizes and guards: nothing to compute
