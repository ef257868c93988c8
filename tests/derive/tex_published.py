# ruff: noqa: E501  (a formula is one line)
r"""Formulas as they stand in print, and the networks that they are about.

What stands here are formulas, by source: d2l (Dive into Deep Learning: backprop, BPTT), the notes of
CS231n, Parr & Howard (The Matrix Calculus You Need For Deep Learning), Ioffe & Szegedy (batch norm),
Goodfellow et al. (Deep Learning, 6.5 and 10.2.2), Nielsen (BP1 to BP4), FlashAttention, the Matrix
Cookbook (by the numbers of its equations). Each is (network, text, names, what becomes of it): a
verdict, or words of the error and the text that its caret stands under.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import derive as dr
from tests.derive import tex_networks as nets


def perceptron() -> dr.Network:
    """d2l: one sample, samples are columns, weight decay with λ."""
    net = dr.Network("perceptron")
    i, j, k = dr.indices("i:4 j:5 k:3")
    x, y, decay = net.input("x", i), net.input("y", k), net.input("lambda_").tensor.access
    W1, W2 = net.parameter("W1", j, i), net.parameter("W2", k, j)
    z = net.define("z", (j,), dr.sum(W1[j, i] * x[i], i))
    h = net.define("h", (j,), dr.tanh(z[j]))
    o = net.define("o", (k,), dr.sum(W2[k, j] * h[j], j))
    squares = dr.sum(W1[j, i] ** 2, j, i) + dr.sum(W2[k, j] ** 2, k, j)
    net.loss(dr.sum((o[k] - y[k]) ** 2, k) / 2 + decay / 2 * squares)
    return net


def linear_recurrent() -> dr.Network:
    """d2l: a recurrent network without activation."""
    net = dr.Network("linear recurrent")
    t, d, h, g, q = dr.indices("t:T d:2 h:4 g:4 q:3")
    x, y = net.input("x", t, d), net.input("y", t, q)
    U, W, V = net.parameter("W_hx", h, d), net.parameter("W_hh", h, g), net.parameter("W_qh", q, h)
    s = net.declare("h", t, h, initial=0)
    net.define(s, (t, h), dr.sum(U[h, d] * x[t, d], d) + dr.sum(W[h, g] * s[t - 1, g], g))
    o = net.define("o", (t, q), dr.sum(V[q, h] * s[t, h], h))
    net.loss(dr.sum((o[t, q] - y[t, q]) ** 2, t, q) / 2 / t.size)
    return net


def recurrent() -> dr.Network:
    """Goodfellow et al., 10.2: tanh, softmax and labels."""
    net = dr.Network("recurrent")
    t, d, h, g, q = dr.indices("t:T d:2 h:4 g:4 q:3")
    x, y = net.input("x", t, d), net.input("y", t, dtype=int)
    U, W, V = net.parameter("U", h, d), net.parameter("W", h, g), net.parameter("V", q, h)
    b, c = net.parameter("b", h), net.parameter("c", q)
    s = net.declare("h", t, h, initial=0)
    net.define(s, (t, h), dr.tanh(b[h] + dr.sum(U[h, d] * x[t, d], d)
                                  + dr.sum(W[h, g] * s[t - 1, g], g)))
    o = net.define("o", (t, q), c[q] + dr.sum(V[q, h] * s[t, h], h))
    net.loss(dr.sum(dr.logsumexp(o[t, q], q) - o[t, y[t]], t))
    return net


def scores(hinge: bool = False) -> dr.Network:
    """CS231n: one sample, softmax or the hinge loss of several classes."""
    net = dr.Network("scores")
    d, k, j = dr.indices("d:4 k:3 j:3")
    x, y = net.input("x", d), net.input("y", dtype=int).tensor.access
    w = net.parameter("w", k, d)
    f = net.define("f", (k,), dr.sum(w[k, d] * x[d], d))
    net.loss(dr.sum(dr.relu(f[j] - f[y] + 1), j) - 1 if hinge else dr.logsumexp(f[k], k) - f[y])
    return net


def batch_norm() -> dr.Network:
    """Ioffe & Szegedy: one activation over a batch of m."""
    net = dr.Network("batch norm")
    i = dr.indices("i:m")
    x, t = net.parameter("x", i), net.input("t", i)
    gamma, beta = (net.parameter(n).tensor.access for n in ("gamma", "beta"))
    mu = net.define("mu", (), dr.mean(x[i], i)).tensor.access
    v = net.define("v", (), dr.mean((x[i] - mu) ** 2, i)).tensor.access
    x_hat = net.define("x_hat", (i,), (x[i] - mu) / dr.sqrt(v + 0.001))
    y = net.define("y", (i,), gamma * x_hat[i] + beta)
    net.loss(dr.sum((y[i] - t[i]) ** 2, i) / 2)
    return net


def neuron() -> dr.Network:
    """Parr & Howard: a neuron with relu and the mean of squares."""
    net = dr.Network("neuron")
    i, d = dr.indices("i:N d:4")
    x, y, w, b = net.input("x", i, d), net.input("y", i), net.parameter("w", d), net.parameter("b")
    z = net.define("z", (i,), dr.sum(w[d] * x[i, d], d) + b.tensor.access)
    net.loss(dr.mean((y[i] - dr.relu(z[i])) ** 2, i))
    return net


def matrix(loss: Callable[..., Any]) -> Callable[[], dr.Network]:
    """A function of a matrix X, 3 by 4."""
    def network() -> dr.Network:
        net = dr.Network("matrix")
        i, j, k, m = dr.indices("i:3 j:4 k:4 m:3")
        X = net.parameter("X", i, j)
        B, S = net.input("B", j, i), net.input("S", j, k)
        a, b = net.input("a", i), net.input("b", j)
        net.loss(loss(X, B, S, a, b, i, j, k, m))
        return net
    return network


def maps() -> dr.Network:
    """A convolution of one map with one kernel."""
    net = dr.Network("maps")
    p, q, r, s = dr.indices("p:3 q:5 r:3 s:2")
    x, T, K = net.parameter("x", 5, 6), net.input("T", p, q), net.parameter("K", r, s)
    y = net.define("y", (p, q), dr.sum(x[p + r, q + s] * K[r, s], r, s))
    net.loss(dr.sum((y[p, q] - T[p, q]) ** 2, p, q) / 2)
    return net


def channels() -> dr.Network:
    net = dr.Network("channels")
    b, c, o, p, r = dr.indices("b:B c:3 o:2 p:6 r:3")
    X, T, K = net.parameter("X", b, c, 8), net.input("T", b, o, p), net.parameter("K", o, c, r)
    y = net.define("y", (b, o, p), dr.sum(X[b, c, p + r] * K[o, c, r], c, r))
    net.loss(dr.sum((y[b, o, p] - T[b, o, p]) ** 2, b, o, p) / 2)
    return net


D2L = {"J": "L", r"\phi": "tanh", r"\lambda": "lambda_"}
OUT = r"\frac{\partial J}{\partial \mathbf{o}} = \mathbf o - \mathbf y \\ "
STEP = r"\frac{\partial L}{\partial \mathbf{o}_t} = \frac{1}{T} (\mathbf o_t - \mathbf y_t) \\ "
CS = {"L_i": "L", "y_i": "y", "x_i": "x"}
NORM = {r"\ell": "L", r"\sigma_B^2": "v", r"\mu_B": "mu"}
YI = r"\frac{\partial \ell}{\partial y_i} = y_i - t_i \\ "
SOFT = r"\hat y^{(t)}_i = \frac{e^{o^{(t)}_i}}{\sum_j e^{o^{(t)}_j}} \\ "
SLOPE = r"\operatorname{diag}\left(1 - (h^{(t)})^2\right) (\nabla_{h^{(t)}} L)"
BACK = SOFT + r"""(\nabla_{o^{(t)}} L)_i = \hat y^{(t)}_i - \mathbf{1}_{i = y^{(t)}} \\
\nabla_{h^{(t)}} L = W^\top \operatorname{diag}\left(1 - (h^{(t+1)})^2\right)
    (\nabla_{h^{(t+1)}} L) + V^\top (\nabla_{o^{(t)}} L) \\ """
TR = matrix(lambda X, B, S, a, b, i, j, k, m: dr.sum(X[i, j] * B[j, i], i, j))
DELTA = r"(y - T)"

Case = tuple[Callable[[], dr.Network], str, dict[str, Any], str]
READ: dict[str, Case] = {
    "d2l, W2 and the decay": (perceptron, OUT + r"\frac{\partial J}{\partial \mathbf{W}^{(2)}} = \frac{\partial J}{\partial \mathbf{o}} \mathbf{h}^\top + \lambda \mathbf{W}^{(2)}.", D2L, "proved"),
    "d2l, h, z and W1": (perceptron, OUT + r"\frac{\partial J}{\partial \mathbf{h}} = {\mathbf{W}^{(2)}}^\top \frac{\partial J}{\partial \mathbf{o}}. \\ \frac{\partial J}{\partial \mathbf{z}} = \frac{\partial J}{\partial \mathbf{h}} \odot \phi'\left(\mathbf{z}\right). \\ \frac{\partial J}{\partial \mathbf{W}^{(1)}} = \frac{\partial J}{\partial \mathbf{z}} \mathbf{x}^\top + \lambda \mathbf{W}^{(1)}.", D2L, "proved"),
    "d2l, the space of a side": (perceptron, r"\frac{\partial J}{\partial \mathbf{o}} = \mathbf o - \mathbf y \in \mathbb{R}^q \text{ and } \frac{\partial J}{\partial W_2} = \frac{\partial J}{\partial o} h^\top + \lambda W_2", D2L, "proved"),
    "d2l, through time, W_qh": (linear_recurrent, STEP + r"\frac{\partial L}{\partial \mathbf{W}_{qh}} = \sum_{t=1}^T \frac{\partial L}{\partial \mathbf{o}_t} \mathbf{h}_t^\top.", {}, "proved"),
    "d2l, through time, W_hx and W_hh": (linear_recurrent, STEP + r"\frac{\partial L}{\partial \mathbf{h}_t} = \mathbf{W}_{hh}^\top \frac{\partial L}{\partial \mathbf{h}_{t+1}} + \mathbf{W}_{qh}^\top \frac{\partial L}{\partial \mathbf{o}_t}. \\ \frac{\partial L}{\partial \mathbf{W}_{hx}} = \sum_{t=1}^T \frac{\partial L}{\partial \mathbf{h}_t} \mathbf{x}_t^\top,\\ \frac{\partial L}{\partial \mathbf{W}_{hh}} = \sum_{t=1}^T \frac{\partial L}{\partial \mathbf{h}_t} \mathbf{h}_{t-1}^\top.", {}, "agrees"),
    "CS231n, softmax": (scores, r"p_k = \frac{e^{f_k}}{ \sum_j e^{f_j} } \\ \frac{\partial L_i }{ \partial f_k } = p_k - \mathbb{1}(y_i = k) \\ \frac{\partial L_i}{\partial w} = \frac{\partial L_i}{\partial f} x^T", CS, "proved"),
    "CS231n, hinge, all rows": (lambda: scores(True), r"m_j = \mathbb{1}(w_j^T x - w_y^T x + 1 > 0) \\ \nabla_{w_k} L = (\mathbb{1}(k \neq y) m_k - \mathbb{1}(k = y) \sum_{j \neq y} m_j) x", {}, "proved"),
    "CS231n, hinge, as for the other rows": (lambda: scores(True), r"\nabla_{w_j} L_i = \mathbb{1}(w_j^Tx_i - w_{y_i}^Tx_i + 1 > 0) x_i", CS, "wrong"),
    "Ioffe & Szegedy": (batch_norm, YI + r"""\frac{\partial \ell}{\partial \hat{x}_i} = \frac{\partial \ell}{\partial y_i} \cdot \gamma \\
\frac{\partial \ell}{\partial \sigma_B^2} = \sum_{i=1}^m \frac{\partial \ell}{\partial \hat{x}_i} \cdot (x_i - \mu_B) \cdot \frac{-1}{2} (\sigma_B^2 + 0.001)^{-3/2} \\
\frac{\partial \ell}{\partial \mu_B} = \left( \sum_{i=1}^m \frac{\partial \ell}{\partial \hat{x}_i} \cdot \frac{-1}{\sqrt{\sigma_B^2 + 0.001}} \right) + \frac{\partial \ell}{\partial \sigma_B^2} \cdot \frac{\sum_{i=1}^m -2(x_i - \mu_B)}{m} \\
\frac{\partial \ell}{\partial x_i} = \frac{\partial \ell}{\partial \hat{x}_i} \cdot \frac{1}{\sqrt{\sigma_B^2 + 0.001}} + \frac{\partial \ell}{\partial \sigma_B^2} \cdot \frac{2(x_i - \mu_B)}{m} + \frac{\partial \ell}{\partial \mu_B} \cdot \frac{1}{m}""", NORM, "agrees"),
    "Ioffe & Szegedy, γ and β": (batch_norm, YI + r"\frac{\partial \ell}{\partial \gamma} = \sum_{i=1}^m \frac{\partial \ell}{\partial y_i} \cdot \hat{x}_i \\ \frac{\partial \ell}{\partial \beta} = \sum_{i=1}^m \frac{\partial \ell}{\partial y_i}", NORM, "proved"),
    "batch norm with matrices": (nets.batch_norm, r"g = (y - t) \operatorname{diag}(\gamma) \\ \nabla_x L = \frac{1}{N} \left(N g - \mathbf{1}\mathbf{1}^\top g - \hat x \operatorname{diag}((g \odot \hat x)^\top \mathbf{1})\right) \operatorname{diag}((v + 0.001)^{-1/2})", {}, "proved"),
    "Parr & Howard, w by cases": (neuron, r"\frac{\partial C}{\partial \mathbf{w}} = \frac{1}{N}\sum_{i=1}^N \begin{cases} \vec{0}^T & \mathbf{w}\cdot\mathbf{x}_i + b \leq 0 \\ -2 (y_i - (\mathbf{w}\cdot\mathbf{x}_i + b)) \mathbf{x}_i^T & \mathbf{w}\cdot\mathbf{x}_i + b > 0 \end{cases}", {"C": "L"}, "proved"),
    "Parr & Howard, b by errors": (neuron, r"e_i = \max(0, \mathbf{w}\cdot\mathbf{x}_i + b) - y_i \\ \frac{\partial C}{\partial b} = \frac{2}{N} \sum_{i=1}^N \mathbb{1}[\mathbf{w}\cdot\mathbf{x}_i + b > 0] e_i", {"C": "L"}, "proved"),
    "Parr & Howard, the error without max": (neuron, r"e_i = \mathbf{w}\cdot\mathbf{x}_i + b - y_i \\ \frac{\partial C}{\partial \mathbf{w}} = \frac{2}{N}\sum_{i=1}^N e_i \mathbf{x}_i^T", {"C": "L"}, "wrong"),
    "Goodfellow, c and b": (recurrent, BACK + r"\nabla_c L = \sum_t \nabla_{o^{(t)}} L \\ \nabla_b L = \sum_t " + SLOPE, {}, "agrees"),
    "Goodfellow, V": (recurrent, SOFT + r"(\nabla_{o^{(t)}} L)_i = \hat y^{(t)}_i - \mathbf{1}_{i = y^{(t)}} \\ \nabla_V L = \sum_t (\nabla_{o^{(t)}} L) {h^{(t)}}^\top", {}, "agrees"),
    "Goodfellow, W": (recurrent, BACK + r"\nabla_W L = \sum_t " + SLOPE + r" {h^{(t-1)}}^\top", {}, "agrees"),
    "Goodfellow, U": (recurrent, BACK + r"\nabla_U L = \sum_t " + SLOPE + r" {x^{(t)}}^\top", {}, "agrees"),
    "Nielsen, BP1 to BP4": (nets.sample, r"\nabla_{z^{(2)}} C = z^{(2)} - y \\ \delta^{(2)} = \nabla_{z^{(2)}} C \\ \delta^{(1)} = ((W^{(2)})^T \delta^{(2)}) \odot \tanh'(z^{(1)}) \\ \frac{\partial C}{\partial b^{(1)}_j} = \delta^{(1)}_j \\ \frac{\partial C}{\partial W^{(1)}_{jk}} = x_k \delta^{(1)}_j \\ \frac{\partial C}{\partial W^{(2)}_{jk}} = a^{(1)}_k \delta^{(2)}_j", {"C": "L"}, "proved"),
    "an element of a transpose": (nets.sample, r"\delta_j = (1 - (a^{(1)}_j)^2) \sum_k W^{(2)\top}_{jk} (z^{(2)}_k - y_k) \\ \frac{\partial L}{\partial W^{(1)}_{ji}} = \delta_j x_i", {}, "proved"),
    "FlashAttention": (nets.attention, r"dO = O - R \\ D_i = \operatorname{rowsum}(dO \circ O)_i \\ dV = P^\top dO \\ dP = dO V^\top \\ dS_{ij} = P_{ij} (dP_{ij} - D_i) \\ dQ = \tfrac{1}{\sqrt{4}} dS K \\ dK = \tfrac12 dS^\top Q", {}, "agrees"),
    "Cookbook 70": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sum(a[i] * X[i, j] * b[j], i, j)), r"\frac{\partial L}{\partial X} = a b^T", {}, "proved"),
    "Cookbook 100": (TR, r"\frac{\partial L}{\partial X} = B^T", {}, "proved"),
    "Cookbook 111": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sum(X[i, j] * S[j, k] * X[i, k], i, j, k)), r"\frac{\partial L}{\partial X} = X S^T + X S", {}, "proved"),
    "Cookbook 115": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sum(X[i, j] ** 2, i, j)), r"\frac{\partial L}{\partial X} = 2X", {}, "proved"),
    "Cookbook 129": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sqrt(dr.sum((dr.sum(X[i, j] * b[j], j) - a[i]) ** 2, i))), r"\frac{\partial L}{\partial X} = \frac{X b - a}{\|X b - a\|_2} b^T", {}, "proved"),
    "a trace as a factor": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sum(X[i, j] * B[j, i], i, j) ** 2 / 2), r"\frac{\partial L}{\partial X} = \operatorname{Tr}(X B) B^T", {}, "proved"),
    "a norm of entries": (matrix(lambda X, B, S, a, b, i, j, k, m: dr.sqrt(dr.sum(X[i, j] ** 2, i, j))), r"\frac{\partial L}{\partial X} = \frac{X}{\|X\|_F}", {}, "proved"),
    "⋆ and ∗": (maps, rf"\frac{{\partial L}}{{\partial K}} = x \star {DELTA} \\ \frac{{\partial L}}{{\partial x}} = {DELTA} \ast K", {}, "agrees"),
    "the kernel on the left": (maps, rf"\frac{{\partial L}}{{\partial x}} = K \ast {DELTA}", {}, "agrees"),
    "rotated, and said to be full": (maps, rf"\frac{{\partial L}}{{\partial x}} = {DELTA} \overset{{\text{{full}}}}{{\star}} \operatorname{{rot}}_{{180}}(K)", {}, "agrees"),
    "a valid one of its own": (maps, r"g = x \star_{\text{valid}} K \\ \frac{\partial L}{\partial K} = x \star (g - T)", {}, "proved"),
    "channels by indices": (channels, r"\frac{\partial L}{\partial K_{oc}} = \sum_b X_{bc} \star (y_{bo} - T_{bo}) \\ \frac{\partial L}{\partial X_{bc}} = \sum_o (y_{bo} - T_{bo}) ∗ K_{oc}", {}, "proved"),
    "the kernel not turned": (maps, rf"\frac{{\partial L}}{{\partial x}} = {DELTA} \star K", {}, "wrong"),
    "turned where it should not be": (maps, rf"\frac{{\partial L}}{{\partial K}} = x \ast {DELTA}", {}, "wrong"),
    "⊘": (nets.ridge, r"\nabla_w L = A^\top (r \odot y \oslash y) + 3 w", {}, "proved"),
    "one over each entry": (nets.ridge, r"\nabla_w L = A^\top (r \odot y \odot y^{\odot -1}) + 3 w^{\circ(-1)} \odot w \odot w", {}, "proved"),
    "the inverse of a diagonal": (nets.ridge, r"\nabla_w L = A^\top \operatorname{diag}(y)^{-1} \operatorname{diag}(y) (A w - y) + 3 w", {}, "proved"),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], dr.Network], str, dict[str, Any], str, str]] = {
    "d2l, prod": (perceptron, OUT + r"\frac{\partial J}{\partial W_2} = \text{prod}\left(\frac{\partial J}{\partial o}, \frac{\partial o}{\partial W_2}\right) + \lambda W_2", D2L, "prod hides which factor is transposed", r"\text{prod}"),
    "d2l, the regulariser's own": (perceptron, r"\frac{\partial s}{\partial W_2} = \lambda W_2", D2L, "s is not the loss", r"\frac"),
    "d2l, powers of W_hh": (linear_recurrent, STEP + r"\frac{\partial L}{\partial h_t} = \sum_{i=t}^T {\left(W_{hh}^\top\right)}^{T-i} W_{qh}^\top \frac{\partial L}{\partial o_{T+t-i}} \\ \frac{\partial L}{\partial W_{hx}} = \sum_{t=1}^T \frac{\partial L}{\partial h_t} x_t^\top", {}, "two readings", "T-i"),
    "CS231n, the label's row": (lambda: scores(True), r"\nabla_{w_{y_i}} L_i = - \left( \sum_{j\neq y_i} \mathbb{1}(w_j^Tx_i - w_{y_i}^Tx_i + 1 > 0) \right) x_i", CS, "the label y stands as an index", "y_i}}"),
    "Cookbook 115, ∂ of what it is": (TR, r"\frac{\partial \operatorname{Tr}(XB)}{\partial X} = B^T", {}, "the loss by its name", r"\frac"),
    "Cookbook 124, an inverse": (TR, r"\frac{\partial L}{\partial X} = (X^{-1} B^T X^{-1})^T", {}, "no inverse of a matrix", "-1"),
    "Cookbook 49, a determinant": (TR, r"\frac{\partial L}{\partial X} = \det(X) B^T", {}, "det is not read", r"\det"),
    "a ⋆ of unknown extent": (maps, r"g = x \star K \\ \frac{\partial L}{\partial K} = x \star (g - T)", {}, r"\star_{\text{full}}", r"x \star K"),
}  # fmt: skip
