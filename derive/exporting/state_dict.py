"""Weights under PyTorch's names and in its layouts: `derive.importing.state_dict` backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from derive.data import check_values
from derive.errors import DataError
from derive.files import write_atomically
from derive.importing.arrays import Arrays, safetensors
from derive.importing.state_dict import Entry, Slot, matched, stored_arrays, tensor_slot
from derive.program import Program, as_program


def save_state_dict(
    network: Program | Any,
    values: Mapping[str, Any],
    path: str | Path,
    *,
    like: str | Path | Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    dtype: str = "float32",
) -> Path:
    """Write parameters and states as a PyTorch module's state_dict has them, in safetensors.

    Args:
        network: a program, or a network that has one.
        values: an array for each parameter and state; others are passed over.
        path: a name in .safetensors.
        like: a state_dict of the module (a file or a mapping), whose names and shapes are taken
            over. Tensors are matched to it as `load_state_dict` does; arrays that belong to no
            tensor are copied. Of two biases that are one here, the second becomes zero.
        names: the stored name for a tensor. Without ``like``, the others are called after the
            equation that reads them: ``z1.weight``, ``z1.bias``.
        dtype: "float32" or "float64".

    Raises:
        DataError: a value is missing or does not fit, two tensors under one name, or a module that
            does not match.
        MissingError: the package `safetensors` is not installed.
    """
    path, program = Path(path), as_program(network)
    if path.suffix != ".safetensors":
        raise DataError(f"a state_dict is written as .safetensors, got {path.name!r}")
    kept = {t.name: t for t in program.role("parameter", "state")}
    missing = [n for n in kept if n not in values]
    if missing:
        raise DataError(f"no value is given for {', '.join(missing[:5])}",
                        expected="an array for each parameter and state of the network",
                        got=", ".join(list(values)[:8]) or "nothing")
    bare = replace(program, tensors=kept, equations=())
    arrays = check_values(bare, {n: values[n] for n in kept})
    if like is None:
        stored = _called(program, arrays, names or {})
    else:
        stored = _alike(program, arrays, stored_arrays(like), names or {})
    whole = {k: np.ascontiguousarray(a, dtype if a.dtype.kind == "f" else a.dtype)
             for k, a in stored.items()}
    write_atomically(path, safetensors().numpy.save(whole, metadata={"format": "pt"}))
    return path


def _called(program: Program, arrays: Arrays, names: Mapping[str, str]) -> Arrays:
    """Under the names given, or that of the equation that reads them first."""
    stored: Arrays = {}
    for name, array in arrays.items():
        slot = tensor_slot(program, program.tensors[name], "torch")
        key = names.get(name) or _own_name(program, slot, set(stored) | set(names.values()))
        if key in stored:
            raise DataError(f"two tensors would be stored as {key!r}", got=f"{name} and another",
                            mend="give them different names")
        stored[key] = slot.emptied(array)
    return stored


def _own_name(program: Program, slot: Slot, taken: set[str]) -> str:
    kind = slot.kind if slot.kind.startswith("running_") else (
        "bias" if "bias" in slot.kind else "weight")
    name = slot.tensor.name
    reader = next((eq.name for eq in program.forward.equations if name in eq.reads), name)
    key = f"{reader.lstrip('_')}.{kind}"
    return f"{name}.{kind}" if key in taken else key


def _alike(program: Program, arrays: Arrays, like: Arrays, names: Mapping[str, str]) -> Arrays:
    """Where the arrays of another state_dict lie, in its shapes."""
    stored = {k: np.array(a) for k, a in like.items()}
    for name, (slot, entry) in matched(program, like, "torch", names, strict=False).items():
        new = slot.emptied(arrays[name], entry.array.shape)
        if entry.part:
            rows = _rows(entry)
            stored[entry.keys[0]][rows] = new
            continue
        stored[entry.keys[0]] = new
        for second in entry.keys[1:]:
            stored[second] = np.zeros_like(like[second])
    return stored


def _rows(entry: Entry) -> slice:
    first, last = entry.part.strip("[]").split(":")
    return slice(int(first), int(last))
