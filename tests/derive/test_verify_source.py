"""The text of a hand-written function as a tree: what is changed, what runs, what is left alone."""

from __future__ import annotations

import ast
import math

import numpy as np
import pytest

import derive as dr
from derive.verify import verify
from derive.verify.mend import _function_texts, cost
from derive.verify.source import NoText, Source


def helper(z):
    return 1 / (1 + np.exp(-z))


def outer(scale: float):
    def inner(x, n=2):
        h = helper(x)
        return scale * h / math.sqrt(n)

    return inner


def node(source: Source, text: str):
    return next(n for n in source.nodes() if ast.unparse(n.node) == text)


def test_a_changed_node_changes_a_copy_and_keeps_closure_and_defaults():
    function = outer(3.0)
    source = Source(function)
    changed = source.compiled(node(source, "scale * h"), ast.parse("scale + h", mode="eval").body)
    h = helper(0.5)
    assert changed(0.5) == (3.0 + h) / math.sqrt(2)
    assert changed(0.5, 5) == (3.0 + h) / math.sqrt(5)
    assert function(0.5) == 3.0 * h / math.sqrt(2)


def test_a_function_that_is_called_can_be_changed_as_well():
    source = Source(outer(1.0))
    assert set(source.functions) == {"inner", "helper"}
    changed = source.compiled(node(source, "-z"), ast.parse("z", mode="eval").body)
    assert changed(0.5, 1) == helper(-0.5)
    assert outer(1.0)(0.5, 1) == helper(0.5)


def test_names_are_those_of_the_function_that_a_node_is_in():
    source = Source(outer(1.0))
    assert node(source, "scale * h").names == ("x", "n", "h")
    assert node(source, "np.exp(-z)").names == ("z",)


def writes(x, W1):
    np.save("/nowhere/else", x)
    return x


def opens(x, W1):
    open("/nowhere/else")
    return x


def may_not_end(x, W1):
    while x.sum() > 0:
        x = x - 1
    return x


def by_a_method(x, W1):
    x.tofile("/nowhere/else")
    return x


def through_another(x, W1):
    return opens(x, W1)


@pytest.mark.parametrize("function", [writes, opens, may_not_end, by_a_method, through_another],
                         ids=lambda f: f.__name__)
def test_what_does_more_than_arithmetic_is_left_alone(function):
    with pytest.raises(NoText):
        Source(function)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("x * h", "x / h", 1), ("2 * z", "z", 1), ("z", "z * h", 2), ("h", "z", 1),
    ("z", "np.frobnicate(z)", 5)])  # the last has a word that the file has not
def test_a_change_costs_the_words_that_are_written_anew(old: str, new: str, words: int):
    assert cost(old, new, __file__) == words


# -- mistakes that no array sees ------------------------------------------------------------------
def attention() -> dr.Network:
    net = dr.Network("attention")
    x, t = net.input("x", "B", 3, 4), net.input("t", "B", 3, 2)
    q, k, v = (dr.dense(x, size, bias=False) for size in (3, 3, 2))
    net.loss(dr.squared_error(dr.attention(q, k, v), t))
    return net


def forward(x, W1, W2, W3, scale):
    q, k, v = x @ W1, x @ W2, x @ W3
    e = np.exp(q @ k.transpose(0, 2, 1) * scale)
    return q, k, v, e / e.sum(axis=-1, keepdims=True)


def unscaled(x, t, W1, W2, W3):
    width = W3.shape[1]
    scale = 1 / np.sqrt(width)
    q, k, v, p = forward(x, W1, W2, W3, scale)
    do = (p @ v - t) / (t.shape[0] * t.shape[1])
    dp = do @ v.transpose(0, 2, 1)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * scale
    return {"W1": np.einsum("bti,btj->ij", x, ds @ k),
            "W2": np.einsum("bti,btj->ij", x, ds.transpose(0, 2, 1) @ q),
            "W3": np.einsum("bti,btj->ij", x, p.transpose(0, 2, 1) @ do)}


def test_a_number_that_is_wrong_is_named_where_it_is_computed():
    places = {f.place for f in verify(attention(), unscaled, seconds=0).findings}
    place, = places
    line = unscaled.__code__.co_firstlineno
    assert place.startswith((f"line {line + 1}: width = W3.shape[1]",
                             f"line {line + 2}: scale = 1 / np.sqrt(width)")), place


def classifier() -> dr.Network:
    net = dr.Network("classifier")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 4), t))
    return net


def in_single_precision(x, t, W1, c1):
    e = np.exp((x @ W1 + c1).astype(np.float32))
    dz = (e / e.sum(axis=1, keepdims=True) - np.eye(4)[t]) / len(x)
    return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}


def test_rounding_to_single_precision_is_named():
    for finding in verify(classifier(), in_single_precision, seconds=0).findings:
        assert "astype is too much" in finding.place
        assert finding.mended == "e = np.exp(x @ W1 + c1)", str(finding)


@pytest.mark.parametrize(("activation", "texts"), [
    (dr.relu, ["np.maximum(a, 0)"]), (dr.tanh, ["np.tanh(a)"]),
    (dr.sigmoid, ["1 / (1 + np.exp(-a))"]), (dr.silu, ["a/(1 + np.exp(-a))"]),
    (dr.leaky_relu, ["np.where(a > 0, a, (1/100)*a)"]), (dr.gelu, []),  # NumPy has no erf
])
def test_functions_of_the_network_are_written_from_their_definition(activation, texts):
    net = dr.Network("one")
    h = dr.dense(net.input("x", "B", 3), 4, activation)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 4)))
    assert _function_texts(net.program()) == texts
