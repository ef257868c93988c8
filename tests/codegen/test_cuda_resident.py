"""What crosses between host and device while a model trains there: copies, counted by the stand-in
of `tests.codegen.blocks`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.evaluation import Evaluator, what_to_measure
from codegen.kept import Kept
from codegen.model import Model
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from codegen.rows import Rows
from codegen.training import Plan, Snapshot, Training
from derive.differentiate import derive
from derive.program import Program
from tests.codegen.blocks import Array
from tests.codegen.blocks import cuda as blocks
from tests.codegen.cuda_support import stepped
from tests.codegen.support import interpreted, sample


def network(norm: bool = False) -> Program:
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    h = dr.dense(x, 4, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(dr.batch_norm(h) if norm else h, 3), t))
    return derive(net.program())


def on_device(program: Program, folder: Path, optimizer: Any = None) -> Model:
    """A model whose kernels run thread by thread, as `codegen.compile` makes it."""
    made = compile_program(program, optimizer or dr.adam(lr=0.05), device=True)
    number = len(list(folder.glob("*.py")))
    kernels = stepped(render_cuda(made, "float64"), folder, f"resident_{number}_{id(folder)}")

    def only(part: Program, outputs: tuple[str, ...]) -> Model:
        from dataclasses import replace

        plain = replace(part, gradients={}, updates={}, losses=(), jacobians={})
        other = compile_program(plain, made.optimizer, outputs=outputs, device=True)
        text = render_cuda(other, "float64")
        own = stepped(text, folder, f"other_{id(folder)}_{abs(hash(outputs))}")
        return Model(other, own, 1, only)

    return Model(made, kernels, 1, only)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Each copy between host and device: which way, and how many numbers."""
    seen: list[tuple[str, int]] = []
    to_host, to_device, upload = Array.copy_to_host, Array.copy_to_device, blocks.to_device

    def counted_to_host(self: Array, *args: Any, **options: Any) -> Any:
        seen.append(("to host", self.size))
        return to_host(self, *args, **options)

    def counted_to_device(self: Array, array: Any, stream: Any = None) -> None:
        if not isinstance(array, Array):
            seen.append(("to device", array.size))
        to_device(self, array, stream)

    def counted_upload(array: np.ndarray, stream: Any = None) -> Array:
        seen.append(("to device", array.size))
        return upload(array, stream)

    monkeypatch.setattr(Array, "copy_to_host", counted_to_host)
    monkeypatch.setattr(Array, "copy_to_device", counted_to_device)
    monkeypatch.setattr(type(blocks), "to_device", staticmethod(counted_upload))
    yield seen


def test_parameters_moments_and_data_cross_once_in_a_run(tmp_path, copied):
    """Three epochs in chunks of two minibatches: parameters, gradients and two moments go over
    before the first step, the rows once; back come losses and flags, and the best weights when
    they are asked for."""
    program = network()
    model = on_device(program, tmp_path)
    model.initialize(0)
    flat = model.flat.size
    training = Training(model, Rows(sample(program, 40)), Plan(epochs=3, batch=8, steps=2))
    copied.clear()
    training.run()
    assert training.at.epoch == 4
    assert copied.count(("to device", flat)) == 4 and copied.count(("to device", 200)) == 1
    assert [n for way, n in copied if way == "to host" and n > 8] == []
    before = len(copied)
    best = training.best
    assert copied[before:] == [("to host", flat), ("to host", 1)]  # and states, of which are none
    assert set(best) == {f"parameter/{n}" for n in model.parameters}


def test_the_epochs_are_those_of_the_cpu(tmp_path):
    program = network()
    rows, plan = Rows(sample(program, 40)), Plan(epochs=3, batch=8, steps=2)
    model = on_device(program, tmp_path)
    histories = []
    with interpreted():
        other = codegen.compile(program, optimizer=dr.adam(lr=0.05), dtype="float64",
                                parallel=False, directory=tmp_path / "cpu")
        for one in (model, other):
            training = Training(one.initialize(0), rows, plan)
            training.warm_up()
            training.run()
            histories.append([row["loss"] for row in training.at.history])
    np.testing.assert_allclose(*histories, rtol=1e-12)
    np.testing.assert_allclose(model.flat, other.flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("averaged", [False, True])
def test_evaluation_leaves_parameters_where_they_are(averaged, tmp_path, copied):
    """Held-out rows go over, losses and scores come back; of averaged parameters the average is
    evaluated, and the parameters are those of before."""
    program = network(norm=True)
    rule = dr.adam(lr=0.05, average=0.5) if averaged else dr.adam(lr=0.05)
    model = on_device(program, tmp_path, rule)
    model.initialize(0)
    values = sample(program, 12)
    model.epoch(values, 4)
    evaluate = Evaluator(model, {"test": Rows(sample(program, 7))}, what_to_measure(program))
    evaluate()
    flat = len(model._run._flat["p"].array)
    kept = model.keep()
    copied.clear()
    found = evaluate()
    assert [n for _, n in copied if n == flat] == []
    own = {n: v.copy() for n, v in model.parameters.items()}
    for name, array in kept.places.items():
        if name.startswith("parameter/"):
            np.testing.assert_array_equal(own[name[10:]], array)
    for name, view in model.parameters.items():
        view[...] = model.weights[f"parameter/{name}"]
    assert found["test_loss"] == pytest.approx(model.loss(**sample(program, 7)), rel=1e-12)


def test_a_snapshot_is_put_back_on_the_device(tmp_path, copied):
    program = network(norm=True)
    model = on_device(program, tmp_path)
    model.initialize(0)
    values = sample(program, 12)
    model.epoch(values, 4)
    before = {n: v.copy() for n, v in model.places.items()}
    model.step(**values)  # what was read goes back before it
    model.restored(3, 0)
    for name, array in before.items():
        model.places[name][...] = array
    snapshot = Snapshot(model, 1, 0, np.arange(4))
    copied.clear()
    model.step(**values)
    snapshot.restore()
    assert not [n for way, n in copied if way == "to host" and n > 3]
    assert model.steps == 3
    for name, array in model.places.items():
        np.testing.assert_array_equal(array, before[name])
    assert (model._run.n == model._run.s).all()


def test_a_parameter_that_is_not_finite_is_seen_on_the_device(tmp_path, copied):
    model = on_device(network(), tmp_path)
    model.initialize(0)
    copied.clear()
    assert model.finite()
    assert [n for way, n in copied if way == "to host"] == [8]
    model.parameters["W2"][1, 2] = np.inf
    assert not model.finite()


def test_weights_that_are_kept_are_the_averages(tmp_path):
    program = network()
    model = on_device(program, tmp_path, dr.sgd(lr=0.5, average=0.5))
    model.initialize(0)
    model.epoch(sample(program, 12), 4)
    want = {n: v.copy() for n, v in model.weights.items()}
    kept = Kept(model, weights=True).places
    assert set(kept) == set(want)
    assert any((kept[f"parameter/{n}"] != v).any() for n, v in model.parameters.items())
    for name, array in want.items():
        np.testing.assert_array_equal(kept[name], array)
