"""One wrong gradient for every mistake that people make by hand: what the report names."""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from derive.verify import VerifyReport, verify

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import mutations

NETWORKS = {}
TEXTS = {}


def network(text: str):
    def register(make):
        NETWORKS[make.__name__], TEXTS[make.__name__] = make, text.strip("\n") + "\n"
        return make

    return register


@network("""
def backward(x, t, W1, c1, W2, c2, W3, c3):
    n = len(x)
    z1 = x @ W1 + c1
    h1 = np.tanh(z1)
    z2 = h1 @ W2 + c2
    h2 = np.tanh(z2)
    z3 = h2 @ W3 + c3
    p = softmax(z3)
    y = np.eye(2)[t]
    d3 = (p - y) / n
    d2 = (d3 @ W3.T) * (1 - h2**2)
    d1 = (d2 @ W2.T) * (1 - h1**2)
    dW1 = x.T @ d1
    dc1 = d1.sum(axis=0)
    dW2 = h1.T @ d2
    dc2 = d2.sum(axis=0)
    dW3 = h2.T @ d3
    dc3 = d3.sum(axis=0)
    return {"W1": dW1, "c1": dc1, "W2": dW2, "c2": dc2, "W3": dW3, "c3": dc3}

def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
""")
def layers() -> dr.Network:
    net = dr.Network("three layers")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    h = dr.dense(dr.dense(x, 3, dr.tanh), 3, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 2), t))
    return net


@network("""
def backward(x, t, W1, c1):
    z = x @ W1 + c1
    e = np.exp(z)
    p = e / e.sum(axis=1, keepdims=True)
    y = np.eye(3)[t]
    dp = -y / p / len(x)
    jacobian = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    dz = np.einsum("bk,bkl->bl", dp, jacobian)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}
""")
def jacobian() -> dr.Network:
    net = dr.Network("softmax by its Jacobian")
    x, t = net.input("x", "B", 2), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 3), t))
    return net


@network("""
def backward(x, t, W1, c1, W2, c2):
    h = sigmoid(x @ W1 + c1)
    u = x + h @ W2 + c2
    du = (u - t) / 4
    dh = du @ W2.T
    dz = dh * h * (1 - h)
    return {"W1": x.T @ dz + 0.1 * W1, "c1": dz.sum(axis=0), "W2": h.T @ du, "c2": du.sum(axis=0)}

def sigmoid(z):
    return 1 / (1 + np.exp(-z))
""")
def residual() -> dr.Network:
    """Four rows of four features: a sum over the wrong axis has the right shape."""
    net = dr.Network("a residual block with weight decay")
    x, t = net.input("x", 4, 4), net.input("t", 4, 4)
    h = dr.dense(x, 4, dr.sigmoid)
    y = dr.add(x, dr.dense(h, 4))
    net.loss(dr.squared_error(y, t) + 0.1 * dr.l2(net["W1"]))
    return net


@network("""
def backward(x, t, U1, c1, V1):
    n, steps = x.shape[:2]
    hs = [np.zeros((n, 2))]
    for k in range(steps):
        hs.append(np.tanh(x[:, k] @ U1 + hs[-1] @ V1 + c1))
    dU, dc, dV = np.zeros_like(U1), np.zeros_like(c1), np.zeros_like(V1)
    later = np.zeros((n, 2))
    for k in reversed(range(steps)):
        dh = (hs[k + 1] - t[:, k]) / (n * steps) + later
        dz = dh * (1 - hs[k + 1]**2)
        dU += x[:, k].T @ dz
        dV += hs[k].T @ dz
        dc += dz.sum(axis=0)
        later = dz @ V1.T
    return {"U1": dU, "c1": dc, "V1": dV}
""")
def recurrent() -> dr.Network:
    net = dr.Network("a recurrent network")
    x, t = net.input("x", "B", 3, 2), net.input("t", "B", 3, 2)
    net.loss(dr.squared_error(dr.elman(x, 2), t))
    return net


@network("""
def backward(x, t, W1):
    h = np.tanh(x @ W1)
    d2 = (h @ W1 - t) / len(x)
    d1 = (d2 @ W1.T) * (1 - h**2)
    return {"W1": x.T @ d1 + h.T @ d2}
""")
def tied() -> dr.Network:
    net = dr.Network("a weight that is used twice")
    x, t = net.input("x", "B", 3), net.input("t", "B", 3)
    h = dr.dense(x, 3, dr.tanh, bias=False)
    net.loss(dr.squared_error(dr.dense(h, 3, weight=net["W1"], bias=False), t))
    return net


@network("""
def backward(x, t, W1, g1, c1):
    z = x @ W1
    m = z.mean(axis=1, keepdims=True)
    s = 1 / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    v = (z - m) * s
    dy = (v * g1 + c1 - t) / len(x)
    dv = dy * g1
    by_mean = dv.mean(axis=1, keepdims=True)
    by_variance = v * (dv * v).mean(axis=1, keepdims=True)
    dz = s * (dv - by_mean - by_variance)
    return {"W1": x.T @ dz, "g1": (dy * v).sum(axis=0), "c1": dy.sum(axis=0)}
""")
def norm() -> dr.Network:
    net = dr.Network("layer norm")
    x, t = net.input("x", "B", 3), net.input("t", "B", 4)
    net.loss(dr.squared_error(dr.layer_norm(dr.dense(x, 4, bias=False)), t))
    return net


@network("""
def backward(x, t, K1, K2):
    xp = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    h = np.zeros((len(x), 2, 6))
    for q in range(6):
        h[:, :, q] = np.tanh(np.einsum("bcr,ocr->bo", xp[:, :, q:q + 3], K1))
    y = np.zeros((len(x), 1, 2))
    for q in range(2):
        y[:, :, q] = np.einsum("bcr,ocr->bo", h[:, :, 3 * q:3 * q + 3], K2)
    dy = (y - t) / len(x)
    dK2 = np.zeros_like(K2)
    dh = np.zeros_like(h)
    for q in range(2):
        dK2 += np.einsum("bo,bcr->ocr", dy[:, :, q], h[:, :, 3 * q:3 * q + 3])
        dh[:, :, 3 * q:3 * q + 3] += np.einsum("bo,ocr->bcr", dy[:, :, q], K2)
    dz = dh * (1 - h**2)
    dK1 = np.zeros_like(K1)
    for r in range(3):
        dK1[:, :, r] = np.einsum("boq,bcq->oc", dz, xp[:, :, r:r + 6])
    return {"K1": dK1, "K2": dK2}
""")
def convolution() -> dr.Network:
    net = dr.Network("two convolutions, the second with a stride")
    x, t = net.input("x", "B", 1, 6), net.input("t", "B", 1, 2)
    h = dr.conv1d(x, 2, 3, dr.tanh, padding=1, bias=False)
    net.loss(dr.squared_error(dr.conv1d(h, 1, 3, stride=3, bias=False), t))
    return net


@network("""
def backward(x, t, K1, K2):
    h = np.zeros((len(x), 1, 4))
    for q in range(4):
        h[:, :, q] = np.tanh(np.einsum("bcr,ocr->bo", x[:, :, q:q + 2], K1))
    y = np.zeros((len(x), 1, 3))
    for q in range(3):
        y[:, :, q] = np.einsum("bcr,ocr->bo", h[:, :, q:q + 2], K2)
    dy = (y - t) / len(x)
    dK2 = np.stack([np.einsum("boq,bcq->oc", dy, h[:, :, r:r + 3]) for r in range(2)], axis=2)
    padded = np.pad(dy, ((0, 0), (0, 0), (1, 1)))
    flipped = K2[:, :, ::-1]
    dh = np.zeros_like(h)
    for q in range(4):
        dh[:, :, q] = np.einsum("bor,ocr->bc", padded[:, :, q:q + 2], flipped)
    dz = dh * (1 - h**2)
    dK1 = np.stack([np.einsum("boq,bcq->oc", dz, x[:, :, r:r + 4]) for r in range(2)], axis=2)
    return {"K1": dK1, "K2": dK2}
""")
def flipped() -> dr.Network:
    net = dr.Network("two convolutions")
    x, t = net.input("x", "B", 1, 5), net.input("t", "B", 1, 3)
    h = dr.conv1d(x, 1, 2, dr.tanh, bias=False)
    net.loss(dr.squared_error(dr.conv1d(h, 1, 2, bias=False), t))
    return net


@dataclass(frozen=True)
class Cause:
    """A mistake: the line as it is right and as it was written; whose gradient is looked at, what
    is said of it, and the line with which the report says that the gradients are right ("": it has
    the right formula only). ``at``: the report cites the line of the mistake, and not another one
    that mends it as well."""

    name: str
    network: str
    right: str
    wrong: str
    parameter: str
    said: str
    mended: str = ""
    at: bool = True


SLOPE = "d2 = (d3 @ W3.T) * (1 - h2**2)"
SLOPE1 = "d1 = (d2 @ W2.T) * (1 - h1**2)"
CAUSES = [
    Cause("1/N is missing", "layers", "d3 = (p - y) / n", "d3 = (p - y)", "W3",
          "too large by the factor B (1/B is missing)", "d3 = ((p - y) / len(x))"),
    Cause("a factor 2", "layers", "dW2 = h1.T @ d2", "dW2 = 2 * h1.T @ d2", "W2",
          "the factor 2 is too much", "dW2 = h1.T @ d2"),
    Cause("a factor 1/2", "layers", "dW1 = x.T @ d1", "dW1 = x.T @ d1 / 2", "W1",
          "the division by 2 is too much", "dW1 = x.T @ d1"),
    Cause("a learning rate", "layers", "dW1 = x.T @ d1", "dW1 = 0.01 * x.T @ d1", "W1",
          "the factor 0.01 is too much", "dW1 = x.T @ d1"),
    Cause("the sign", "layers", "d3 = (p - y) / n", "d3 = -(p - y) / n", "c3", "its sign is wrong",
          "d3 = (p - y) / n"),
    Cause("a transposed product", "layers", "dW2 = h1.T @ d2", "dW2 = d2.T @ h1", "W2",
          "it is transposed", 'return {"W1": dW1, "c1": dc1, "W2": dW2.T, "c2": dc2, "W3": dW3, '
          '"c3": dc3}', at=False),
    Cause("swapped operands", "layers", "d3 = (p - y) / n", "d3 = (y - p) / n", "W3",
          "its sign is wrong", "d3 = -((y - p) / n)"),
    Cause("no derivative of the activation", "layers", SLOPE, "d2 = d3 @ W3.T", "c2",
          "the factor 1 - h2[b, k]**2 is missing", SLOPE),
    Cause("the derivative at the output", "layers", SLOPE1,
          "d1 = (d2 @ W2.T) * (1 - np.tanh(h1)**2)", "c1",
          "tanh is applied twice: to h1[b, j], which is its result", SLOPE1),
    Cause("the derivative of the wrong layer", "layers", SLOPE1, "d1 = (d2 @ W2.T) * (1 - h2**2)",
          "W1", "h2[b, j] stands where h1[b, j] belongs", SLOPE1),
    Cause("no sum over the batch", "layers", "dc2 = d2.sum(axis=0)", "dc2 = d2[0]", "c2",
          "with _d_c2[k] = sum over b of ( _d_z2[b, k] ) there, the gradients are right"),
    Cause("a mean for a sum", "layers", "dc1 = d1.sum(axis=0)", "dc1 = d1.mean(axis=0)", "c1",
          "sum belongs where mean stands", "dc1 = d1.sum(axis=0)"),
    Cause("a sum over the wrong axis", "residual", '"c2": du.sum(axis=0)', '"c2": du.sum(axis=1)',
          "c2", "0 belongs where 1 stands", 'return {"W1": x.T @ dz + 0.1 * W1, '
          '"c1": dz.sum(axis=0), "W2": h.T @ du, "c2": du.sum(axis=0)}'),
    Cause("a softmax without what is off its diagonal", "jacobian",
          "jacobian = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]",
          "jacobian = (p - p**2)[:, :, None] * np.eye(3)", "W1", "it should be _d_z1", at=False),
    Cause("softmax twice", "layers", "p = softmax(z3)", "p = softmax(softmax(z3))", "W3",
          "softmax is too much", "p = softmax(z3)"),
    Cause("sigmoid twice", "residual", "h = sigmoid(x @ W1 + c1)",
          "h = sigmoid(sigmoid(x @ W1 + c1))", "W2", "sigmoid is too much",
          "h = sigmoid(x @ W1 + c1)"),
    Cause("the loss for its derivative", "layers", "d3 = (p - y) / n",
          "d3 = -np.mean(np.log((p * y).sum(axis=1))) + 0 * p", "c3",
          "the value of the loss stands where a derivative belongs"),
    Cause("the path around a block", "residual", "u = x + h @ W2 + c2", "u = h @ W2 + c2", "c2",
          "the term x is missing", "du = (u - t + x) / 4", at=False),
    Cause("one use of a shared weight", "tied", "x.T @ d1 + h.T @ d2", "x.T @ d1", "W1",
          "the term sum over b of ( h1[b, i] * _d_z2[b, j] ) is missing"),
    Cause("the step of a recurrence", "recurrent", "/ (n * steps) + later", "/ (n * steps)", "U1",
          "the term later is missing", "dh = (hs[k + 1] - t[:, k]) / (n * steps) + later"),
    Cause("the path through a mean", "norm", "dz = s * (dv - by_mean - by_variance)",
          "dz = s * (dv - by_variance)", "W1", "the term _d_m1[b]/4 is missing",
          "by_variance = v * (dv * v).mean(axis=1, keepdims=True) + by_mean", at=False),
    Cause("the path through a variance", "norm", "dz = s * (dv - by_mean - by_variance)",
          "dz = s * (dv - by_mean)", "W1", "the term _d_v1[b] * (z1[b, j] - m1[b])/2 is missing",
          "dz = s * (dv - by_mean - by_variance)"),
    Cause("a shifted stride", "convolution",
          'dh[:, :, 3 * q:3 * q + 3] += np.einsum("bo,ocr->bcr", dy[:, :, q], K2)',
          'dh[:, :, 2 * q:2 * q + 3] += np.einsum("bo,ocr->bcr", dy[:, :, q], K2)', "K1",
          "p - 3*p1 < 3 of ( _d_y2[b, o1, p1] * K2[o1, o, p - 3*p1] ) there, the gradients are "),
    Cause("shifted padding", "convolution", "xp = np.pad(x, ((0, 0), (0, 0), (1, 1)))",
          "xp = np.pad(x, ((0, 0), (0, 0), (2, 0)))", "K1",
          "the first value that the derivation does not have"),
    Cause("a kernel that is not flipped", "flipped", "flipped = K2[:, :, ::-1]", "flipped = K2",
          "K1", "axis 2 runs the other way", at=False),
    Cause("an update before the use", "layers", SLOPE, f"W3 = W3 - 0.1 * h2.T @ d3; {SLOPE}", "W2",
          "the term 0.1 * h2.T @ d3 is too much", f"W3 = W3; {SLOPE}"),
    Cause("a regulariser", "residual", "x.T @ dz + 0.1 * W1", "x.T @ dz", "W1",
          "the term 0.1 * W1[j, k] is missing"),
]
WITHOUT_A_MATRIX_FORM = ("norm", "convolution", "flipped")  # that is as short as the index form


@pytest.fixture(scope="module", autouse=True)
def numbers_once():
    """The numeric truth of a network is computed once for all its mistakes."""
    before = mutations.checking.Slopes
    mutations.checking.Slopes = mutations.OnceSlopes
    yield
    mutations.checking.Slopes = before


def function(text: str):
    """The function of a text, which can be looked up as that of a file can."""
    name = f"<cause {hash(text)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space = {"np": np}
    exec(compile(text, name, "exec"), space)
    return space["backward"]


def report(cause: Cause) -> VerifyReport:
    text = TEXTS[cause.network]
    assert text.count(cause.right) == 1, cause
    return verify(NETWORKS[cause.network](), function(text.replace(cause.right, cause.wrong)),
                  seconds=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_the_mistake_the_gradient_is_right(name: str):
    assert verify(NETWORKS[name](), function(TEXTS[name]), seconds=0).ok


@pytest.mark.parametrize("cause", CAUSES, ids=[c.name for c in CAUSES])
def test_the_report_names(cause: Cause):
    text = TEXTS[cause.network].replace(cause.right, cause.wrong)
    found = report(cause)
    assert found.verdict == "wrong"
    finding = next(f for f in found.findings if f.parameter == cause.parameter)
    assert cause.said in str(finding), str(finding)
    assert finding.mended == cause.mended, str(finding)
    if cause.at:
        line = text[:text.index(cause.wrong)].count("\n") + 1
        assert finding.place.startswith(f"line {line}: "), str(finding)
    assert finding.formula.startswith("_d_")  # in both notations
    assert finding.matrix.startswith("_d_") or cause.network in WITHOUT_A_MATRIX_FORM, str(finding)


ELSEWHERE = [
    ("dW2 = (h1.T @ d2) * np.array([2, 1.5, 3])", "the ratio depends on k only: 2, 1.5, 3"),
    ("dW2 = (h1.T @ d2) * np.array([1, 1.5, 1])[:, None]",
     "3 of 9 entries differ: only those with j in {1}, 1.5 times the right ones"),
    ("dW2 = 1.37 * h1.T @ d2", "1.37 times the right gradient, everywhere"),
    ("dW2 = h1.T @ d2 + 1e-4 * np.cos(h1.T @ h1)", "9 of 9 entries differ"),
]


@pytest.mark.parametrize(("wrong", "pattern"), ELSEWHERE, ids=[p for _, p in ELSEWHERE])
def test_what_is_in_no_catalogue_has_a_ratio_and_a_pattern(wrong: str, pattern: str):
    cause = Cause("", "layers", "dW2 = h1.T @ d2", wrong, "W2", pattern)
    finding, = report(cause).findings
    assert finding.parameter == "W2" and pattern in finding.words, str(finding)
    assert f": {wrong}" in finding.place.splitlines()[0], str(finding)
    assert finding.formula == "_d_W2[j, k] = sum over b of ( h1[b, j] * _d_z2[b, k] )"
    assert finding.matrix == "_d_W2 = h1.T @ _d_z2"
