"""Equations that measure a network: what they give is what NumPy makes of whole tensors."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.flow.forecast import adjoint_name, forecast
from derive.flow.gauges import measured_norms, read, with_gauges
from derive.flow.measure import unit_health
from derive.flow.sample import draw
from derive.program import Program


def perceptron() -> dr.Network:
    net = dr.Network("perceptron")
    h, t = net.input("x", "B", 7), net.input("t", "B", dtype=int)
    for phi in (dr.relu, dr.tanh):
        h = dr.dense(h, 5, phi)
    net.loss(dr.cross_entropy(dr.dense(h, 3), t))
    return net


def convolution() -> dr.Network:
    net = dr.Network("convolution")
    x, t = net.input("x", "B", 2, 6, 5), net.input("t", "B", dtype=int)
    h = dr.relu(dr.conv2d(x, 4, 3))
    net.loss(dr.cross_entropy(dr.dense(dr.global_average_pool(h), 3), t))
    return net


def recurrence() -> dr.Network:
    net = dr.Network("recurrence")
    x, y = net.input("x", "B", "T", 3), net.input("y", "B", "T", 2)
    net.loss(dr.mean_squared_error(dr.dense(dr.elman(x, 5), 2), y))
    return net


def gauged(program: Program, values: dict) -> tuple:
    made, gauges = with_gauges(program)
    names = [n for g in gauges for n in g.names]
    given = {t.name: values[t.name] for t in made.given}
    return read(gauges, dr.evaluate(made, given, names))


@pytest.mark.parametrize("make", [perceptron, convolution, recurrence])
def test_gauges_read_what_whole_tensors_say(make):
    derived = dr.derive(make())
    values = draw(forecast(derived, sizes={"B": 6, "T": 4}))
    readings = gauged(derived, values)
    arrays = dr.evaluate(derived, values)
    norms = measured_norms(derived, readings)
    assert readings
    for reading in readings:
        for name in (reading.layer, adjoint_name(derived, reading.layer)):
            assert norms[name] == pytest.approx(np.sqrt(np.mean(arrays[name] ** 2)), rel=1e-12)
    units = {u.name: u for u in unit_health(derived, arrays)}
    for unit in (r.units for r in readings if r.units is not None):
        other = units[unit.name]
        assert (unit.dead, unit.saturated) == (other.dead, other.saturated)
        assert unit.slope_square == pytest.approx(other.slope_square, rel=1e-12)


def test_a_dead_channel_is_one_of_a_convolutions_units():
    derived = dr.derive(convolution())
    values = draw(forecast(derived, sizes={"B": 6}))
    bias = next(t.name for t in derived.parameters if t.rank == 1 and t.shape[0] == 4)
    values[bias][1] = -1e3
    (first,) = [r for r in gauged(derived, values) if r.units is not None]
    assert first.units.dead == 0.25


def test_an_adjoint_whose_square_leaves_the_range_is_read():
    derived = dr.derive(perceptron())
    values = draw(forecast(derived, sizes={"B": 6}))
    values["W3"] *= 1e-200
    first, *_ = gauged(derived, values)
    assert 1e-204 < first.adjoint < 1e-198


def test_a_tensor_of_zeros_has_the_norm_0():
    derived = dr.derive(perceptron())
    values = draw(forecast(derived, sizes={"B": 6}))
    values["W3"] *= 0
    assert gauged(derived, values)[0].adjoint == 0
