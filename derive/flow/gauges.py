"""What measures a network while it runs: program → program with a few small tensors per layer.

The rms of each layer's signal and adjoint, and for each unit the mean of φ'² and how often φ' is
open. They are index equations like all others, so the emitted kernels compute them in one pass
over what they have in cache, and no whole tensor leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sympy import Expr, Mul, Pow, S

from derive.flow.axes import classify_axes
from derive.flow.forecast import adjoint_name
from derive.flow.measure import UnitHealth, largest_slope, unit_shares
from derive.flow.moments import X, slope_of
from derive.flow.relations import random_parameters
from derive.flow.remedies import Layer, forward_of, layers_of
from derive.functions import absolute
from derive.nodes import Index, MaxOver, Select, SumOver
from derive.program import Equation, Program, Tensor

OPEN = 0.05  # a slope below this share of the largest is a closed unit's


@dataclass(frozen=True)
class Gauge:
    """The tensors that measure one layer: name → which, see `read`."""

    layer: str
    signal: str
    adjoint: str | None
    slope: str | None = None
    open: str | None = None
    function: Expr | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(n for n in (self.signal, self.adjoint, self.slope, self.open) if n)


@dataclass(frozen=True)
class Reading:
    """What was measured of one layer: rms of its pre-activation and of the adjoint (None where
    the program has none), and the health of its units (None without a function)."""

    layer: str
    signal: float
    adjoint: float | None
    units: UnitHealth | None


def with_gauges(derived: Program) -> tuple[Program, tuple[Gauge, ...]]:
    """Equations that measure each layer of a derived program, and what they need; no gradients,
    losses or updates are left to compute.

    Each rms is scaled by the largest element, so that squares of a tensor whose elements fit
    float32 do so too.
    """
    forward = forward_of(derived)
    kinds = classify_axes(forward, random_parameters(forward))
    equations: list[Equation] = []
    found = []
    for layer in layers_of(forward):
        tensor = derived.tensors[layer.name]
        adjoint = adjoint_name(derived, layer.name)
        own = _rms(tensor, equations)
        back = _rms(derived.tensors[adjoint], equations) if adjoint else None
        units = tuple(i for i, kind in zip(tensor.indices, kinds[layer.name]) if kind == "feature")
        per_unit = _slopes(layer, tensor, units or tensor.indices[-1:], equations)
        found.append(Gauge(layer.name, own, back, *per_unit))
    made = derived.with_equations(equations, losses=(), gradients={}, updates={}, jacobians={})
    return made.only(*(n for g in found for n in g.names)), tuple(found)


def _rms(tensor: Tensor, equations: list[Equation]) -> str:
    """``top √(mean (x/top)²)``; adds its equations and gives its name."""
    stem = tensor.name.lstrip("_")
    top, rms = Tensor(f"_top_{stem}", ()), Tensor(f"_rms_{stem}", ())
    if any(eq.name == rms.name for eq in equations):
        return rms.name
    x, own = tensor.access, tensor.indices
    scaled = Select(top.access > 0, x / top.access, S.Zero)
    mean = _over(scaled**2, own) / Mul(*(i.size for i in own))
    equations += [
        Equation(top, (), MaxOver(absolute(x), *own) if own else absolute(x), "gauge"),
        Equation(rms, (), top.access * Pow(mean, S.Half), "gauge"),
    ]
    return rms.name


def _slopes(layer: Layer, tensor: Tensor, units: tuple[Index, ...], equations: list[Equation]
            ) -> tuple[str, str, Expr] | tuple[()]:
    """Per unit: the mean of φ'² over samples, and the share of samples where φ' is open."""
    if layer.function is None or not units:
        return ()
    rest = tuple(i for i in tensor.indices if i not in units)
    count = Mul(*(i.size for i in rest))
    square = slope_of(layer.function).xreplace({X: tensor.access}) ** 2
    least = (OPEN * largest_slope(layer.function)) ** 2
    names: list[str] = []
    for what, body in (("slope", square), ("open", Select(square >= least, S.One, S.Zero))):
        made = Tensor(f"_{what}_{tensor.name.lstrip('_')}", units)
        equations.append(Equation(made, units, _over(body, rest) / count, "gauge"))
        names.append(made.name)
    return names[0], names[1], layer.function


def _over(body: Expr, bound: tuple[Index, ...]) -> Expr:
    return SumOver(body, *bound) if bound else body


def read(gauges: tuple[Gauge, ...], values: Mapping[str, np.ndarray]) -> tuple[Reading, ...]:
    """The readings in the arrays that a program `with_gauges` gave."""
    found = []
    for gauge in gauges:
        units = None
        if gauge.slope and gauge.open and gauge.function is not None:
            units = unit_shares(gauge.layer, gauge.function, np.asarray(values[gauge.slope]),
                                np.asarray(values[gauge.open]))
        adjoint = float(values[gauge.adjoint]) if gauge.adjoint else None
        found.append(Reading(gauge.layer, float(values[gauge.signal]), adjoint, units))
    return tuple(found)


def measured_norms(program: Program, readings: tuple[Reading, ...]) -> dict[str, float]:
    """Readings as `diagnose` takes them: rms by the names of signals and adjoints."""
    found: dict[str, float] = {}
    for reading in readings:
        found[reading.layer] = reading.signal
        name = adjoint_name(program, reading.layer)
        if name is not None and reading.adjoint is not None:
            found[name] = reading.adjoint
    return found
