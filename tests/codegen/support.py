"""What the tests of emitted kernels share: compiling without Numba, sample data, comparison."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cpu_parts import index_ranges
from codegen.memory import Storage
from codegen.model import Model
from codegen.module import load, render
from codegen.pipeline import compile_program
from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.optimizers import sgd
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from tests.programs import random_network, reached


@contextmanager
def interpreted() -> Iterator[None]:
    """Emitted modules loaded inside run as plain Python: slow, and nothing to compile."""
    before = set(sys.modules)
    disabled = numba.config.DISABLE_JIT
    numba.config.DISABLE_JIT = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        numba.config.DISABLE_JIT = disabled
        for name in set(sys.modules) - before:
            if name.startswith("chainrule_kernels_"):
                del sys.modules[name]


def build(program: Program, folder: Path, parts: int = 1, seed: int = 3, **options: Any) -> Model:
    """A model at a random point, its work cut into ``parts``."""
    model = codegen.compile(derive(program), directory=folder, parallel=parts > 1, **options)
    model.initialize(seed)
    rng = np.random.default_rng(seed)
    for view in model.parameters.values():
        view += 0.3 * rng.standard_normal(view.shape)
    model._run.parts = lambda sizes: parts
    return model


def sample(program: Program, rows: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for every input; each run-time size is ``rows``."""
    rng = np.random.default_rng(seed)
    ranges = index_ranges(program)
    values: dict[str, np.ndarray] = {}
    for tensor in program.given:
        if tensor.role in ("parameter", "state"):
            continue
        shape = [int(s) if s.is_Integer else rows for s in tensor.shape]
        if tensor.dtype == "int":
            values[tensor.name] = rng.integers(0, ranges.get(tensor.name, 2), shape)
        else:
            values[tensor.name] = rng.uniform(0.1, 1.0, shape)
            if tensor.distribution:
                values[tensor.name] /= values[tensor.name].sum(-1, keepdims=True)
    return values


def point(program: Program, folder: Path) -> dict[str, np.ndarray]:
    """Parameters as a model draws them, states, and five rows; in double precision."""
    with interpreted():
        model = build(program, folder)
        values = {**sample(derive(program), 5), **model.parameters, **model.states}
    return {n: np.asarray(v, np.int64 if v.dtype.kind == "i" else float)
            for n, v in values.items()}


def poison(model: Model) -> None:
    """Work space and gradients full of NaN: whatever is read before it is written shows."""
    model._run.w = np.full(200_000, np.nan, model.flat.dtype)
    for view in model.kernels._views(model._run.d, model.kernels.PARAMETERS).values():
        view[...] = np.nan


def differences(model: Model, values: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest error of the loss and of each gradient, relative to the largest reference value."""
    program = model.program
    want = evaluate(program, {**values, **{n: v.astype(np.float64)
                                           for n, v in model.parameters.items()}, **model.states})
    poison(model)
    loss = model.loss(**values)
    poison(model)
    gradients = model.gradients(**values)
    loss_name = program.losses[0]
    found = {loss_name: abs(loss - float(want[loss_name])) / (1e-3 + abs(float(want[loss_name])))}
    for name, gradient in gradients.items():
        reference = want[program.gradients[name]]
        assert gradient.shape == reference.shape
        found[name] = float(np.abs(gradient - reference).max() / (1e-3 + np.abs(reference).max()))
    return found


def with_fixed_parameters(program: Program) -> Program:
    """Parameters of a run-time size as inputs: kernels keep parameters in one flat array."""
    return replace(program, tensors={
        n: replace(t, role="input") if t.role == "parameter" and t.shape and not all(
            s.is_Integer for s in t.shape) else t
        for n, t in program.tensors.items()
    })


EVERY = Storage(reuse=False)  # all tensors are there to be compared


def wrong_kernels(program: Program, values: dict[str, np.ndarray], folder: Path, parts: int = 1,
                  sizes: dict[str, int] | None = None, compiled: bool = False,
                  storage: Storage = EVERY) -> list[str]:
    """The equations whose kernel gives something else than the reference evaluator, at a point.

    The emitted text runs as plain Python (the entry point of the gradient alone), or really
    compiled with all entry points; work space begins as NaN. What is no longer there when all is
    done is not compared.
    """
    entries = ("forward", "loss", "gradient") if compiled else ("gradient",)
    made = compile_program(program, sgd(), entries, storage=storage)
    there = made.entries["gradient"].plan.kept
    text = render(made, "float64", parts > 1)
    with nullcontext() if compiled else interpreted():
        kernels = load(text, folder)
        model = kernels.Model()
        model.parts = lambda sizes: parts
        if sizes is not None:  # an input need not tell every size
            model.sizes = lambda inputs, batch=None: tuple(sizes[n] for n in kernels.SIZES)
        model.w = np.full(100_000, np.nan)
        model.d[...] = np.nan
        for kept in (model.parameters, model.states):
            for name, view in kept.items():
                view[...] = values[name]
        names = [t.name for t in program.given if t.role not in ("parameter", "state")]
        given = {n: np.ascontiguousarray(values[n]) for n in names}
        want = evaluate(program, values, sizes=sizes)
        counts, _ = model.run("gradient", given)
    wrong = []
    for name, (buffer, at, shape) in kernels.offsets("gradient", counts).items():
        # what the kernels store for themselves, such as packed windows, has no reference
        if name not in want or name not in there:
            continue
        got = getattr(model, buffer)[at:at + int(np.prod(shape))].reshape(shape)
        finite = np.isfinite(want[name])
        scale = 1e-3 + np.abs(want[name]).max(initial=0, where=finite)
        same = (np.abs(got - want[name]) <= 1e-8 * scale) | (got == want[name])
        if not (same | (np.isnan(got) & np.isnan(want[name]))).all():
            wrong.append(str(program[name]))
    return wrong


def drawn(seed: int) -> tuple[Program, dict[str, np.ndarray], dict[str, int]]:
    """A random network derived, with values and sizes; skips what has no gradient."""
    try:
        program = random_network(random.Random(seed).choice).program()
    except ChainruleError:
        pytest.skip("the generator drew what a declaration refuses")
    loss = program.losses[0]
    if not reached(program, loss):
        pytest.skip("the loss reaches no parameter")
    one = program.only(loss, *program.updates.values())
    derived = derive(with_fixed_parameters(one), reached(program, loss))
    sizes = default_sizes(derived)
    return derived, random_values(derived, seed, sizes), sizes


def product_of(left: str, right: str, target: str) -> Program:
    """A product over k of two tensors, whose indices are in these orders."""
    net = dr.Network("product")
    i = {x.name: x for x in dr.indices("b:2 m:3 i:2 k:5 n:4")}
    a = net.parameter("A", *(i[x] for x in left))
    c = net.parameter("C", *(i[x] for x in right))
    y = net.define("y", tuple(i[x] for x in target),
                   2 * dr.sum(a[tuple(i[x] for x in left)] * c[tuple(i[x] for x in right)], i["k"]))
    net.loss(dr.sum(dr.sin(y[tuple(i[x] for x in target)]), *(i[x] for x in target)))
    return net.program()
