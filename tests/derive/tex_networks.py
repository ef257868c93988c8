"""Networks that derivations in LaTeX are about, declared as their authors would."""

from __future__ import annotations

import derive as dr


def classifier() -> dr.Network:
    """Two layers, softmax and cross-entropy with targets that are probabilities."""
    net = dr.Network("two layers")
    b, i, j, k = dr.indices("b:B i:7 j:5 k:3")
    x, t = net.input("x", b, i), net.input("t", b, k, distribution=True)
    W1, c1 = net.parameter("W1", i, j), net.parameter("b1", j)
    W2, c2 = net.parameter("W2", j, k), net.parameter("b2", k)
    z1 = net.define("z1", (b, j), dr.sum(x[b, i] * W1[i, j], i) + c1[j])
    h = net.define("h", (b, j), dr.sigmoid(z1[b, j]))
    z2 = net.define("z2", (b, k), dr.sum(h[b, j] * W2[j, k], j) + c2[k])
    p = net.define("p", (b, k), dr.softmax(z2[b, k], k))
    net.loss(-dr.sum(t[b, k] * dr.log(p[b, k]), b, k) / b.size)
    return net


def labelled() -> dr.Network:
    """One layer, relu, whole-number labels."""
    net = dr.Network("labelled")
    b, i, k = dr.indices("b:N i:4 k:3")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    W, c = net.parameter("W", i, k), net.parameter("c", k)
    z = net.define("z", (b, k), dr.sum(x[b, i] * W[i, k], i) + c[k])
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net


def logistic() -> dr.Network:
    net = dr.Network("logistic regression")
    n, i = dr.indices("n:N i:4")
    X, y, w, c = net.input("X", n, i), net.input("y", n), net.parameter("w", i), \
        net.parameter("c")
    z = net.define("z", (n,), dr.sum(X[n, i] * w[i], i) + c.tensor.access)
    net.loss(dr.mean(dr.softplus(z[n]) - y[n] * z[n], n))
    return net


def sample() -> dr.Network:
    """Two layers for one sample: vectors instead of batches; weights as papers have them."""
    net = dr.Network("one sample")
    i, j, k = dr.indices("i:4 j:5 k:3")
    x, y = net.input("x", i), net.input("y", k)
    W1, b1 = net.parameter("W1", j, i), net.parameter("b1", j)
    W2, b2 = net.parameter("W2", k, j), net.parameter("b2", k)
    z1 = net.define("z1", (j,), dr.sum(W1[j, i] * x[i], i) + b1[j])
    a1 = net.define("a1", (j,), dr.tanh(z1[j]))
    z2 = net.define("z2", (k,), dr.sum(W2[k, j] * a1[j], j) + b2[k])
    net.loss(dr.sum((z2[k] - y[k]) ** 2, k) / 2)
    return net


def relu_net() -> dr.Network:
    net = dr.Network("relu")
    b, i, j = dr.indices("b:B i:4 j:5")
    x, t = net.input("x", b, i), net.input("t", b)
    W, v = net.parameter("W", i, j), net.parameter("v", j)
    z = net.define("z", (b, j), dr.sum(x[b, i] * W[i, j], i))
    h = net.define("h", (b, j), dr.relu(z[b, j]))
    y = net.define("y", (b,), dr.sum(h[b, j] * v[j], j))
    net.loss(dr.sum((y[b] - t[b]) ** 2, b) / 2 + dr.sum(W[i, j] ** 2, i, j) / 20)
    return net


def recurrent() -> dr.Network:
    net = dr.Network("recurrent")
    t, b, i, j, k = dr.indices("t:T b:2 i:3 j:5 k:5")
    x, y = net.input("x", t, b, i), net.input("y", t, b, j)
    U, V = net.parameter("U", i, j), net.parameter("V", k, j)
    h = net.declare("h", t, b, j, initial=0)
    net.define(h, (t, b, j), dr.tanh(
        dr.sum(x[t, b, i] * U[i, j], i) + dr.sum(h[t - 1, b, k] * V[k, j], k)))
    net.loss(dr.sum((h[t, b, j] - y[t, b, j]) ** 2, t, b, j) / 2)
    return net


def lstm() -> dr.Network:
    """An LSTM with a matrix for each gate, as textbooks have it."""
    net = dr.Network("lstm")
    t, b, d, j, k = dr.indices("t:T b:B d:2 j:3 k:3")
    x, y = net.input("x", t, b, d), net.input("y", t, b, j)
    W = {g: net.parameter(f"W_{g}", d, j) for g in "ifog"}
    U = {g: net.parameter(f"U_{g}", k, j) for g in "ifog"}
    bias = {g: net.parameter(f"b_{g}", j) for g in "ifog"}
    h, c = net.declare("h", t, b, j, initial=0), net.declare("c", t, b, j, initial=0)
    gates = {g: net.define(g, (t, b, j), (dr.tanh if g == "g" else dr.sigmoid)(
        dr.sum(x[t, b, d] * W[g][d, j], d) + dr.sum(h[t - 1, b, k] * U[g][k, j], k)
        + bias[g][j])) for g in "ifog"}
    i, f, o, g = (gates[n][t, b, j] for n in "ifog")
    net.define(c, (t, b, j), f * c[t - 1, b, j] + i * g)
    net.define(h, (t, b, j), o * dr.tanh(c[t, b, j]))
    net.loss(dr.sum((h[t, b, j] - y[t, b, j]) ** 2, t, b, j) / 2)
    return net


def batch_norm() -> dr.Network:
    net = dr.Network("batch norm")
    n, j = dr.indices("n:N j:5")
    x, t = net.parameter("x", n, j), net.input("t", n, j)
    gamma, beta = net.parameter("gamma", j), net.parameter("beta", j)
    mu = net.define("mu", (j,), dr.mean(x[n, j], n))
    v = net.define("v", (j,), dr.mean((x[n, j] - mu[j]) ** 2, n))
    x_hat = net.define("x_hat", (n, j), (x[n, j] - mu[j]) / dr.sqrt(v[j] + 0.001))
    y = net.define("y", (n, j), gamma[j] * x_hat[n, j] + beta[j])
    net.loss(dr.sum((y[n, j] - t[n, j]) ** 2, n, j) / 2)
    return net


def layer_norm() -> dr.Network:
    net = dr.Network("layer norm")
    b, d = dr.indices("b:B d:5")
    x, t = net.parameter("x", b, d), net.input("t", b, d)
    mu = net.define("mu", (b,), dr.mean(x[b, d], d))
    s = net.define("s", (b,), dr.sqrt(dr.mean((x[b, d] - mu[b]) ** 2, d) + 0.001))
    y = net.define("y", (b, d), (x[b, d] - mu[b]) / s[b])
    net.loss(dr.sum((y[b, d] - t[b, d]) ** 2, b, d) / 2)
    return net


def attention() -> dr.Network:
    net = dr.Network("attention")
    i, j, d, e = dr.indices("i:T j:S d:4 e:3")
    Q, K, V = net.parameter("Q", i, d), net.parameter("K", j, d), net.parameter("V", j, e)
    R = net.input("R", i, e)
    S = net.define("S", (i, j), dr.sum(Q[i, d] * K[j, d], d) / 2)
    P = net.define("P", (i, j), dr.softmax(S[i, j], j))
    O = net.define("O", (i, e), dr.sum(P[i, j] * V[j, e], j))  # noqa: E741
    net.loss(dr.sum((O[i, e] - R[i, e]) ** 2, i, e) / 2)
    return net


def convolution() -> dr.Network:
    net = dr.Network("convolution")
    b, c, o, p, r = dr.indices("b:B c:3 o:2 p:6 r:3")
    X, T = net.input("X", b, c, 8), net.input("T", b, o, p)
    K = net.parameter("K", o, c, r)
    y = net.define("y", (b, o, p), dr.sum(X[b, c, p + r] * K[o, c, r], c, r))
    net.loss(dr.sum((y[b, o, p] - T[b, o, p]) ** 2, b, o, p) / 2)
    return net


def ridge() -> dr.Network:
    net = dr.Network("ridge regression")
    n, i = dr.indices("n:N i:4")
    A, y, w = net.input("A", n, i), net.input("y", n), net.parameter("w", i)
    r = net.define("r", (n,), dr.sum(A[n, i] * w[i], i) - y[n])
    net.loss(dr.sum(r[n] ** 2, n) / 2 + 3 * dr.sum(w[i] ** 2, i) / 2)
    return net
