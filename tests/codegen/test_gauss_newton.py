"""Gauss-Newton steps: the exact one where the loss is quadratic, taken back where it grows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.checkpoint import Store, read_checkpoint
from codegen.datasets import split
from codegen.gauss_newton import conjugate_gradients
from codegen.rows import Rows
from codegen.session import Session, prepare, run
from codegen.training import Plan
from derive.errors import DeclarationError
from tests.codegen.support import interpreted


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    with interpreted():
        yield


def curve(units: int = 0) -> tuple[dr.Network, dict[str, np.ndarray]]:
    net = dr.Network("a curve")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    net.loss(dr.mean_squared_error(dr.dense(dr.dense(x, units, dr.tanh) if units else x, 1), t))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2))
    return net, {"x": rows, "t": np.sin(rows[:, :1]) * rows[:, 1:] + rows[:, :1]}


def compiled(net: dr.Network, **settings: float) -> codegen.Model:
    return codegen.compile(dr.derive(net), optimizer=dr.gauss_newton(**settings), dtype="float64",
                           parallel=False).initialize(0)


def test_one_step_solves_linear_least_squares():
    net, data = curve()
    model = compiled(net, damping=1e-12)
    model.step(**data)
    ones = np.column_stack([data["x"], np.ones(60)])
    want = np.linalg.lstsq(ones, data["t"], rcond=None)[0][:, 0]
    found = np.append(model.parameters["W1"][:, 0], model.parameters["c1"])
    np.testing.assert_allclose(found, want, rtol=1e-8)


def test_a_small_network_is_fitted_in_few_steps():
    net, data = curve(units=5)
    model = compiled(net)
    losses = [model.step(**data) for _ in range(15)]
    assert all(b <= a for a, b in pairwise(losses)), losses
    assert losses[-1] < 0.1 * losses[0], losses


def test_a_step_that_makes_the_loss_larger_is_taken_back_and_damped():
    net, data = curve()
    model = compiled(net, lr=-1.0, damping=0.1)  # uphill
    before = model.flat.copy()
    model.step(**data)
    np.testing.assert_array_equal(model.flat, before)
    assert model.places["moment/damping"][0] == pytest.approx(0.1 * 1.5**4)


def session(folder: Path, **plan: int) -> Session:
    net, data = curve(units=3)
    parts = split(Rows(data), 0.0, 0, 0.0)
    return prepare(net.program(), parts, Plan(**{"epochs": 3, "batch": 30, "steps": 1, "keep": 9,
                                                **plan}),
                   dr.gauss_newton(average=0.5), threads=1, store=Store(folder, keep=9))


def test_a_resumed_run_has_its_damping(tmp_path: Path):
    whole = session(tmp_path / "c")
    run(whole)
    again = session(tmp_path / "d")
    again.training.restore(read_checkpoint(Store(tmp_path / "c").files[2]))
    run(again)
    for name, value in whole.model.places.items():
        np.testing.assert_array_equal(value, again.model.places[name], err_msg=name)


def test_what_one_batch_cannot_answer_is_refused(tmp_path: Path):
    with pytest.raises(DeclarationError, match="solves for each step"):
        session(tmp_path, accumulate=2)
    with pytest.raises(DeclarationError, match="is not emitted"):
        codegen.emit(dr.derive(curve()[0]), tmp_path / "k.py", optimizer=dr.gauss_newton())


def test_conjugate_gradients_solve():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), rng.normal(size=6)
    np.testing.assert_allclose(conjugate_gradients(lambda v: matrix @ v, b, 20),
                               np.linalg.solve(matrix, b), rtol=1e-5)
