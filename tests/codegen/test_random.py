"""Kernels of random networks against the reference evaluator: every tensor, in one or three parts.

The networks hold what few people write: accesses that leave their bounds, quotients, remainders,
gathers inside gathers, every reduction, recurrences in both directions. More of them run in
``benchmarks/random_programs.py``.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from codegen.module import load, render
from codegen.pipeline import compile_program
from derive.errors import DeclarationError
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.support import interpreted, sample
from tests.programs import random_network, reached


def derived(seed: int) -> Program | None:
    """A random derived program; parameters of a run-time size are inputs."""
    choose = random.Random(seed)
    try:
        program = random_network(choose.choice).program()
    except DeclarationError:
        return None
    wanted = [n for n in reached(program)
              if all(s.is_Integer for s in program.tensors[n].shape)]
    tensors = {
        n: replace(t, role="input") if t.role == "parameter" and n not in wanted else t
        for n, t in program.tensors.items()
    }
    return dr.derive(replace(program, tensors=tensors), wrt=wanted) if wanted else None


def compare(program: Program, folder: Path, parts: int, seed: int) -> list[str]:
    """The equations whose kernel gives something else than the reference."""
    with interpreted():
        module = load(render(compile_program(program, dr.sgd()), "float64", parts > 1), folder)
        model = module.Model()
        model.parts = lambda sizes: parts
        model.w = np.full(100_000, np.nan)
        rng = np.random.default_rng(seed)
        for view in model.parameters.values():
            view[...] = rng.uniform(-1, 1, view.shape)
        values = sample(program, 1 + seed % 3, seed)
        want = evaluate(program, {**values, **model.parameters})
        sizes, _ = model.run("gradient", values)
    wrong = []
    for name, (buffer, at, shape) in module.offsets("gradient", sizes).items():
        got = getattr(model, buffer)[at:at + int(np.prod(shape))].reshape(shape)
        scale = 1e-3 + np.abs(want[name]).max(initial=0)
        same = (np.abs(got - want[name]) <= 1e-8 * scale) | (got == want[name])
        if not (same | (np.isnan(got) & np.isnan(want[name]))).all():
            wrong.append(str(program[name]))
    return wrong


@pytest.mark.parametrize("seed", [*range(12), 100, 107, 198])
def test_random_networks(seed, tmp_path):
    program = derived(seed)
    if program is None:
        pytest.skip("this seed gives no network with parameters")
    for parts in (1, 3):
        assert not compare(program, tmp_path, parts, seed)
