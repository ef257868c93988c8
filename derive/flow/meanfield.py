"""The infinite-width map of a deep network z = W φ(z) + c with Var W = σ_w²/n, Var c = σ_b².

Variance map q ↦ σ_w² E[φ(z)²] + σ_b², correlation map c ↦ (σ_w² E[φ(z₁)φ(z₂)] + σ_b²)/q*, and
χ₁ = σ_w² E[φ'(z)²]: the factor by which the squared adjoint grows per layer and the slope of the
correlation map at 1 (Poole et al. 2016; Schoenholz et al. 2017). χ₁ = 1 is the edge of chaos.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from derive.errors import DerivationError
from derive.flow.moments import Activation, X, scalar_function, slope_of
from derive.flow.quadrature import Scalar, compiled, expect, expect_pair


@dataclass(frozen=True)
class Phase:
    """Where a network of weight variance σ_w² and bias variance σ_b² lies.

    ``variance`` is q*, ``chi`` χ₁ at q*, ``correlation`` the stable c*; ``depth_variance`` ξ_q and
    ``depth_correlation`` ξ_c are in layers; adjoints shrink (or grow) over |1/log χ₁| layers.
    """

    weight: float
    bias: float
    variance: float
    chi: float
    correlation: float
    depth_variance: float
    depth_correlation: float

    @property
    def name(self) -> str:
        if abs(self.chi - 1) < 1e-6:
            return "edge of chaos"
        return "ordered: gradients vanish" if self.chi < 1 else "chaotic: gradients explode"

    @property
    def depth_gradient(self) -> float:
        """Layers over which the mean squared adjoint changes by a factor e."""
        return math.inf if self.chi == 1 else 1 / abs(math.log(self.chi))


class Map:
    """The maps of one activation, by quadrature."""

    def __init__(self, phi: Activation) -> None:
        self.expression = scalar_function(phi)
        slope = slope_of(self.expression)
        self.f: Scalar = compiled(self.expression, X)
        self.slope: Scalar = compiled(slope, X)
        self.square: Scalar = compiled(self.expression**2, X)
        self.slope_square: Scalar = compiled(slope**2, X)
        self.curvature: Scalar = compiled(slope.diff(X), X)

    def variance(self, q: float, weight: float, bias: float) -> float:
        return weight * expect(self.square, q).value + bias

    def chi(self, q: float, weight: float) -> float:
        return weight * expect(self.slope_square, q).value

    def covariance(self, c: float, q: float, weight: float, bias: float) -> float:
        return weight * expect_pair(self.f, self.f, q, c * q) + bias

    def fixed_variance(self, weight: float, bias: float) -> float:
        """q*, the stable fixed point, by iteration and then Newton's method on the secant.

        Raises:
            DerivationError: the variance grows without bound.
        """
        q = 1.0
        for _ in range(2000):
            new = self.variance(q, weight, bias)
            if not math.isfinite(new) or new > 1e12:
                raise DerivationError(
                    f"the variance has no fixed point for σ_w² = {weight:g}, σ_b² = {bias:g}",
                    expected="a bounded variance", got=f"{new:g} and growing",
                    mend="smaller weights",
                )
            if abs(new - q) <= 1e-14 * max(q, 1e-300):
                return new
            q = self._accelerated(q, new, weight, bias)
        return q

    def _accelerated(self, q: float, new: float, weight: float, bias: float) -> float:
        """One step of Aitken's extrapolation, where it stays positive."""
        after = self.variance(new, weight, bias)
        bend = after - 2 * new + q
        guess = q - (new - q) ** 2 / bend if bend else after
        return guess if 0 < guess < 10 * max(q, new, after) else after


def phase(phi: Activation, weight: float, bias: float = 0.0) -> Phase:
    """Fixed point, χ₁, c* and the depth scales ξ_q, ξ_c of Schoenholz et al. (2017), section 3.

    Args:
        phi: a smooth activation such as "tanh".
        weight: σ_w², the weight's variance times its fan-in.
        bias: σ_b².
    """
    maps = Map(phi)
    q = maps.fixed_variance(weight, bias)
    chi = maps.chi(q, weight)
    curved = weight * expect(lambda z: maps.curvature(z) * maps.f(z), q).value
    c = 1.0 if chi <= 1 else _stable_correlation(maps, q, weight, bias)
    rate = chi if chi <= 1 else weight * expect_pair(maps.slope, maps.slope, q, c * q)
    return Phase(weight, bias, q, chi, c, _depth(chi + curved), _depth(rate))


def _depth(rate: float) -> float:
    if rate <= 0:
        return 0.0
    return math.inf if abs(rate - 1) < 1e-12 else -1 / math.log(rate)


def _stable_correlation(maps: Map, q: float, weight: float, bias: float) -> float:
    """c* < 1 in the chaotic phase: the zero of the correlation map minus the identity."""
    def excess(c: float) -> float:
        return maps.covariance(c, q, weight, bias) / q - c

    if excess(0.0) <= 1e-15:
        return 0.0
    return float(brentq(excess, 0.0, 1 - 1e-9, xtol=1e-13))


def edge_of_chaos(phi: Activation, bias: float) -> float:
    """σ_w² at which χ₁ = 1 for a given σ_b².

    Raises:
        DerivationError: no such weight variance between 0.01 and 100.
    """
    maps = Map(phi)

    def excess(weight: float) -> float:
        return maps.chi(maps.fixed_variance(weight, bias), weight) - 1

    grid = np.geomspace(0.01, 100.0, 25)
    for low, high in itertools.pairwise(grid):
        try:
            if excess(low) < 0 <= excess(high):
                return float(brentq(excess, low, high, xtol=1e-13))
        except DerivationError:
            break
    raise DerivationError(
        f"no weight variance puts this activation at the edge of chaos for σ_b² = {bias:g}",
        expected="χ₁ = 1 for some σ_w² in 0.01 … 100",
    )
