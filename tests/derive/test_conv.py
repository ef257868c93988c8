"""Convolution, pooling, padding and upsampling: values against loops, gradients numerically."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import derive as dr
from derive.network import Handle, Network
from derive.nodes import SumOver
from derive.points import random_values
from derive.reference import evaluate
from tests.judge import disagreement

SIZE, CHANNELS = 7, 2


def closed(y: Handle) -> Network:
    """The network with the loss sum of w·y², with random w."""
    net = y.network
    w = net.input("w", *y.shape)
    net.loss(dr.sum(w[y.indices] * y.tensor.access**2, *y.indices))
    return net


def wrong(y: Handle) -> str | None:
    program = closed(y).program()
    return disagreement(program, dr.derive(program), seed=1)


def new(*shape: int | str) -> Handle:
    return dr.Network("n").parameter("X", *shape)


# -- every setting in one dim ------------------------------------------------------------------
SETTINGS = [
    s for s in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2, 3))
    if SIZE + 2 * s[2] >= s[3] * (s[0] - 1) + 1
]


def convolved(x: np.ndarray, k: np.ndarray, stride: int, padding: int, dilation: int) -> np.ndarray:
    """Convolution by loops: the definition."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    count = (padded.shape[2] - dilation * (k.shape[2] - 1) - 1) // stride + 1
    y = np.zeros((len(x), len(k), count))
    for p in range(count):
        for r in range(k.shape[2]):
            y[:, :, p] += padded[:, :, stride * p + dilation * r] @ k[:, :, r].T
    return y


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "k{} s{} p{} d{}".format(*s))
def test_every_kernel_stride_padding_and_dilation(setting: tuple[int, int, int, int]):
    kernel, stride, padding, dilation = setting
    y = dr.conv1d(new(2, CHANNELS, SIZE), 3, kernel, stride=stride, padding=padding,
                  dilation=dilation, bias=False)
    program = closed(y).program()
    derived = dr.derive(program)
    point = random_values(derived, 5)
    out = evaluate(derived, point)
    want = convolved(point["X"], point["K1"], stride, padding, dilation)
    np.testing.assert_allclose(out[y.name], want, atol=1e-12)
    # The loss is a square in X and in K, so that a central difference with any step is exact.
    for name in ("X", "K1"):
        gradient = out[derived.gradients[name]]
        for place in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                moved = {n: point[n].copy() for n in ("X", "K1")}
                moved[name][place] += sign
                z = convolved(moved["X"], moved["K1"], stride, padding, dilation)
                values.append(np.sum(point["w"] * z**2))
            slope = (values[0] - values[1]) / 2
            assert abs(slope - gradient[place]) < 1e-9, f"{name}{list(place)}\n{derived}"


def test_there_are_settings_with_a_remainder():
    remainders = {(SIZE + 2 * p - d * (k - 1) - 1) % s for k, s, p, d in SETTINGS}
    assert remainders == {0, 1, 2}


# -- further dims, groups, transposed ----------------------------------------------------------
LAYERS = {
    "conv2d": lambda: dr.conv2d(new("B", 2, 5, 6), 3, (3, 2), stride=2, padding=1),
    "conv3d": lambda: dr.conv3d(new("B", 2, 3, 2, 4), 2, 2, padding=1),
    "grouped": lambda: dr.convolution(new("B", 6, 5), 4, 3, padding=1, groups=2),
    "depthwise": lambda: dr.depthwise(new("B", 3, 5), 3, padding=1),
    "depthwise, two each": lambda: dr.convolution(new("B", 3, 5), 6, 2, groups=3),
    "transposed": lambda: dr.conv_transpose(new("B", 2, 4), 3, 3, stride=2, padding=1),
    "transposed 2-d": lambda: dr.conv_transpose(
        new("B", 2, 3, 4), 3, (3, 2), stride=(3, 2), dilation=(1, 2), extra=1),
    "reflect": lambda: dr.convolution(new("B", 2, 4), 3, 3, padding=2, mode="reflect"),
    "replicate": lambda: dr.convolution(new("B", 2, 4), 3, 3, padding=2, mode="replicate"),
    "circular": lambda: dr.convolution(new("B", 2, 4), 3, 3, padding=2, mode="circular"),
    "max": lambda: dr.max_pool(new("B", 2, 5), 2),
    "max, padded, overlapping": lambda: dr.max_pool(new("B", 2, 5, 4), 3, 2, 1),
    "average": lambda: dr.average_pool(new("B", 2, 5, 4), 3, 2, 1),
    "average without padding": lambda: dr.average_pool(
        new("B", 2, 5), 3, 2, 1, count_padding=False),
    "global average": lambda: dr.global_average_pool(new("B", 2, 5, 4)),
    "global max": lambda: dr.global_max_pool(new("B", 2, 5, 4)),
    "nearest": lambda: dr.upsample(new("B", 2, 3, 2), (2, 3)),
    "bilinear": lambda: dr.upsample(new("B", 2, 3, 1), (2, 3), "bilinear"),
    "flatten": lambda: dr.flatten(new("B", 2, 3, 5)),
    "unflatten": lambda: dr.unflatten(new("B", 30), 2, 3, 5),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients(layer: str):
    assert wrong(LAYERS[layer]()) is None


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "zero"])
def test_padding_is_that_of_numpy(mode: str):
    numpy_mode = {"replicate": "edge", "circular": "wrap", "zero": "constant"}.get(mode, mode)
    y = dr.pad(new(2, 3, 4, 5), (2, 3), mode)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    got = evaluate(y.network.program(), {"X": x})[y.name]
    want = np.pad(x, ((0, 0), (0, 0), (2, 2), (3, 3)), mode=numpy_mode)
    np.testing.assert_array_equal(got, want)


def test_transposed_convolution_is_the_adjoint_of_a_convolution():
    y = dr.conv_transpose(new(2, 3, 4), 2, 3, stride=2, padding=1, extra=1, bias=False)
    assert y.shape[-1] == 8
    rng = np.random.default_rng(0)
    x, k, u = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 2, 3)), rng.normal(size=(2, 2, 8))
    t = evaluate(y.network.program(), {"X": x, "K1": k})[y.name]
    np.testing.assert_allclose(np.sum(t * u), np.sum(x * convolved(u, k, 2, 1, 1)))


def test_bilinear_is_linear_between_the_middles_of_elements():
    y = dr.upsample(new(1, 1, 5), 3, "bilinear")
    x = np.random.default_rng(0).normal(size=(1, 1, 5))
    middles = np.clip((np.arange(15) + 0.5) / 3 - 0.5, 0, 4)
    want = np.interp(middles, np.arange(5), x[0, 0])
    np.testing.assert_allclose(evaluate(y.network.program(), {"X": x})[y.name][0, 0], want)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_every_upsampling_has_its_gradient(factor: int, mode: str):
    """At the last element a quotient equals its bound: no rounding may take it to either side."""
    for size in (1, 2, 3, 4, 5):
        assert wrong(dr.upsample(new(1, 1, size), factor, mode)) is None


def test_max_pool_never_chooses_what_lies_outside():
    y = dr.max_pool(new(1, 1, 3), 3, 1, 1)
    x = -np.ones((1, 1, 3))
    assert np.all(evaluate(y.network.program(), {"X": x})[y.name] == -1)


def test_elements_that_tie_share_the_gradient():
    y = dr.max_pool(new(1, 1, 4), 4)
    net = y.network
    net.loss(dr.sum(y.tensor.access, *y.indices))
    derived = dr.derive(net)
    x = np.array([[[2.0, 1.0, 2.0, 2.0]]])
    got = evaluate(derived, {"X": x})[derived.gradients["X"]]
    np.testing.assert_allclose(got, [[[1 / 3, 0, 1 / 3, 1 / 3]]])


def test_the_adjoint_of_an_upsampling_is_a_short_sum():
    derived = dr.derive(closed(dr.upsample(new("B", 2, 4), 3)))
    (total,) = derived["X"].body.atoms(SumOver)
    assert [int(r.size) for r in total.bound] == [3]


def test_the_adjoint_of_a_flattening_is_a_copy():
    derived = dr.derive(closed(dr.flatten(new("B", 4, 3))))
    assert not derived["X"].body.has(SumOver)
