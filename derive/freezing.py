"""Freezing: which parameters a loss is to change, and what the backward pass saves by it.

A frozen parameter stays a parameter; it is left out of the `subjects` of the losses. The reverse
sweep gives an adjoint only to what lies between a subject and its loss, so nothing that serves a
frozen parameter alone is derived, stored or computed: `savings` counts what that comes to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import sympy
from sympy import Add, Expr, Mul

from derive.cost import equation_cost, stored_bytes, total_cost
from derive.errors import DerivationError, unknown_name
from derive.program import Program, Tensor, as_program

Patterns = Any  # a name, a shell pattern, a handle, or several of these


def matching(program: Program, patterns: Patterns, what: str = "parameter",
             among: Iterable[str] | None = None) -> tuple[str, ...]:
    """The names that fit a pattern, in the program's order.

    Args:
        patterns: a name, a shell pattern such as ``"W*"`` or ``"encoder_[0-3]_*"``, a handle, or
            several of these.
        what: the kind of tensor, for messages.
        among: the names to choose from; by default all parameters.

    Raises:
        DeclarationError: a pattern that fits nothing (the nearest name is suggested).
    """
    known = list(among) if among is not None else [t.name for t in program.parameters]
    one = isinstance(patterns, str) or hasattr(patterns, "tensor")
    found: set[str] = set()
    for pattern in (str(getattr(p, "name", p)) for p in ([patterns] if one else patterns)):
        fitting = [n for n in known if fnmatchcase(n, pattern)]
        if not fitting:
            raise unknown_name(what, pattern, known)
        found.update(fitting)
    return tuple(n for n in known if n in found)


def freeze(program: Program | Any, *patterns: Patterns, before: Patterns = ()) -> Program:
    """The same program, in which no loss changes the named parameters.

    Args:
        program: a program that is not derived yet, or a network.
        patterns: names or shell patterns of parameters, or handles.
        before: tensors; every parameter that they depend on is frozen.

    Raises:
        DerivationError: the program has no loss, or nothing would be left to change.
        DeclarationError: a pattern that fits no parameter.
    """
    program = as_program(program)
    frozen = set(matching(program, patterns))
    if before:
        tensors = matching(program, before, "tensor", program.tensors)
        frozen |= {t.name for t in program.only(*tensors).parameters}
    return narrowed(program, [t.name for t in program.parameters if t.name not in frozen])


def unfrozen(program: Program, names: Sequence[str], patterns: Patterns) -> tuple[str, ...]:
    """The names that no pattern fits.

    Raises:
        DerivationError: none is left.
    """
    frozen = matching(program, patterns)
    left = tuple(n for n in names if n not in frozen)
    if not left:
        raise _nothing_left(program.losses[0] if program.losses else program.name, names)
    return left


def _nothing_left(loss: str, names: Sequence[str]) -> DerivationError:
    return DerivationError(
        f"nothing is left for {loss!r} to change: every parameter is frozen",
        expected="a parameter that is not frozen", got=", ".join(names) or "no parameter",
    )


def narrowed(program: Program, trained: Sequence[str]) -> Program:
    """The program whose losses change no parameter but ``trained``."""
    if program.gradients:
        raise DerivationError(
            f"{program.name!r} is derived already", expected="a program without gradients",
            mend="freeze first: dr.derive(dr.freeze(net, …)), or dr.derive(net, freeze=…)",
        )
    if not program.losses:
        raise DerivationError(
            f"{program.name!r} has no loss, so nothing in it is trained",
            mend="declare the loss first: net.loss(…)",
        )
    subjects = {}
    for loss in program.losses:
        before = program.subjects.get(loss)
        reached = program.only(loss).tensors
        own = before if before is not None else tuple(
            t.name for t in program.parameters if len(program.losses) == 1 or t.name in reached)
        subjects[loss] = tuple(n for n in own if n in trained)
        if not subjects[loss]:
            raise _nothing_left(loss, own)
    return replace(program, subjects=subjects)


# -- what it saves --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Load:
    """What a step costs beside the forward pass, symbolic in the sizes.

    ``equations`` of the backward pass, their ``operations`` and ``functions`` calls; bytes of the
    ``adjoints`` (without gradients), of forward tensors ``kept`` for the backward pass, of the
    ``gradients``.
    """

    equations: int
    operations: Expr
    functions: Expr
    adjoints: Expr
    kept: Expr
    gradients: Expr


@dataclass(frozen=True)
class Savings:
    """The backward pass of a program beside the one with nothing frozen.

    ``vanished`` are the names of the adjoints and gradients that are not computed; ``frozen`` the
    parameters that are not trained.
    """

    frozen: tuple[str, ...]
    vanished: tuple[str, ...]
    now: Load
    full: Load

    def __str__(self) -> str:
        from derive.cost import pretty_count

        rows = [("", "trained", "all"), *(
            (part, pretty_count(sympy.sympify(getattr(self.now, part))),
             pretty_count(sympy.sympify(getattr(self.full, part))))
            for part in self.now.__dataclass_fields__)]
        width = [max(len(row[n]) for row in rows) for n in range(3)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, width)).rstrip()
                         for row in rows)


def _everything(forward: Program) -> Program:
    """The gradients of all parameters that the loss reaches."""
    from derive.differentiate import derive, the_loss

    reached = forward.only(the_loss(forward)).tensors
    return derive(forward, wrt=[t.name for t in forward.parameters if t.name in reached])


def savings(derived: Program, itemsize: int = 4) -> Savings:
    """What a derived program saves against the gradient of all its parameters.

    Raises:
        DerivationError: the program has no gradients, or several losses.
    """
    if not derived.gradients:
        raise DerivationError(f"{derived.name!r} has no gradients", mend="savings(dr.derive(net))")
    bare = replace(derived.forward, subjects={}, steps=())
    full = _everything(bare)
    trained = set(derived.gradients)
    frozen = tuple(t.name for t in full.parameters if t.name not in trained
                   and t.name in full.gradients)
    here = {_origin(derived.tensors[n]) for n in _backward(derived)}
    vanished = tuple(n for n in _backward(full) if _origin(full.tensors[n]) not in here)
    return Savings(frozen, vanished, load(derived, itemsize), load(full, itemsize))


def _origin(tensor: Tensor) -> tuple[str, str]:
    return tensor.origin or ("", tensor.name)


def _backward(program: Program) -> list[str]:
    forward = program.forward.defined
    return [eq.name for eq in program.equations if eq.name not in forward]


def load(derived: Program, itemsize: int = 4) -> Load:
    """The `Load` of a derived program."""
    names = _backward(derived)
    gradients = set(derived.gradients.values())
    cost = total_cost(equation_cost(derived.defined[n], derived, itemsize) for n in names)
    return Load(
        len(names), cost.operations, cost.functions,
        _bytes([derived.tensors[n] for n in names if n not in gradients], itemsize),
        stored_bytes(derived, itemsize),
        _bytes([derived.tensors[n] for n in gradients], itemsize),
    )


def _bytes(tensors: Iterable[Tensor], itemsize: int) -> Expr:
    return sympy.expand(Add(*(Mul(*t.shape) for t in tensors)) * itemsize)
