"""Every example runs, from an empty folder, as its docstring says; its three legs agree."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import codegen
from codegen.loading import load_model
from derive.check import check
from derive.differentiate import derive
from derive.netfile import parse_network
from derive.netwrite import write_network
from derive.points import smooth_point
from tests.codegen.support import interpreted

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py")) + sorted(EXAMPLES.glob("*/main.py"))
#: a smaller share of what takes minutes (the encoder's first block alone)
ARGUMENTS = {"finetune_minilm.py": ["1"]}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(EXAMPLES)))
def test_example_runs(script: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(script), *ARGUMENTS.get(script.name, [])], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


DECLARED = [p for p in sorted(EXAMPLES.glob("*.py"))
            if "\nnet = dr.Network(" in p.read_text() or "\ndef network(training" in p.read_text()]
SLOW_TO_COMPILE = ("resnet_block.py",)  # and compiled when the example runs


@pytest.mark.parametrize("path", DECLARED, ids=lambda p: p.name)
def test_examples_as_text(path: Path):
    program = load_model(path).program
    text = write_network(program)
    again = parse_network(text).program()
    assert again.equations == program.equations and again.hash == program.hash
    assert {again.tensors[n] == t for n, t in program.tensors.items()} == {True}
    assert (again.losses, again.subjects, again.updates, again.declared, write_network(again)) == (
        program.losses, program.subjects, program.updates, program.declared, text)


@pytest.mark.parametrize("path", DECLARED, ids=lambda p: p.name)
def test_three_legs_agree(path: Path):
    """The derived program in the reference evaluator, numeric differentiation of the forward
    program, and the emitted kernel: the same gradient, on the example's own network."""
    program = load_model(path).program
    for loss in program.losses:
        derived = derive(program.only(loss, *program.updates.values()), of=loss)
        point = smooth_point(derived, loss, seed=5)
        report = check(derived, point, seed=5, directions=2, of=loss)
        assert report.ok, report
        plain = len(program.losses) > 1 or path.name in SLOW_TO_COMPILE
        with interpreted() if plain else nullcontext():  # the same text, as plain Python
            model = codegen.compile(derived, dtype="float64", parallel=False)
            kept = {**model.parameters, **model.states}
            for name, value in kept.items():
                value[...] = point[name]
            found = model.gradients(**{n: v for n, v in point.items() if n not in kept})
        report = check(derived, point, gradients=found, seed=5, directions=2)
        assert report.ok, report
