"""Small networks that many tests share: each hides a classical mistake if one is made.

Sizes are unequal primes, so that a missing transpose shows.
"""

from __future__ import annotations

from collections.abc import Callable

import derive as dr
from derive.program import Program


def softmax_classifier() -> Program:
    net = dr.Network("softmax classifier")
    b, i, j, k = dr.indices("b:B i:3 j:5 k:2")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    w1, c1 = net.parameter("W1", i, j), net.parameter("c1", j)
    w2, c2 = net.parameter("W2", j, k), net.parameter("c2", k)
    h = net.define("h", (b, j), dr.relu(dr.sum(x[b, i] * w1[i, j], i) + c1[j]))
    z = net.define("z", (b, k), dr.sum(h[b, j] * w2[j, k], j) + c2[k])
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net.program()


def sigmoid_regression() -> Program:
    net = dr.Network("sigmoid regression")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 5, dr.sigmoid), 2, dr.sigmoid), t))
    return net.program()


def strided_convolution() -> Program:
    net = dr.Network("strided convolution")
    b, o, p, c, r = dr.indices("b:B o:2 p:4 c:3 r:3")
    x, k = net.parameter("X", 2, 3, 8), net.parameter("K", o, c, r)
    b = x.indices[0]
    y = net.define("y", (b, o, p), dr.sum(x[b, c, 2 * p + r - 1] * k[o, c, r], c, r))
    net.loss(dr.sum(dr.sin(y[b, o, p]), b, o, p))
    return net.program()


def recurrent() -> Program:
    net = dr.Network("recurrent")
    t, b, i, j, k = dr.indices("t:4 b:2 i:3 j:2 k:2")
    x, u, v = net.input("x", t, b, i), net.parameter("U", i, j), net.parameter("V", k, j)
    h0 = net.parameter("h0", b, j)
    h = net.declare("h", t, b, j, initial=h0)
    net.define(h, (t, b, j), dr.tanh(
        dr.sum(x[t, b, i] * u[i, j], i) + dr.sum(h[t - 1, b, k] * v[k, j], k)))
    net.loss(dr.mean(h[t, b, j] ** 2, t, b, j))
    return net.program()


def maximum() -> Program:
    net = dr.Network("maximum")
    i, j = dr.indices("i:3 j:5")
    a = net.parameter("A", i, j)
    m = net.define("m", (i,), dr.max(dr.tanh(a[i, j]), j))
    net.loss(dr.sum(m[i] ** 3, i) + dr.sum(dr.min(a[i, j] ** 2, j), i))
    return net.program()


def product() -> Program:
    net = dr.Network("product")
    i, j = dr.indices("i:3 j:4")
    a = net.parameter("A", i, j)
    net.loss(dr.sum(dr.prod(a[i, j], j) ** 2, i))
    return net.program()


def diagonal() -> Program:
    net = dr.Network("diagonal")
    i, m = dr.indices("i:3 m:3")
    a = net.parameter("A", i, m)
    net.loss(dr.sum(dr.exp(a[i, i]), i) + dr.sum(a[i, m] * a[m, i], i, m))
    return net.program()


def tied_diamond() -> Program:
    net = dr.Network("tied weights in a diamond")
    b, i, m, n = dr.indices("b:B i:3 m:3 n:3")
    x, w = net.input("x", b, i), net.parameter("W", i, m)
    h = net.define("h", (b, m), dr.tanh(dr.sum(x[b, i] * w[i, m], i)))
    y = net.define("y", (b, n), dr.sum(h[b, m] * w[m, n], m) + h[b, n] * x[b, n])
    net.loss(dr.mean(y[b, n] ** 2, b, n))
    return net.program()


def embedding() -> Program:
    net = dr.Network("embedding")
    b, s, v, d = dr.indices("b:B s:4 v:3 d:2")
    token, table = net.input("token", b, s, dtype=int), net.parameter("E", v, d)
    e = net.define("e", (b, s, d), table[token[b, s], d])
    net.loss(dr.mean(dr.sin(e[b, s, d]) * (s + 1), b, s, d))
    return net.program()


def batch_norm() -> Program:
    net = dr.Network("batch norm by hand")
    b, i, j = dr.indices("b:B i:3 j:2")
    x, w, t = net.input("x", b, i), net.parameter("W", i, j), net.input("t", b, j)
    c, g = net.parameter("c", j), net.parameter("g", j, initial="ones")
    z = net.define("z", (b, j), dr.sum(x[b, i] * w[i, j], i) + c[j])
    mu = net.define("mu", (j,), dr.mean(z[b, j], b))
    var = net.define("var", (j,), dr.mean((z[b, j] - mu[j]) ** 2, b))
    y = net.define("y", (b, j), g[j] * (z[b, j] - mu[j]) / dr.sqrt(var[j] + 0.001))
    net.loss(dr.mean(dr.sin(y[b, j]) * t[b, j], b, j))
    return net.program()


NETWORKS: dict[str, Callable[[], Program]] = {
    f.__name__: f
    for f in (softmax_classifier, sigmoid_regression, strided_convolution, recurrent, maximum,
              product, diagonal, tied_diamond, embedding, batch_norm)
}
