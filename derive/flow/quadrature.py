"""Gaussian expectations by quadrature, each with an error bound.

The line is cut at 0, at the kinks and at points that halve towards 0, so that a function which is
sharp on the scale of 1 is resolved whatever the variance; each panel gets two Gauss-Legendre
rules, and their difference, the rounding and the tail that is cut off make the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy
from scipy import special
from sympy import Expr, Symbol

from derive.flow.closed import unfold
from derive.nodes import Select

Scalar = Callable[[np.ndarray], np.ndarray]

_REACH = 12.0  # standard deviations; the density there is 2e-32
_HALVINGS = 16


@dataclass(frozen=True)
class Estimate:
    """A number with a bound on its error."""

    value: float
    error: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.12g} ± {self.error:.1g}"


@lru_cache(maxsize=4096)
def compiled(f: Expr, *arguments: Symbol) -> Scalar:
    """A NumPy function of scalar expressions; selections evaluate like `numpy.where`."""
    body = unfold(f, stable=True)
    while body.has(Select):
        nodes = [n for n in body.atoms(Select) if not any(a.has(Select) for a in n.args)]
        body = body.xreplace(
            {n: sympy.Piecewise((n.yes, n.condition), (n.no, True)) for n in nodes}
        )
    raw = sympy.lambdify(arguments, body, modules=["scipy", "numpy"])

    def call(*values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(raw(*values), dtype=float) + np.zeros_like(values[0])

    return call


@lru_cache(maxsize=64)
def _legendre(points: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(points)


@lru_cache(maxsize=64)
def _panels(points: int, halvings: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, REACH), in panels that halve towards 0."""
    edges = np.concatenate([[0.0], _REACH * 0.5 ** np.arange(halvings, -1.0, -1.0)])
    wide = edges[-2:]  # the outermost panel in four, or the density itself is poorly resolved
    edges = np.concatenate([edges[:-2], np.linspace(wide[0], wide[1], 5)])
    node, weight = _legendre(points)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    return (
        (middle[:, None] + half[:, None] * node).ravel(),
        (half[:, None] * weight).ravel(),
    )


@lru_cache(maxsize=64)
def standard_rule(points: int = 20, halvings: int = _HALVINGS) -> tuple[np.ndarray, np.ndarray]:
    """Nodes u and weights w with Σ w f(u) ≈ E[f(u)], u standard normal, f smooth but at 0."""
    u, w = _panels(points, halvings)
    density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    return np.concatenate([-u[::-1], u]), np.concatenate([(w * density)[::-1], w * density])


def expect(f: Scalar, variance: float, mean: float = 0.0) -> Estimate:
    """E[f(z)] for z normal, with a bound on the error.

    Args:
        f: a NumPy function that is smooth except at 0 (the kinks of our functions).
        variance: of z, at least 0.
        mean: of z; the cuts stay at z = 0.
    """
    if variance <= 0:
        return Estimate(float(f(np.array([mean]))[0]), 0.0)
    scale = float(np.sqrt(variance))
    fine, coarse = (_shifted(f, scale, mean, points) for points in (20, 14))
    magnitude = _shifted(lambda z: np.abs(f(z)), scale, mean, 14)
    edge = np.abs(f(np.array([mean - _REACH * scale, mean + _REACH * scale]))).max()
    tail = 1e-30 * edge
    rounding = 32 * np.finfo(float).eps * magnitude
    return Estimate(fine, abs(fine - coarse) + rounding + tail)


def _shifted(f: Scalar, scale: float, mean: float, points: int) -> float:
    """E[f] with cuts at z = 0: with a mean, in z itself and the density evaluated there."""
    if mean == 0:
        u, w = standard_rule(points)
        return float(w @ f(scale * u))
    reach = _REACH + abs(mean) / scale
    u, w = _panels(points, _HALVINGS)
    # widen the panels so that both sides reach far enough from the mean
    u, w = u * (reach / _REACH), w * (reach / _REACH)
    z = scale * np.concatenate([-u[::-1], u])
    pieces = np.concatenate([w[::-1], w])
    density = np.exp(-(((z - mean) / scale) ** 2) / 2) / np.sqrt(2 * np.pi)
    return float((pieces * density) @ f(z))


def expect_pair(f: Scalar, g: Scalar, variance: float, covariance: float, mean: float = 0.0,
                points: int = 10, halvings: int = 7) -> float:
    """E[f(z₁) g(z₂)] for jointly normal z of one mean and variance and a covariance.

    z = common + own: given the common part (of variance |covariance|) the two are independent,
    so the expectation is one of the product of two inner ones.
    """
    shared = min(abs(covariance), variance)
    sign = 1.0 if covariance >= 0 else -1.0
    u, w = standard_rule(points, halvings)
    common = np.sqrt(shared) * u
    own = np.sqrt(max(variance - shared, 0.0)) * u
    if variance - shared <= 1e-14 * variance:
        return float(w @ (f(mean + common) * g(mean + sign * common)))
    first = f(mean + common[:, None] + own[None, :]) @ w
    if f is g and sign > 0:
        return float(w @ first**2)
    return float(w @ (first * (g(mean + sign * common[:, None] + own[None, :]) @ w)))


def expect_largest(f: Scalar, mean: float, shared: float, own: float, count: int,
                   pairs: bool = False) -> float:
    """E[f(y)] for y the largest of ``count`` normal variables that share a part of variance
    ``shared`` and have a part of variance ``own`` of their own; with ``pairs`` E[f(y) f(y')] for
    two groups with the same shared part. The largest of n has the density n φ Φⁿ⁻¹."""
    u, w = standard_rule(12, 8)
    below = special.ndtr(u) ** (count - 1)
    common = np.sqrt(shared) * u
    inner = f(mean + common[:, None] + np.sqrt(own) * u[None, :]) @ (w * count * below)
    return float(w @ (inner**2 if pairs else inner))


def softmax_second_moment(variance: float, count: int) -> float:
    """E[p²] for p = e^{z_1} / Σ e^{z_i} over ``count`` independent normal z of one variance.

    1/S² = ∫ s e^{-sS} ds makes the expectation a product over i: one integral over s of inner
    Gaussian ones, exact for any count and variance (no large-count limit).
    """
    if count == 1 or variance <= 0:
        return 1.0 / count**2
    u, w = standard_rule(12, 8)
    z = np.sqrt(variance) * u
    reach = np.sqrt(variance) * 9 + np.log(count) + 8
    node, weight = _legendre(400)
    log_s = -reach / 2 + reach * node - variance / 2
    with np.errstate(all="ignore"):
        damped = np.exp(-np.exp(log_s[:, None] + z[None, :]))
        one = damped @ w
        two = (damped * np.exp(2 * (z[None, :] + log_s[:, None]))) @ w
        value = float((reach * weight) @ (two * one ** (count - 1)))
    return min(max(value, 1.0 / count**2), 1.0 / count)
