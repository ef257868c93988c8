"""Gaussian moments, gains and initialisations: published results come out of the derivation."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import sympy
from sympy import Rational, Symbol, erf, exp, pi, sqrt

import derive as dr
from derive.errors import DeclarationError
from derive.flow.closed import expectation
from derive.flow.integrals import GaussianMoment, PairMoment, number
from derive.flow.moments import Q, X, initialisation, scalar_function, self_normalising, selu
from derive.flow.quadrature import (
    Estimate,
    compiled,
    expect,
    expect_pair,
    softmax_second_moment,
)
from derive.functions import REGISTRY, leaky_relu, relu, sample_settings

CLOSED = ["identity", "relu", "leaky_relu", "elu", "erf", "gelu", "abs", "sin", "cos"]
QUADRATURE = ["tanh", "sigmoid", "silu", "softplus"]


def _mpmath_moment(f: sympy.Expr, variance: float) -> float:
    """E[f] at 30 digits by another quadrature (tanh-sinh), cut at the kink."""
    call = sympy.lambdify(X, f, "mpmath")
    with mpmath.workdps(30):
        s = mpmath.sqrt(variance)
        density = lambda u: mpmath.exp(-u * u / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
        return float(mpmath.quad(lambda u: call(s * u) * density(u), [-12, -3, 0, 3, 12]))


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_hold_for_every_variance(name: str):
    found = dr.moments(name, Q)
    assert set(found.method.values()) == {"closed form"}
    f = scalar_function(name)
    for variance in (0.04, 1.0, 7.0):
        for expr, integrand in ((found.mean, f), (found.second, f**2)):
            value = float(expr.subs(Q, sympy.Float(variance, 30)))
            numeric = expect(compiled(integrand, X), variance)
            assert abs(value - numeric.value) <= numeric.error + 1e-13, (name, variance)


@pytest.mark.parametrize("name", QUADRATURE)
def test_where_no_closed_form_exists_the_error_is_bounded(name: str):
    for moment, f in (("mean", scalar_function(name)), ("second", scalar_function(name) ** 2)):
        for variance in (0.1, 1.0, 30.0):
            found = getattr(dr.moments(name, variance), moment)
            if isinstance(found, Estimate):
                from derive.flow.closed import unfold

                truth = _mpmath_moment(unfold(f), variance)
                assert abs(found.value - truth) <= found.error
                assert found.error <= 1e-12 * max(1.0, abs(truth))


def test_every_registered_function_has_moments():
    for name, function in REGISTRY.items():
        found = dr.moments(function(X, *sample_settings(function)))
        assert math.isfinite(float(found.second)), name
        assert math.isfinite(float(found.derivative)), name


def test_textbook_closed_forms():
    q = Symbol("q", positive=True)
    assert dr.moments("relu", q).second == q / 2
    assert dr.moments("relu", q).derivative == Rational(1, 2)
    assert dr.moments("erf", q).second == 2 * sympy.asin(2 * q / (2 * q + 1)) / pi
    assert sympy.simplify(dr.moments("erf", q).derivative - 4 / (pi * sqrt(4 * q + 1))) == 0
    assert sympy.simplify(dr.moments("sin", q).second - (1 - exp(-2 * q)) / 2) == 0
    slope = dr.moments(leaky_relu(X, Rational(1, 5)), q)
    assert sympy.simplify(slope.second - q * (1 + Rational(1, 25)) / 2) == 0


def test_closed_forms_agree_with_sympys_own_integration():
    density = exp(-(X**2) / 2) / sqrt(2 * pi)
    for f in (X**4, sympy.sin(X) ** 2, X**2 * exp(-(X**2))):
        direct = sympy.integrate(f * density, (X, -sympy.oo, sympy.oo))
        assert sympy.simplify(direct - expectation(f, X, sympy.S.One)) == 0
    direct = sympy.integrate(X**2 * density, (X, 0, sympy.oo))
    assert sympy.simplify(direct - expectation(relu(X) ** 2, X, sympy.S.One)) == 0


def test_he_initialisation_is_derived():
    """He et al. 2015: √2 for relu in both directions; √(2/(1+a²)) for leaky relu."""
    assert dr.gain("relu") == sqrt(2) == dr.gain("relu", direction="backward")
    a = Rational(1, 4)
    assert sympy.simplify(dr.gain(leaky_relu(X, a)) ** 2 - 2 / (1 + a**2)) == 0


def test_glorot_initialisation_is_derived():
    """Glorot and Bengio 2010, equation 12: Var W = 2/(n_in + n_out)."""
    n, m = sympy.symbols("n m", positive=True)
    found = initialisation("identity", n, m)
    assert (found.forward, found.backward) == (1 / n, 1 / m)
    assert sympy.simplify(found.compromise - 2 / (n + m)) == 0
    assert sympy.simplify(initialisation("relu", n, m).compromise - 4 / (n + m)) == 0


def test_selu_constants_are_the_fixed_point():
    """Klambauer et al. 2017, equation 14, to 1e-12 (and beyond)."""
    scale, alpha = self_normalising()
    assert abs(float(scale.evalf(30)) - 1.0507009873554804934193349852946) < 1e-12
    assert abs(float(alpha.evalf(30)) - 1.6732632423543772848170429916717) < 1e-12
    f = selu(X)
    assert abs(expect(compiled(f, X), 1.0).value) < 1e-12
    assert abs(expect(compiled(f**2, X), 1.0).value - 1) < 1e-12


def test_an_unknown_activation_gets_the_nearest_name():
    with pytest.raises(DeclarationError, match="did you mean 'sigmoid'"):
        dr.moments("sigmoyd")
    with pytest.raises(DeclarationError, match="needs a number"):
        dr.moments("tanh", Q)


@pytest.mark.parametrize(("f", "exact"), [
    # arc-cosine kernel of order 1 (Cho and Saul 2009) and arcsine kernel (Williams 1997)
    (relu(X), lambda q, r: q / (2 * np.pi) * (
        np.sqrt(1 - (r / q) ** 2) + (np.pi - np.arccos(r / q)) * r / q)),
    (erf(X), lambda q, r: 2 / np.pi * np.arcsin(2 * r / (1 + 2 * q))),
    (X, lambda q, r: r),
])
def test_pair_moments_against_published_kernels(f: sympy.Expr, exact):
    for q, r in ((1.0, 0.3), (2.5, 2.4), (0.7, 0.0), (1.5, -0.9)):
        m, qs, rs = sympy.S.Zero, Symbol("a"), Symbol("b")
        found = number(PairMoment(f, f, m, qs, rs), {qs: q, rs: r})
        assert found == pytest.approx(exact(q, r), rel=1e-9, abs=1e-12)
        call = compiled(f, X)  # a kink inside the inner integral costs digits
        assert expect_pair(call, call, q, r) == pytest.approx(exact(q, r), rel=1e-3, abs=1e-9)


def test_moments_about_a_mean_that_is_not_zero():
    z = np.random.default_rng(0).normal(size=2_000_000) * 0.8 + 0.5
    q = Symbol("a")
    node = GaussianMoment(sympy.tanh(X) ** 2, Rational(1, 2), q)
    assert number(node, {q: 0.8**2 + 0.25}) == pytest.approx((np.tanh(z) ** 2).mean(), rel=2e-3)


def test_softmax_second_moment_is_exact_for_few_and_for_many():
    rng = np.random.default_rng(1)
    for variance, count in ((1.0, 3), (16.0, 10), (4.0, 300)):
        z = rng.normal(size=(40_000 if count < 50 else 8_000, count)) * math.sqrt(variance)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        rows = (p**2).mean(axis=1)
        error = 5 * rows.std() / math.sqrt(len(rows))
        assert abs(softmax_second_moment(variance, count) - rows.mean()) < error
