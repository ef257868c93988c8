"""Numeric differentiation: the truth lies within its error bar, on functions whose derivative is
known, and where there is none it says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy
from sympy import Expr

import derive as dr
from derive.numeric import Estimate, Slopes
from derive.program import Program

METHODS = pytest.mark.parametrize("digits", [50, 15])


def scalar(function: Callable[[Expr], Expr]) -> Program:
    """L = f(w) of one number."""
    net = dr.Network("scalar")
    w = net.parameter("w")
    net.loss(function(w.tensor.access))
    return net.program()


def slope(function: Callable[[Expr], Expr], at: float, digits: int) -> Estimate:
    slopes = Slopes(scalar(function), "L", {"w": np.array(at)}, digits=digits)
    return slopes.along("w", np.array(1.0))


SMOOTH: dict[str, tuple[Callable[[Expr], Expr], float, float]] = {
    "a square": (lambda w: w**2, 3.0, 6.0),
    "an exponential": (dr.exp, 1.0, float(np.e)),
    "a sine at its top": (dr.sin, float(np.pi / 2), float(np.cos(np.pi / 2))),
    "an even function at 0": (dr.cos, 0.0, 0.0),
    "tanh, saturated": (dr.tanh, 12.0, float(1 / np.cosh(12.0) ** 2)),
    "a steep slope": (lambda w: 1e6 * w**3, 2.0, 1.2e7),
    "a slope of 1e-9": (lambda w: 1e-9 * dr.sin(w), 1.0, 1e-9 * float(np.cos(1.0))),
    "sqrt at 1e-6": (dr.sqrt, 1e-6, 500.0),
    "log at 1e-4": (dr.log, 1e-4, 1e4),
    "a small bend on a large constant": (lambda w: 1e8 + dr.sin(w), 0.5, float(np.cos(0.5))),
    "large terms that cancel": (lambda w: (w + 10**6) ** 2 - (w - 10**6) ** 2, 1.5, 4e6),
    "a bend as sharp as 1e-3": (lambda w: dr.sqrt(w**2 + sympy.Rational(1, 10**6)), 1e-3,
                                float(1 / np.sqrt(2))),
}


@METHODS
@pytest.mark.parametrize("name", SMOOTH)
def test_the_truth_lies_within_the_error_bar(name: str, digits: int):
    function, at, truth = SMOOTH[name]
    found = slope(function, at, digits)
    rounding = 4 * np.finfo(float).eps * abs(truth)
    assert abs(found.value - truth) <= found.error + rounding, found
    assert found.trouble == ""


@pytest.mark.parametrize("name", SMOOTH)
def test_the_bar_of_50_digits_is_below_double_precision(name: str):
    function, at, truth = SMOOTH[name]
    assert slope(function, at, 50).error <= 1e-16 * abs(truth) + 1e-20


def test_the_bar_of_extrapolation_grows_with_what_cancels():
    """A constant of 1e8 leaves 8 digits for a sine, and its error bar says so."""
    plain, shifted = (slope(lambda w, c=c: c + dr.sin(w), 0.5, 15) for c in (0, 10**8))
    assert plain.error < 1e-9
    assert 1e-12 < shifted.error < 1e-3
    assert shifted.error > 100 * plain.error


KINKS: dict[str, Callable[[Expr], Expr]] = {
    "relu": dr.relu,
    "abs": dr.abs,
    "a comparison": lambda w: dr.where(w > 0, w**2, -w),
    "a largest of two": lambda w: dr.maximum(w, -2 * w),
    "a step": lambda w: dr.where(w > 0, 1, 0) * w,
}


@METHODS
@pytest.mark.parametrize("name", KINKS)
def test_on_a_kink_there_is_no_slope_and_it_says_so(name: str, digits: int):
    found = slope(KINKS[name], 0.0, digits)
    assert not np.isfinite(found.error) and "kink" in found.trouble, found


@METHODS
@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("at", [1e-3, -1e-3])
def test_close_to_a_kink_the_slope_is_that_of_one_side(name: str, at: float, digits: int):
    truth = {"relu": (1.0, 0.0), "abs": (1.0, -1.0), "a comparison": (2 * at, -1.0),
             "a largest of two": (1.0, -2.0), "a step": (1.0, 0.0)}[name][at < 0]
    found = slope(KINKS[name], at, digits)
    assert abs(found.value - truth) <= found.error + 1e-15, found
    assert found.error < 1e-6


@pytest.mark.parametrize("at", [0.0, -1.0])
def test_what_is_not_finite_is_no_slope(at: float):
    found = slope(dr.log, at, 15)
    assert not np.isfinite(found.error) and "not finite" in found.trouble


@METHODS
def test_a_direction_of_a_matrix(digits: int):
    net = dr.Network("n")
    i, j = dr.indices("i:2 j:3")
    a = net.parameter("A", i, j)
    net.loss(dr.sum(a[i, j] ** 3, i, j))
    rng = np.random.default_rng(0)
    at, way = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    found = Slopes(net.program(), "L", {"A": at}, digits=digits).along("A", way)
    assert abs(found.value - float((3 * at**2 * way).sum())) <= found.error + 1e-14


def test_small_programs_are_read_at_50_digits_and_large_ones_are_not():
    small = scalar(dr.sin)
    assert Slopes(small, "L", {"w": np.array(1.0)}).method == "50 digits"
    net = dr.Network("n")
    i, j, k = dr.indices("i:60 j:60 k:60")
    a = net.parameter("A", i, j)
    b = net.define("b", (i, k), dr.sum(a[i, j] * a[k, j], j))
    net.loss(dr.sum(b[i, k], i, k))
    assert Slopes(net.program(), "L", {"A": np.ones((60, 60))}).method == "Richardson"


def test_at_a_critical_point_the_bar_holds_what_the_third_derivative_does():
    """The square of a product with a zero: no slope, but the ends of a step differ."""
    net = dr.Network("n")
    r = net.parameter("r", 3)
    (k,) = r.indices
    net.loss(dr.prod(r[k], k) ** 2)
    report = dr.check(dr.derive(net), {"r": np.array([0.0, 1.0, 2.0])}, directions=5)
    assert report.ok, report


def test_a_kink_without_a_value_is_no_crash():
    """inf - inf has no sign; the slope is undecided, and says so."""
    net = dr.Network("n")
    x = net.parameter("x", 2)
    net.loss(dr.relu(x[0] - x[1]))
    slopes = Slopes(net.program(), "L", {"x": np.array([np.inf, np.inf])}, digits=50)
    assert slopes.along("x", np.ones(2)).trouble == "inf - inf on the way to the scalar"
