"""Examples' modules for a GPU without one: a cheap share of `benchmarks/gpu_threads.py`."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.gpu import difference
from benchmarks.gpu_examples import ROOT, names
from benchmarks.gpu_threads import main
from codegen.cuda_device import package

CHEAP = ("breast_cancer.py", "diabetes.py", "logistic_regression.py", "pinn.py", "reinforce.py")


def test_every_example_that_declares_a_network_is_known():
    assert len(names()) == 20 and {*CHEAP} < {*names()}


@pytest.mark.parametrize("name", CHEAP)
def test_an_example_thread_by_thread(name, capsys):
    assert main([name, "--orders", "2"]) == 0, capsys.readouterr().out


def test_launches_of_large_examples_are_proved(capsys):
    assert main(["cnn_digits.py", "char_lstm.py", "--proofs"]) == 0, capsys.readouterr().out


def test_a_gradient_that_is_rounding_alone_is_judged_beside_the_others():
    """The bias before batch norm has none; of the same size, another one's is wrong."""
    weight, bias, loss = np.array([2.0, 1.0]), np.array([1e-17]), np.array(50.0)
    one = {"W": weight, "c": bias, "loss": loss}
    assert difference(one, {**one, "c": -20*bias}) < 1e-9
    assert difference(one, {**one, "c": bias + 1e-6}) > 1e-9
    assert difference(one, {**one, "W": weight*(1 + 1e-8)}) > 1e-9


@pytest.mark.skipif(package() is None, reason="numba-cuda is not installed")
@pytest.mark.parametrize("script, words", [
    ("gpu_threads.py", "1 agrees"), ("gpu.py --compare", "largest difference")])
def test_an_example_in_numbas_simulator(script, words):
    """By itself, and against the CPU's kernels, as on a machine with a GPU."""
    name, *options = script.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *options, "logistic_regression.py"],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert words in done.stdout
