"""What `chainrule train` says of a network that goes wrong, and that it says nothing otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.health import Health
from codegen.model import Model
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
    health._spent = 0.0
    health.look(losses)  # nothing is said twice
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


def test_looking_takes_a_small_share_of_the_time(made):
    model, rows = made
    health = Health(model, rows, lambda text: None)
    seen: list[bool] = []
    health.findings = lambda stuck: seen.append(stuck) or []  # type: ignore[method-assign]
    health.look([])
    health._spent = 1e6
    health.look([])
    assert seen == [False]
