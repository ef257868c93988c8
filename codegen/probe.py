"""How signals and gradients flow through a model, measured by emitted kernels of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from codegen.model import Model
from derive.flow.axes import fan_ins
from derive.flow.forecast import Signal
from derive.flow.gauges import Reading, measured_norms, read, with_gauges


class Probe:
    """Kernels that give the rms of each layer's signal and adjoint and the health of its units,
    on a model's parameters as they are at each call.

    Raises:
        ChainruleError: the program is of a kind that the gauges do not understand.
    """

    def __init__(self, model: Model) -> None:
        program, self.gauges = with_gauges(model.program)
        self.model = model
        self.names = tuple(n for g in self.gauges for n in g.names)
        self.inputs = {t.name for t in program.given}
        self._kernels = model.beside(program, self.names) if self.names else None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> tuple[Reading, ...]:
        if self._kernels is None:
            return ()
        given = {n: a for n, a in batch.items() if n in self.inputs}
        values = self.model.share(self._kernels).predict(self.names, **given)
        return read(self.gauges, values)

    def norms(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The rms of signals and adjoints by name, as `derive.flow.diagnose` takes them."""
        return measured_norms(self.model.program, self(batch))


def circumstances(model: Model, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a forecast starts from: the batch's moments and sizes, the weights' mean squares."""
    floats = {t.name for t in model.program.inputs if t.dtype == "float"}
    kernels = model.kernels
    return {
        "inputs": {n: Signal.of(a) for n, a in batch.items() if n in floats},
        "sizes": dict(zip(kernels.SIZES, map(int, model._run.sizes(dict(batch))), strict=True)),
        "weights": {n: float(np.mean(np.square(model.parameters[n], dtype=float)))
                    for n in fan_ins(model.program) if n in model.parameters},
    }
