"""A diagnosis in words: which layer loses the gradient, by what factor, why, and what the
derivation says would mend it. Every remedy is a changed program, derived and forecast again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from derive.differentiate import derive
from derive.flow.attempts import Attempts, Remedy
from derive.flow.causes import causes
from derive.flow.forecast import Signal, forecast
from derive.flow.layerwise import Recurrent, Row, layer_rows, recurrences, total_factor
from derive.flow.remedies import forward_of, layers_of
from derive.program import Program, as_program

FLOAT32 = 1.1754943508222875e-38  # the smallest normal number


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

    def named(self, name: str) -> Diagnosis:
        """The same under another name."""
        return replace(self, name=name)

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
    of: str | None = None,
) -> Diagnosis:
    """Say whether gradients vanish or explode, where, by what factor, why, and what mends it.

    Args:
        net: a network or its `Program`.
        inputs: data (first axis: samples) or its moments; by default mean 0 and variance 1.
        weights: variances of parameters; by default those they are declared with.
        sizes: of run-time dims such as "B"; by default 32.
        measured: arrays, or rms values, by the names of the derived program (``z1``, ``_d_z1``).
        remedies: whether to derive the remedies too.
        of: the loss to follow, where there are several.

    Raises:
        DerivationError: the network has no loss, or several and none is named.
    """
    program = as_program(net)
    if of is not None:
        program = replace(program.only(of), losses=(of,))
    derived = derive(program)
    predicted = forecast(derived, inputs=inputs, weights=weights, sizes=sizes)
    layers = layers_of(forward_of(program))
    rows = layer_rows(predicted, layers, measured or {})
    factor, total = total_factor(rows)
    found = tuple(recurrences(predicted))
    verdict = _verdict(total, found, rows)
    tried: tuple[Remedy, ...] = ()
    if remedies and verdict not in ("healthy", "not known"):
        attempts = Attempts(program, predicted, layers, inputs, weights, sizes)
        tried = tuple(attempts.all(found))
    return Diagnosis(
        program.name, verdict, factor, total, rows,
        tuple(causes(verdict, rows, layers, found)), tried, found,
        predicted.flow.unknown, predicted.sizes,
    )


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
