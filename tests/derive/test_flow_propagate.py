"""Moments through networks: the relations as people write them, and forecast beside measurement.

Widths are 256 and the bounds are stated where they are used: a forecast of an rms over n·B
elements of a few layers at width 256 is held to 10 %, the fluctuation of a draw being about
√(5/256) = 14 % of a squared norm per relu layer, averaged over a batch and two draws.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from sympy import Symbol, symbols

import derive as dr
from derive.flow.axes import classify_axes, fan_ins
from derive.flow.forecast import Signal, forecast
from derive.flow.propagate import propagate
from derive.flow.sample import measure
from derive.layers.convolution import conv2d
from derive.layers.normalisation import batch_norm, layer_norm, rms_norm
from derive.layers.pooling import global_average_pool, max_pool
from derive.layers.recurrent import elman, gru, lstm
from derive.network import Handle, Network

W = 256


def q(name: str) -> Symbol:
    return Symbol(f"q({name})", real=True, nonnegative=True)


def v(name: str) -> Symbol:
    return Symbol(f"v({name})", real=True, nonnegative=True)


def classifier(build, depth: int = 4, width: int = W) -> Network:
    """x → depth × build → 10 logits → cross-entropy with labels."""
    net = dr.Network("net")
    h, t = net.input("x", "B", width), net.input("t", "B", dtype=int)
    for _ in range(depth):
        h = build(h)
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    return net


def test_relations_of_a_relu_layer_are_he_and_glorot():
    """q(z) = n_in Var(W) q(x), q(h) = q(z)/2; the adjoint: n_out Var(W), and a half again."""
    flow = propagate(dr.derive(classifier(lambda h: dr.dense(h, 32, dr.relu), 2, 64)))
    found = {name: r.second for name, r in flow.relations.items()}
    assert found["z1"] == 64 * v("W1") * q("x")
    assert found["h1"] == q("z1") / 2
    assert found["z2"] == 16 * v("W2") * q("z1")
    assert found["_d_h2"] == 10 * v("W3") * q("_d_z3")
    assert found["_d_z2"] == q("_d_h2") / 2
    assert found["_d_h1"] == 16 * v("W2") * q("_d_h2")  # 32 weights, half of them meet a zero


def test_fan_in_is_what_the_equations_sum_over():
    net = dr.Network("n")
    x = net.input("x", "B", 3, 8, 8)
    y = conv2d(x, 5, 3, stride=2, padding=1)
    dr.dense(global_average_pool(y), 4)
    program = net.program()
    assert fan_ins(program) == {"K1": 27, "W1": 5}
    axes = classify_axes(program, {"K1", "W1"})
    assert axes["x"] == ("sample", "feature", "sample", "sample")
    assert axes["y1"] == ("sample", "feature", "sample", "sample")


def test_attention_needs_its_square_root():
    """Scores of d products have variance d q(q) q(k); divided by √d the d is gone."""
    for scaled in (False, True):
        net = dr.Network("attention")
        b, t, u, i, d = dr.indices("b:B t:T u:T i:32 d:64")
        x = net.input("x", b, t, i)
        wq, wk = net.parameter("Wq", i, d), net.parameter("Wk", i, d)
        qs = net.define("qs", (b, t, d), dr.sum(x[b, t, i] * wq[i, d], i))
        ks = net.define("ks", (b, u, d), dr.sum(x[b, u, i] * wk[i, d], i))
        body = dr.sum(qs[b, t, d] * ks[b, u, d], d) / (8 if scaled else 1)
        net.define("s", (b, t, u), body)
        relation = propagate(net).relations["s"]
        assert relation.second == (1 if scaled else 64) * q("qs") * q("ks")


def residual(order: str):
    def block(h: Handle) -> Handle:
        net = h.network
        inner = layer_norm(h, affine=False) if order == "pre" else h
        f = dr.dense(dr.dense(inner, W, dr.relu), W)
        body = h.tensor.access + f.tensor.at(*f.indices[:-1], h.indices[-1])
        return net.define(net.fresh_name("s"), h.indices, body)
    return block


def test_a_residual_stream_doubles_per_block_and_pre_norm_makes_it_linear():
    plain = forecast(propagate(classifier(residual("none"), 8)))
    pre = forecast(propagate(classifier(residual("pre"), 8)))
    assert [plain[f"s{n}"].second for n in (1, 4, 8)] == pytest.approx([2, 16, 256])
    assert [pre[f"s{n}"].second for n in (1, 4, 8)] == pytest.approx([2, 5, 9], rel=1e-4)


def test_batch_norm_mends_a_sigmoid_network_and_layer_norm_does_not():
    """Per layer the squared adjoint changes by E[σ'²]/Var σ = 1.03 behind batch norm, where the
    shared mean of the samples is taken out, and by E[σ'²]/E[σ²] = 0.15 behind layer norm."""
    factors = {}
    for norm in (batch_norm, layer_norm):
        net = classifier(lambda h, norm=norm: dr.sigmoid(norm(dr.dense(h, W), affine=False)), 6)
        found = forecast(dr.derive(net), sizes={"B": 128})
        factors[norm.__name__] = found["_d_z2"].second / found["_d_z3"].second
    unit = dr.moments("sigmoid", 1)
    spread = float(unit.second) - float(unit.mean) ** 2
    assert factors["batch_norm"] == pytest.approx(float(unit.derivative) / spread, rel=0.05)
    assert factors["layer_norm"] == pytest.approx(float(unit.derivative) / float(unit.second),
                                                  rel=0.01)


NETWORKS = {
    "relu": lambda: classifier(lambda h: dr.dense(h, W, dr.relu)),
    "tanh": lambda: classifier(lambda h: dr.dense(h, W, dr.tanh)),
    "sigmoid": lambda: classifier(lambda h: dr.dense(h, W, dr.sigmoid)),
    "gelu": lambda: classifier(lambda h: dr.dense(h, W, dr.gelu)),
    "silu, rms norm": lambda: classifier(lambda h: dr.silu(rms_norm(dr.dense(h, W)))),
    "tanh, layer norm": lambda: classifier(lambda h: dr.tanh(layer_norm(dr.dense(h, W)))),
    "sigmoid, batch norm": lambda: classifier(lambda h: dr.sigmoid(batch_norm(dr.dense(h, W))), 3),
    "residual": lambda: classifier(residual("none"), 3),
    "residual, pre-norm": lambda: classifier(residual("pre"), 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_forecast_beside_measurement(name: str):
    """Every layer and its adjoint within 10 % at width 256."""
    found = forecast(dr.derive(NETWORKS[name]()), sizes={"B": 32})
    assert not found.flow.unknown
    layers = [n for n in found.signals if n[0] in "zsh" and n[1:].isdigit()]
    layers.remove(max((n for n in layers if n[0] == "z"), key=lambda n: int(n[1:])))  # 10 logits
    wanted = layers + [a for a in (f"_d_{n}" for n in layers) if a in found.signals]
    draws = [measure(found, wanted, seed) for seed in range(2)]
    for tensor in wanted:
        measured = math.sqrt(np.mean([d[tensor] ** 2 for d in draws]))
        assert measured == pytest.approx(found[tensor].rms, rel=0.10), tensor


@pytest.mark.parametrize("cell", [elman, lstm, gru])
def test_recurrences_step_by_step(cell):
    """Signals within 8 %, adjoints within 15 % (gates of neighbouring steps correlate)."""
    net = dr.Network(cell.__name__)
    x, y = net.input("x", "B", "T", 64), net.input("y", "B", "T", 10)
    h = cell(x, W)
    net.loss(dr.mean_squared_error(dr.dense(h, 10), y))
    found = forecast(dr.derive(net), sizes={"B": 16, "T": 8})
    assert not found.flow.unknown
    assert len(found.steps[h.name]) == 8
    names = [h.name, f"_d_{h.name}"]
    draws = [measure(found, names, seed) for seed in range(3)]
    for name, bound in zip(names, (0.08, 0.15)):
        measured = math.sqrt(np.mean([d[name] ** 2 for d in draws]))
        assert measured == pytest.approx(found[name].rms, rel=bound), name


def test_convolution_counts_the_taps_that_padding_cuts_off():
    """3 taps over 12 places padded by 1 meet 34 of 36 inputs, in each dim; adjoints likewise."""
    net = dr.Network("conv")
    x, t = net.input("x", "B", 16, 12, 12), net.input("t", "B", dtype=int)
    y = conv2d(x, 64, 3, padding=1, bias=False)
    z = conv2d(dr.relu(y), 64, 3, stride=2, padding=1, bias=False)
    net.loss(dr.cross_entropy(dr.dense(global_average_pool(dr.relu(z)), 10), t))
    found = forecast(dr.derive(net), sizes={"B": 8})
    share = (34 / 36) ** 2
    assert found["y1"].second == pytest.approx(2 * share)  # "auto" is 2/fan-in before a relu
    measured = measure(found, ["y1", "y2", "_d_y2", "_d_y1"])
    for name in ("y1", "y2"):
        assert measured[name] == pytest.approx(found[name].rms, rel=0.10)
    assert measured["_d_y1"] / measured["_d_y2"] == pytest.approx(
        found["_d_y1"].rms / found["_d_y2"].rms, rel=0.10)


def test_the_largest_of_a_window():
    """Max pooling: the largest of four normals, forward; one in four gets the adjoint."""
    net = dr.Network("pool")
    x, t = net.input("x", "B", 16, 8, 8), net.input("t", "B", dtype=int)
    y = conv2d(x, 96, 1, bias=False)  # one tap: the places of a window are independent
    h = dr.relu(max_pool(y, 2))
    net.loss(dr.cross_entropy(dr.dense(global_average_pool(h), 10), t))
    found = forecast(dr.derive(net), sizes={"B": 8})
    assert not found.flow.unknown
    z = np.random.default_rng(0).normal(size=(400_000, 4)).max(axis=1)
    scale = math.sqrt(found["y1"].second)
    assert found["y2"].mean == pytest.approx(scale * z.mean(), rel=0.01)
    assert found["y2"].second == pytest.approx(scale**2 * (z**2).mean(), rel=0.01)
    measured = measure(found, ["y2", "_d_y2", "_d_y1"])
    assert measured["y2"] == pytest.approx(found["y2"].rms, rel=0.05)
    assert measured["_d_y1"] / measured["_d_y2"] == pytest.approx(0.5, rel=1e-6)
    assert found["_d_y1"].rms / found["_d_y2"].rms == pytest.approx(0.5, rel=1e-6)


def test_factors_that_belong_to_a_position_are_averaged():
    net = dr.Network("positions")
    b, s, i = dr.indices("b:B s:4 i:64")
    x = net.input("x", b, s, i)
    net.define("y", (b, s, i), x[b, s, i] * (s + 1))
    assert propagate(net).relations["y"].second == q("x") * (1 + 4 + 9 + 16) / 4


def test_dropout_and_noise():
    """A kept element is divided by 1 - rate: q grows by 1/(1 - rate), forward and backward."""
    from derive.layers.noise import dropout, gaussian_noise

    net = dr.Network("noise")
    x, t, seed = net.input("x", "B", 64), net.input("t", "B", dtype=int), net.random("seed")
    h = dropout(dr.dense(x, 64, dr.relu), 0.25, seed)
    y = gaussian_noise(h, 0.5, seed)
    net.loss(dr.cross_entropy(dr.dense(y, 10), t))
    flow = propagate(dr.derive(net))
    assert flow.relations[h.name].second == 2 * q("z1") / 3
    assert flow.relations["_d_h1"].second == 4 * q(f"_d_{y.name}") / 3  # d is copied into y
    found = forecast(flow)
    assert found[y.name].second == pytest.approx(found[h.name].second + 0.25, rel=1e-4)


def test_weight_gradients_count_the_correlation_of_samples():
    """Deep in a sigmoid network all samples look alike: the gradient of a weight adds up over the
    batch instead of averaging out, by far more than independent samples would."""
    found = forecast(dr.derive(classifier(lambda h: dr.dense(h, W, dr.sigmoid), 4)),
                     sizes={"B": 64})
    alone = math.sqrt(64 * found["_d_z3"].second * found["h2"].second)
    assert found["_d_W3"].rms > 1.3 * alone
    measured = [measure(found, ["_d_W3"], seed)["_d_W3"] for seed in range(6)]
    assert np.sqrt(np.mean(np.square(measured))) == pytest.approx(found["_d_W3"].rms, rel=0.25)


def test_what_no_rule_covers_is_said_and_can_be_measured():
    net = dr.Network("product")
    b, i = dr.indices("b:B i:8")
    x = net.input("x", b, i)
    y = net.define("y", (b,), dr.prod(x[b, i], i))
    net.define("s", (b,), 2 * y[b])
    flow = propagate(net)
    assert flow.unknown["y"] == "no rule for the moments of a prod"
    assert "'y'" in flow.unknown["s"]
    assert math.isnan(forecast(flow)["y"].second)
    assert forecast(flow, known={"y": Signal(1.4, 2.3, 2.0)})["y"].mean == 1.4


def test_moments_of_data():
    data = np.random.default_rng(0).normal(size=(50, 400)) + 1.0
    signal = Signal.of(data)
    assert (signal.mean, signal.second) == pytest.approx((1.0, 2.0), rel=0.02)
    assert signal.cross == pytest.approx(1.0, rel=0.02)  # the shared mean, not the noise


def test_a_name_that_does_not_exist():
    with pytest.raises(dr.DeclarationError, match="did you mean 'W1'"):
        forecast(dr.derive(NETWORKS["relu"]()), weights={"W11": 1.0, "Wq": 2.0})


def test_symbolic_sizes_stay_symbolic():
    net = dr.Network("n")
    b, n, m = dr.indices("b:B i:N j:M")
    x, w = net.input("x", b, n), net.parameter("W", n, m)
    net.define("z", (b, m), dr.sum(x[b, n] * w[n, m], n))
    size = symbols("N", integer=True, positive=True)
    assert propagate(net).relations["z"].second == size * q("x") * v("W")


def test_a_transformer_block():
    """Attention, softmax, layer norm, gelu and residuals, forward and backward, within 10 %."""
    from derive.layers.attention import encoder_block

    net = dr.Network("encoder")
    x, y = net.input("x", "B", "T", W), net.input("y", "B", "T", 10)
    net.loss(dr.mean_squared_error(dr.dense(encoder_block(x, 4, 2 * W), 10), y))
    found = forecast(dr.derive(net), sizes={"B": 4, "T": 16})
    assert not found.flow.unknown
    names = ["n1", "q1", "s1", "p1", "o1", "y1", "y2", "z1", "h1", "y3", "_d_y3", "_d_h1", "_d_y2"]
    measured = measure(found, names)
    for name in names:
        assert measured[name] == pytest.approx(found[name].rms, rel=0.10), name
