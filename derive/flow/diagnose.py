"""A diagnosis in words: which layer loses the gradient, by what factor, why, and what the
derivation says would mend it. Every remedy is a changed program, derived and forecast again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from sympy import Expr

from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.flow.axes import fan_ins
from derive.flow.forecast import Forecast, Signal, adjoint_name, evaluated_size, forecast
from derive.flow.integrals import GaussianMoment, number
from derive.flow.moments import X, gain, slope_of
from derive.flow.quadrature import compiled
from derive.flow.remedies import (
    Layer,
    forward_of,
    layers_of,
    with_activation,
    with_normalisation,
    with_residuals,
)
from derive.program import Program, as_program

FLOAT32 = 1.1754943508222875e-38  # the smallest normal number


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
class Remedy:
    """A change, with the mean factor per layer and the total that its derivation gives."""

    change: str
    factor: float
    total: float
    note: str = ""

    @property
    def works(self) -> bool:
        return 1e-3 <= self.total <= 1e3

    def __str__(self) -> str:
        verdict = "mends it" if self.works else "is not enough"
        text = f"{self.change}: factor {self.factor:.3g} per layer, {self.total:.2g} in all"
        return f"{text}; {verdict}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Recurrent:
    """A recurrence: the factor by which its adjoints' rms changes per step, and how many steps."""

    names: tuple[str, ...]
    factor: float
    steps: int

    @property
    def total(self) -> float:
        return self.factor**self.steps


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; ``str()`` is the report, ``to_dict()`` plain data, ``picture()`` an
    SVG of predicted and measured norms."""

    name: str
    verdict: str
    factor: float
    total: float
    rows: tuple[Row, ...]
    causes: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    recurrences: tuple[Recurrent, ...]
    unknown: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def healthy(self) -> bool:
        return self.verdict == "healthy"

    @property
    def depth_limit(self) -> float:
        """Layers after which the adjoint falls below the smallest normal float32."""
        rows = [r.adjoint for r in self.rows if r.adjoint > 0]
        if self.factor >= 1 or not rows:
            return math.inf
        return math.log(rows[-1] / FLOAT32) / -math.log(self.factor)

    def to_dict(self) -> dict:
        """Plain data for JSON: floats that are not finite become strings."""
        def plain(value: object) -> object:
            if isinstance(value, float) and not math.isfinite(value):
                return str(value)
            return value

        return {
            "name": self.name, "verdict": self.verdict, "healthy": self.healthy,
            "factor_per_layer": plain(self.factor), "total": plain(self.total),
            "depth_limit_float32": plain(self.depth_limit),
            "layers": [{k: plain(v) for k, v in vars(r).items()} for r in self.rows],
            "causes": list(self.causes),
            "remedies": [
                {**{k: plain(v) for k, v in vars(r).items()}, "works": r.works}
                for r in self.remedies
            ],
            "recurrences": [
                {"tensors": list(r.names), "factor_per_step": plain(r.factor), "steps": r.steps,
                 "total": plain(r.total)} for r in self.recurrences
            ],
            "unknown": dict(self.unknown), "sizes": dict(self.sizes),
        }

    def picture(self) -> str:
        """An SVG of the rms of signals and adjoints per layer, predicted and measured."""
        from derive.flow.picture import norms_picture

        return norms_picture(self)

    def __str__(self) -> str:
        from derive.flow.report import diagnosis_text

        return diagnosis_text(self)


def diagnose(
    net: Program,
    *,
    inputs: Mapping[str, Signal | np.ndarray] | None = None,
    weights: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    measured: Mapping[str, np.ndarray | float] | None = None,
    remedies: bool = True,
) -> Diagnosis:
    """Say whether gradients vanish or explode, where, by what factor, why, and what mends it.

    Args:
        net: a network or its `Program`, with one loss.
        inputs: data (first axis: samples) or its moments; by default mean 0 and variance 1.
        weights: variances of parameters; by default those they are declared with.
        sizes: of run-time dims such as "B"; by default 32.
        measured: arrays, or rms values, by the names of the derived program (``z1``, ``_d_z1``).
        remedies: whether to derive the remedies too.

    Raises:
        DerivationError: the network has no loss or several.
    """
    program = as_program(net)
    derived = derive(program)
    predicted = forecast(derived, inputs=inputs, weights=weights, sizes=sizes)
    layers = layers_of(forward_of(program))
    rows = _rows(predicted, layers, measured or {})
    factor, total = _total(rows)
    recurrences = tuple(_recurrences(predicted))
    verdict = _verdict(total, recurrences, rows)
    found = _Remedies(program, predicted, layers, inputs, weights, sizes) if (
        remedies and verdict not in ("healthy", "not known")) else None
    return Diagnosis(
        program.name, verdict, factor, total, rows,
        tuple(_causes(verdict, rows, layers, predicted, recurrences)),
        tuple(found.all(recurrences)) if found else (), recurrences,
        predicted.flow.unknown, predicted.sizes,
    )


def _rows(predicted: Forecast, layers: tuple[Layer, ...],
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
    import sympy

    return sympy.Integer(0) if value == 0 else sympy.Float(value)


def _total(rows: tuple[Row, ...]) -> tuple[float, float]:
    """The mean factor per layer and over all layers, from the last hidden one to the first: the
    step from the loss into the readout is no loss of depth."""
    known = [r.adjoint for r in (rows[:-1] if len(rows) > 2 else rows)]
    if len(known) < 2 or not all(math.isfinite(a) for a in known):
        return (1.0, 1.0) if len(known) < 2 else (math.nan, math.nan)
    if known[-1] == 0:
        return math.nan, math.nan
    total = known[0] / known[-1]
    return (total ** (1 / (len(known) - 1)) if total > 0 else 0.0), total


def _verdict(total: float, recurrences: tuple[Recurrent, ...], rows: tuple[Row, ...]) -> str:
    signals = [r.signal for r in rows]
    if not math.isfinite(total) or not all(map(math.isfinite, signals)):
        return "not known"
    worst = [total, *(r.total for r in recurrences)]
    if max(worst) > 1e3:
        return "exploding gradients"
    if min(worst) < 1e-3:
        return "vanishing gradients"
    return "healthy"


def _recurrences(predicted: Forecast) -> Iterator[Recurrent]:
    """The growth of each backward recurrence, by putting 1 in and its sources at 0."""
    from derive.flow.forecast import step_growth

    for group, relations in zip(predicted.flow.program.groups, predicted.flow.groups[1:]):
        if group.recurrent and group.equations[0].tensor.role == "gradient":
            growth = step_growth(predicted, group, relations)
            steps = len(predicted.steps[group.equations[0].name])
            yield Recurrent(tuple(eq.name for eq in group.equations), math.sqrt(growth), steps)


# -- why --------------------------------------------------------------------------------------
def _causes(verdict: str, rows: tuple[Row, ...], layers: tuple[Layer, ...], predicted: Forecast,
            recurrences: tuple[Recurrent, ...]) -> Iterator[str]:
    if verdict in ("healthy", "not known"):
        return
    functions = {la.name: la for la in layers}
    inner = rows[:-2] if len(rows) > 2 else rows
    lossy = [r for r in inner if r.factor is not None and not 0.8 <= r.factor <= 1.25]
    if lossy:
        worst = max(lossy, key=lambda r: abs(math.log(r.factor)) if r.factor else math.inf)
        yield (f"worst layer: {worst.layer}, whose adjoint is {worst.factor:.3g} times that of the "
               "next layer")
    for name in dict.fromkeys(_function_name(functions[r.layer]) for r in lossy):
        same = [r for r in lossy if _function_name(functions[r.layer]) == name]
        typical = sorted(same, key=lambda r: r.factor or 0.0)[len(same) // 2]
        text = _why(typical, functions[typical.layer])
        if text:
            yield f"{text} ({len(same)} layers)" if len(same) > 1 else text
    if len(lossy) > 1:
        geometric = math.exp(float(np.mean([math.log(r.factor) for r in lossy if r.factor])))
        yield (f"depth: {len(lossy)} such layers in a row multiply to "
               f"{geometric ** len(lossy):.2g}, and no residual connection goes around them")
    for r in recurrences:
        if not 1e-3 < r.total < 1e3:
            yield (f"recurrence: the same Jacobian {r.steps} times; the adjoint changes by "
                   f"{r.factor:.3g} per step, {r.total:.2g} over all of them")


def _function_name(layer: Layer) -> str:
    f = layer.function
    return "" if f is None else f.func.__name__ if f.args == (X,) else str(f)


def _why(row: Row, layer: Layer) -> str:
    if layer.function is None or row.slope is None or row.factor is None:
        return ""
    top = float(np.abs(compiled(slope_of(layer.function), X)(np.linspace(-12, 12, 4801))).max())
    weight = row.factor**2 / row.slope if row.slope > 0 else math.inf
    text = f"{_function_name(layer)}: E[f'^2] = {row.slope:.3g}"
    if row.slope < 0.1 * top**2:
        return (f"{text}, where {top**2:.3g} is possible: saturated, the signal has an rms of "
                f"{row.signal:.2g}")
    if top < 0.9:
        return (f"{text}, and its slope never exceeds {top:.3g}: weights would need fan·variance = "
                f"{1 / row.slope:.3g} to make up for it, they have {weight:.3g}")
    if row.factor < 1:
        return f"initialisation: {text}, fan·variance = {weight:.3g}; {1 / row.slope:.3g} keeps it"
    return (f"initialisation: {text}, fan·variance = {weight:.3g} is too large; "
            f"{1 / row.slope:.3g} keeps it")


# -- what would mend it -----------------------------------------------------------------------
class _Remedies:
    """Each remedy: change the program or the weights, derive and forecast again."""

    def __init__(self, program: Program, predicted: Forecast, layers: tuple[Layer, ...],
                 inputs: Mapping | None, weights: Mapping[str, float] | None,
                 sizes: Mapping[str, int] | None) -> None:
        self.program, self.predicted, self.layers = forward_of(program), predicted, layers
        self.inputs, self.weights, self.sizes = inputs, dict(weights or {}), sizes
        self.fans = fan_ins(self.program)

    def all(self, recurrences: tuple[Recurrent, ...]) -> Iterator[Remedy]:
        tries: list[tuple[str, Callable[[], tuple[Program | None, dict[str, float], str]]]] = [
            ("initialisation by the gain of each function", self._initialised),
            ("relu with variance 2/fan-in (He et al. 2015)", self._rectified),
            ("batch normalisation before each function", lambda: self._normalised("sample")),
            ("layer normalisation before each function", lambda: self._normalised("feature")),
            ("residual connections around each layer", self._residual),
        ]
        if not recurrences:
            for change, make in tries:
                yield from self._try(change, make)
        for r in recurrences:
            yield from self._recurrent(r)

    def _try(self, change: str, make: Callable) -> Iterator[Remedy]:
        try:
            program, weights, note = make()
            if program is None:
                return
            new = forecast(derive(program), inputs=self.inputs, sizes=self.sizes,
                           weights={**self.weights, **weights})
            factor, total = _total(_rows(new, layers_of(forward_of(program)), {}))
        except ChainruleError:  # a remedy that does not fit this network is not offered
            return
        if math.isfinite(total):
            yield Remedy(change, factor, total, note)

    def _fan(self, name: str) -> int:
        return evaluated_size(self.fans[name], self.predicted.sizes)

    def _initialised(self) -> tuple[Program | None, dict[str, float], str]:
        """Each weight by the gain of the function whose output it is multiplied with."""
        functions = {la.output: la.function for la in self.layers if la.output}
        weights, gains = {}, set()
        for layer in self.layers:
            source = layer.source.name if layer.source is not None else ""
            phi = functions.get(source)
            g = float(gain(phi)) if phi is not None else 1.0
            if phi is not None:
                gains.add(round(g, 4))
            for name in layer.weights:
                weights[name] = g**2 / self._fan(name)
        return self.program, weights, f"gain {', '.join(map(str, sorted(gains)))}"

    def _rectified(self) -> tuple[Program | None, dict[str, float], str]:
        if not any(la.output for la in self.layers):
            return None, {}, ""
        outputs = {la.output for la in self.layers if la.output}
        weights = {
            name: (2.0 if la.source is not None and la.source.name in outputs else 1.0)
            / self._fan(name)
            for la in self.layers for name in la.weights
        }
        return with_activation(self.program), weights, ""

    def _normalised(self, over: str) -> tuple[Program | None, dict[str, float], str]:
        program, count = with_normalisation(self.program, over)
        return (program if count else None), {}, ""

    def _residual(self) -> tuple[Program | None, dict[str, float], str]:
        program, count = with_residuals(self.program)
        return (program if count else None), {}, f"around {count} layers"

    def _recurrent(self, r: Recurrent) -> Iterator[Remedy]:
        """Recurrent weights scaled until the factor per step is 1, by bisection."""
        carried = {
            name for la in self.layers for name in la.weights
            if any(eq.name == la.name for g in self.program.groups if g.recurrent
                   for eq in g.equations)
        }
        if not carried:
            return
        drawn = self.predicted.weights
        low, high = -12.0, 12.0
        best = None
        for _ in range(24):
            middle = (low + high) / 2
            weights = {n: drawn[n] * math.exp(middle) for n in carried}
            new = forecast(self.predicted.flow, inputs=self.inputs, sizes=self.sizes,
                           weights={**self.weights, **weights})
            growth = next((x for x in _recurrences(new) if x.names == r.names), None)
            if growth is None or not math.isfinite(growth.factor):
                return
            best = (weights, growth)
            low, high = (middle, high) if growth.factor < 1 else (low, middle)
        if best is not None:
            values = ", ".join(f"Var {n} = {v:.3g}" for n, v in sorted(best[0].items()))
            yield Remedy("recurrent weights at the edge", best[1].factor, best[1].total, values)
        if r.factor > 1:
            yield Remedy("clipping the gradient's norm", r.factor, r.total,
                         "it bounds the step, not the factor")
