"""Layers and losses that do not fit: each error names the tensor and shows what was expected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy

import derive as dr
from derive.errors import ChainruleError, DataError
from derive.network import Network
from derive.reference import evaluate
from tests.derive.test_conv import new


def images() -> dr.Handle:
    return new("B", 3, 6, 6)


def labels(x: dr.Handle, *dims: int | str) -> dr.Handle:
    return x.network.input("t", *dims, dtype=int)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "a factor among the weights of a penalty": (
        lambda: dr.l2(new("B", 3), 0.3), r"l2 takes tensors.*got: +0.3.*0\.01\*dr\.l2"),
    "kernel larger than the image": (
        lambda: dr.conv2d(images(), 4, 7), "kernel is larger.*at most 6.*got: +7"),
    "dilated kernel larger than the image": (
        lambda: dr.conv2d(images(), 4, 4, dilation=2), "got: +7 .kernel 4, dilation 2"),
    "a kernel of size 0": (lambda: dr.conv2d(images(), 4, 0), "kernel, stride and dilation"),
    "two numbers for three dims": (
        lambda: dr.conv3d(new("B", 2, 4, 4, 4), 3, (2, 2)), "kernel does not fit 3 spatial dims"),
    "conv1d of images": (
        lambda: dr.conv1d(images(), 4, 3), "conv1d needs a tensor of 3 dims.*batch, channels"),
    "groups that do not divide": (
        lambda: dr.convolution(images(), 4, 3, groups=2), "do not divide into 2 groups.*3 in"),
    "a spatial size that is not a number": (
        lambda: dr.conv1d(new("B", 3, "T"), 4, 3), "needs to know every spatial size.*size T"),
    "an unknown padding mode": (
        lambda: dr.pad(images(), 1, "mirror"), "unknown mode 'mirror'.*reflect, replicate"),
    "reflection beyond the image": (lambda: dr.pad(images(), 6, "reflect"), "at most 5"),
    "an unknown upsampling": (lambda: dr.upsample(images(), 2, "cubic"), "nearest or bilinear"),
    "group norm with groups that do not divide": (
        lambda: dr.group_norm(images(), 2), "3 channels of 'X' do not divide into 2 groups"),
    "a recurrent layer without time": (
        lambda: dr.lstm(new(4), 3), "needs a time dim.*time, features"),
    "heads that do not divide": (
        lambda: dr.multi_head_attention(new("B", "T", 5), 2), "5 features.*among 2 heads"),
    "rotary with an odd number of features": (
        lambda: dr.rotary(new("B", "T", 5)), "pairs of features, got 5"),
    "queries and keys that do not fit": (
        lambda: (lambda x: dr.attention(x, dr.dense(x, 3), x))(new("B", "T", 5)),
        r"shapes of queries, keys and values.*q \(…, t, d\).*z1 \(B, T, 3\)"),
    "an unknown place of the norm": (
        lambda: dr.encoder_block(new("B", "T", 4), 2, 3, order="mid"), 'unknown place.*"pre" or'),
    "an embedding of floats": (
        lambda: dr.embedding(new("B"), 4, 2), "embedding needs an integer tensor.*dtype=int"),
    "an embedding without a size": (
        lambda: dr.embedding(labels(new("B"), "B")), "needs the shape of its table"),
    "a choice for each element": (
        lambda: (lambda x: dr.take(x, labels(x, "B", 5)))(new("B", 5)),
        "one choice for each row of 'X'"),
    "tensors that cannot be joined": (
        lambda: (lambda x: dr.concatenate(x, x.network.input("y", "C", 5)))(new("B", 5)),
        "'X' and 'y' cannot be joined"),
    "tensors that cannot be added": (
        lambda: (lambda x: dr.add(x, dr.dense(x, 4)))(new("B", 5)), "'X' and 'z1' cannot be added"),
    "a shared weight that does not fit": (
        lambda: (lambda x: dr.dense(x, weight=x.network.parameter("W", 4, 3)))(new("B", 5)),
        "shared weight 'W' does not fit 'X'"),
    "a layer of no units": (lambda: dr.dense(new("B", 5), 0), "at least 1.*got: +0"),
    "a layer of half a unit": (lambda: dr.lstm(new("B", 4, 5), 2.5), r"whole number.*got: +2\.5"),
    "a convolution into no channels": (lambda: dr.conv2d(images(), 0, 3), "at least 1.*got: +0"),
    "a table of no words": (
        lambda: dr.embedding(labels(new("B"), "B"), 0, 3), "at least 1.*got: +0"),
    "no heads": (
        lambda: dr.multi_head_attention(new("B", "T", 4), 0), "4 features.*among 0 heads"),
    "labels that are no whole numbers": (
        lambda: (lambda x: dr.cross_entropy(dr.dense(x, 2), x.network.input("t", "B")))(
            new("B", 5)), r"expected: t of shape \(B, 2\).*class labels: .*dtype=int"),
    "values of another shape": (
        lambda: (lambda x: dr.mean_squared_error(dr.dense(x, 1), x.network.input("t", "B")))(
            new("B", 5)), r"t of shape \(B, 1\).*got: +shape \(B,\)"),
    "a dense layer without a size": (lambda: dr.dense(new("B", 5)), "dense needs a size"),
    "a split that does not fit": (
        lambda: dr.unflatten(new("B", 12), 5, 2), r"product is 12.*5 · 2"),
    "a dropout of everything": (
        lambda: (lambda x: dr.dropout(x, 1.0, x.network.random()))(new("B", 5)),
        "0 <= rate < 1"),
    "labels of the wrong shape": (
        lambda: (lambda x: dr.hinge(x, labels(x, "B", 5)))(new("B", 5)), "labels 't' do not fit"),
    "targets of another shape": (
        lambda: (lambda x: dr.huber(x, x.network.input("t", "B", 4)))(new("B", 5)),
        "huber compares 'X' with 't'"),
    "softmax of an expression without an index": (
        lambda: dr.softmax(new("B", 5).tensor.access), "needs an index"),
    "a reduction over nothing": (lambda: dr.sum(new(5).tensor.access), "sum over nothing"),
    "the mean of a tensor": (
        lambda: dr.mean(new("B", 5)), r"mean over nothing.*dr\.mean\(X\[b, i\], b, i\)"),
    "an index of another size under no guard": (
        lambda: (lambda x: x.network.define("y", dr.indices("b:B i:4"),
                                            x.tensor.at(*dr.indices("b:B i:4"))))(new("B", 3)),
        "index 'i' does not fit dim 1 of 'X'"),
    "an unknown size in a quotient": (
        lambda: dr.derive(_nested()), "nests quotients or remainders"),
}


def _nested() -> Network:
    net = Network("n")
    i = dr.indices("i:12")
    x = net.parameter("x", 2)
    y = net.define("y", (i,), x[sympy.floor(sympy.floor(i / 3) % 3 / 2)])
    net.loss(dr.sum(y[i] ** 2, i))
    return net


@pytest.mark.parametrize("case", CASES)
def test_errors(case: str):
    make, message = CASES[case]
    with pytest.raises(ChainruleError, match=f"(?s){message}"):
        make()


def test_the_error_points_at_the_line_of_the_user():
    with pytest.raises(dr.DeclarationError) as caught:
        dr.conv2d(images(), 4, 9)
    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert "dr.conv2d(images(), 4, 9)" in str(caught.value)


def test_a_token_out_of_range():
    net = Network("n")
    tokens = net.input("tokens", "B", dtype=int)
    e = dr.embedding(tokens, 4, 2)
    point = {"tokens": [0, 4], "E1": [[0.0, 0.0]] * 4}
    with pytest.raises(DataError, match=r"(?s)'tokens' holds 4 at .1..*0 to 3.*'E1'"):
        evaluate(net.program(), point, [e.name])


def test_an_empty_reduction_names_the_equation():
    net = Network("n")
    x = net.input("x", "B", 3)
    b, i = x.indices
    net.define("top", (i,), dr.max(x[b, i], b))
    with pytest.raises(DataError, match=r"(?s)size B is 0.*'top' is a max over it.*one row"):
        evaluate(net.program(), {"x": np.zeros((0, 3))})


def test_a_sequence_of_one_step_may_read_first_values_only():
    net = Network("n")
    t = dr.indices("t:1")
    x = net.input("x", t)
    h = net.declare("h", t, initial=2)
    net.define(h, (t,), h[t - 1] * x[t])
    assert evaluate(net.program(), {"x": np.array([3.0])})["h"] == 6
