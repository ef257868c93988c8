"""Every elementary function of the registry: derivative, stable form, kinks, from one entry."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import sympy

from derive.functions import REGISTRY, Elementary, sample_settings
from derive.naming import indices
from derive.network import Network
from derive.nodes import Select
from derive.program import Program
from derive.reference import evaluate
from derive.scalar import DIGITS, Elements

X = sympy.Symbol("x", real=True)
FUNCTIONS = sorted(REGISTRY.values(), key=lambda f: f.__name__)
HONEST = [f for f in FUNCTIONS if not f.surrogate]  # whose derivative is that of the definition
POINTS = (-700.25, -37.5, -5.0, -1.25, -1e-3, 1e-9, 0.3, 2.0, 19.75, 88.5, 710.0)


def applied(function: type[Elementary]) -> Program:
    """y[i] = f(x[i]), and its derivative as the entry states it."""
    net = Network("one function")
    i = indices(f"i:{len(POINTS)}")
    x = net.input("x", i)
    settings = sample_settings(function)
    net.define("y", (i,), function(x[i], *settings))
    net.define("slope", (i,), function.derive(x[i], function(x[i], *settings), *settings))
    return net.program()


def unfold(expr: sympy.Expr) -> sympy.Expr:
    """The expression in primitives."""
    while expr.has(Elementary):
        own = next(iter(expr.atoms(Elementary)))
        expr = expr.xreplace({own: type(own).define(*own.args)})
    return expr


def settle(expr: sympy.Expr, at: sympy.Expr) -> sympy.Expr:
    """The smooth piece of an expression with selections that ``x = at`` lies on."""
    while expr.has(Select):
        node = next(n for n in sympy.postorder_traversal(expr) if isinstance(n, Select))
        holds = bool(node.condition.subs(X, at))
        expr = expr.xreplace({node: node.yes if holds else node.no})
    return expr


@pytest.mark.parametrize("function", HONEST, ids=lambda f: f.__name__)
def test_sympy_proves_the_derivative_from_the_definition(function: type[Elementary]):
    """Piece by piece: the derivative of the definition is what the entry says."""
    settings = sample_settings(function)

    stated = unfold(function.derive(X, function(X, *settings), *settings))
    defined = function.define(X, *settings)
    for at in map(sympy.Rational, (-1.5, -0.25, 0.375, 3)):
        piece = settle(defined, at)
        assert sympy.simplify(sympy.diff(piece, X) - settle(stated, at)) == 0


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_stable_form_is_the_definition_over_the_whole_range(function: type[Elementary]):
    program = applied(function)
    found = evaluate(program, {"x": np.array(POINTS)})
    with mpmath.workdps(DIGITS + 320):  # 1 + exp(-700) must not round
        exact = Elements(program, {"x": np.array([mpmath.mpf(p) for p in POINTS], object)}, {})
        for name in ("y", "slope"):
            expected = [float(exact.element(name, (n,))) for n in range(len(POINTS))]
            got = found[name]
            if name == "y":
                np.testing.assert_allclose(got, expected, rtol=4e-15, atol=1e-307)
            else:  # σ(1-σ) through the stored output: absolute accuracy, as every kernel has it
                np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_nan_passes_through(function: type[Elementary]):
    if function.__name__ in ("step", "sign"):
        pytest.skip("an indicator of a NaN is false")
    net = Network("nan")
    x = net.input("x")
    net.define("y", (), function(x, *sample_settings(function)))
    assert np.isnan(evaluate(net.program(), {"x": np.nan})["y"])


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.kinks], ids=lambda f: f.__name__)
def test_the_subgradient_at_each_kink_is_the_declared_one(function: type[Elementary]):
    """The words of the entry end in "= value"; the derived program gives that value there."""
    settings = sample_settings(function)
    named = {"slope": settings[0], "alpha": settings[0]} if settings else {}
    stated = function.subgradient.rpartition("=")[2].strip()
    expected = float(named[stated]) if stated in named else float(stated)
    net = Network("kink")
    x = net.input("x")
    y = function(x, *settings)
    net.define("slope", (), function.derive(x.tensor.access, y, *settings))
    for kink in function.kinks:
        assert evaluate(net.program(), {"x": float(kink)})["slope"] == expected
