"""Adapters put into a program, trained alone, saved apart, merged back.

``adapt`` gives an `Adapted`: a program like any other, whose losses change nothing but the
adapters (and what ``train`` names), so the backward pass is that of the adapters only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sympy import Add, Expr

from derive.adapters.rewriting import Change, Draft
from derive.errors import DataError, DeclarationError, nearest
from derive.files import write_atomically
from derive.freezing import Patterns, matching, narrowed
from derive.importing.arrays import read_arrays, safetensors
from derive.nodes import Access, SumOver, accesses, walk
from derive.program import Equation, Program, Tensor, as_program
from derive.reference import evaluate

Arrays = dict[str, np.ndarray]
FORMAT = "chainrule adapters 1"


class Adapter(Protocol):
    """The settings of one kind of adapter, which can put it into a program."""

    def apply(self, draft: Draft, program: Program) -> Change: ...


@dataclass(frozen=True)
class BiasFit:
    """The settings of BitFit; made by `bitfit`."""

    patterns: tuple[str, ...]

    def apply(self, draft: Draft, program: Program) -> Change:
        """Nothing new: the biases are what is trained."""
        found = biases(program)
        if not found:
            raise DeclarationError(f"{program.name!r} has no biases to train")
        chosen = matching(program, self.patterns, "bias", found)
        return Change("bitfit", {"biases": list(self.patterns)}, (), trained=chosen)


def bitfit(*names: str) -> BiasFit:
    """Train biases only (Ben Zaken et al. 2022): by default every one of the network."""
    return BiasFit(names or ("*",))


def biases(program: Program) -> tuple[str, ...]:
    """Parameters that are only ever added to a term with a parameter of its own: ``x W + c``, the
    shift of a norm."""
    parameters = {t.name for t in program.parameters}
    added: dict[str, bool] = {}
    for eq in program.equations:
        sums = [n for n in walk(eq.body) if isinstance(n, Add)]
        for access in accesses(eq.body):
            if access.name in parameters:
                here = any(access in n.args and _weighted(n, access, parameters) for n in sums)
                added[access.name] = here and added.get(access.name, True)
    return tuple(n for n, only in added.items() if only)


def _weighted(total: Expr, access: Access, parameters: set[str]) -> bool:
    others = [a for a in total.args if a != access]
    terms = [n.body if isinstance(n, SumOver) else n for n in others]
    return any(a.name in parameters for t in terms for a in accesses(t) if t != a)


@dataclass(frozen=True)
class Adapted:
    """A network with adapters: ``program()`` is trained, ``base`` is what it was.

    ``changes`` are the adapters in order; ``trained`` every parameter that the losses change.
    """

    base: Program
    adapted: Program
    changes: tuple[Change, ...]
    trained: tuple[str, ...]

    def program(self) -> Program:
        """The program with adapters, as everything that takes a program or a network asks for."""
        return self.adapted

    @property
    def parameters(self) -> tuple[str, ...]:
        """The adapters' own parameters."""
        return tuple(n for c in self.changes for n in c.parameters)

    def merged(self, values: Mapping[str, Any]) -> Arrays:
        """Values for the network without adapters that do the same.

        Args:
            values: an array for each parameter of the adapted program; others are passed over.

        Returns:
            An array for each parameter of ``base``, of the dtype it came in, or float64 where an
            adapter was merged into it.

        Raises:
            DeclarationError: an adapter that no weight can hold; which, and why.
            DataError: a value is missing or has another shape.
        """
        now = self._checked(values, [t.name for t in self.adapted.parameters])
        for change in reversed(self.changes):
            if change.refusal:
                raise DeclarationError(f"the {change.kind} adapter cannot be merged: "
                                       f"{change.refusal}", mend="keep it apart: save(…)")
            for merge in change.merges:
                target = Tensor("_merged", merge.indices)
                tensors = {n: self.adapted.tensors[n] for n in merge.reads} | {"_merged": target}
                one = Program("merge", tensors, (Equation(target, merge.indices, merge.body),))
                now[merge.name] = evaluate(one, now, ["_merged"])["_merged"]
        return {t.name: now[t.name] for t in self.base.parameters}

    def save(self, path: str | Path, values: Mapping[str, Any]) -> Path:
        """What was trained, and nothing else, as safetensors; all or nothing.

        Raises:
            DataError: a value is missing or has another shape.
            MissingError: the package `safetensors` is not installed.
        """
        arrays = self._checked(values, self.trained)
        content = safetensors().numpy.save(arrays, metadata={
            "format": FORMAT, "network": self.base.name, "base": self.base.hash,
            "adapters": json.dumps([{"kind": c.kind, **c.settings} for c in self.changes]),
        })
        path = Path(path)
        write_atomically(path, content)
        return path

    def load(self, path: str | Path) -> Arrays:
        """What `save` wrote, by name.

        Raises:
            DataError: no such file, damaged, or of another network or other adapters (what differs
                is named).
            MissingError: the package `safetensors` is not installed.
        """
        arrays, notes = read_arrays(Path(path))
        if notes.get("format") != FORMAT:
            raise DataError(f"{str(path)!r} holds no adapters",
                            expected="a file that Adapted.save wrote",
                            got=", ".join(list(arrays)[:5]) or "nothing")
        if notes.get("base") != self.base.hash:
            raise DataError(
                f"the adapters in {str(path)!r} belong to another network",
                expected=f"{self.base.name} ({self.base.hash})",
                got=f"{notes.get('network')} ({notes.get('base')})",
            )
        extra = [n for n in arrays if n not in self.trained]
        if extra:
            guess = nearest(extra[0], self.trained)
            raise DataError(f"{str(path)!r} holds {extra[0]!r}, which is not trained here",
                            expected=", ".join(self.trained), got=notes.get("adapters"),
                            mend=f"did you mean {guess!r}?" if guess else None)
        return self._checked(arrays, self.trained)

    def _checked(self, values: Mapping[str, Any], names: Sequence[str]) -> Arrays:
        found = {}
        for name in names:
            tensor = self.adapted.tensors[name]
            shape = tuple(int(s) for s in tensor.shape)
            if name not in values:
                raise DataError(f"no value is given for the parameter {name!r}",
                                expected=f"an array of shape {shape}")
            array = np.ascontiguousarray(values[name])
            if array.shape != shape or array.dtype.kind not in "fiu":
                raise DataError(f"the value of {name!r} does not fit", expected=f"shape {shape}",
                                got=f"{array.shape} of {array.dtype}")
            found[name] = array
        return found


def adapt(network: Program | Any, *adapters: Adapter, train: Patterns = ()) -> Adapted:
    """A network with adapters in it, of which only these are trained.

    Args:
        network: a program that is not derived yet and has a loss, or a network.
        adapters: what `lora`, `ia3`, `bottleneck`, `prefix` and `bitfit` give, put in in order.
        train: names or shell patterns of parameters that are trained as well, such as a new head.

    Returns:
        An `Adapted`; it can be handed to whatever takes a network: ``dr.derive(adapted)``.

    Raises:
        DeclarationError: a name that fits nothing, or a place where an adapter cannot stand (the
            equation is shown).
        DerivationError: the program is derived already, or has no loss.
    """
    base = as_program(network)
    if not adapters:
        raise DeclarationError("adapt needs adapters", expected='adapt(net, dr.lora("W*"))')
    narrowed(base, [t.name for t in base.parameters])  # a loss, and no gradients yet
    now, changes = base, []
    owners: dict[str, str] = {}
    for adapter in adapters:
        draft = Draft.of(now)
        changes.append(adapter.apply(draft, now))
        now = draft.program(now)
        owners |= draft.owners
    own = {n for c in changes for n in (*c.parameters, *c.trained)}
    own |= set(matching(base, train))
    trained = tuple(t.name for t in now.parameters if t.name in own)
    return Adapted(base, _trained_only(now, base, trained, owners), tuple(changes), trained)


def _trained_only(now: Program, base: Program, trained: Sequence[str],
                  owners: Mapping[str, str]) -> Program:
    """The losses' subjects: of several losses each keeps to what it changed before, and to the
    adapters beside that."""
    subjects = {
        loss: (*names, *(n for n in owners if _nearest_parameters(base, owners[n]) & set(names)))
        for loss, names in base.subjects.items()
    }
    return narrowed(replace(now, subjects=subjects), trained)


def _nearest_parameters(base: Program, name: str) -> set[str]:
    """A parameter itself, or those that the equation of a tensor reads (or what it reads, …)."""
    todo, seen = [name], set()
    while todo:
        found = {n for n in todo if n in base.tensors and base.tensors[n].role == "parameter"}
        if found:
            return found
        seen |= set(todo)
        todo = [r for n in todo if n in base.defined for r in base.defined[n].reads
                if r not in seen]
    return set()
