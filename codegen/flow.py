"""The forecast of gradients beside what emitted kernels measured: for ``chainrule diagnose`` on
data, and for the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import codegen
from codegen.datasets import load_data
from codegen.deployment import read_trained
from codegen.health import ROWS
from codegen.loading import ModelFile
from codegen.probe import Probe, circumstances
from derive.differentiate import derive
from derive.errors import DataError
from derive.flow.diagnose import Diagnosis, diagnose
from derive.flow.forecast import Signal, adjoint_name
from derive.flow.jacobian import layer_jacobians, step_products
from derive.flow.picture import stacked
from derive.program import Program

PANELS = 4  # of the pictures of a run


def measured_diagnosis(file: ModelFile, source: str | None, weights: str | None = None,
                       seed: int = 0, rows: int = ROWS) -> tuple[Diagnosis, dict[str, np.ndarray]]:
    """A diagnosis with norms that the kernels measured on some rows of data; and the values of
    all that the network is given, on few of these rows.

    Args:
        source: as for `load_data`; None for the model file's own ``data()``.
        weights: a file of trained ones; by default those that ``seed`` gives at the start, and
            then the forecast is of all starts.

    Raises:
        DataError: data or weights do not fit the network.
    """
    train = load_data(file, source or "", test_share=0.0, validation_share=0.0, seed=seed).train
    batch = train.take(np.arange(min(rows, len(train))))
    model = codegen.compile(derive(file.program)).initialize(seed)
    if weights is not None:
        found = read_trained(weights, file.program)
        for name, view in {**model.parameters, **model.states}.items():
            if name not in found or found[name].shape != view.shape:
                raise DataError(f"{weights!r} does not fit the network: {name!r}",
                                expected=f"an array of shape {view.shape}",
                                got=str(found[name].shape) if name in found else "none")
            view[...] = found[name]
    around = circumstances(model, batch)
    made = diagnose(file.program, inputs=around["inputs"], sizes=around["sizes"],
                    weights=around["weights"] if weights else None,
                    measured=Probe(model).norms(batch))
    few = train.take(np.arange(min(2, len(train))))
    return made, {**few, **model.parameters, **model.states}


def jacobian_lines(program: Program, values: Mapping[str, np.ndarray] | None) -> list[str]:
    """Each layer's Jacobian with the bound on its norm, and where there are values its singular
    values; of recurrences the growth of the product over all steps."""
    lines = [str(j) for j in layer_jacobians(program, values)]
    if values is not None:
        for found in step_products(program, values):
            lines.append(f"product over time of {', '.join(found.states)}: grows by "
                         f"{found.growth:.4g} per step, norm {found.spectral[-1]:.4g} in the end")
    return lines


def seen(program: Program, looks: Sequence[Mapping[str, Any]]) -> list[Diagnosis]:
    """A diagnosis for a few of the moments at which a run looked at itself, the first and the last
    among them: forecast from the data's moments and the variances that the weights had then."""
    derived = derive(program)
    chosen = np.unique(np.linspace(0, len(looks) - 1, PANELS).round().astype(int))
    found = []
    for look in (looks[n] for n in chosen):
        measured: dict[str, float] = {}
        for layer, what in look["layers"].items():
            pairs = ((layer, what["signal"]), (adjoint_name(derived, layer), what["adjoint"]))
            measured |= {n: v for n, v in pairs if n is not None and v is not None}
        made = diagnose(program, sizes=look["sizes"], weights=look["weights"],
                        inputs={n: Signal(**s) for n, s in look["inputs"].items()},
                        measured=measured, remedies=False)
        found.append(made.named(f"{program.name}, after epoch {look['epoch']}"
                                if look["epoch"] else f"{program.name}, at the start"))
    return found


def in_words(found: Sequence[Diagnosis]) -> list[str]:
    """A line for each: by what factor the adjoint changes, measured and forecast."""
    lines = []
    for d in found:
        rows = [r for r in d.rows if r.measured_adjoint and r.adjoint > 0]
        if len(rows) > 1:
            measured = rows[0].measured_adjoint / rows[-1].measured_adjoint  # type: ignore
            lines.append(f"adjoint of {rows[0].layer} over that of {rows[-1].layer}, {d.name}: "
                         f"measured {measured:.3g}, forecast "
                         f"{rows[0].adjoint / rows[-1].adjoint:.3g}")
    return lines


def picture(found: Sequence[Diagnosis]) -> str:
    """All of them as one SVG."""
    return stacked([d.picture() for d in found])
