"""Structure: shared weights, several losses, stopped gradients, own functions, second derivatives.

And the kink ledger: which derivative is taken where there is none, and that it is taken.
"""

from __future__ import annotations

import numpy as np
import pytest
import sympy

import derive as dr
from derive.conventions import CONVENTIONS
from derive.custom import hold_stopped
from derive.functions import REGISTRY, Elementary, sample_settings, sign, step
from derive.network import Network
from derive.numeric import Slopes
from derive.points import random_values
from derive.program import Program
from derive.reference import evaluate
from tests.judge import disagreement

b, i, j, k = dr.indices("b:B i:3 j:2 k:4")


def agrees(net: Network | Program, wrt: list[str] | None = None, of: str | None = None) -> None:
    program = net if isinstance(net, Program) else net.program()
    derived = dr.derive(program, wrt, of)
    wrong = disagreement(program, derived, 2, of)
    assert wrong is None, f"{wrong}\n{derived}"


# -- sharing --------------------------------------------------------------------------------------
def test_a_diamond_a_tied_weight_and_a_diagonal():
    net = Network("n")
    w = net.parameter("W", i, i.renamed("i2"))
    i2 = i.renamed("i2")
    y = net.define("y", (i,), dr.sum(w[i, i2] * w[i2, i], i2) + w[i, i] ** 2)
    z = net.define("z", (i,), dr.sin(y[i]) * w[i, 0])
    net.loss(dr.sum(y[i] * z[i] * (1 + i), i))
    agrees(net)


def test_several_inputs_and_outputs_and_losses_with_their_own_parameters():
    net = Network("gan")
    real, noise = net.input("x", "B", 2), net.input("n", "B", 2)
    fake = dr.dense(noise, 2)
    on_real = dr.dense(real, 1)
    on_fake = dr.dense(fake, 1, weight=net["W2"], bias=False)
    b, o = on_real.indices
    net.loss(dr.mean(dr.softplus(-on_real[b, o]) + dr.softplus(on_fake[b, o]), b, o), "LD",
             wrt=[net["W2"], net["c2"]])
    net.loss(dr.mean(dr.softplus(-on_fake[b, o]), b, o), "LG", wrt=[net["W1"], net["c1"]])
    discriminator = dr.derive(net, of="LD")
    assert list(discriminator.gradients) == ["W2", "c2"]
    both = dr.derive(discriminator, of="LG")
    assert list(both.gradients) == ["W2", "c2", "W1", "c1"]
    agrees(net, of="LD")
    agrees(net, of="LG")


def test_two_losses_need_a_choice():
    net = Network("n")
    w = net.parameter("w", i)
    net.loss(dr.sum(w[i], i), "L1")
    net.loss(dr.sum(w[i] ** 2, i), "L2")
    with pytest.raises(dr.DerivationError, match="which scalar"):
        dr.derive(net)


# -- stopped and replaced gradients ---------------------------------------------------------------
def test_a_stopped_gradient():
    net = Network("n")
    w = net.parameter("w", i)
    net.loss(dr.sum(w[i] ** 2 * dr.stopped(w[i] ** 3), i))
    derived = dr.derive(net)
    assert sympy.expand(derived["w"].body - 2 * w[i] * dr.stopped(w[i] ** 3)) == 0
    agrees(net)


def test_straight_through_has_the_value_of_one_and_the_derivative_of_the_other():
    net = Network("n")
    w = net.parameter("w", i)
    q = net.define("q", (i,), dr.straight_through(dr.where(w[i] > 0, 1, -1), dr.tanh(w[i])))
    net.loss(dr.sum(q[i] * (1 + i), i))
    derived = dr.derive(net)
    w_value = np.array([0.5, -2.0, 3.0])
    out = evaluate(derived, {"w": w_value})
    np.testing.assert_allclose(out["q"], [1, -1, 1])
    np.testing.assert_allclose(out["_d_w"], (1 - np.tanh(w_value) ** 2) * [1, 2, 3])
    agrees(net)


# -- functions ------------------------------------------------------------------------------------
mish = dr.elementary("mish", lambda x: x * sympy.tanh(sympy.log(1 + sympy.exp(x))))
hard_swish = dr.elementary(
    "hard_swish",
    lambda x: sympy.Piecewise((0, x < -3), (x, x > 3), (x * (x + 3) / 6, True)),
    lambda x, y: sympy.Piecewise((0, x < -3), (1, x > 3), ((2 * x + 3) / 6, True)),
    kinks=(-3, 3),
)


@pytest.mark.parametrize("function", [mish, hard_swish])
def test_a_function_of_the_users_is_like_ours(function):
    net = Network("n")
    z = dr.dense(dr.dense(net.input("x", b, i), 4, function), 2)
    net.loss(dr.squared_error(z, net.input("y", b, j)))
    agrees(net)


def test_a_wrong_derivative_is_refused_with_a_counterexample():
    with pytest.raises(dr.DeclarationError, match=r"(?s)is another.*3\*x\*\*2.*at x ="):
        dr.elementary("cube", lambda x: x**3, lambda x, y: 2 * x**2)


def test_a_right_derivative_in_terms_of_the_output_is_proved():
    half = dr.elementary("half_exp", lambda x: sympy.exp(x / 2), lambda x, y: y / 2)
    w = Network("n").parameter("w")
    assert half(w.tensor.access).fdiff() == half(w.tensor.access) / 2


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(dr.DeclarationError, match="exists already"):
        dr.elementary("tanh", lambda x: x)


def test_piecewise_comparisons_and_sympys_own_functions():
    net = Network("n")
    w = net.parameter("w", b, i)
    x = w[b, i]
    body = (sympy.Piecewise((x**2, x > 0), (sympy.Abs(x), True)) + sympy.Max(x, 2 * x, -1)
            + sympy.Min(x, 0) * sympy.sign(x) + dr.clip(x, -1, 1))
    net.define("y", (b, i), body)
    net.loss(dr.sum(net["y"][b, i] ** 2, b, i))
    agrees(net)


def test_piecewise_without_a_last_branch_is_refused():
    net = Network("n")
    w = net.parameter("w", i)
    with pytest.raises(dr.DeclarationError, match="no value where none of its conditions"):
        net.define("y", (i,), sympy.Piecewise((1, w[i] > 0)))


EXACT = [f for f in REGISTRY.values() if not f.surrogate]


@pytest.mark.parametrize("function", EXACT, ids=lambda f: f.__name__)
def test_each_derivative_is_that_of_the_definition(function: type[Elementary]):
    x = sympy.Symbol("x", real=True)
    settings = sample_settings(function)
    slope = function.derive(x, function(x, *settings), *settings)
    want = sympy.diff(function.define(x, *settings), x)
    for point in (-7, -1, sympy.Rational(-1, 3), sympy.Rational(2, 5), 1, 6):
        if point not in function.kinks:
            difference = (slope - want).xreplace({x: sympy.Rational(point)})
            defined = difference.replace(
                lambda e: isinstance(e, Elementary), lambda e: type(e).define(*e.args))
            assert abs(sympy.N(defined, 30)) < 1e-25, f"{function.__name__} at {point}"


# -- kinks ----------------------------------------------------------------------------------------
def slope_at(body, value: float, convention: str = "torch") -> float:
    net = Network("n")
    w = net.parameter("w")
    net.loss(body(w.tensor.access))
    derived = dr.derive(dr.with_convention(net.program(), convention))
    return float(evaluate(derived, {"w": value})["_d_w"])


KINKS = {
    "relu": (dr.relu, 0, {"torch": 0, "jax": 0}),
    "abs": (dr.abs, 0, {"torch": 0, "jax": 1}),
    "leaky relu": (lambda x: dr.leaky_relu(x, 0.25), 0, {"torch": 0.25, "jax": 1}),
    "elu": (lambda x: dr.elu(x, 0.5), 0, {"torch": 0.5, "jax": 0.5}),
    "maximum": (lambda x: dr.maximum(x, 2 - x), 1, {"torch": 0, "jax": 0}),
    "maximum of x and 0": (lambda x: dr.maximum(x, 0), 0, {"torch": 0.5, "jax": 0.5}),
    "minimum of x and 0": (lambda x: dr.minimum(x, 0), 0, {"torch": 0.5, "jax": 0.5}),
    "clip": (lambda x: dr.clip(x, -1, 1), 1, {"torch": 1}),
    "sign": (sign, 0, {"torch": 0, "jax": 0}),
    "step": (step, 0, {"torch": 0, "jax": 0}),
}


@pytest.mark.parametrize("kink", KINKS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_declared_derivative_is_taken_at_each_kink(kink: str, convention: str):
    body, at, taken = KINKS[kink]
    if convention in taken:
        assert slope_at(body, at, convention) == taken[convention]


def test_conventions_differ_at_kinks_only():
    for body, at, _ in KINKS.values():
        for away in (-0.5, 0.75):
            assert slope_at(body, at + away, "torch") == slope_at(body, at + away, "jax")


def test_a_convention_can_be_taken_back():
    net = Network("n")
    w = net.parameter("w", i)
    net.loss(dr.sum(dr.abs(w[i]), i))
    program = net.program()
    there = dr.with_convention(program, "jax")
    assert there.equations != program.equations
    assert dr.with_convention(there, "torch").equations == program.equations
    with pytest.raises(dr.DerivationError, match="unknown convention 'caffe'"):
        dr.with_convention(program, "caffe")


def test_the_ledger_lists_each_kink_and_where_it_is():
    net = Network("n")
    z = dr.dense(net.input("x", b, i), 4, dr.relu)
    c, o = z.indices
    net.loss(dr.mean(dr.max(dr.abs(z[c, o]), o), c))
    rows = {(row.function, row.taken): row.equations for row in dr.ledger(net)}
    assert rows == {
        ("relu", "relu'(0) = 0"): ("h1",),
        ("max", "n elements that tie get 1/n each"): ("L",),
        ("absolute", "abs'(0) = 0"): ("L",),
    }


# -- programs over programs -----------------------------------------------------------------------
def classifier() -> Network:
    net = Network("classifier")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 2, dr.tanh), 4), t))
    return net


def test_the_hessian_of_cross_entropy_over_softmax_is_diag_s_minus_s_s():
    net = Network("n")
    z, t = net.parameter("z", k), net.input("t", dtype=int)
    net.loss(dr.logsumexp(z[k], k) - z[t[()] if t.tensor.rank else t.tensor.access])
    second = dr.hessian(net, "z")
    h = second["z"]
    row, column = h.indices
    (s,) = (eq.tensor for eq in second.equations if eq.tensor.origin == ("softmax", "_u_L"))
    want = dr.where(sympy.Eq(row, column), 1, 0) * s.at(column) - s.at(row) * s.at(column)
    assert sympy.expand(h.body - want) == 0, str(h)


def test_a_jacobian_is_that_of_differences():
    net = Network("n")
    x, w = net.parameter("x", i), net.input("W", i, k)
    y = net.define("y", (k,), dr.tanh(dr.sum(x[i] * w[i, k], i)))
    derived = dr.jacobian(net, "y", "x")
    point = random_values(derived, 1)
    jacobian = evaluate(derived, point)[derived.gradients["x"]]
    assert jacobian.shape == (4, 3)
    for n in range(3):
        step = 1e-5 * np.eye(3)[n]
        ends = [evaluate(net.program(), {**point, "x": point["x"] + s * step})[y.name]
                for s in (1, -1)]
        np.testing.assert_allclose(jacobian[:, n], (ends[0] - ends[1]) / 2e-5, atol=1e-9)


def test_a_hessian_is_symmetric_and_its_product_needs_no_hessian():
    net = classifier()
    whole, product = dr.hessian(net, "W1"), dr.hessian_vector(net, "W1")
    point = random_values(product, 1, {"B": 5})
    h = evaluate(whole, point)[whole.gradients["W1"]]
    assert h.shape == (3, 2, 3, 2)
    np.testing.assert_allclose(h, h.transpose(2, 3, 0, 1), atol=1e-14)
    hv = evaluate(product, point)[product.gradients["W1"]]
    np.testing.assert_allclose(np.einsum("abcd,cd->ab", h, point["v"]), hv)
    rank_four = [t for t in product.tensors.values() if t.rank > 2]
    assert not rank_four, "the product makes no matrix of second derivatives"


def test_a_product_with_the_hessian_is_the_derivative_of_the_gradient():
    product = dr.hessian_vector(classifier(), "W1")
    along = product.only("_along_v")
    assert disagreement(along, product, 3, "_along_v") is None


def test_a_jacobian_passes_the_check_and_a_wrong_one_fails():
    for derived in (dr.jacobian(classifier(), "z2", "W1"), dr.jacobian(classifier(), "z1", "x"),
                    dr.hessian(classifier(), "W2")):
        report = dr.check(derived)
        assert report.ok, report
        point = random_values(derived, 2, {"B": 3})
        ((name, tensor),) = derived.gradients.items()
        whole = evaluate(derived, point)[tensor]
        assert dr.check(derived, point, gradients={name: whole}).ok
        assert dr.check(derived, point, gradients={name: 1.001 * whole}).verdict == "fail"


def test_the_loss_of_a_product_with_the_hessian_is_the_derivative_along_the_vector():
    product = dr.hessian_vector(classifier(), "W1")
    assert dr.check(product).ok
    derived = dr.derive(classifier(), ["W1"])
    point = random_values(product, 2, {"B": 3})
    slope = np.sum(evaluate(derived, point)[derived.gradients["W1"]] * point["v"])
    np.testing.assert_allclose(evaluate(product, point)[product.losses[0]], slope)


def test_the_second_derivative_of_what_stands_under_a_guard_of_its_index():
    """The adjoint reads p[m, …] where m is below 1; what is named in it keeps that guard."""
    net = Network("n")
    p, r, s = net.parameter("p", 1, "B"), dr.indices("r:1"), dr.indices("s:B")
    net.loss(dr.relu(2 + dr.sum(p[r, r // 2] * p[r // 2, s], r, s)))
    product = dr.hessian_vector(net, "p")
    assert disagreement(product.only("_along_v"), product, of="_along_v") is None


def test_gradient_penalty():
    net = Network("penalty")
    x = net.input("x", b, i)
    z = dr.dense(dr.dense(x, 4, dr.tanh), 1)
    total = net.define("s", (), dr.sum(z.tensor.access, *z.indices))
    slope = net.gradient(total, x)
    length = net.define("n", (b,), dr.sqrt(dr.sum(slope[b, i] ** 2, i)))
    net.loss(dr.mean((length[b] - 1) ** 2, b))
    agrees(net, ["W1", "c1", "W2"])


def test_a_differential_equation_in_the_loss():
    net = Network("u' = -u")
    t = net.input("t", "N", 1)
    u = dr.dense(dr.dense(t, 5, dr.tanh), 1)
    slope = net.gradient(net.define("s", (), dr.sum(u.tensor.access, *u.indices)), t)
    second = net.gradient(net.define("s2", (), dr.sum(slope.tensor.access, *slope.indices)), t)
    n, one = t.indices
    residual = second[n, one] + slope[n, one] + u[n, 0]
    net.loss(dr.mean(residual**2, n, one))
    agrees(net, ["W1", "c1", "W2", "c2"])


def test_a_third_derivative():
    net = Network("n")
    x = net.parameter("x")
    net.loss(dr.sin(x.tensor.access))
    program = net.program()
    for _ in range(3):
        of = program.gradients.get("x", "L")
        program = dr.derive(program, ["x"], of)
    out = evaluate(program, {"x": 0.7})
    assert np.isclose(out[program.gradients["x"]], -np.cos(0.7))


def test_the_checker_holds_what_is_stopped():
    net = Network("n")
    w = net.parameter("w", i)
    value = dr.where(w[i] > 0, 1, -1) + dr.stopped(w[i] ** 2)
    net.loss(dr.sum(dr.straight_through(value, dr.tanh(w[i])) * (1 + i), i))
    report = dr.check(dr.derive(net))
    assert report.ok, str(report)


def test_what_is_held_has_as_many_digits_as_the_rest():
    """A seed of the random programs: w + (w³ - w) is 1e-24 of w here, below the last digit of
    what float64 would hold; the slope of its square is right or wrong by these digits."""
    net = Network("n")
    w = net.parameter("w")
    x = w.tensor.access
    net.loss(dr.straight_through(x**3, x) ** 2)
    still, held = hold_stopped(net.program(), {"w": np.array(1e-12)})
    slope = Slopes(still, "L", held, digits=50).along("w", np.array(1.0))
    assert np.isclose(slope.value, 2e-36, rtol=1e-12)
