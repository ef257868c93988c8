"""The table of a diagnosis: one row per layer, the factor per layer, and growth of recurrences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import sympy
from sympy import Expr

from derive.flow.forecast import Forecast, adjoint_name, step_growth
from derive.flow.integrals import GaussianMoment, number
from derive.flow.moments import slope_of
from derive.flow.remedies import Layer


@dataclass(frozen=True)
class Row:
    """One layer: rms of signal and adjoint, and how much of the adjoint reaches the layer before.

    ``factor`` is rms(adjoint of this layer) / rms(adjoint of the next); ``slope`` is E[φ'²] of
    the function that follows; ``measured_*`` are None where nothing was measured.
    """

    layer: str
    signal: float
    adjoint: float
    factor: float | None
    slope: float | None
    measured_signal: float | None = None
    measured_adjoint: float | None = None


@dataclass(frozen=True)
class Recurrent:
    """A recurrence: the factor by which its adjoints' rms changes per step, and how many steps."""

    names: tuple[str, ...]
    factor: float
    steps: int

    @property
    def total(self) -> float:
        return self.factor**self.steps


def layer_rows(predicted: Forecast, layers: tuple[Layer, ...],
          measured: Mapping[str, np.ndarray | float]) -> tuple[Row, ...]:
    rows: list[Row] = []
    after: float | None = None
    for layer in reversed(layers):
        name = adjoint_name(predicted.flow.program, layer.name)
        if name is None or name not in predicted.signals:
            continue
        adjoint = predicted[name].rms
        slope = _slope(layer, predicted)
        factor = adjoint / after if after else None
        rows.append(Row(layer.name, predicted[layer.name].rms, adjoint, factor, slope,
                        _rms(measured.get(layer.name)), _rms(measured.get(name))))
        after = adjoint
    return tuple(rows[::-1])


def _rms(value: np.ndarray | float | None) -> float | None:
    if value is None:
        return None
    return float(np.sqrt(np.mean(np.square(np.asarray(value, dtype=float)))))


def _slope(layer: Layer, predicted: Forecast) -> float | None:
    """E[φ'(z)²] at the forecast signal."""
    if layer.function is None:
        return None
    signal = predicted[layer.name]
    if not math.isfinite(signal.second):
        return None
    mean, second = (_exact(v) for v in (signal.mean, signal.second))
    return number(GaussianMoment(slope_of(layer.function) ** 2, mean, second), {})


def _exact(value: float) -> Expr:
    return sympy.Integer(0) if value == 0 else sympy.Float(value)


def total_factor(rows: tuple[Row, ...]) -> tuple[float, float]:
    """The mean factor per layer and over all layers, from the last hidden one to the first: the
    step from the loss into the readout is no loss of depth."""
    known = [r.adjoint for r in (rows[:-1] if len(rows) > 2 else rows)]
    if len(known) < 2 or not all(math.isfinite(a) for a in known):
        return (1.0, 1.0) if len(known) < 2 else (math.nan, math.nan)
    if known[-1] == 0:
        return math.nan, math.nan
    total = known[0] / known[-1]
    return (total ** (1 / (len(known) - 1)) if total > 0 else 0.0), total


def recurrences(predicted: Forecast) -> Iterator[Recurrent]:
    """The growth of each backward recurrence, by putting 1 in and its sources at 0."""
    for group, relations in zip(predicted.flow.program.groups, predicted.flow.groups[1:]):
        if group.recurrent and any(eq.tensor.role == "gradient" for eq in group.equations):
            growth = step_growth(predicted, group, relations)
            steps = len(predicted.steps[group.equations[0].name])
            yield Recurrent(tuple(eq.name for eq in group.equations), math.sqrt(growth), steps)
