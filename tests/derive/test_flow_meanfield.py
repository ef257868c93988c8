"""Fixed points, edge of chaos and depth scales (Poole 2016; Schoenholz 2017)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from derive.errors import DerivationError
from derive.flow.meanfield import Map, edge_of_chaos, phase


def test_edge_of_chaos_of_tanh():
    """Schoenholz et al. 2017, figure 1: σ_w² = 1 for σ_b² → 0, about 1.76 for σ_b² = 0.05."""
    assert edge_of_chaos("tanh", 1e-10) == pytest.approx(1.0, abs=1e-3)
    assert edge_of_chaos("tanh", 0.05) == pytest.approx(1.76, abs=0.005)
    weights = [edge_of_chaos("tanh", b) for b in (0.001, 0.01, 0.05, 0.1, 0.2)]
    assert weights == sorted(weights)
    assert phase("tanh", edge_of_chaos("tanh", 0.05), 0.05).name == "edge of chaos"


@pytest.mark.parametrize(("weight", "bias"), [(0.9, 0.05), (1.3, 0.05), (2.5, 0.05), (4.0, 0.3)])
def test_depth_scales_are_those_of_the_iterated_maps(weight: float, bias: float):
    """ξ_q and ξ_c from derivatives at the fixed point against the decay of the maps themselves."""
    maps, found = Map("tanh"), phase("tanh", weight, bias)
    q, gaps = found.variance * 1.2, []
    for _ in range(14):
        q = maps.variance(q, weight, bias)
        gaps.append(abs(q - found.variance))
    assert -1 / math.log(gaps[-1] / gaps[-2]) == pytest.approx(found.depth_variance, rel=0.02)
    c, gaps = found.correlation - 0.02, []
    for _ in range(14):
        c = maps.covariance(c, found.variance, weight, bias) / found.variance
        gaps.append(abs(c - found.correlation))
    assert -1 / math.log(gaps[-1] / gaps[-2]) == pytest.approx(found.depth_correlation, rel=0.02)


def test_phases_have_names():
    assert phase("tanh", 1.0, 0.05).name.startswith("ordered")
    chaotic = phase("tanh", 3.0, 0.05)
    assert chaotic.name.startswith("chaotic")
    assert 0 < chaotic.correlation < 1
    assert chaotic.depth_gradient == pytest.approx(1 / math.log(chaotic.chi))


def test_chi_is_the_growth_of_adjoints_in_a_simulated_network():
    """tanh, σ_w² = 2, σ_b² = 0.1, width 1,000: the squared adjoint per layer is χ₁."""
    rng, n, weight, bias = np.random.default_rng(3), 1000, 2.0, 0.1
    found = phase("tanh", weight, bias)
    h, slopes, matrices = rng.normal(size=n), [], []
    for _ in range(30):
        matrices.append(rng.normal(size=(n, n)) * math.sqrt(weight / n))
        z = matrices[-1] @ h + rng.normal(size=n) * math.sqrt(bias)
        h = np.tanh(z)
        slopes.append(1 - h**2)
    adjoint, norms = rng.normal(size=n), []
    for matrix, slope in zip(matrices[::-1], slopes[::-1]):
        adjoint = matrix.T @ (slope * adjoint)
        norms.append((adjoint**2).mean())
    measured = (norms[24] / norms[4]) ** (1 / 20)
    # 20 layers of relative variance about 3/n each: 5 standard deviations of the mean per layer
    assert measured == pytest.approx(found.chi, rel=5 * math.sqrt(3 / n / 20))


def test_relu_has_no_fixed_point_above_he():
    with pytest.raises(DerivationError, match="no fixed point"):
        phase("relu", 2.5, 0.1)
