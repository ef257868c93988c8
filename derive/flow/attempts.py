"""Remedies tried: each changed program (or weights) is derived and forecast again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.flow.axes import fan_ins
from derive.flow.forecast import Forecast, evaluated_size, forecast
from derive.flow.layerwise import Recurrent, layer_rows, recurrences, total_factor
from derive.flow.moments import gain
from derive.flow.remedies import (
    Layer,
    forward_of,
    layers_of,
    with_activation,
    with_normalisation,
    with_residuals,
)
from derive.program import Program


@dataclass(frozen=True)
class Remedy:
    """A change, with the mean factor per layer and the total that its derivation gives."""

    change: str
    factor: float
    total: float
    note: str = ""

    @property
    def works(self) -> bool:
        """Whether the first layer's adjoint stays within a factor 100 of the last one's."""
        return 1e-2 <= self.total <= 1e2

    def __str__(self) -> str:
        verdict = "mends it" if self.works else "is not enough"
        text = f"{self.change}: factor {self.factor:.3g} per layer, {self.total:.2g} in all"
        return f"{text}; {verdict}" + (f" ({self.note})" if self.note else "")


class Attempts:
    """Each remedy: change the program or the weights, derive and forecast again."""

    def __init__(self, program: Program, predicted: Forecast, layers: tuple[Layer, ...],
                 inputs: Mapping | None, weights: Mapping[str, float] | None,
                 sizes: Mapping[str, int] | None) -> None:
        self.program, self.predicted, self.layers = forward_of(program), predicted, layers
        self.inputs, self.weights, self.sizes = inputs, dict(weights or {}), sizes
        self.fans = fan_ins(self.program)

    def all(self, found: tuple[Recurrent, ...]) -> Iterator[Remedy]:
        tries: list[tuple[str, Callable[[], tuple[Program | None, dict[str, float], str]]]] = [
            ("initialisation by the gain of each function", self._initialised),
            ("relu with variance 2/fan-in (He et al. 2015)", self._rectified),
            ("batch normalisation before each function", lambda: self._normalised("sample")),
            ("layer normalisation before each function", lambda: self._normalised("feature")),
            ("residual connections around each layer", self._residual),
        ]
        if not found:
            for change, make in tries:
                yield from self._try(change, make)
        for r in found:
            yield from self._recurrent(r)

    def _try(self, change: str, make: Callable) -> Iterator[Remedy]:
        try:
            program, weights, note = make()
            if program is None:
                return
            new = forecast(derive(program), inputs=self.inputs, sizes=self.sizes,
                           weights={**self.weights, **weights})
            factor, total = total_factor(layer_rows(new, layers_of(forward_of(program)), {}))
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
            growth = next((x for x in recurrences(new) if x.names == r.names), None)
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
