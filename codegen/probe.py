"""How signals and gradients flow through a model, measured on its parameters as they are.

The same equations are measured in one of two ways. Emitted kernels take a thousandth of a second
for a look and several seconds to compile, which a run of a minute does not earn back; the reference
evaluator takes a hundred times as long for a look and needs nothing compiled. So looks are
evaluated until that has cost as much as compiling, and from then on compiled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from sympy import Expr

from codegen.model import Model
from derive.cost import equation_cost, total_cost
from derive.flow.axes import fan_ins
from derive.flow.forecast import Signal
from derive.flow.gauges import Reading, measured_norms, read, with_gauges
from derive.program import Program
from derive.reference import evaluate

COMPILING = 6.0  # seconds that gauges and a gradient alone take to compile, about
OPERATION = 5e-9  # seconds of one operation of the evaluator, about

Batch = Mapping[str, np.ndarray]


class Probe:
    """The rms of each layer's signal and adjoint, the health of its units and the gradient, on a
    model's parameters as they are at each call.

    Args:
        patience: seconds that evaluating may take in all; what would take more is compiled.

    Raises:
        ChainruleError: the program is of a kind that the gauges do not understand.
    """

    def __init__(self, model: Model, patience: float = 0.0) -> None:
        self.model, self.patience = model, patience
        self._program, self.gauges = with_gauges(model.program)
        self.names = tuple(n for g in self.gauges for n in g.names)
        self._gradient = model.program.only(*model.program.gradients.values())
        self._kernels: Model | None = None
        self._spent = 0.0  # on evaluating

    def __call__(self, batch: Batch) -> tuple[Reading, ...]:
        if not self.names:
            return ()
        if self.evaluates(batch):
            return read(self.gauges, self._evaluated(self._program, self.names, batch))
        self._kernels = self._kernels or self.model.beside(self._program, self.names)
        values = self.model.share(self._kernels).predict(self.names, **_given(self._program, batch))
        return read(self.gauges, values)

    def gradient(self, batch: Batch) -> np.ndarray:
        """The gradient of the loss of a batch: all arrays, flat, one behind the other."""
        if self.evaluates(batch):
            names = tuple(self.model.program.gradients.values())
            found = self._evaluated(self._gradient, names, batch)
            return np.concatenate([found[n].ravel() for n in names])
        return self.model.gradient(self.model.prepared(batch))[1].copy()

    def evaluates(self, batch: Batch) -> bool:
        """Whether one more look at such a batch is cheaper evaluated than compiled."""
        return self._kernels is None and self._spent + self.expected(batch) < self.patience

    def expected(self, batch: Batch) -> float:
        """Seconds that evaluating the gauges of a batch takes, about. Sizes that the program
        leaves open are taken as the number of rows."""
        rows = max(len(a) for a in batch.values())
        return OPERATION * float(self._cost.xreplace(dict.fromkeys(self._cost.free_symbols, rows)))

    @cached_property
    def _cost(self) -> Expr:
        program = self._program
        return total_cost(equation_cost(eq, program) for eq in program.equations).operations

    def _evaluated(self, program: Program, names: tuple[str, ...], batch: Batch
                   ) -> Mapping[str, np.ndarray]:
        start, model = time.perf_counter(), self.model
        seeds = {t.name: model.random_seed() for t in program.given if t.role == "random"}
        weights = {n: v for n, v in {**model.parameters, **model.states}.items()
                   if n in program.tensors}
        try:
            return evaluate(program, {**weights, **seeds, **_given(program, batch)}, names)
        finally:
            self._spent += time.perf_counter() - start

    def norms(self, batch: Batch) -> dict[str, float]:
        """The rms of signals and adjoints by name, as `derive.flow.diagnose` takes them."""
        return measured_norms(self.model.program, self(batch))


def _given(program: Program, batch: Batch) -> dict[str, np.ndarray]:
    wanted = {t.name for t in program.given}
    return {n: a for n, a in batch.items() if n in wanted}


def circumstances(model: Model, batch: Batch) -> dict[str, Any]:
    """What a forecast starts from: the batch's moments and sizes, the weights' mean squares."""
    floats = {t.name for t in model.program.inputs if t.dtype == "float"}
    kernels = model.kernels
    return {
        "inputs": {n: Signal.of(a) for n, a in batch.items() if n in floats},
        "sizes": dict(zip(kernels.SIZES, map(int, model._run.sizes(dict(batch))), strict=True)),
        "weights": {n: float(np.mean(np.square(model.parameters[n], dtype=float)))
                    for n in fan_ins(model.program) if n in model.parameters},
    }
