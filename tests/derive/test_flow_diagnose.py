"""The diagnosis in words, its remedies, Jacobians, and what measured arrays say."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import derive as dr
from derive.errors import DataError
from derive.flow.diagnose import Diagnosis, diagnose
from derive.flow.forecast import forecast
from derive.flow.jacobian import layer_jacobians, step_products
from derive.flow.measure import conditioning, noise_scale, unit_health
from derive.flow.report import flow_section
from derive.flow.sample import draw, measure
from derive.layers.recurrent import elman
from derive.network import Network


def mlp(depth: int, width: int, activation, initial: float | str = "auto") -> Network:
    """Named layers without any function's name in them: the diagnosis reads equations."""
    net = dr.Network("deep")
    b, *features = dr.indices("b:B " + " ".join(f"f{n}:{width}" for n in range(depth + 1)))
    t = net.input("t", "B", dtype=int)
    h = net.input("data", b, features[0])
    for n in range(depth):
        i, j = features[n], features[n + 1]
        weight = net.parameter(f"matrix{n}", i, j, initial=initial)
        z = net.define(f"pre{n}", (b, j), dr.sum(h[b, i] * weight[i, j], i))
        h = net.define(f"post{n}", (b, j), activation(z[b, j]))
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    return net


@pytest.fixture(scope="module")
def sigmoid_diagnosis() -> Diagnosis:
    return diagnose(mlp(20, 128, dr.sigmoid), sizes={"B": 64})


def test_a_deep_sigmoid_network_vanishes_and_the_reason_is_its_slope(sigmoid_diagnosis):
    found = sigmoid_diagnosis
    assert found.verdict == "vanishing gradients"
    assert 0.2 < found.factor < 0.25
    assert 50 < found.depth_limit < 70
    text = str(found)
    assert "its slope never exceeds 0.25" in text
    assert "no residual connection" in text
    assert "below float32 after" in text


def test_the_articles_remedies_each_work_or_not(sigmoid_diagnosis):
    """Relu with He's variance and batch norm mend it, a better initialisation alone does not."""
    works = {r.change.split()[0]: r.works for r in sigmoid_diagnosis.remedies}
    assert works == {"initialisation": False, "relu": True, "batch": True, "layer": False,
                     "residual": True}


@pytest.mark.parametrize("change", ["relu with variance", "batch normalisation"])
def test_a_remedy_that_is_said_to_work_does(sigmoid_diagnosis, change: str):
    """The same network with the remedy built by hand, measured: first to last adjoint."""
    from derive.layers.normalisation import batch_norm

    remedy = next(r for r in sigmoid_diagnosis.remedies if r.change.startswith(change))
    net = dr.Network("mended")
    h, t = net.input("x", "B", 128), net.input("t", "B", dtype=int)
    for _ in range(20):
        z = dr.dense(h, 128)
        h = dr.relu(z) if change.startswith("relu") else dr.sigmoid(batch_norm(z, affine=False))
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    found = forecast(dr.derive(net), sizes={"B": 64})
    measured = measure(found, ["_d_z1", "_d_z20"])
    assert measured["_d_z1"] / measured["_d_z20"] == pytest.approx(remedy.total, rel=0.7)
    assert 0.1 < measured["_d_z1"] / measured["_d_z20"] < 10


def test_an_exploding_network_is_told_its_weights_are_too_large():
    found = diagnose(mlp(12, 64, dr.relu, initial=0.5), remedies=True)
    assert found.verdict == "exploding gradients"
    assert any("too large" in c for c in found.causes)
    assert found.remedies[0].change.startswith("initialisation")
    assert found.remedies[0].works


def test_saturation_is_named():
    found = diagnose(mlp(8, 64, dr.tanh, initial=5.0), remedies=False)
    assert any("saturated" in c for c in found.causes)


def test_a_good_network_is_healthy_and_gets_no_remedy():
    found = diagnose(mlp(20, 64, dr.relu))
    assert found.healthy
    assert not found.remedies
    assert not found.causes


def test_a_recurrence_is_found_and_mended_at_the_edge():
    net = dr.Network("rnn")
    x, y = net.input("x", "B", "T", 32), net.input("y", "B", "T", 3)
    h = elman(x, 64)
    net.loss(dr.mean_squared_error(dr.dense(h, 3), y))
    found = diagnose(net, sizes={"T": 60})
    assert found.verdict == "vanishing gradients"
    assert found.recurrences[0].steps == 60
    assert found.remedies[0].factor == pytest.approx(1, abs=1e-3)
    assert any(c.startswith("recurrence") for c in found.causes)


def test_measured_norms_stand_beside_the_forecast():
    net = mlp(4, 256, dr.tanh)
    predicted = forecast(dr.derive(net))
    names = [n for n in predicted.signals if n.startswith(("pre", "_d_pre"))]
    found = diagnose(net, measured=measure(predicted, names), remedies=False)
    for row in found.rows[:-1]:
        assert row.measured_adjoint == pytest.approx(row.adjoint, rel=0.15)
    assert "measured" in str(found)


def test_plain_data_and_picture(sigmoid_diagnosis):
    data = json.loads(json.dumps(sigmoid_diagnosis.to_dict(), allow_nan=False))
    assert data["verdict"] == "vanishing gradients"
    assert len(data["layers"]) == 21
    picture = ET.fromstring(sigmoid_diagnosis.picture())
    assert picture.tag.endswith("svg")
    assert len(picture.findall("{*}polyline")) == 2
    assert "href" not in sigmoid_diagnosis.picture()


def test_the_documents_section_is_plain_data():
    section = flow_section(mlp(2, 16, dr.tanh).program())
    assert section["columns"] == ["tensor", "kind", "second moment", "mean", "why"]
    rows = {r[0]: r for r in section["rows"]}
    assert rows["pre1"][2] == "16*q(post0)*v(matrix1)"
    assert section["diagnosis"]["healthy"]


def test_jacobians_per_layer():
    net = mlp(2, 24, dr.tanh)
    values = draw(forecast(dr.derive(net), sizes={"B": 3}))
    first, *_ = layer_jacobians(net, values)
    z = values["data"][0] @ values["matrix0"]
    by_hand = (1 - np.tanh(z) ** 2)[:, None] * values["matrix0"].T
    expected = np.linalg.svd(by_hand, compute_uv=False)
    np.testing.assert_allclose(first.singular_values, expected, rtol=1e-10)
    assert str(first.expression) == "(1 - tanh(pre0[b, f1])**2)*matrix0[f0, f1]"
    assert first.slope_bound == 1
    assert first.singular_values[0] <= first.bound(np.linalg.norm(values["matrix0"], 2))


def test_products_of_jacobians_over_time():
    net = dr.Network("rnn")
    x, y = net.input("x", "B", "T", 8), net.input("y", "B", "T", 3)
    h = elman(x, 20)
    net.loss(dr.mean_squared_error(dr.dense(h, 3), y))
    values = draw(forecast(dr.derive(net), sizes={"B": 2, "T": 6}))
    (found,) = step_products(net, values)
    state = dr.evaluate(net.program(), values, ["h1"])["h1"][0]
    by_hand = np.eye(20)
    for t in range(1, 6):
        by_hand = ((1 - state[t] ** 2)[:, None] * values["V1"].T) @ by_hand
    assert found.spectral[-1] == pytest.approx(np.linalg.norm(by_hand, 2), rel=1e-10)
    assert found.growth == pytest.approx(math.exp(math.log(found.norms[-1]) / 5))


def test_dead_and_saturated_units_are_counted():
    net = mlp(1, 4, dr.relu)
    z = np.array([[1.0, -1.0, -3.0, 2.0], [2.0, -2.0, 1.0, 3.0]])
    (found,) = unit_health(net, {"pre0": z})
    assert found.dead == 0.25
    (found,) = unit_health(mlp(1, 4, dr.sigmoid), {"pre0": np.array([[9.0, 0.0, -9.0, 1.0]])})
    assert (found.dead, found.saturated) == (0.0, 0.5)
    assert found.wrong


def test_ill_conditioned_weights_are_measured():
    weight = np.diag([1.0, 1.0, 1e-6, 5.0])
    found = {c.name: c for c in conditioning(mlp(1, 4, dr.relu), {"matrix0": weight})}
    assert found["matrix0"].condition == pytest.approx(5e6)


def test_gradient_noise_scale_is_unbiased():
    rng = np.random.default_rng(0)
    mean, deviation, samples = np.full(50, 0.2), 3.0, 16
    batches = [mean + rng.normal(size=50) * deviation / math.sqrt(samples) for _ in range(4000)]
    found = noise_scale(batches, samples)
    assert found.signal == pytest.approx(50 * 0.04, rel=0.05)
    assert found.noise == pytest.approx(50 * 9.0, rel=0.02)
    with pytest.raises(DataError, match="at least two"):
        noise_scale(batches[:1], samples)


def test_one_of_several_losses():
    net = dr.Network("two losses")
    x, y = net.input("x", "B", 8), net.input("y", "B", 4)
    h = dr.dense(x, 8, dr.tanh)
    net.loss(dr.squared_error(dr.dense(h, 4), y), name="first")
    net.loss(dr.squared_error(dr.dense(x, 4), y), name="second")
    with pytest.raises(dr.DerivationError, match="which scalar"):
        diagnose(net)
    assert [r.layer for r in diagnose(net, of="first").rows] == ["z1", "z2"]
    assert [r.layer for r in diagnose(net, of="second").rows] == ["z3"]
