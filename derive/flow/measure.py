"""What arrays at hand say of a network: units that are dead or saturated, weights that are ill
conditioned, and how noisy a gradient is. The arrays come from the reference evaluator or from
emitted kernels; nothing here computes a forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from sympy import Expr

from derive.errors import DataError
from derive.flow.axes import classify_axes, fan_ins
from derive.flow.moments import X, slope_of
from derive.flow.quadrature import compiled
from derive.flow.relations import random_parameters
from derive.flow.remedies import forward_of, layers_of
from derive.program import Program, as_program


@dataclass(frozen=True)
class UnitHealth:
    """Of one pointwise function: the share of units that are dead (φ' = 0 for every sample) and
    saturated (φ' below 5 % of its largest value for 95 % of the samples), and the mean φ'²."""

    name: str
    dead: float
    saturated: float
    slope_square: float

    @property
    def wrong(self) -> bool:
        return self.dead > 0.2 or self.saturated > 0.2


def unit_shares(name: str, function: Expr, slope_square: np.ndarray, open_share: np.ndarray
                ) -> UnitHealth:
    """The health of a layer from two numbers of each unit: the mean of φ'² over samples, and the
    share of samples where φ' is at least 5 % of its largest value. A function whose slope is 0
    nowhere (a sigmoid's, that only rounds to 0) has no dead units."""
    dies = bool((_slopes(function) == 0).any())
    return UnitHealth(name, float((slope_square == 0).mean()) if dies else 0.0,
                      float((open_share <= 0.05).mean()), float(slope_square.mean()))


@lru_cache(maxsize=64)
def _slopes(function: Expr) -> np.ndarray:
    """|φ'| between -10 and 10; the grid misses 0, where a slope may vanish at one point."""
    return np.abs(compiled(slope_of(function), X)(np.linspace(-10, 10, 2000)))


def largest_slope(function: Expr) -> float:
    """sup |φ'| between -10 and 10, on a fine grid."""
    return float(_slopes(function).max())


def unit_health(program: Program, values: Mapping[str, np.ndarray]) -> tuple[UnitHealth, ...]:
    """Dead and saturated units, from the pre-activations of one batch.

    Args:
        program: the network.
        values: arrays by tensor name; layers whose pre-activation is missing are left out. A unit
            is an index of the feature axes (the channels of a convolution); the other axes are
            samples.
    """
    forward = forward_of(as_program(program))
    kinds = classify_axes(forward, random_parameters(forward))
    found = []
    for layer in layers_of(forward):
        if layer.function is None or layer.name not in values:
            continue
        z = np.asarray(values[layer.name], dtype=float)
        units = [n for n, kind in enumerate(kinds[layer.name]) if kind == "feature"]
        rest = tuple(n for n in range(z.ndim) if n not in (units or [z.ndim - 1]))
        slope = compiled(slope_of(layer.function), X)(z) ** 2
        opened = slope >= (0.05 * largest_slope(layer.function)) ** 2
        found.append(unit_shares(layer.name, layer.function, slope.mean(axis=rest),
                                 opened.mean(axis=rest)))
    return tuple(found)


@dataclass(frozen=True)
class Conditioning:
    """The largest and smallest singular value of a weight, as a matrix from fan-in to the rest."""

    name: str
    largest: float
    smallest: float

    @property
    def condition(self) -> float:
        return self.largest / self.smallest if self.smallest > 0 else np.inf


def conditioning(program: Program, values: Mapping[str, np.ndarray]) -> tuple[Conditioning, ...]:
    """Singular values of every contracted weight that ``values`` holds."""
    found = []
    for name in fan_ins(as_program(program)):
        if name in values and np.ndim(values[name]) >= 2:
            weight = np.asarray(values[name], dtype=float)
            spectrum = np.linalg.svd(weight.reshape(weight.shape[0], -1), compute_uv=False)
            found.append(Conditioning(name, float(spectrum[0]), float(spectrum[-1])))
    return tuple(found)


@dataclass(frozen=True)
class NoiseScale:
    """``signal`` estimates |G|², ``noise`` the trace of the covariance of one sample's gradient;
    their quotient is the batch size beyond which larger batches help little."""

    signal: float
    noise: float

    @property
    def batch(self) -> float:
        return self.noise / self.signal if self.signal > 0 else np.inf


def noise_scale(gradients: Sequence[np.ndarray], samples: int) -> NoiseScale:
    """The simple gradient noise scale (McCandlish et al. 2018, appendix A.1), unbiased.

    Args:
        gradients: the flat gradients of the *mean* loss of at least two batches.
        samples: how many samples each batch has.

    Raises:
        DataError: fewer than two gradients, or of different lengths.
    """
    stack = [np.asarray(g, dtype=float).ravel() for g in gradients]
    if len(stack) < 2 or len({g.size for g in stack}) != 1:
        raise DataError(
            "the noise scale needs gradients of at least two batches",
            expected="two or more arrays of one length",
            got=f"{len(stack)} of lengths {sorted({g.size for g in stack})}",
        )
    count = len(stack)
    small = float(np.mean([g @ g for g in stack]))
    mean = np.mean(stack, axis=0)
    large = float(mean @ mean)
    signal = (count * large - small) / (count - 1)
    noise = (small - large) / (1 / samples - 1 / (samples * count))
    return NoiseScale(signal, noise)
