"""Mistakes of the article that this project grew from, handed to `verify`, one by one.

Each function below is our own NumPy code for the mathematics of one section, its mistakes kept.
Where a section's formula does not even have the shape of a gradient, the nearest one that has it
is handed in, and its docstring says so. The report names each mistake, also where several lie on
one path: the value of the loss for its derivative, a forgotten σ', a sigmoid taken twice.

At the end the article's claim that back-propagation costs exponentially much with depth is settled
by counting and by measuring (`depth.py`).

python examples/article/main.py
"""

import depth
import numpy as np

import derive as dr


def regression() -> dr.Network:
    """One sigmoid layer, a linear output and a mean squared error, as in section 3.2."""
    net = dr.Network("section 3.2")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.mean_squared_error(dr.dense(dr.dense(x, 4, dr.sigmoid), 2), t))
    return net


def one_hidden_layer() -> dr.Network:
    """Three sigmoid units, one sigmoid output and ½(y - t)², as in section 4.3."""
    net = dr.Network("section 4.3")
    x, t = net.input("x", "B", 3), net.input("t", "B", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    return net


def logistic() -> dr.Network:
    """Logistic regression on logits, which section 5.2 means."""
    net = dr.Network("section 5.2")
    x, t = net.input("x", "B", 3), net.input("t", "B", 1)
    net.loss(dr.binary_cross_entropy(dr.dense(x, 1), t))
    return net


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def section_3_2(x, t, W1, c1, W2, c2):
    """The value of the loss is sent back where its derivative belongs; without an activation
    derivative on the way; biases are averaged over the batch."""
    h = sigmoid(x @ W1 + c1)
    value = np.mean((h @ W2 + c2 - t) ** 2)
    dy = np.full(t.shape, value)
    dh = dy @ W2.T
    return {"W1": x.T @ dh, "c1": dh.mean(axis=0), "W2": h.T @ dy, "c2": dy.mean(axis=0)}


def section_4_2(x, t, W1, c1, W2, c2):
    """g_i is the derivative of the loss by the layer's output, and the weights are updated by the
    derivative of g_i: the loss is differentiated twice, where once belongs, and the mean over N
    is lost. (Of ∂g_i/∂w_i, which has an index more than w_i, each unit's own part is taken.)"""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = y - t
    slope = y * (1 - y)
    dg2 = slope  # the derivative of g2 by h @ W2 + c2: g2 itself is no longer in it
    dg1 = h * (1 - h) * ((slope**2 + g2 * slope * (1 - 2 * y)) @ (W2**2).T)
    return {"W1": x.T @ dg1, "c1": dg1.sum(axis=0), "W2": h.T @ dg2, "c2": dg2.sum(axis=0)}


def section_4_3(x, t, W1, c1, W2, c2):
    """The output's activation derivative is forgotten, the hidden one lacks its factor h. (The
    article multiplies by w1 where w2 belongs and by h1 where x does: neither fits in shape.)"""
    h = sigmoid(x @ W1 + c1)
    y = sigmoid(h @ W2 + c2)
    g2 = y - t
    g1 = (g2 @ W2.T) * (1 - h)
    return {"W1": x.T @ g1, "c1": g1.sum(axis=0), "W2": h.T @ g2, "c2": g2.sum(axis=0)}


def section_5_2(x, t, W1, c1):
    """A loss that takes logits is given probabilities, so that the sigmoid is taken twice."""
    p = sigmoid(x @ W1 + c1)
    dz = (sigmoid(p) - t) * p * (1 - p) / len(x)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


OUTPUT = ("W2", "c2")  # below, the second derivative of section 4.2 is no single change
CASES = [
    (regression, section_3_2, "the value of the loss stands where a derivative belongs"),
    (one_hidden_layer, section_4_2, "the factor _d_h2[b, k] is missing"),
    (one_hidden_layer, section_4_3, "the factor h2[b, k] * (1 - h2[b, k]) is missing"),
    (logistic, section_5_2, "sigmoid is applied to z1 once more in the loss"),
]


def main() -> None:
    for network, hand, mistake in CASES:
        report = dr.verify(network(), hand)
        print(f"{hand.__name__}: {' '.join(hand.__doc__.split())}\n\n{report}\n")
        assert report.verdict == "wrong"
        assert all(mistake in finding.words for finding in report.findings
                   if hand is not section_4_2 or finding.parameter in OUTPUT)
    depth.main()


if __name__ == "__main__":
    main()
