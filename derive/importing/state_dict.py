"""A PyTorch ``state_dict`` for the parameters of a network, by name, kind and shape.

Nothing is guessed: a parameter takes the stored array of its own name, or the one that you name,
or the only one whose kind (matrix, recurrent matrix, bias, gain, running moment) and shape fit it.
Where several fit, their names must be the same but for numbers, so that their order is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Mul

from derive.errors import DataError, nearest
from derive.importing.arrays import Arrays, read_arrays
from derive.importing.builder import plain_name
from derive.nodes import Access, Index, SumOver, accesses
from derive.program import Equation, Program, Tensor, as_program

_IGNORED = ("num_batches_tracked", "position_ids")


def load_state_dict(
    network: Program | Any,
    source: str | Path | Mapping[str, Any],
    layout: str = "torch",
    *,
    names: Mapping[str, str | Sequence[str]] | None = None,
    strict: bool = True,
) -> Arrays:
    """Values for the parameters (and running moments) of a network from a state_dict.

    Args:
        network: a program, or a network that has one.
        source: a ``.safetensors`` or ``.npz`` file, or a mapping of names to arrays.
        layout: "torch" (the output dims of a weight come first, a linear layer's weight is
            (out, in), gates are joined into one dim) or "declared" (arrays as declared here).
        names: the stored name for a tensor, or several that are added up; a part of a joint
            projection as errors show it, "in_proj_weight[0:6]". The others are found.
        strict: whether a stored array that nothing takes is an error.

    Returns:
        A float64 array of the declared shape for each parameter and state by name.

    Raises:
        DataError: shapes that disagree (both shown), a tensor that nothing or more than one array
            fits, an array that is left over, a file that is pickled or damaged.
        MissingError: the package `safetensors` is not installed.
    """
    program = as_program(network)
    matches = matched(program, stored_arrays(source), layout, names or {}, strict)
    return {name: slot.filled(entry) for name, (slot, entry) in matches.items()}


def matched(program: Program, stored: Arrays, layout: str,
            names: Mapping[str, str | Sequence[str]], strict: bool) -> dict[str, Match]:
    """For each parameter and state how it lies in a file, and what is stored for it."""
    if layout not in ("torch", "declared"):
        raise DataError(f"unknown layout {layout!r}", expected='"torch" or "declared"')
    wanted = {t.name: tensor_slot(program, t, layout)
              for t in program.role("parameter", "state")}
    entries = _entries(stored)
    chosen = _named(wanted, stored, entries, names)
    taken = {str(e) for e in chosen.values()} | {
        k for e in chosen.values() for k in e.keys if not e.part}
    entries = [e for e in entries if str(e) not in taken and not set(e.keys) & taken]
    left = [slot for name, slot in wanted.items() if name not in chosen]
    chosen |= _found(left, entries)
    unused = sorted(set(stored) - {k for e in chosen.values() for k in e.keys})
    unused = [k for k in unused if not k.endswith(_IGNORED)]
    if strict and unused:
        raise DataError(
            f"{len(unused)} stored arrays belong to no tensor of {program.name!r}",
            got=", ".join(f"{k} {stored[k].shape}" for k in unused[:8]),
            mend="name them in names={…}, or pass strict=False to leave them out",
        )
    return {name: (slot, chosen[name]) for name, slot in wanted.items()}


# -- what is stored -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """An array for one tensor, made of one stored array or of several."""

    keys: tuple[str, ...]
    array: np.ndarray
    kind: str
    part: str = ""

    def __str__(self) -> str:
        return " + ".join(self.keys) + self.part


def stored_arrays(source: str | Path | Mapping[str, Any]) -> Arrays:
    """The arrays of a file or a mapping, checked to be finite numbers."""
    if isinstance(source, Mapping):
        found = {str(k): np.asarray(v) for k, v in source.items()}
    else:
        found, _ = read_arrays(Path(source))
    for key, array in found.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"the stored array {key!r} holds {array.dtype}", expected="numbers")
        if not np.isfinite(array).all():
            raise DataError(f"the stored array {key!r} holds NaN or infinity",
                            expected="finite numbers")
    return found


def _entries(stored: Arrays) -> list[Entry]:
    """The stored arrays as tensors have them here: the two biases of an LSTM are one, the joint
    projection of an attention layer is three."""
    out: list[Entry] = []
    for key, array in stored.items():
        stem, _, last = key.rpartition(".")
        dot = f"{stem}." if stem else ""
        if last in ("in_proj_weight", "in_proj_bias"):
            third = len(array) // 3
            out += [Entry((key,), array[n * third : (n + 1) * third], _kind(last, array),
                           f"[{n * third}:{(n + 1) * third}]") for n in range(3)]
            continue
        if last.startswith(("bias_ih", "bias_hh")):
            weight = stored.get(dot + last.replace("bias_ih", "weight_hh").replace(
                "bias_hh", "weight_hh"))
            other = dot + last.replace("bias_ih", "bias_hh")
            if weight is not None and len(weight) != 3 * weight.shape[1]:  # a GRU keeps them apart
                if last.startswith("bias_ih") and other in stored:
                    total = array.astype(np.float64) + stored[other]
                    out.append(Entry((key, other), total, "bias"))
                continue
        out.append(Entry((key,), array, _kind(last, array)))
    return out


def _kind(last: str, array: np.ndarray) -> str:
    if last.startswith("running_"):
        return last
    if last.startswith("weight_hh"):
        return "recurrent matrix"
    if last.startswith("bias_hh"):
        return "recurrent bias"
    if "bias" in last:
        return "bias"
    return "gain" if array.ndim == 1 else "matrix"


Match = tuple["Slot", Entry]


# -- what is wanted -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slot:
    """A tensor to be filled: how its dims are ordered in a file, and of which kind it is.

    ``order`` are its dims in the file's order; the first ``outputs`` of them and the others may
    each be joined into one dim there.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...]
    outputs: int
    kind: str

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[d] for d in self.order)

    def fits(self, shape: tuple[int, ...]) -> bool:
        shape = tuple(n for n in shape if n != 1)  # a convolution of one tap is a linear layer
        outer, inner = (tuple(n for n in part if n != 1) for part in (
            self.stored_shape[: self.outputs], self.stored_shape[self.outputs :]))
        return any(_coarser(shape[:cut], outer) and _coarser(shape[cut:], inner)
                   for cut in range(len(shape) + 1))

    def filled(self, entry: Entry) -> np.ndarray:
        """The array in the declared order of dims."""
        if not self.fits(entry.array.shape):
            raise DataError(
                f"the shapes of {self.tensor.name!r} and of the stored {str(entry)!r} disagree",
                expected=f"{self.stored_shape} as stored: {self.tensor.name} has shape "
                f"{self.shape}",
                got=f"{entry.array.shape}",
            )
        array = np.asarray(entry.array, np.float64).reshape(self.stored_shape)
        return np.ascontiguousarray(np.transpose(array, np.argsort(self.order)))

    def emptied(self, array: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The array in a file's order of dims, its dims joined to a shape: `filled` backwards."""
        return np.transpose(array, self.order).reshape(shape or self.stored_shape)


def _coarser(shape: tuple[int, ...], own: tuple[int, ...]) -> bool:
    """Whether joining neighbouring dims of ``own`` gives ``shape``."""
    if not shape or not own:
        return not shape and not own
    product = 1
    for n, size in enumerate(own, start=1):
        product *= size
        if product == shape[0] and _coarser(shape[1:], own[n:]):
            return True
    return False


def tensor_slot(program: Program, tensor: Tensor, layout: str) -> Slot:
    """How a tensor lies in a file of a layout, and what it is to the equation that reads it."""
    sizes = [s for s in tensor.shape if not s.is_Integer]
    if sizes:
        raise DataError(f"the shape of {tensor.name!r} is not known", got=f"the size {sizes[0]}")
    shape = tuple(int(s) for s in tensor.shape)
    eq = next((e for e in program.forward.equations if tensor.name in e.reads), None)
    plain = tuple(range(len(shape)))
    if eq is None or tensor.role == "state":
        kind = "running_var" if tensor.initial == "ones" else "running_mean"
        return Slot(tensor, shape, plain, len(shape), kind if tensor.role == "state" else "matrix")
    access = next(a for a in accesses(eq.body) if a.name == tensor.name)
    around = _sum_around(eq.body, access)
    bound = set(around.bound) if around is not None else set()
    summed = [d for d in plain if access.where[d].free_symbols & bound]
    kind = _use(program, eq, access, bool(summed))
    if layout == "declared" or (around is not None and _transposed(around, access)):
        return Slot(tensor, shape, plain, len(shape), kind)
    outer = [d for d in plain if d not in summed]
    return Slot(tensor, shape, (*outer, *summed), len(outer), kind)


def _sum_around(body: Expr, access: Access) -> SumOver | None:
    sums = [s for s in body.atoms(SumOver) if s.has(access)]
    return min(sums, key=sympy.count_ops) if sums else None


def _transposed(around: SumOver, access: Access) -> bool:
    """Whether the window runs backwards over the data: a transposed convolution, whose weight
    PyTorch keeps with the input channels first."""
    taps = [w for w in access.where if isinstance(w, Index) and w in around.bound]
    return any(
        where.diff(tap).is_negative
        for other in accesses(around.body) if other.name != access.name
        for where in other.where for tap in taps if tap in where.free_symbols
    )


def _use(program: Program, eq: Equation, access: Access, summed: bool) -> str:
    recurrent = any(g.recurrent and eq in g.equations for g in program.forward.groups)
    scales = any(access in node.args for node in eq.body.atoms(Mul))
    if summed:
        return "recurrent matrix" if recurrent else "matrix"
    if any(isinstance(w, Access) for w in access.where) or (not scales and len(access.where) > 2):
        return "matrix"
    if scales:
        return "gain" if len(access.where) == 1 else "matrix"
    return "recurrent bias" if recurrent else "bias"


# -- which goes where -----------------------------------------------------------------------------
def _named(wanted: Mapping[str, Slot], stored: Arrays, entries: Sequence[Entry],
           names: Mapping[str, str | Sequence[str]]) -> dict[str, Entry]:
    """The tensors that ``names`` speaks of, and those that are called as in the file."""
    chosen: dict[str, Entry] = {}
    parts = {str(e): e for e in entries if e.part}
    for name, given in names.items():
        if name in wanted and isinstance(given, str) and given in parts:
            chosen[name] = parts[given]
            continue
        keys = (given,) if isinstance(given, str) else tuple(given)
        for what, known in ((name, wanted), *((k, stored) for k in keys)):
            if what not in known:
                guess = nearest(what, known)
                kind = "tensor of the network" if known is wanted else "stored array"
                raise DataError(f"there is no {kind} {what!r}",
                                mend=f"did you mean {guess!r}?" if guess else None)
        shapes = {stored[k].shape for k in keys}
        if len(shapes) > 1:
            raise DataError(f"the arrays for {name!r} cannot be added",
                            got=" and ".join(map(str, sorted(shapes))))
        total = np.sum([np.asarray(stored[k], np.float64) for k in keys], axis=0)
        chosen[name] = Entry(keys, total, "named")
    for key, array in stored.items():
        own = next((n for n in (key, plain_name(key)) if n in wanted), None)
        if own is not None and own not in chosen:
            chosen[own] = Entry((key,), array, "named")
    return chosen


def _found(slots: Sequence[Slot], entries: Sequence[Entry]) -> dict[str, Entry]:
    """For each tensor the array of its kind and shape; equal ones in the order of their
    numbers."""
    groups: dict[tuple[int, ...], list[Slot]] = {}
    for slot in slots:
        fitting = tuple(n for n, e in enumerate(entries)
                        if e.kind == slot.kind and slot.fits(e.array.shape))
        if not fitting:
            raise _nothing_fits(slot, entries)
        groups.setdefault(fitting, []).append(slot)
    chosen: dict[str, Entry] = {}
    for fitting, group in groups.items():
        candidates = sorted((entries[n] for n in fitting), key=lambda e: _natural(str(e)))
        same = len({re.sub(r"\d+", "#", str(e)) for e in candidates}) == 1
        if len(candidates) != len(group) or (len(group) > 1 and not same):
            raise DataError(
                f"{len(candidates)} stored arrays fit {', '.join(s.tensor.name for s in group)}",
                expected=f"{len(group)}, with names that differ by numbers only",
                got=", ".join(map(str, candidates)),
                mend=f'say which: names={{"{group[0].tensor.name}": "{candidates[0]}", …}}',
            )
        chosen.update({s.tensor.name: e for s, e in zip(group, candidates, strict=True)})
    return chosen


def _nothing_fits(slot: Slot, entries: Sequence[Entry]) -> DataError:
    same = [e for e in entries if e.kind == slot.kind]
    return DataError(
        f"no stored array fits {slot.tensor.name!r}: the shapes disagree",
        expected=f"a {slot.kind} of shape {slot.stored_shape}: {slot.tensor.name} has shape "
        f"{slot.shape}",
        got=", ".join(f"{e} {e.array.shape}" for e in same[:8]) or f"no {slot.kind}",
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Names in the order of the numbers in them: 2 before 10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
