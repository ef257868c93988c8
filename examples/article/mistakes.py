"""The mistakes of the article that this project grew from, each by itself, as functions.

Every function is our own NumPy code for the mathematics of one section: right but for one mistake,
or, in ``section_3_2`` and ``section_4_2``, with those of the section together. The article leaves
the widths open; where a formula of it fits in shape only if layers are alike, they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import derive as dr


def regression() -> dr.Network:
    """Two layers of the same width and a mean squared error, as in section 3.2."""
    net = dr.Network("section 3.2")
    x, t = net.input("x", "B", 3), net.input("t", "B", 3)
    net.loss(dr.mean_squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 3), t))
    return net


def layered() -> dr.Network:
    """Two sigmoid layers and the mean of ½‖y - t‖² over N samples, as in section 4.2."""
    net = dr.Network("section 4.2")
    x, t = net.input("x", "N", 3), net.input("t", "N", 2)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 2, dr.sigmoid), t))
    return net


def classifier() -> dr.Network:
    """One input, three sigmoid units, one sigmoid output and ½(y - t)², as in section 4.3."""
    net = dr.Network("section 4.3")
    x, t = net.input("x", "N", 1), net.input("t", "N", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    return net


def logistic() -> dr.Network:
    """Logistic regression on logits, which section 5.2 means."""
    net = dr.Network("section 5.2")
    x, t = net.input("x", "N", 3), net.input("t", "N", 1)
    net.loss(dr.binary_cross_entropy(dr.dense(x, 1), t))
    return net


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# -- section 3.2: the function `backward` -----------------------------------------------------
def loss_for_its_derivative(x, t, W1, c1, W2, c2):
    """`dY = error * …`: the loss itself is sent back, where 2 (y - t)/(elements of y) belongs."""
    h = sigmoid(x @ W1 + c1)
    y = h @ W2 + c2
    dy = np.full(y.shape, np.mean((y - t) ** 2))
    dz = (dy @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ dy, "c2": dy.sum(axis=0)}


def activation_forgotten(x, t, W1, c1, W2, c2):
    """`(1 if j < len(weights) - 1 else 1)`: 1 also where the derivative of sigmoid belongs."""
    h = sigmoid(x @ W1 + c1)
    dy = 2 * (h @ W2 + c2 - t) / t.size
    dz = (dy @ W2.T) * 1
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ dy, "c2": dy.sum(axis=0)}


def not_sent_back(x, t, W1, c1, W2, c2):
    """`dH[j - 1]` is computed and read nowhere: every layer starts from the output's error."""
    h = sigmoid(x @ W1 + c1)
    dy = 2 * (h @ W2 + c2 - t) / t.size
    dh = dy
    dz = dh * h * (1 - h)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0), "W2": h.T @ dy, "c2": dy.sum(axis=0)}


def learning_rate_inside(x, t, W1, c1, W2, c2):
    """`… * learning_rate`: a step, which is then never taken, stands where a gradient belongs."""
    learning_rate = 0.01
    h = sigmoid(x @ W1 + c1)
    dy = 2 * (h @ W2 + c2 - t) / t.size
    dz = (dy @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz * learning_rate, "c1": dz.sum(axis=0) * learning_rate,
            "W2": h.T @ dy * learning_rate, "c2": dy.sum(axis=0) * learning_rate}


def bias_averaged(x, t, W1, c1, W2, c2):
    """`np.mean(dY, axis=0)`: the loss is a mean already, over the batch belongs a sum."""
    h = sigmoid(x @ W1 + c1)
    dy = 2 * (h @ W2 + c2 - t) / t.size
    dz = (dy @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz, "c1": np.mean(dz, axis=0), "W2": h.T @ dy, "c2": np.mean(dy, axis=0)}


def overwritten(x, t, W1, c1, W2, c2):
    """`H[j - 1] = nonlinearity_derivative(H[j - 1])`: the layer's input is overwritten by a
    derivative before the weights' gradient reads it, and what is sent back lacks that factor."""
    H = [x, sigmoid(x @ W1 + c1)]
    dy = 2 * (H[1] @ W2 + c2 - t) / t.size
    dW2 = H[1].T @ dy
    dz = (dy @ W2.T) * H[1] * (1 - H[1])
    H[0] = H[0] * (1 - H[0])
    return {"W1": H[0].T @ dz, "c1": dz.sum(axis=0), "W2": dW2, "c2": dy.sum(axis=0)}


def own_output(x, t, W1, c1, W2, c2):
    """`np.dot(H[j].T, dY)`: if `H[j - 1]` is what layer j reads, as below it, `H[j]` is what it
    computes, and the gradient of its weights needs what it reads."""
    h = sigmoid(x @ W1 + c1)
    y = h @ W2 + c2
    dy = 2 * (y - t) / t.size
    dz = (dy @ W2.T) * h * (1 - h)
    return {"W1": h.T @ dz, "c1": dz.sum(axis=0), "W2": y.T @ dy, "c2": dy.sum(axis=0)}


def section_3_2(x, t, W1, c1, W2, c2):
    """Its loop as it stands, with lists for the layers."""
    learning_rate = 0.01
    H = [x, sigmoid(x @ W1 + c1)]
    error = np.mean((H[1] @ W2 + c2 - t) ** 2)
    dweights, dbiases = [W1, W2], [c1, c2]
    for j in (1, 0):
        dY = np.full(t.shape, error)
        dweights[j] = np.dot(H[j].T, dY) * learning_rate
        dbiases[j] = np.mean(dY, axis=0) * learning_rate
        if j > 0:
            H[j - 1] = H[j - 1] * (1 - H[j - 1])
    return dweights[0], dbiases[0], dweights[1], dbiases[1]


# -- section 4.2: the formulas ------------------------------------------------------------------
def layer_skipped(x, t, W1, c1, W2, c2):
    """`h_i = g(Σ_{j=1}^{i-1} w_{i,j} h_{j-1} + b_i)`: the sum ends at h_{i-2}, so that a layer
    does not read the one before it: the second reads h_0, which is x."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(x @ W2 + c2)
    dz2 = (y - t) * y * (1 - y) / len(x)
    dz1 = (dz2 @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz1, "c1": dz1.sum(axis=0), "W2": h.T @ dz2, "c2": dz2.sum(axis=0)}


def empty_sum(x, t, W1, c1, W2, c2):
    """The same sum for the first layer is empty: h_1 = g(b_1) reads no input."""
    h = sigmoid(np.zeros(x.shape) @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    dz2 = (y - t) * y * (1 - y) / len(x)
    dz1 = (dz2 @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz1, "c1": dz1.sum(axis=0), "W2": h.T @ dz2, "c2": dz2.sum(axis=0)}


def mean_lost(x, t, W1, c1, W2, c2):
    """`g_i = ∂L/∂h_i` where J = (1/N) Σ L is minimised."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    dz2 = (y - t) * y * (1 - y)
    dz1 = (dz2 @ W2.T) * h * (1 - h)
    return {"W1": x.T @ dz1, "c1": dz1.sum(axis=0), "W2": h.T @ dz2, "c2": dz2.sum(axis=0)}


def differentiated_twice(x, t, W1, c1, W2, c2):
    """`w_{i,j} ← w_{i,j} - η ∂g_i/∂w_{i,j}` with g_i = ∂L/∂h_i: the loss is differentiated twice.
    (Of ∂g_i/∂w_i, which has an index more than w_i, each unit's own part is taken.)"""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    slope = y * (1 - y)
    second_by_y = 1 / len(x)
    dz2 = second_by_y * slope
    second_by_h = ((slope**2 + (y - t) * slope * (1 - 2 * y)) / len(x)) @ (W2**2).T
    dz1 = second_by_h * h * (1 - h)
    return {"W1": x.T @ dz1, "c1": dz1.sum(axis=0), "W2": h.T @ dz2, "c2": dz2.sum(axis=0)}


def section_4_2(x, t, W1, c1, W2, c2):
    """The loss of one sample, differentiated twice."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    slope = y * (1 - y)
    dz2 = slope
    dz1 = ((slope**2 + (y - t) * slope * (1 - 2 * y)) @ (W2**2).T) * h * (1 - h)
    return {"W1": x.T @ dz1, "c1": dz1.sum(axis=0), "W2": h.T @ dz2, "c2": dz2.sum(axis=0)}


# -- section 4.3: the worked example --------------------------------------------------------------
def output_derivative_forgotten(x, t, W1, c1, W2, c2):
    """`g_2 = h_2 - y` is the derivative by h_2; σ'(z_2) is nowhere."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) / len(x)
    g1 = (g2 @ W2.T) * h * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def half_a_derivative(x, t, W1, c1, W2, c2):
    """`g_2 · (1 - h_1) · …`: sigmoid's derivative is h_1 (1 - h_1)."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) * y * (1 - y) / len(x)
    g1 = (g2 @ W2.T) * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def wrong_weights(x, t, W1, c1, W2, c2):
    """`… · w_1ᵀ`: what comes back from the output comes through w_2."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) * y * (1 - y) / len(x)
    g1 = (g2 @ W1) * h * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def adjoint_differentiated(x, t, W1, c1, W2, c2):
    """`g_1 = ∂g_2/∂h_1 · …`: the adjoint g_2 is differentiated, where it is to be multiplied."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) * y * (1 - y) / len(x)
    g1 = (y * (1 - y) / len(x) @ W2.T) * h * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def output_for_input(x, t, W1, c1, W2, c2):
    """`w_1 ← w_1 - η g_1 h_1ᵀ`: the layer's own output stands where its input x belongs. (Their
    product has an index more than w_1, of which each unit's own part is taken.)"""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) * y * (1 - y) / len(x)
    g1 = (g2 @ W2.T) * h * (1 - h)
    dW1 = np.sum(h * g1, axis=0, keepdims=True)
    return {"W1": dW1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def mean_forgotten(x, t, W1, c1, W2, c2):
    """Of J = (1/N) Σ L, its 1/N is in no gradient."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = (y - t) * y * (1 - y)
    g1 = (g2 @ W2.T) * h * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def output_layer_left_out(x, t, W1, c1, W2, c2):
    """Only w_1 and b_1 are updated: w_2 and b_2 have no gradient."""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g1 = ((y - t) * y * (1 - y) / len(x) @ W2.T) * h * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0)}


# -- section 5.2: the code ------------------------------------------------------------------------
def sigmoid_twice(x, t, W1, c1):
    """A loss that takes logits is given what `forward` has put through sigmoid already."""
    p = sigmoid(x @ W1 + c1)
    dz = (sigmoid(p) - t) * p * (1 - p) / len(x)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


def labels_without_axis(x, t, W1, c1):
    """`y = np.array([0, 1, 0])` beside predictions of shape (3, 1): every one meets every label."""
    dz = (sigmoid(x @ W1 + c1) - t[:, 0]) / len(x)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


def optimizer_undefined(x, t, W1, c1):
    """`optimizer` is defined nowhere."""
    dz = (sigmoid(x @ W1 + c1) - t) / len(x)
    optimizer.apply_gradients(dz)  # noqa: F821
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


@dataclass(frozen=True)
class Mistake:
    """One mistake: what the report must say of each gradient that it makes wrong, and what it must
    print as right: a formula, or the line as it should be. ``REFUSED``: what is handed in is no
    gradient, and the error says so."""

    network: Callable[[], dr.Network]
    hand: Callable[..., object]
    wrong: tuple[str, ...]
    said: str
    right: str


REFUSED = ("refused",)
ALL = ("W1", "c1", "W2", "c2")
OUTPUT = "_d_z2[n, k] = h2[n, k] * (1 - h2[n, k]) * _d_h2[n, k]"
HIDDEN = "_d_z1[n, j] = h1[n, j] * (1 - h1[n, j]) * _d_h1[n, j]"

MISTAKES = [
    Mistake(regression, loss_for_its_derivative, ALL,
            "the value of the loss stands where a derivative belongs",
            "_d_z2[b, k] = 2 * (z2[b, k] - t[b, k])/(3 * B)"),
    Mistake(regression, activation_forgotten, ("W1", "c1"),
            "the factor h1[b, j] * (1 - h1[b, j]) is missing",
            "_d_z1[b, j] = h1[b, j] * (1 - h1[b, j]) * _d_h1[b, j]"),
    Mistake(regression, not_sent_back, ("W1", "c1"),
            "_d_z2[b, j] stands where _d_h1[b, j] belongs", "_d_z1 = h1 * (1 - h1) * _d_h1"),
    Mistake(regression, learning_rate_inside, ALL, "the factor learning_rate = 0.01 is too much",
            "`learning_rate` belongs in the step that is taken, not in the gradient"),
    Mistake(regression, bias_averaged, ("c1", "c2"), "sum belongs where mean stands", "np.sum("),
    Mistake(regression, overwritten, ("W1",), "this line is too much",
            "_d_W1[i, j] = sum over b of ( x[b, i] * _d_z1[b, j] )"),
    Mistake(regression, own_output, ("W1", "W2"), "belongs",
            "mended  return {\"W1\": "),
    Mistake(regression, section_3_2, ("W2", "c2"),
            "the value of the loss stands where a derivative belongs; and the factor "
            "learning_rate = 0.01 is too much", "_d_z2 = 2/(3 * B) * (z2 - t)"),
    Mistake(layered, layer_skipped, ALL, "`x`: h belongs where x stands",
            "y = sigmoid(h @ W2 + c2)"),
    Mistake(layered, empty_sum, ALL, "x belongs", "h = sigmoid(x @ W1 + c1)"),
    Mistake(layered, mean_lost, ALL, "it is too large by the factor N (1/N is missing)",
            "dz2 = (y - t) * y * (1 - y) / len(x)"),
    Mistake(layered, differentiated_twice, ("W1", "c1"),
            "its second derivative by h1[n, j] stands where its first belongs",
            "_d_h1[n, j] = sum over k of ( _d_z2[n, k] * W2[j, k] )"),
    Mistake(layered, differentiated_twice, ("W2", "c2"), "the factor h2[n, k] - t[n, k] is missing",
            "_d_h2[n, k] = (h2[n, k] - t[n, k])/N"),
    Mistake(layered, section_4_2, ("W1", "c1"),
            "stands where its first belongs; and it is too large by the factor N",
            "_d_h1 = _d_z2 @ W2.T"),
    Mistake(layered, section_4_2, ("W2", "c2"), "the factor _d_h2[n, k] is missing", OUTPUT),
    Mistake(classifier, output_derivative_forgotten, ALL,
            "the factor h2[n, k] * (1 - h2[n, k]) is missing", OUTPUT),
    Mistake(classifier, half_a_derivative, ("W1", "c1"), "the factor h1[n, j] is missing", HIDDEN),
    Mistake(classifier, wrong_weights, ("W1", "c1"), "W2.T belongs where W1 stands",
            "g1 = (g2 @ W2.T) * h * (1 - h)"),
    Mistake(classifier, adjoint_differentiated, ("W1", "c1"),
            "the factor h2[n, k] - t[n, k] is missing", "g1 = (g2 @ W2.T) * h * (1 - h)"),
    Mistake(classifier, output_for_input, ("W1",), "`h`: x belongs where h stands",
            "dW1 = np.sum(x * g1, axis=0, keepdims=True)"),
    Mistake(classifier, mean_forgotten, ALL, "it is too large by the factor N (1/N is missing)",
            "g2 = (y - t) * y * (1 - y) / len(x)"),
    Mistake(classifier, output_layer_left_out, REFUSED, "returns no gradient of 'W2'",
            "expected: W1, c1, W2, c2"),
    Mistake(logistic, sigmoid_twice, ("W1", "c1"), "sigmoid is applied to z1 once more in the loss",
            "_d_z1 = (sigmoid(z1) - t)/N"),
    Mistake(logistic, labels_without_axis, REFUSED, "has another shape",
            "sum over the axes along which it was broadcast"),
    Mistake(logistic, optimizer_undefined, REFUSED, "name 'optimizer' is not defined",
            "optimizer.apply_gradients(dz)"),
]
