"""The memory that an emitted module says it takes is what its buffers take."""

from __future__ import annotations

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.footprint import footprint_text, training_bytes
from tests.codegen.support import build, interpreted, sample
from tests.codegen.test_memory import convolution, encoder


def held(run: object) -> int:
    """Bytes of every array that a module's model holds, the losses of an epoch apart."""
    arrays = [v for n, v in vars(run).items() if isinstance(v, np.ndarray)
              and n not in ("losses", "settings")]
    arrays += vars(run)["moments"].values()
    arrays += [a for batch in vars(run)["batches"].values() for a in batch]
    return sum(a.nbytes for a in arrays)


@pytest.mark.parametrize("make", [convolution, encoder])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_predicted_bytes_are_those_held_after_an_epoch(make, dtype, parts, tmp_path):
    with interpreted():
        model = build(make(), tmp_path, parts, dtype=dtype, optimizer=dr.adam())
        model.epoch(sample(model.program, 11), 7)
    predicted = training_bytes(model.compiled, parts, dtype)
    assert int(predicted.subs(dict.fromkeys(model.program.sizes, 7))) == held(model._run)


def test_emission_tells_the_memory_and_so_does_the_module(tmp_path):
    program = dr.derive(convolution())
    told: list[str] = []
    path = codegen.emit(program, tmp_path / "kernels.py", report=told.append)
    assert told and told[0] in path.read_text()
    assert "with B = 64 takes 0." in told[0] and " MB, on two threads " in told[0]


def test_a_network_without_run_time_sizes(tmp_path):
    net = dr.Network("fixed")
    w = net.parameter("w", dr.indices("i:3"))
    net.loss(dr.sum(w[dr.indices("i:3")] ** 2, dr.indices("i:3")))
    from codegen.pipeline import compile_program

    text = footprint_text(compile_program(dr.derive(net), dr.sgd()))
    assert text.startswith("Training takes ")
