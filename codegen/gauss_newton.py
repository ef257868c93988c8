"""A model whose steps are damped Gauss-Newton ones, solved for with emitted kernels.

A step of a batch solves (G + λ I) x = ∇L by conjugate gradients; every product G v is one call of
kernels that are derived and emitted like any gradient. x takes the gradient's place in the
optimizer's own update. A step that makes the loss of its batch larger is taken back; λ falls where
the loss follows its quadratic model and grows where it does not (Martens 2010, section 4.1). λ lies
among the moments, so that a resumed run has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from codegen.failures import NotFiniteError
from codegen.model import Model, Values

RESIDUAL = 1e-6  # of the gradient's norm, where conjugate gradients end
STEADY, WILD, FACTOR = 0.75, 0.25, 1.5
SMALLEST, LARGEST = 1e-15, 1e15  # of λ


class GaussNewtonModel(Model):
    """A `codegen.model.Model`; ``products`` has the same parameters, and G v as its gradient."""

    direct = False

    def __init__(self, made: Model, products: Model) -> None:
        super().__init__(made.compiled, made.kernels, made.threads, made._compile_only)
        self.products = products
        self.damping = np.ones(1)
        self._batch: Values = {}
        self._loss = math.nan

    @property
    def places(self) -> Values:
        return {**super().places, "moment/damping": self.damping}

    def initialize(self, seed: int = 0) -> Model:
        super().initialize(seed)
        self.damping[0] = self.settings["damping"]
        return self

    def gradient(self, prepared: Values, draw: int = 0) -> tuple[float, np.ndarray]:
        seeds = {n: np.array([self.random_seed(draw)]) for n in self.kernels.RANDOM}
        self._batch = {**seeds, **prepared}
        self._loss, flat = super().gradient(prepared, draw)
        return self._loss, flat

    def update(self) -> None:
        """The step along the solution for the batch of the last `gradient`, or none."""
        flat, own = self._run.d, self._names()
        slope = flat.astype(np.float64)
        for name, view in self.products.parameters.items():
            view[...] = self.parameters[name]
        for name, view in self.products.states.items():
            view[...] = self.states[name]

        def curve(x: np.ndarray) -> np.ndarray:
            parts = self.kernels._views(x, own)
            found = self.products.gradients(**self._batch,
                                            **{f"v_{n}": v for n, v in parts.items()})
            out = np.zeros_like(x)
            for name, view in self.kernels._views(out, own).items():
                view[...] = found[name]
            return out

        weight = float(self.damping[0])
        flat[...] = conjugate_gradients(lambda x: curve(x) + weight * x, slope,
                                        int(self.settings["iterations"]))
        before = self.flat.copy()
        kept = {n: m.copy() for n, m in self.moments.items()}
        super().update()
        step = (self.flat - before)[:flat.size].astype(np.float64)
        model = float(slope @ step + step @ curve(step) / 2)  # of the change of the loss
        self._judge(model, before, kept)

    def _judge(self, model: float, before: np.ndarray, kept: Values) -> None:
        """Take back a step that is none, and adapt the damping."""
        _, loss = self._guarded(lambda: self._run.run("loss", self._batch))
        change = float(loss) - self._loss
        if not math.isfinite(change) or change > 0 or not np.isfinite(self.flat).all():
            self.flat[...] = before
            for name, view in self.moments.items():
                view[...] = kept[name]
            self._grow(FACTOR**4)
        elif model < 0:
            ratio = change / model
            self._grow(1 / FACTOR if ratio > STEADY else FACTOR if ratio < WILD else 1.0)

    def _grow(self, factor: float) -> None:
        self.damping[0] = min(LARGEST, max(SMALLEST, self.damping[0] * factor))

    def _names(self) -> dict[str, Any]:
        """Where the trained parameters lie in the flat arrays."""
        return {n: at for n, at in self.kernels.PARAMETERS.items() if n in self.program.gradients}

    # -- steps one by one, where other models have one compiled call ----------------------------
    def step(self, **inputs: Any) -> float:
        loss, _ = self.gradient(self.prepared(inputs))
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss of {self.program.name!r} is NaN or infinite")
        self.update()
        return loss

    def _epoch(self, checked: Values, batch: int, rng: np.random.Generator | int | None,
               order: Any = None) -> float:
        places = self._row_order(checked, batch, rng, order)
        total = 0.0
        for first in range(0, len(places), batch):
            own = places[first:first + batch]
            rows = {n: np.ascontiguousarray(a[own]) for n, a in checked.items()}
            total += len(own) * self.step(**rows)
        return total / len(places)


def conjugate_gradients(product: Callable[[np.ndarray], np.ndarray], b: np.ndarray, most: int
                        ) -> np.ndarray:
    """x with A x ≈ b for a symmetric positive definite A (Hestenes and Stiefel 1952); a direction
    along which A is not positive, by rounding, ends it."""
    x, r = np.zeros_like(b), b.copy()
    p, square = r.copy(), float(r @ r)
    enough = RESIDUAL**2 * square
    for _ in range(most):
        if square <= enough:
            break
        image = product(p)
        curvature = float(p @ image)
        if not curvature > 0:
            break
        x += square / curvature * p
        r -= square / curvature * image
        square, last = float(r @ r), square
        p = r + square / last * p
    return x
