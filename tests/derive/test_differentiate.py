"""What the derivation yields, as equations: the textbook forms come out, by the general rules."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

import derive as dr
from derive import network
from derive.errors import DeclarationError
from derive.nodes import Access, Select, SumOver, accesses
from derive.program import Program
from tests.judge import disagreement

b, i, j, k = dr.indices("b:B i:4 j:3 k:2")
B = b.size


def classifier(distribution: bool = False) -> Program:
    net = dr.Network("softmax regression")
    x = net.input("x", b, i)
    if distribution:
        t = net.input("t", b, k, distribution=True)
    else:
        t = net.input("t", b, dtype=int)
    z = dr.dense(x, 2)
    net.loss(dr.cross_entropy(z, t))
    return dr.derive(net)


def same(a: sympy.Expr, c: sympy.Expr) -> bool:
    return sympy.expand(a - c) == 0


def softmax_of(d: Program) -> Access:
    eq = next(eq for eq in d.equations if eq.tensor.origin and eq.tensor.origin[0] == "softmax")
    return eq.tensor.access


def test_softmax_with_labels_is_p_minus_one_hot_over_n():
    d = classifier()
    z_bar = d["_d_z1"]
    label = d.tensors["t"].at(b)
    p = d.tensors[softmax_of(d).name].at(*z_bar.indices)
    hot = Select(sympy.Eq(z_bar.indices[1], label), 1)
    assert same(z_bar.body, (p - hot) / B)


def test_softmax_with_probabilities_is_p_minus_t_over_n():
    d = classifier(distribution=True)
    z_bar = d["_d_z1"]
    p = d.tensors[softmax_of(d).name].at(*z_bar.indices)
    assert z_bar.body == (p - d.tensors["t"].at(*z_bar.indices)) / B
    assert isinstance(z_bar.body, sympy.Mul), "1/N stands in front, once"


def test_probabilities_that_need_not_sum_to_one_keep_their_sum():
    net = dr.Network("n")
    x, t = net.input("x", b, i), net.input("t", b, k)
    net.loss(dr.cross_entropy(dr.dense(x, 2), t))
    d = dr.derive(net)
    assert d["_d_u_L"].body.has(SumOver)
    assert "_d_u_L" in d["_d_z1"].reads


def activation(function) -> Program:
    net = dr.Network("n")
    x, y = net.input("x", b, i), net.input("y", b, j)
    net.loss(dr.squared_error(dr.dense(x, 3, function), y))
    return dr.derive(net)


def test_sigmoid_and_tanh_go_through_the_stored_output():
    for function, of in ((dr.sigmoid, lambda y: y * (1 - y)), (dr.tanh, lambda y: 1 - y**2)):
        d = activation(function)
        h, h_bar = d.tensors["h1"].at(b, j), d.tensors["_d_h1"].at(b, j)
        assert same(d["_d_z1"].body, h_bar * of(h))
        assert "z1" not in d["_d_z1"].reads


def test_weight_gradient_sums_over_the_batch_only():
    d = activation(dr.tanh)
    x, z_bar = d.tensors["x"].at(b, i), d.tensors["_d_z1"].at(b, j)
    assert d["W1"].body == SumOver(x * z_bar, b)
    assert d["c1"].body == SumOver(z_bar, b)


def test_gradient_keeps_the_parameters_own_indices():
    d = activation(dr.relu)
    assert d["W1"].indices == d.tensors["W1"].indices


def test_every_equation_is_visited_once_and_every_step_is_recorded():
    d = activation(dr.relu)
    rules = [s.rule for s in d.steps]
    assert rules.count("seed") == 1
    assert "chain:relu" in rules and "accumulate" not in rules
    for step in d.steps:
        if step.rule == "adjoint":
            assert d[step.target].body == step.after


def test_fan_out_and_shared_weights_accumulate_over_occurrences():
    net = dr.Network("n")
    x, w = net.input("x", b, i), net.parameter("W", i, dr.indices("m:4"))
    m = w.indices[1]
    h = net.define("h", (b, m), dr.tanh(dr.sum(x[b, i] * w[i, m], i)))
    n = dr.indices("n:4")
    y = net.define("y", (b, n), dr.sum(h[b, m] * w[m, n], m) + h[b, n])  # tied, and a diamond
    net.loss(dr.mean(y[b, n] ** 2, b, n))
    d = dr.derive(net)
    assert [s.rule for s in d.steps].count("accumulate") == 2
    assert len(sympy.Add.make_args(d["W"].body)) == 2
    assert len(sympy.Add.make_args(d["_d_h"].body)) == 2


def test_the_diagonal_is_guarded_by_equality():
    net = dr.Network("trace")
    a = net.parameter("A", i, dr.indices("m:4"))
    net.loss(dr.sum(a[i, i] ** 2, i))
    grad = dr.derive(net)["A"]
    row, column = grad.indices
    assert isinstance(grad.body, Select | sympy.Mul)
    conditions = grad.body.atoms(sympy.Eq)
    assert conditions == {sympy.Eq(row, column)} or conditions == {sympy.Eq(column, row)}


def test_strided_convolution_is_gathered_under_divisibility_and_bounds():
    net = dr.Network("conv")
    p, r = dr.indices("p:9 r:4")
    x, w = net.parameter("X", 27), net.parameter("w", r)
    y = net.define("y", (p,), dr.sum(x[3 * p + r - 1] * w[r], r))
    net.loss(dr.sum(y[p] ** 2, p))
    grad = dr.derive(net)["X"]
    select = next(iter(grad.body.atoms(Select)))
    m = grad.indices[0]
    text = str(select.condition)
    assert "Mod" in text and ">= 0" in text
    assert {a.name for a in accesses(grad.body)} == {"w", "_d_y"}
    assert m in select.free_symbols


def test_back_propagation_through_time_is_the_reversed_recurrence():
    net = dr.Network("rnn")
    t, m = dr.indices("t:T m:3")
    x, u, v = net.input("x", t, b, i), net.parameter("U", i, j), net.parameter("V", m, j)
    h = net.declare("h", t, b, j, initial=0)
    net.define(h, (t, b, j),
               dr.tanh(dr.sum(x[t, b, i] * u[i, j], i) + dr.sum(h[t - 1, b, m] * v[m, j], m)))
    net.loss(dr.mean(h[t, b, j] ** 2, t, b, j))
    d = dr.derive(net)
    loops = [(g.step, sorted(g.axis)) for g in d.groups if g.recurrent]
    assert loops == [(1, ["_u_h", "h"]), (-1, ["_d_h", "_d_u_h"])]


def test_only_what_is_asked_for_gets_an_adjoint():
    net = dr.Network("n")
    x, y = net.input("x", b, i), net.input("y", b, 2)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.tanh), 2), y))
    d = dr.derive(net, wrt=["W2"])
    assert set(d.gradients) == {"W2"}
    assert "_d_z1" not in d.tensors and "_d_h1" not in d.tensors


def quartic() -> Program:
    net = dr.Network("quartic")
    x = net.parameter("x", i)
    net.loss(dr.sum(x[i] ** 4, i) / 12)
    return dr.derive(net)


def test_a_derived_program_is_derived_again():
    """The gradient of the sum of (x³/3)² is 2 x⁵/3."""
    d = quartic()
    square = dr.Equation(dr.Tensor("s", ()), (), SumOver(d["x"].tensor.at(i) ** 2, i))
    second = dr.derive(d.with_equations([square]), wrt=["x"], of="s")
    x = np.array([0.5, -2.0, 3.0, 0.25])
    name = second.gradients["x"]
    np.testing.assert_allclose(second.evaluate({"x": x}, [name])[name], 2 * x**5 / 3, rtol=1e-14)


def test_an_added_equation_may_not_read_what_is_not_there():
    stray = dr.Equation(dr.Tensor("s", ()), (), SumOver(Access("v", i), i))
    with pytest.raises(DeclarationError, match="'v' is not declared"):
        quartic().with_equations([stray])


def test_cost_is_linear_in_the_number_of_equations():
    def equations(layers: int) -> tuple[int, int]:
        net = dr.Network("deep")
        x, y = net.input("x", "B", 3), net.input("y", "B", 3)
        h = x
        for _ in range(layers):
            h = dr.dense(h, 3, dr.tanh)
        net.loss(dr.squared_error(h, y))
        d = dr.derive(net)
        return len(d.equations), sum(sympy.count_ops(eq.body) for eq in d.equations)

    (n1, ops1), (n2, ops2), (n3, ops3) = equations(5), equations(10), equations(15)
    assert n3 - n2 == n2 - n1
    assert ops3 - ops2 == ops2 - ops1


def test_a_declaration_looks_at_what_its_equation_reads_however_many_tensors_there_are(
        monkeypatch):
    seen, check = [], network.check_reach

    def counted(name, body, tensors):
        seen.append(len(tensors))
        check(name, body, tensors)

    monkeypatch.setattr(network, "check_reach", counted)
    net = dr.Network("deep")
    h = net.input("x", "B", 3)
    for _ in range(20):
        h = dr.dense(h, 3, dr.tanh)
    assert max(seen) == 3  # a row, the weight, the bias


def test_what_is_named_under_a_selection_keeps_within_its_bounds():
    """The selection implies the bounds; a sum that is named stands outside of it."""
    net = dr.Network("n")
    i, k = dr.indices("i:3 k:2")
    x, w = net.parameter("x", i, k), net.parameter("w", k)
    y = net.define("y", (i,), dr.where(i >= 1, dr.tanh(dr.sum(x[i - 1, k] * w[k], k)), w[0]))
    net.loss(dr.sum(y[i] ** 2, i))
    derived = dr.derive(net)
    assert str(derived["_u_y"]) == "_u_y[i] = sum over k where i >= 1 of ( x[i - 1, k] * w[k] )"
    point = {"x": np.ones((3, 2)), "w": np.ones(2)}
    assert all(np.isfinite(a).all() for a in derived.evaluate(point).values())
    assert disagreement(net.program(), derived) is None


def test_a_reduction_inside_of_a_comparison_is_looked_at_in_its_own_scope():
    net = dr.Network("n")
    i, k = dr.indices("i:3 k:2")
    x = net.parameter("x", i, k)
    largest = dr.max(dr.relu(x[i, k]), k)
    y = net.define("y", (i,), dr.where(largest > 0.5, largest**2, 0))
    net.loss(dr.sum(y[i], i))
    assert dr.check(dr.derive(net)).ok


def test_a_reduction_under_a_condition_that_keeps_it_from_dividing_by_zero():
    """A seed of the random programs: the sum has a name of its own outside of the condition, where
    q[i - 2] is beyond its bounds for i < 2. A 0 in its place would make 1/0 there, and the
    derivative 0·inf; so the sum as a whole is 0, which nobody reads."""
    net = dr.Network("n")
    x, q, w = net.parameter("x", 3), net.input("q", 5), net.input("w", 5)
    i, r = dr.indices("i:5 r:3")
    y = net.define("y", (i,), dr.where(i >= 2, dr.exp(dr.sum(x[r] / q[i - 2], r)), 0))
    net.loss(dr.sum(w[i] * y[i], i))
    assert disagreement(net.program(), dr.derive(net)) is None


def test_what_is_read_under_a_condition_inside_the_reduction():
    """Its own condition holds for some r only; where it does not, the other branch counts."""
    net = dr.Network("n")
    x, q, w = net.parameter("x", 3), net.input("q", 5), net.input("w", 5)
    i, r = dr.indices("i:5 r:3")
    inner = dr.where(r < 1, 1 / q[i - 2], x[r])
    y = net.define("y", (i,), dr.where(i + r.size >= 5, dr.exp(dr.sum(x[r] * inner, r)), 0))
    net.loss(dr.sum(w[i] * y[i], i))
    assert disagreement(net.program(), dr.derive(net)) is None
