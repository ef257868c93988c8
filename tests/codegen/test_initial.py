"""How parameters start: each scheme's scale from the equations, orthogonal weights, any machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from derive.errors import DeclarationError
from derive.initialisation import SCHEMES
from derive.netfile import parse_network
from derive.netwrite import write_network
from tests.codegen.support import interpreted


def started(how: str | float, folder: Path, convolution: bool = False) -> np.ndarray:
    net = dr.Network("one weight")
    if convolution:
        b, o, c, p, r = dr.indices("b:B o:40 c:10 p:6 r:3")
        x, k = net.input("x", b, c, 8), net.parameter("w", o, c, r, initial=how)
        y = net.define("y", (b, o, p), dr.sum(x[b, c, p + r] * k[o, c, r], c, r))
        net.loss(dr.mean(y[b, o, p] ** 2, b, o, p))
    else:
        b, i, j = dr.indices("b:B i:60 j:40")
        x, w = net.input("x", b, i), net.parameter("w", i, j, initial=how)
        y = net.define("y", (b, j), dr.sum(x[b, i] * w[i, j], i))
        net.loss(dr.mean(y[b, j] ** 2, b, j))
    with interpreted():
        model = codegen.compile(dr.derive(net), directory=folder, dtype="float64", parallel=False)
        return model.initialize(3).parameters["w"].copy()


@pytest.mark.parametrize(("name", "variance"), [
    ("xavier", 2 / 100), ("xavier_uniform", 2 / 100), ("he", 2 / 60), ("he_uniform", 2 / 60),
    ("lecun", 1 / 60), ("lecun_uniform", 1 / 60)])
def test_the_variance_is_the_published_one(name: str, variance: float, tmp_path: Path):
    w = started(name, tmp_path)
    assert w.var() == pytest.approx(variance, rel=0.1)
    if SCHEMES[name].kind == "uniform":
        assert np.abs(w).max() <= np.sqrt(3 * variance) < 1.02 * np.abs(w).max()
    else:
        assert np.abs(w).max() > 2.5 * np.sqrt(variance)


def test_a_convolutions_window_counts_in_both_fans(tmp_path: Path):
    w = started("xavier", tmp_path, convolution=True)  # 10·3 in, 40·3 out
    assert w.var() == pytest.approx(2 / (30 + 120), rel=0.1)
    assert started("he", tmp_path, convolution=True).var() == pytest.approx(2 / 30, rel=0.1)


def test_orthogonal_weights_keep_lengths(tmp_path: Path):
    w = started("orthogonal", tmp_path)
    np.testing.assert_allclose(w.T @ w, np.eye(40), atol=1e-13)
    k = started("orthogonal", tmp_path, convolution=True).reshape(40, 30)
    np.testing.assert_allclose(k.T @ k, np.eye(30), atol=1e-13)


def test_constants_uniform_numbers_and_the_usual(tmp_path: Path):
    assert (started("constant 0.25", tmp_path) == 0.25).all()
    w = started("uniform 0.1", tmp_path)
    assert 0.095 < np.abs(w).max() <= 0.1
    assert (started("zeros", tmp_path) == 0).all() and (started("ones", tmp_path) == 1).all()
    assert started(0.3, tmp_path).std() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(("how", "digest"), [
    ("uniform 0.1", "60a46461265ba90b"), ("orthogonal", "93412bcb1a680ca0")])
def test_the_same_numbers_on_every_machine(how: str, digest: str, tmp_path: Path):
    w = started(how, tmp_path)
    found = hashlib.sha256(np.round(w, 12).tobytes()).hexdigest()[:16]
    assert found == digest


@pytest.mark.parametrize(("how", "message"), [
    ("orthogonl", "did you mean 'orthogonal'"), ("constant", "needs a number"),
    ("uniform -1", "needs a number"), ("constant nan", "needs a number")])
def test_what_is_unknown_is_refused_where_it_is_declared(how: str, message: str):
    with pytest.raises(DeclarationError, match=message):
        dr.Network("n").parameter("w", 3, initial=how)


def test_a_scheme_for_what_no_sum_multiplies_is_refused(tmp_path: Path):
    net = dr.Network("bias")
    b, i = dr.indices("b:B i:3")
    x, c = net.input("x", b, i), net.parameter("c", i, initial="he")
    net.loss(dr.mean((x[b, i] + c[i]) ** 2, b, i))
    with pytest.raises(DeclarationError, match="'c' starts by a scheme for weights"):
        codegen.compile(dr.derive(net), directory=tmp_path)


@pytest.mark.parametrize("how", ["he_uniform", "constant 0.5", "uniform 0.25", "ones"])
def test_net_texts_keep_it(how: str):
    net = dr.Network("kept")
    b, i = dr.indices("b:B i:3")
    x, w = net.input("x", b, i), net.parameter("w", i, initial=how)
    net.loss(dr.mean(dr.sum(x[b, i] * w[i], i) ** 2, b))
    text = write_network(net.program())
    assert parse_network(text).program().tensors["w"].initial == net.program().tensors["w"].initial
