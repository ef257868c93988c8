"""What `chainrule train` says of a network that goes wrong, and that it says nothing otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.flow import in_words, picture, seen
from codegen.health import Health, read_looks
from codegen.model import Model
from codegen.probe import Probe
from codegen.rows import Rows
from tests.codegen.support import interpreted


@pytest.fixture
def made(tmp_path: Path):
    net = dr.Network("small")
    x, t = net.input("x", "B", 6), net.input("t", "B", dtype=int)
    h = dr.dense(dr.dense(x, 20, dr.relu), 20, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 3), t))
    rng = np.random.default_rng(0)
    rows = Rows({"x": rng.normal(size=(80, 6)), "t": rng.integers(0, 3, 80)})
    with interpreted():
        model = codegen.compile(dr.derive(net), directory=tmp_path, parallel=False)
        yield model.initialize(0), rows


def said(model: Model, rows: Rows, losses: tuple[float, ...] = ()) -> list[str]:
    texts: list[str] = []
    health = Health(model, rows, texts.append)
    health.look(losses)
    health.look(losses, last=True)  # nothing is said twice
    return texts


def test_a_sound_network_is_not_spoken_of(made):
    model, rows = made
    before = model.flat.copy()
    assert said(model, rows, (3.0, 2.0, 1.5, 1.0)) == []
    np.testing.assert_array_equal(model.flat, before)


def test_dead_and_saturated_units_are_named(made):
    model, rows = made
    model.parameters["c1"][:8] = -50
    model.parameters["c2"][:] = 6
    dead, saturated = said(model, rows)
    assert dead == "40% of the units behind 'z1' are dead"
    assert saturated.endswith("'z2' are saturated")


def test_a_vanished_gradient_is_named_at_the_layer_where_it_is_lost(made):
    model, rows = made
    model.parameters["W2"][:] *= 1e-34
    (text,) = [t for t in said(model, rows) if "gradient" in t]
    assert text.startswith("the gradient has vanished at 'z1'")


def test_what_is_seen_is_kept_in_the_folder_of_the_run(made, tmp_path: Path):
    model, rows = made
    health = Health(model, rows, lambda text: None)
    health.look(())
    health.write(tmp_path)
    (look,) = read_looks(tmp_path)
    values = model.predict(["z1", "_d_z1"], **rows.take())
    for kind, name in (("signal", "z1"), ("adjoint", "_d_z1")):
        rms = np.sqrt(np.mean(np.square(values[name], dtype=float)))
        assert look["layers"]["z1"][kind] == pytest.approx(rms, rel=1e-5)
    assert look["weights"]["W2"] == pytest.approx(np.mean(model.parameters["W2"] ** 2))
    later = Health(model, rows, lambda text: None)
    later.look((1.0, 0.9))  # the run went on in another process
    later.write(tmp_path)
    assert [e["epoch"] for e in read_looks(tmp_path)] == [0, 2]


def test_the_report_shows_what_was_seen_beside_the_forecast(made):
    model, rows = made
    health = Health(model, rows, lambda text: None)
    health.look(())
    health.look((1.0,), last=True)
    first, second = found = seen(model.program.forward, health.looks)
    assert (first.name, second.name) == ("small, at the start", "small, after epoch 1")
    for row in first.rows[:-1]:
        assert row.measured_adjoint == pytest.approx(row.adjoint, rel=0.7)
    assert len(in_words(found)) == 2
    assert picture(found).count("<svg") == 3


def test_an_ill_conditioned_weight_is_named(made):
    model, rows = made
    weight = model.parameters["W2"]
    weight[:, 0] = weight[:, 1] * (1 + 1e-7)
    (text,) = said(model, rows)
    assert text.startswith("'W2' is ill-conditioned")


def test_noise_is_spoken_of_where_the_loss_no_longer_falls(made):
    model, rows = made
    rows.arrays["t"][:] = np.repeat([0, 1, 2, 0], 20)  # each quarter of the batch pulls elsewhere
    assert said(model, rows, (1.1, 1.09, 1.0)) == []
    model.parameters["W3"][:] = 0
    (text,) = said(model, rows, (1.1, 1.1, 1.1, 1.1))
    assert "mostly noise" in text
    texts: list[str] = []  # steps on all rows have none
    Health(model, rows, texts.append, all_rows=True).look((1.1, 1.1, 1.1, 1.1))
    assert texts == []


def test_looking_takes_a_small_share_of_the_time(made):
    model, rows = made
    health = Health(model, rows, lambda text: None)
    seen: list[bool] = []
    health.findings = lambda n, stuck: seen.append(stuck) or []  # type: ignore[method-assign]
    health.look([])
    health._spent = 1e6
    health.look([1.0])
    assert seen == [False]
    health.look([1.0], last=True)  # how the run ends is known all the same
    assert seen == [False, False]


def test_a_look_is_evaluated_until_that_costs_as_much_as_compiling(made):
    model, rows = made
    batch = rows.take()
    probe, compiled = Probe(model, patience=1e3), Probe(model)
    assert probe.evaluates(batch) and not compiled.evaluates(batch)
    for mine, other in zip(probe(batch), compiled(batch), strict=True):
        assert mine.signal == pytest.approx(other.signal, rel=1e-5)
        if mine.adjoint:
            assert mine.adjoint == pytest.approx(other.adjoint, rel=1e-5)
        if mine.units is not None:
            assert mine.units.slope_square == pytest.approx(other.units.slope_square, rel=1e-5)
    np.testing.assert_allclose(np.linalg.norm(probe.gradient(batch)),
                               np.linalg.norm(compiled.gradient(batch)), rtol=1e-5)
    probe._spent = 1e3
    assert not probe.evaluates(batch)
