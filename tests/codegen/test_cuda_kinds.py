"""Every kind of kernel in Numba's simulator, and through the compiler library and ptxas."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import codegen
import derive as dr
from benchmarks.gpu_examples import ROOT
from benchmarks.gpu_table import SHARED
from codegen.cuda_device import package
from codegen.cuda_ptx import assemble, kernels_of
from tests.codegen.cuda_kinds import KINDS
from tests.codegen.test_cuda_ptx import loaded, missing


@pytest.mark.skipif(package() is None, reason="numba-cuda is not installed")
def test_kinds_of_kernels_agree_with_the_reference_in_numbas_simulator():
    done = subprocess.run([sys.executable, "-m", "tests.codegen.cuda_kinds"], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": agrees") == len(KINDS)


@pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")
@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_kernels_are_assembled_without_spills(name, tmp_path):
    """In double precision, too, in which modules test themselves; products load by fours."""
    kind = KINDS[name]
    program = (kind.large or kind.network)()
    for dtype in ("float32", "float64"):
        path = codegen.emit(program, tmp_path / f"{dtype}.py", target="cuda", dtype=dtype,
                            optimizer=dr.sgd())
        made = loaded(path, f"kinds_{dtype}")
        chosen = [n for n in kernels_of(made) if n in kind.assembled]
        assert chosen == [*kind.assembled]
        for kernel in chosen:
            called = kernels_of(made)[kernel].py_func.__code__.co_names
            for one in assemble(made, kernel, "sm_90"):
                assert one.spilled == 0 and one.shared <= SHARED, one
                assert one.vector_loads or not any(n.startswith("tile") for n in called), one
