"""Why a gradient is lost, in words: saturation, slope, initialisation, depth, recurrence."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from derive.flow.layerwise import Recurrent, Row
from derive.flow.moments import X, slope_of
from derive.flow.quadrature import compiled
from derive.flow.remedies import Layer


def causes(verdict: str, rows: tuple[Row, ...], layers: tuple[Layer, ...],
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
