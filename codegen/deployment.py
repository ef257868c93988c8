"""Deployment: a trained network as one emitted module for inference, its weights beside it.

In: a program and values. Out: ``name.py`` with the forward kernels of the wanted outputs alone (no
loss, no gradient, no optimizer) and ``name.safetensors`` with what they read. The module needs
numpy and numba; it takes batches and single rows, and checks itself against outputs that
are stored with the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from codegen.cpu_parts import module_parts
from codegen.module import environment, inspect_text, one_line, write
from codegen.pipeline import Compiled, compile_program
from derive import __version__
from derive.data import check_values
from derive.errors import DataError, DeclarationError
from derive.files import write_atomically
from derive.importing.arrays import read_arrays, safetensors
from derive.importing.state_dict import load_state_dict
from derive.inference import inference
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program, as_program
from derive.reference import evaluate

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Deployed:
    """The two files of a deployed network, and what it computes."""

    module: Path
    weights: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"module": str(self.module), "weights": str(self.weights),
                "inputs": list(self.inputs), "outputs": list(self.outputs)}

    def __str__(self) -> str:
        return (f"wrote {self.module} and {self.weights}\n"
                f"{', '.join(self.inputs)} → {', '.join(self.outputs)}\n"
                f"check it with: python {self.module} --check")


def deploy(network: Program | Any, values: Mapping[str, Any], path: str | Path,
           outputs: str | Iterable[str] | None = None, dtype: str = "float32",
           parallel: bool = True, sample: Mapping[str, Any] | None = None,
           force: bool = False) -> Deployed:
    """Write a trained network as a module for inference, with its weights beside it.

    Args:
        network: a program or a network, derived or not.
        values: an array for each parameter and state that the outputs need; others are passed
            over. A `Model`'s ``parameters`` and ``states`` together are such values.
        path: the module's name, in .py; the weights get the same name in .safetensors.
        outputs: names of tensors; by default those that the loss reads (predictions, scores) and
            that need no label.
        dtype: "float32" or "float64".
        parallel: whether large batches may be split among threads.
        sample: inputs whose outputs are stored with the weights, so that the module can check
            itself; by default two rows of random numbers.

    Raises:
        DataError: a value is missing or does not fit, or the file was not written by this tool.
        DeclarationError: an unknown output, or a network that is not one for inference (dropout,
            batch norm with the batch's own moments).
    """
    path = Path(path)
    if path.suffix != ".py":
        raise DeclarationError(f"a module's name ends in .py, got {path.name!r}")
    program, names = inference(as_program(network), outputs)
    weights = _weights(program, values)
    compiled = compile_program(program, sgd(), outputs=names)
    text = _render(compiled, names, dtype, parallel, path)
    own = safetensors()
    arrays = {n: a.astype(dtype) for n, a in weights.items()}
    arrays |= _sample(program, names, weights, sample)
    content = own.numpy.save(arrays, metadata={"network": program.name, "hash": program.hash})
    beside = path.with_suffix(".safetensors")
    write(text, path, force)
    write_atomically(beside, content)
    inputs = tuple(t.name for t in program.given if t.role not in ("parameter", "state"))
    return Deployed(path, beside, inputs, names)


def _weights(program: Program, values: Mapping[str, Any]) -> Arrays:
    """The values that the module reads, checked."""
    kept = program.role("parameter", "state")
    bare = {t.name: t for t in kept}
    missing = [n for n in bare if n not in values]
    if missing:
        raise DataError(f"no value is given for {', '.join(missing[:5])}",
                        expected="an array for each parameter and state of the network",
                        got=", ".join(list(values)[:8]) or "nothing")
    return check_values(replace(program, equations=(), tensors=bare), values)


def _sample(program: Program, names: tuple[str, ...], weights: Arrays,
            given: Mapping[str, Any] | None) -> Arrays:
    sizes = {s.name: 2 for s in program.sizes}
    point = random_values(program, 0, sizes)
    inputs = {t.name for t in program.given} - set(weights)
    if given is not None:
        point = check_values(program, {**given, **weights})
    found = evaluate(program, {**{n: point[n] for n in inputs}, **weights}, names)
    return {f"input/{n}": point[n] for n in inputs} | {f"output/{n}": found[n] for n in names}


def _render(compiled: Compiled, outputs: tuple[str, ...], dtype: str, parallel: bool,
            path: Path) -> str:
    program, parts = compiled.program, module_parts(compiled, parallel)
    own = environment()
    tables = parts["tables"]
    batch = compiled.entries["forward"].schedule.batch
    axes = {n: next((d for d, s in enumerate(program.tensors[n].shape)
                     if batch is not None and s == batch), None) for n in outputs}
    inputs = [t.name for t in program.given if t.role not in ("parameter", "state")]
    weights = path.with_suffix(".safetensors").name
    host = own.get_template("cpu_deploy_host.py.jinja").render().rstrip()
    text = own.get_template("cpu_deploy.py.jinja").render(
        {**parts, "host": "\n\n\n".join([*tables, host])},
        header=f"{one_line(program.name)}: inference, compiled.", network=one_line(program.name),
        network_literal=repr(program.name), hash=program.hash, version=__version__,
        weights=one_line(weights), weights_literal=repr(weights), filename=one_line(path.name),
        dtype=dtype, parallel=parallel, cache=True, outputs=repr(axes),
        example=", ".join(f"{n}=…" for n in inputs), gives=", ".join(outputs),
    ).rstrip() + "\n"
    inspect_text(text)
    return text


def read_trained(path: str | Path, program: Program) -> Arrays:
    """Values from a file of weights: one that `Model.save` or a run wrote (of a checkpoint the
    best weights, where it has some), arrays by the tensors' names, or a state_dict by PyTorch's.

    Raises:
        DataError: no such file, damaged, pickled, or arrays that fit nothing.
    """
    arrays, _ = read_arrays(Path(path))
    for first in ("best/", ""):
        marks = (f"{first}parameter/", f"{first}state/")
        found = {n.removeprefix(m): a for m in marks for n, a in arrays.items() if n.startswith(m)}
        if found:
            return found
    if all(t.name in arrays for t in program.parameters):
        return arrays
    return load_state_dict(program, arrays)
