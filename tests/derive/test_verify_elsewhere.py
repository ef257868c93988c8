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
