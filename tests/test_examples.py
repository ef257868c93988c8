"""Every example runs, from an empty folder, as its docstring says; its three legs agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import codegen
from codegen.loading import load_model
from derive.check import check
from derive.differentiate import derive
from derive.points import smooth_point

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


DECLARED = [p for p in sorted(EXAMPLES.glob("*.py")) if "\nnet = dr.Network(" in p.read_text()]


@pytest.mark.parametrize("path", DECLARED, ids=lambda p: p.name)
def test_three_legs_agree(path: Path):
    """The derived program in the reference evaluator, numeric differentiation of the forward
    program, and the emitted kernel: the same gradient, on the example's own network."""
    program = load_model(path).program
    for loss in program.losses:
        derived = derive(program, of=loss)
        point = smooth_point(derived, loss, seed=5)
        report = check(derived, point, seed=5, directions=2, of=loss)
        assert report.ok, report
        if len(program.losses) > 1:
            continue  # kernels are emitted for one loss; the example derives them one by one
        model = codegen.compile(derived, dtype="float64", parallel=False)
        for name, value in model.parameters.items():
            value[...] = point[name]
        given = {n: v for n, v in point.items() if n not in model.parameters}
        found = model.gradients(**given)
        report = check(derived, point, gradients=found, seed=5, directions=2)
        assert report.ok, report
