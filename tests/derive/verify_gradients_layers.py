"""Right gradients in NumPy of losses, dense stacks, norms, convolutions and pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import derive as dr
from tests.derive.verify_gradients import case, sigmoid


# -- losses over one dense layer --------------------------------------------------------------
def linear(loss: Callable[..., Any], labels: bool = False, **settings: Any) -> dr.Network:
    net = dr.Network(f"linear, {loss.__name__}")
    x = net.input("x", "B", 3)
    t = net.input("t", "B", dtype=int) if labels else net.input("t", "B", 4, **settings)
    net.loss(loss(dr.dense(x, 4), t))
    return net


@case(lambda: linear(dr.binary_cross_entropy))
def binary_cross_entropy(x, t, W1, c1):
    z = x @ W1 + c1
    dz = (1 / (1 + np.exp(-z)) - t) / z.size
    return x.T @ dz, dz.sum(axis=0)


@case(lambda: linear(dr.huber))
def huber(x, t, W1, c1):
    r = x @ W1 + c1 - t
    dr_ = np.where(np.abs(r) <= 1.0, r, 1.0 * np.sign(r)) / r.size
    return {"W1": x.T @ dr_, "c1": np.sum(dr_, axis=0)}


@case(lambda: linear(dr.absolute_error))
def absolute_error(x, t, W1, c1):
    s = np.sign(x @ W1 + c1 - t)
    return {"W1": np.einsum("bi,bj->ij", x, s) / s.size, "c1": s.mean(axis=0) / s.shape[1]}


@case(lambda: linear(dr.hinge))
def hinge(x, t, W1, c1):
    z = x @ W1 + c1
    active = 1 - t * z > 0
    dz = np.where(active, -t, 0.0) / z.size
    return {"W1": x.T.dot(dz), "c1": dz.sum(0)}


@case(lambda: linear(dr.hinge, labels=True))
def multiclass_hinge(x, t, W1, c1):
    n = x.shape[0]
    rows = np.arange(n)
    z = x @ W1 + c1
    margins = 1 + z - z[rows, t][:, None]
    dz = (margins > 0) * 1.0
    dz[rows, t] = 0
    dz[rows, t] = -np.sum(dz, axis=1)
    dz /= n
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


@case(lambda: linear(dr.focal, labels=True))
def focal(x, t, W1, c1):
    n = len(x)
    rows = np.arange(n)
    e = np.exp(x @ W1 + c1)
    p = e / e.sum(axis=1, keepdims=True)
    q = p[rows, t]
    dq = 2 * (1 - q) * np.log(q) - (1 - q) ** 2 / q
    y = np.zeros_like(p)
    y[rows, t] = 1
    dz = dq[:, None] * q[:, None] * (y - p) / n
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


@case(lambda: linear(dr.kl_divergence, distribution=True))
def kl_divergence(x, t, W1, c1):
    z = x @ W1 + c1
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    dz = (p - t) / len(t)
    return np.matmul(x.T, dz), dz.sum(axis=0)


# -- dense stacks -----------------------------------------------------------------------------
def stack(activation: Callable[..., Any], penalty: bool = False) -> dr.Network:
    net = dr.Network(f"stack, {activation.__name__}")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    h = dr.dense(dr.dense(x, 4, activation), 5, activation)
    loss = dr.squared_error(dr.dense(h, 2), t)
    if penalty:
        loss = loss + 0.01 * dr.l2(net["W1"], net["W2"], net["W3"])
    net.loss(loss)
    return net


@case(lambda: stack(dr.tanh))
def loop_over_layers(x, t, W1, c1, W2, c2, W3, c3):
    weights, biases = [W1, W2, W3], [c1, c2, c3]
    outputs = [x]
    for n in range(3):
        z = outputs[-1] @ weights[n] + biases[n]
        outputs.append(z if n == 2 else np.tanh(z))
    delta = (outputs[-1] - t) / len(x)
    grads = {}
    for n in range(2, -1, -1):
        grads["W" + str(n + 1)] = outputs[n].T @ delta
        grads["c" + str(n + 1)] = delta.sum(axis=0)
        if n > 0:
            delta = (delta @ weights[n].T) * (1 - outputs[n] ** 2)
    return grads


@case(lambda: stack(dr.relu, penalty=True))
def relu_stack_with_weight_decay(x, t, W1, c1, W2, c2, W3, c3):
    lam = 0.01
    z1 = x @ W1 + c1
    h1 = np.maximum(z1, 0)
    z2 = h1 @ W2 + c2
    h2 = np.maximum(z2, 0)
    d3 = (h2 @ W3 + c3 - t) / x.shape[0]
    d2 = d3 @ W3.T
    d2[z2 <= 0] = 0
    d1 = d2 @ W2.T
    d1[z1 <= 0] = 0
    return {"W3": h2.T @ d3 + lam * W3, "c3": d3.sum(axis=0),
            "W2": h1.T @ d2 + lam * W2, "c2": d2.sum(axis=0),
            "W1": x.T @ d1 + lam * W1, "c1": d1.sum(axis=0)}


@case(lambda: stack(dr.silu))
def silu_stack(x, t, W1, c1, W2, c2, W3, c3):
    def slope(z):
        s = sigmoid(z)
        return s + z * s * (1 - s)

    z1 = x @ W1 + c1
    h1 = z1 * sigmoid(z1)
    z2 = h1 @ W2 + c2
    h2 = z2 * sigmoid(z2)
    dy = (h2 @ W3 + c3 - t) / len(t)
    dz2 = dy @ W3.T * slope(z2)
    dz1 = dz2 @ W2.T * slope(z1)
    return (x.T @ dz1, dz1.sum(0), h1.T @ dz2, dz2.sum(0), h2.T @ dy, dy.sum(0))


def deep() -> dr.Network:
    net = dr.Network("residual")
    x, t = net.input("x", "B", 4), net.input("t", "B", 2)
    h = dr.dense(x, 4, dr.tanh)
    net.loss(dr.mean_squared_error(dr.dense(dr.add(x, dr.dense(h, 4)), 2), t))
    return net


@case(deep)
def residual(x, t, W1, c1, W2, c2, W3, c3):
    h = np.tanh(x @ W1 + c1)
    y = x + (h @ W2 + c2)
    dout = 2.0 / t.size * (y @ W3 + c3 - t)
    dy = dout @ W3.T
    dh = dy @ W2.T
    dz = (1 - h * h) * dh
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ dy, "c2": dy.sum(axis=0),
            "W3": y.T @ dout, "c3": dout.sum(axis=0)}


def residual_twice() -> dr.Network:
    net = dr.Network("two residual blocks")
    x, t = net.input("x", "B", 3), net.input("t", "B", 4)
    h = dr.dense(x, 4, dr.tanh)
    h = dr.add(h, dr.dense(h, 4, dr.tanh))
    net.loss(dr.squared_error(h, t))
    return net


@case(residual_twice)
def residual_of_a_hidden_layer(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    u = np.tanh(h @ W2 + c2)
    dy = (h + u - t) / len(x)
    du = dy * (1 - u**2)
    dh = dy + du @ W2.T
    dz = dh * (1 - h**2)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ du, "c2": du.sum(axis=0)}


def tied() -> dr.Network:
    net = dr.Network("tied autoencoder")
    x = net.input("x", "B", 4)
    h = dr.dense(x, 3, dr.sigmoid)
    net.loss(dr.squared_error(dr.dense(h, 4, weight=net["W1"]), x))
    return net


@case(tied)
def tied_autoencoder(x, W1, c1, c2):
    h = sigmoid(x @ W1 + c1)
    dy = (h @ W1.T + c2 - x) / x.shape[0]
    dz = dy @ W1 * h * (1 - h)
    return {"W1": x.T @ dz + dy.T @ h, "c1": dz.sum(axis=0), "c2": dy.sum(axis=0)}


def autoencoder_network() -> dr.Network:
    net = dr.Network("autoencoder")
    x = net.input("x", "B", 4)
    net.loss(dr.mean_squared_error(dr.dense(dr.dense(x, 3, dr.relu), 4), x))
    return net


@case(autoencoder_network)
def autoencoder(x, W1, c1, W2, c2):
    z = x @ W1 + c1
    h = z * (z > 0)
    dy = 2 * (h @ W2 + c2 - x) / x.shape[0] / x.shape[1]
    dz = (dy @ W2.T) * (z > 0)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ dy, "c2": dy.sum(axis=0)}


def shared() -> dr.Network:
    net = dr.Network("shared weights")
    x, t = net.input("x", "B", 4), net.input("t", "B", 4)
    h = dr.dense(x, 4, dr.tanh)
    net.loss(dr.squared_error(dr.dense(h, 4, weight=net["W1"], bias=False), t))
    return net


@case(shared)
def weight_used_twice(x, t, W1, c1):
    h = np.tanh(np.dot(x, W1) + c1)
    dy = (np.dot(h, W1) - t) / len(x)
    dW = np.dot(h.T, dy)
    dz = np.dot(dy, W1.T) * (1 - np.square(h))
    dW += np.dot(x.T, dz)
    return {"W1": dW, "c1": np.sum(dz, axis=0)}


# -- norms ------------------------------------------------------------------------------------
def rms_normalised() -> dr.Network:
    net = dr.Network("rms norm")
    x, t = net.input("x", "B", 4), net.input("t", "B", 5)
    net.loss(dr.squared_error(dr.rms_norm(dr.dense(x, 5)), t))
    return net


@case(rms_normalised)
def rms_norm(x, t, W1, c1, g1):
    z = x @ W1 + c1
    d = z.shape[1]
    r = 1 / np.sqrt(np.sum(z**2, axis=1, keepdims=True) / d + 1e-6)
    dout = (z * r * g1 - t) / len(x)
    dn = dout * g1
    dz = r * dn - r**3 * z * np.sum(dn * z, axis=1, keepdims=True) / d
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "g1": (dout * z * r).sum(axis=0)}


# -- convolutions and pooling -----------------------------------------------------------------
def convolutional() -> dr.Network:
    net = dr.Network("convolution")
    x, t = net.input("x", "B", 2, 4, 3), net.input("t", "B", 2, 4, 3)
    net.loss(dr.squared_error(dr.conv2d(dr.conv2d(x, 2, 3, dr.tanh, padding=1), 2, 1), t))
    return net


@case(convolutional)
def convolution_by_rotated_kernels(x, t, K1, c1, K2, c2):
    n, _, height, width = x.shape
    xp = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((n, 2, height, width)) + c1[:, None, None]
    for r in range(3):
        for s in range(3):
            y += np.einsum("oc,bchw->bohw", K1[:, :, r, s], xp[:, :, r:r + height, s:s + width])
    h = np.tanh(y)
    out = np.einsum("oc,bchw->bohw", K2[:, :, 0, 0], h) + c2[:, None, None]
    dout = (out - t) / (n * t.shape[1] * height)
    dK2 = np.einsum("bohw,bchw->oc", dout, h)[:, :, None, None]
    dy = np.einsum("oc,bohw->bchw", K2[:, :, 0, 0], dout) * (1 - h**2)
    dK1 = np.zeros_like(K1)
    for r in range(3):
        for s in range(3):
            dK1[:, :, r, s] = np.einsum("bohw,bchw->oc", dy, xp[:, :, r:r + height, s:s + width])
    return {"K1": dK1, "c1": dy.sum(axis=(0, 2, 3)), "K2": dK2, "c2": dout.sum(axis=(0, 2, 3))}


def convolutional_pair() -> dr.Network:
    net = dr.Network("two convolutions")
    x, t = net.input("x", "B", 1, 5), net.input("t", "B", 2, 3)
    net.loss(dr.mean_squared_error(dr.conv1d(dr.conv1d(x, 2, 2, dr.tanh), 2, 2), t))
    return net


@case(convolutional_pair)
def conv1d_with_a_flipped_kernel(x, t, K1, c1, K2, c2):
    y = np.zeros((len(x), 2, 4))
    for p in range(4):
        y[:, :, p] = np.einsum("bcr,ocr->bo", x[:, :, p:p + 2], K1) + c1
    h = np.tanh(y)
    out = np.zeros((len(x), 2, 3))
    for p in range(3):
        out[:, :, p] = np.einsum("bcr,ocr->bo", h[:, :, p:p + 2], K2) + c2
    dout = 2 * (out - t) / t.size
    dK2 = np.zeros_like(K2)
    for r in range(2):
        dK2[:, :, r] = np.einsum("bop,bcp->oc", dout, h[:, :, r:r + 3])
    padded = np.pad(dout, ((0, 0), (0, 0), (1, 1)))
    flipped = K2[:, :, ::-1]
    dh = np.zeros_like(h)
    for q in range(4):
        dh[:, :, q] = np.einsum("bor,ocr->bc", padded[:, :, q:q + 2], flipped)
    dy = dh * (1 - h * h)
    dK1 = np.zeros_like(K1)
    for r in range(2):
        dK1[:, :, r] = np.einsum("bop,bcp->oc", dy, x[:, :, r:r + 4])
    return {"K1": dK1, "c1": dy.sum(axis=(0, 2)), "K2": dK2, "c2": dout.sum(axis=(0, 2))}


def strided() -> dr.Network:
    net = dr.Network("strided convolution")
    x, t = net.input("x", "B", 2, 4, 4), net.input("t", "B", 3)
    y = dr.conv2d(x, 3, 2, dr.relu, stride=2)
    net.loss(dr.squared_error(dr.global_average_pool(y), t))
    return net


@case(strided)
def convolution_by_im2col(x, t, K1, c1):
    n, c, _, _ = x.shape
    o = K1.shape[0]
    cols = np.zeros((n, 2, 2, c * 4))
    for i in range(2):
        for j in range(2):
            cols[:, i, j, :] = x[:, :, 2 * i:2 * i + 2, 2 * j:2 * j + 2].reshape(n, c * 4)
    cols = cols.reshape(n * 4, c * 4)
    y = cols @ K1.reshape(o, c * 4).T + c1
    h = np.maximum(y, 0).reshape(n, 4, o)
    dout = (h.mean(axis=1) - t) / n
    dh = np.repeat(dout[:, None, :], 4, axis=1) / 4
    dy = dh.reshape(n * 4, o) * (y > 0)
    dK = (dy.T @ cols).reshape(K1.shape)
    return {"K1": dK, "c1": dy.sum(axis=0)}


def pooled() -> dr.Network:
    net = dr.Network("max pooling")
    x, t = net.input("x", "B", 4, 4), net.input("t", "B", 2, 2, 2)
    b, p, q = x.indices
    o = dr.indices("o:2")
    K, c = net.parameter("K", o), net.parameter("c", o)
    y = net.define("y", (b, o, p, q), dr.tanh(K[o] * x[b, p, q] + c[o]))
    net.loss(dr.squared_error(dr.max_pool(y, 2), t))
    return net


@case(pooled)
def max_pooling(x, t, K, c):
    n = len(x)
    y = np.tanh(K[:, None, None] * x[:, None] + c[:, None, None])
    m = y.reshape(n, 2, 2, 2, 2, 2).max(axis=(3, 5))
    dm = (m - t) / (n * 2 * 2)
    dy = np.zeros_like(y)
    for i in range(2):
        for j in range(2):
            win = y[:, :, 2 * i:2 * i + 2, 2 * j:2 * j + 2]
            mask = win == m[:, :, i, j][:, :, None, None]
            dy[:, :, 2 * i:2 * i + 2, 2 * j:2 * j + 2] += mask * dm[:, :, i, j][:, :, None, None]
    da = dy * (1 - y**2)
    return {"K": np.sum(da * x[:, None], axis=(0, 2, 3)), "c": da.sum(axis=(0, 2, 3))}


def averaged() -> dr.Network:
    net = dr.Network("average pooling")
    x, t = net.input("x", "B", 1, 4), net.input("t", "B", 2, 2)
    y = dr.conv1d(x, 2, 1, dr.sigmoid)
    net.loss(dr.squared_error(dr.average_pool(y, 2), t))
    return net


@case(averaged)
def average_pooling(x, t, K1, c1):
    n = x.shape[0]
    h = sigmoid(K1[None, :, 0, :] * x + c1[:, None])
    m = (h[:, :, 0::2] + h[:, :, 1::2]) / 2
    dm = (m - t) / (n * t.shape[1])
    dh = np.zeros_like(h)
    dh[:, :, 0::2] = 0.5 * dm
    dh[:, :, 1::2] = 0.5 * dm
    da = dh * h * (1 - h)
    dK = np.sum(da * x, axis=(0, 2))
    return {"K1": dK[:, None, None], "c1": da.sum(axis=(0, 2))}
