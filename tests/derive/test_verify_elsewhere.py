"""Gradients that live elsewhere: functions of Numba, PyTorch and JAX, judged by numbers."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.verify import VerifyReport, verify


def network() -> dr.Network:
    net = dr.Network("cube")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    z = dr.dense(x, 1, bias=False)
    b, o = z.indices
    net.loss(dr.squared_error(net.define("y", (b, o), z[b, o] ** 3), t))
    return net


def judged(right, wrong) -> None:
    report = verify(network(), right)
    assert report.verdict == "agrees" and report.proof.untraced, str(report)
    assert is_named(verify(network(), wrong))


def is_named(report: VerifyReport) -> bool:
    return report.verdict == "wrong" and "factor 2" in report.findings[0].words


def test_a_numba_function():
    numba = pytest.importorskip("numba")

    def slope(factor):
        @numba.njit
        def backward(x, t, W1):
            z = x @ W1
            return factor * x.T @ ((z**3 - t) * 3 * z**2) / len(x)

        return backward

    assert verify(network(), slope(1.0)).verdict == "agrees"
    assert is_named(verify(network(), slope(2.0)))


def test_a_torch_autograd_function():
    torch = pytest.importorskip("torch")

    def with_slope(factor):
        class Cube(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                ctx.save_for_backward(z)
                return z**3

            @staticmethod
            def backward(ctx, upstream):
                (z,) = ctx.saved_tensors
                return factor * 3 * z**2 * upstream

        def gradient(x, t, W1):
            weight = torch.tensor(W1, requires_grad=True)
            y = Cube.apply(torch.as_tensor(x) @ weight)
            (((y - torch.as_tensor(t)) ** 2).sum() / 2 / len(x)).backward()
            return {"W1": weight.grad}

        return gradient

    judged(with_slope(1), with_slope(2))


def test_a_jax_custom_vjp():
    jax = pytest.importorskip("jax")

    def with_slope(factor):
        @jax.custom_vjp
        def cube(z):
            return z**3

        cube.defvjp(lambda z: (z**3, z), lambda z, upstream: (factor * 3 * z**2 * upstream,))

        def gradient(x, t, W1):
            def loss(weight):
                return ((cube(x @ weight) - t) ** 2).sum() / 2 / len(x)

            with jax.enable_x64(True):
                return {"W1": np.asarray(jax.grad(loss)(jax.numpy.asarray(W1)))}

        return gradient

    judged(with_slope(1), with_slope(2))


def in_single(dtype, factor=1.0):
    """Softmax and cross-entropy behind two layers, in single precision from the first line on."""
    def backward(x, t, W1, c1, W2, c2):
        x, W1, c1, W2, c2 = (a.astype(dtype) for a in (x, W1, c1, W2, c2))
        h = np.tanh(x @ W1 + c1)
        z = h @ W2 + c2
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(t)), t] -= 1
        p *= factor
        p /= len(t)
        da = p @ W2.T * (1 - h * h)
        return x.T @ da, da.sum(axis=0), h.T @ p, p.sum(axis=0)

    return backward


def two_layers() -> dr.Network:
    net = dr.Network("two layers")
    h = dr.dense(net.input("x", "B", 3), 5, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 4), net.input("t", "B", dtype=int)))
    return net


def test_a_gradient_in_single_precision_is_compared_within_its_rounding():
    report = verify(two_layers(), in_single(np.float32))
    assert report.verdict == "proved" and "come in float32" in str(report), str(report)
    off = verify(two_layers(), in_single(np.float32, 1.0001), seconds=0)
    assert off.verdict == "wrong" and "1.0001" in off.findings[0].words, str(off)
    twice = verify(two_layers(), in_single(np.float32, 2.0), seconds=0)
    assert all("factor 2" in f.words for f in twice.findings)


def test_one_gradient_in_single_precision_among_others_has_lost_digits_on_its_way():
    net = dr.Network("cube")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    z = dr.dense(x, 1)
    b, o = z.indices
    net.loss(dr.squared_error(net.define("y", (b, o), z[b, o] ** 3), t))

    def with_bias(x, t, W1, c1):
        dz = ((x @ W1 + c1) ** 3 - t) * 3 * (x @ W1 + c1) ** 2 / len(x)
        return x.T @ dz, dz.sum(axis=0).astype(np.float32)

    report = verify(net, with_bias, seconds=0)
    assert [f.parameter for f in report.findings] == ["c1"]


def test_a_jax_function_without_64_bits_is_run_with_them():
    jax = pytest.importorskip("jax")

    def gradient(x, t, W1):
        return {"W1": jax.grad(lambda w: (((x @ w) ** 3 - t) ** 2).sum() / 2 / len(x))(W1)}

    report = verify(network(), gradient)
    assert report.verdict == "agrees" and "64 bits switched on" in str(report), str(report)
    assert "JAX" in report.proof.untraced and report.check.rows[0].tolerance < 1e-10


def test_a_torch_function_in_float32_that_still_has_its_graph():
    torch = pytest.importorskip("torch")

    def gradient(x, t, W1):
        x, t, W1 = (torch.tensor(a, dtype=torch.float32) for a in (x, t, W1))
        W1.requires_grad_(True)
        y = (x @ W1) ** 3
        loss = ((y - t) ** 2).sum() / 2 / len(x)
        return torch.autograd.grad(loss, W1, create_graph=True)

    report = verify(network(), gradient)
    assert report.verdict == "agrees" and "float32" in report.computed, str(report)
