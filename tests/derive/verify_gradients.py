"""Networks with gradients as people write them in NumPy: right ones, in their published shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import derive as dr

CASES: dict[str, tuple[Callable[[], dr.Network], Callable[..., Any]]] = {}


def case(network: Callable[[], dr.Network]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = network, function
        return function

    return register


# -- softmax and cross-entropy --------------------------------------------------------------------
def classifier() -> dr.Network:
    net = dr.Network("classifier")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 4), t))
    return net


@case(classifier)
def softmax_difference(x, t, W1, c1):
    z = x @ W1 + c1
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(x)), t] -= 1
    p /= len(x)
    return {"W1": x.T @ p, "c1": p.sum(axis=0)}


@case(classifier)
def softmax_one_hot(x, t, W1, c1):
    n = x.shape[0]
    z = np.dot(x, W1) + c1
    e = np.exp(z)
    p = e / np.sum(e, axis=1)[:, None]
    y = np.eye(W1.shape[1])[t]
    dz = (p - y) / n
    return np.dot(x.T, dz), np.sum(dz, 0)


@case(classifier)
def softmax_jacobian(x, t, W1, c1):
    n, k = x.shape[0], W1.shape[1]
    z = x @ W1 + c1
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    p = e / np.sum(e, axis=1, keepdims=True)
    y = np.zeros((n, k))
    y[np.arange(n), t] = 1
    dp = -y / p / n
    jacobian = p[:, :, None] * np.eye(k)[None] - p[:, :, None] * p[:, None, :]
    dz = np.einsum("bk,bkl->bl", dp, jacobian)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


@case(classifier)
def softmax_sample_by_sample(x, t, W1, c1):
    dW, dc = np.zeros_like(W1), np.zeros_like(c1)
    n = len(x)
    for i in range(n):
        z = x[i] @ W1 + c1
        p = np.exp(z) / np.exp(z).sum()
        p[t[i]] -= 1
        dW += np.outer(x[i], p) / n
        dc += p / n
    return {"W1": dW, "c1": dc}


# -- squared errors -------------------------------------------------------------------------------
def regression(loss: Callable[..., Any] = dr.mean_squared_error) -> dr.Network:
    net = dr.Network("regression")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(loss(dr.dense(dr.dense(x, 5, dr.sigmoid), 2), t))
    return net


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@case(regression)
def mean_square(x, t, W1, c1, W2, c2):
    h = sigmoid(x.dot(W1) + c1)
    y = h.dot(W2) + c2
    dy = 2 * (y - t) / y.size
    dW2 = h.T.dot(dy)
    dh = dy.dot(W2.T)
    dz = dh * h * (1 - h)
    return {"W2": dW2, "c2": dy.sum(0), "W1": x.T.dot(dz), "c1": dz.sum(0)}


@case(lambda: regression(dr.squared_error))
def half_square(x, t, W1, c1, W2, c2):
    z = x @ W1 + c1
    h = np.exp(z) / (1 + np.exp(z))
    dy = (h @ W2 + c2 - t) / len(t)
    dz = (dy @ W2.T) * sigmoid(z) * sigmoid(-z)
    return x.T @ dz, np.ones(len(x)) @ dz, h.T @ dy, dy.sum(axis=0)


# -- batch norm -----------------------------------------------------------------------------------
def batch_normalised() -> dr.Network:
    net = dr.Network("batch norm")
    x, t = net.input("x", "B", 4), net.input("t", "B", 3)
    net.loss(dr.squared_error(dr.dense(dr.batch_norm(dr.dense(x, 5)), 3), t))
    return net


def _around(x, t, W1, c1, g1, c2, W2, c3, back):
    """What stands around a batch norm: the layers before and after it."""
    z = x @ W1 + c1
    mu = z.mean(axis=0)
    var = ((z - mu) ** 2).mean(axis=0)
    hat = (z - mu) / np.sqrt(var + 1e-5)
    y = g1 * hat + c2
    dout = (y @ W2 + c3 - t) / len(x)
    dy = dout @ W2.T
    dz = back(dy, z, mu, var, hat, g1)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "g1": (dy * hat).sum(axis=0),
            "c2": dy.sum(axis=0), "W2": y.T @ dout, "c3": dout.sum(axis=0)}


@case(batch_normalised)
def batch_norm_staged(x, t, W1, c1, g1, c2, W2, c3):
    def back(dout, z, mu, var, hat, gamma):
        N, D = dout.shape
        sqrtvar = np.sqrt(var + 1e-5)
        ivar = 1.0 / sqrtvar
        xmu = z - mu
        dxhat = dout * gamma
        divar = np.sum(dxhat * xmu, axis=0)
        dxmu1 = dxhat * ivar
        dsqrtvar = -1.0 / (sqrtvar**2) * divar
        dvar = 0.5 * 1.0 / np.sqrt(var + 1e-5) * dsqrtvar
        dsq = 1.0 / N * np.ones((N, D)) * dvar
        dxmu2 = 2 * xmu * dsq
        dx1 = dxmu1 + dxmu2
        dmu = -1 * np.sum(dxmu1 + dxmu2, axis=0)
        dx2 = 1.0 / N * np.ones((N, D)) * dmu
        return dx1 + dx2

    return _around(x, t, W1, c1, g1, c2, W2, c3, back)


@case(batch_normalised)
def batch_norm_compact(x, t, W1, c1, g1, c2, W2, c3):
    def back(dy, z, mu, var, hat, gamma):
        m = len(z)
        return gamma / (m * np.sqrt(var + 1e-5)) * (
            m * dy - dy.sum(axis=0) - hat * (dy * hat).sum(axis=0))

    return _around(x, t, W1, c1, g1, c2, W2, c3, back)


@case(batch_normalised)
def batch_norm_with_the_term_that_vanishes(x, t, W1, c1, g1, c2, W2, c3):
    def back(dy, z, mu, var, hat, gamma):
        m = z.shape[0]
        dhat = dy * gamma
        dvar = np.sum(dhat * (z - mu) * -0.5 * (var + 1e-5) ** -1.5, axis=0)
        dmu = np.sum(dhat * -1 / np.sqrt(var + 1e-5), axis=0) + dvar * np.mean(
            -2 * (z - mu), axis=0)
        return dhat / np.sqrt(var + 1e-5) + dvar * 2 * (z - mu) / m + dmu / m

    return _around(x, t, W1, c1, g1, c2, W2, c3, back)


# -- layer norm -----------------------------------------------------------------------------------
def layer_normalised() -> dr.Network:
    net = dr.Network("layer norm")
    x, t = net.input("x", "B", 4), net.input("t", "B", 4)
    net.loss(dr.squared_error(dr.layer_norm(dr.dense(x, 4)), t))
    return net


@case(layer_normalised)
def layer_norm(x, t, W1, c1, g1, c2):
    z = x @ W1 + c1
    mean = z.mean(-1, keepdims=True)
    rstd = (z.var(-1, keepdims=True) + 1e-5) ** -0.5
    norm = (z - mean) * rstd
    dout = (norm * g1 + c2 - t) / x.shape[0]
    dnorm = dout * g1
    dz = dnorm - dnorm.mean(-1, keepdims=True) - norm * (dnorm * norm).mean(-1, keepdims=True)
    dz *= rstd
    return {"g1": (dout * norm).sum(0), "c2": dout.sum(0), "W1": x.T @ dz, "c1": dz.sum(0)}
