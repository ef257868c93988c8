"""Bad declarations: each error names the thing, shows what was expected, and says the line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import derive as dr
from derive.errors import DeclarationError, DerivationError
from derive.points import random_values

b, i, j, k = dr.indices("b:B i:4 j:3 k:2")


def start() -> tuple:
    net = dr.Network("n")
    x, w = net.input("x", b, i), net.parameter("W", i, j)
    return net, x, w


def undeclared_index():
    net, x, w = start()
    net.define("z", (b, j), dr.sum(x[b, i] * w[i, k.renamed("j")], i))


def free_index_forgotten():
    net, x, w = start()
    net.define("z", (b,), dr.sum(x[b, i] * w[i, j], i))


def index_bound_twice():
    net, x, w = start()
    net.define("z", (b, j), dr.sum(dr.sum(x[b, i], i) * w[i, j], i))


def bound_index_is_free():
    net, x, _ = start()
    net.define("z", (b, i), dr.sum(x[b, i], i))


def reduction_without_its_index():
    net, x, _ = start()
    net.define("z", (b, i), dr.sum(x[b, i], j))


def shapes_disagree():
    _, x, _ = start()
    x[b, j]


def too_few_indices():
    _, _, w = start()
    w[i]


def name_used_twice():
    net, _, _ = start()
    net.parameter("W", i, j)


def name_no_identifier():
    dr.Network("n").parameter(r"\write18{id}", i)


def name_with_leading_underscore():
    dr.Network("n").parameter("__import__", i)


def loss_no_scalar():
    net, x, _ = start()
    net.loss(dr.sum(x[b, i] ** 2, i))


def loss_missing_a_parameter():
    net, x, w = start()
    net.parameter("unused", j)
    z = net.define("z", (b, j), dr.sum(x[b, i] * w[i, j], i))
    net.loss(dr.mean(z[b, j] ** 2, b, j))
    dr.derive(net)


def no_loss():
    net, _, _ = start()
    dr.derive(net)


def float_tensor_as_index():
    net, x, w = start()
    net.define("z", (b, j), w[x[b, 0], j])


def whole_tensor_without_indices():
    net, x, _ = start()
    net.define("z", (b, i), x * 2)


def string_body():
    net, _, _ = start()
    net.define("z", (b,), "__import__('os').system('id')")


def size_zero():
    dr.Network("n").input("x", "B", 0)


def index_without_size():
    dr.indices("b")


def two_sizes_for_one_name():
    net, x, _ = start()
    other = net.parameter("V", dr.indices("i:7"))
    net.define("z", (b,), dr.sum(x[b, i], i) * dr.sum(other[dr.indices("i:7")], dr.indices("i:7"))
               + dr.sum(x[b, i] * other[dr.indices("i:7")], i))


def access_that_never_lies_within():
    net, x, _ = start()
    net.define("z", (b, j), x[b, 2 * j + 5])


def access_without_a_whole_number_that_fits_both_dims():
    net, _, w = start()
    net.define("z", (k,), w[2 + 2 * k, 4 - 2 * k])


def recurrence_without_first_value():
    net = dr.Network("n")
    t = dr.indices("t:5")
    x = net.input("x", t)
    h = net.declare("h", t)
    net.define(h, (t,), dr.tanh(x[t] + h[t - 1]))


def cycle_that_is_no_recurrence():
    net = dr.Network("n")
    x = net.input("x", i)
    p, q = net.declare("p", i), net.declare("q", i)
    net.define(p, (i,), q[i] + x[i])
    net.define(q, (i,), p[i] * 2)
    net.program()


def declared_but_never_defined():
    net = dr.Network("n")
    net.declare("h", i)
    net.program()


def loss_compares_other_shapes():
    net, x, w = start()
    y = net.define("y", (b, j), dr.sum(x[b, i] * w[i, j], i))
    net.loss(dr.squared_error(y, net.input("t", "B", 5)))


def labels_of_a_wrong_shape():
    net, x, w = start()
    z = net.define("z", (b, j), dr.sum(x[b, i] * w[i, j], i))
    net.loss(dr.cross_entropy(z, net.input("t", "B", 3, dtype=int)))


def gradient_of_an_unknown_tensor():
    net, x, w = start()
    net.loss(dr.mean(dr.sum(x[b, i] * w[i, j], i), b, j))
    dr.derive(net, wrt=["V"])


def equation_of_a_mistyped_name():
    net, x, w = start()
    net.loss(dr.mean(dr.sum(x[b, i] * w[i, j], i), b, j))
    dr.derive(net)["w"]


TABLE: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (undeclared_index, ("'j'", "two sizes|does not fit", "2")),
    (free_index_forgotten, ("'j'", "neither free nor bound", "dr.sum")),
    (index_bound_twice, ("'i'", "bound twice", "'z'")),
    (bound_index_is_free, ("'i'", "bound twice", "already free")),
    (reduction_without_its_index, ("'j'", "does not occur")),
    (shapes_disagree, ("'j'", "'x'", "(B, 4)", "ranges over 3")),
    (too_few_indices, ("'W'", "W[i, j]", "W[i]", "(4, 3)")),
    (name_used_twice, ("'W'", "used twice", "parameter of shape (4, 3)")),
    (name_no_identifier, ("cannot be the name of a tensor", "letters")),
    (name_with_leading_underscore, ("'__import__'", "cannot be the name")),
    (loss_no_scalar, ("'L'", "not a scalar", "b of shape (B,)", "dr.mean")),
    (loss_missing_a_parameter, ("'unused'", "does not depend")),
    (no_loss, ("one loss", "none", "net.loss")),
    (float_tensor_as_index, ("'x'", "float tensor", "dtype=int")),
    (whole_tensor_without_indices, ("'x'", "without its indices", "x[b, i]")),
    (string_body, ("'z'", "string", "never evaluated")),
    (size_zero, ("size", "at least 1")),
    (index_without_size, ("'b'", "name:size")),
    (two_sizes_for_one_name, ("'i'",)),
    (access_that_never_lies_within, ("x[b, 2*j + 5]", "'z'", "0 <= 2*j + 5 < 4", "no solution")),
    (access_without_a_whole_number_that_fits_both_dims,
     ("W[2*k + 2, 4 - 2*k]", "'z'", "0 <= 2*k + 2 < 4 and 0 <= 4 - 2*k < 3", "no solution")),
    (recurrence_without_first_value, ("h[t - 1]", "no first value", "initial=0")),
    (cycle_that_is_no_recurrence, ("p, q", "no recurrence", "t-1")),
    (declared_but_never_defined, ("'h'", "no equation", "net.define(h")),
    (loss_compares_other_shapes, ("'y'", "'t'", "(B, 3)", "(B, 5)")),
    (labels_of_a_wrong_shape, ("'t'", "'z'", "one label for each row")),
    (gradient_of_an_unknown_tensor, ("'V'", "not declared")),
    (equation_of_a_mistyped_name, ("'w'", "not declared", "did you mean 'W'")),
]


@pytest.mark.parametrize(("declare", "parts"), TABLE, ids=[row[0].__name__ for row in TABLE])
def test_error_names_shows_and_points(declare: Callable[[], None], parts: tuple[str, ...]):
    with pytest.raises((DeclarationError, DerivationError)) as caught:
        declare()
    text = str(caught.value)
    for part in parts:
        assert any(p in text for p in part.split("|")), f"{part!r} is not in:\n{text}"
    assert "test_bad_input.py:" in text, f"does not point at the user's line:\n{text}"


def test_a_failed_definition_leaves_the_network_as_it_was():
    net, x, w = start()
    with pytest.raises(DeclarationError):
        net.define("z", (b,), dr.sum(x[b, i] * w[i, j], i))
    z = net.define("z", (b, j), dr.sum(x[b, i] * w[i, j], i))
    assert str(z) == "z[b, j]"


@pytest.mark.parametrize("length", [5, -1])
def test_a_sequence_that_ends_beyond_its_dim(length: int):
    net = dr.Network("n")
    x, n = net.input("x", "B", 4, 3), net.input("n", "B", dtype=int)
    h = dr.lstm(x, 2, lengths=n)
    net.loss(dr.mean(h.tensor.access**2, *h.indices))
    point = random_values(net.program(), 0, {"B": 2})
    with pytest.raises(dr.DataError, match="holds") as caught:
        dr.evaluate(net.program(), {**point, "n": np.array([4, length])})
    assert f"'n' holds {length} at [1]" in str(caught.value)
    assert "0 to 4: it ends sequences over i, which has 4 steps" in str(caught.value)


def test_random_numbers_need_a_seed_of_the_network():
    net = dr.Network("n")
    x = net.input("x", "B", 4)
    for layer in (dr.dropout, dr.gaussian_noise):
        with pytest.raises(DeclarationError, match=r"net\.random\(\)"):
            layer(x, 0.5, 7)
