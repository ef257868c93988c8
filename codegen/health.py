"""What goes wrong in a network while it trains, looked at seldom and cheaply, said once.

Dead and saturated units, badly conditioned weights and a gradient that is mostly noise, measured
by the emitted kernels on one batch; the thresholds are those of `derive.flow.measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from codegen.model import Model
from codegen.rows import Rows
from derive.errors import ChainruleError
from derive.flow.measure import conditioning, noise_scale, unit_health

ROWS = 256
SHARE = 0.02  # of the time of training that looking may take
CONDITION = 1e6
LARGEST = 1 << 20  # elements of a weight whose singular values are computed


class Health:
    """Looks at a model between epochs; ``say`` is called with each new finding."""

    def __init__(self, model: Model, rows: Rows, say: Callable[[str], object]) -> None:
        self.model, self.say = model, say
        count = min(ROWS, len(rows))
        places = np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))
        self._rows, self._places = rows, places
        self._said: set[str] = set()
        self._spent, self._begun = 0.0, time.perf_counter()

    def look(self, losses: Sequence[float]) -> None:
        """Measure, unless that took too much of the time already; ``losses`` of the epochs tell
        whether the run still makes progress."""
        start = time.perf_counter()
        if self._spent > SHARE * (start - self._begun):
            return
        try:
            stuck = len(losses) > 3 and losses[-1] > 0.99 * losses[-4]
            for key, text in self.findings(stuck):
                if key not in self._said:
                    self._said.add(key)
                    self.say(text)
        except ChainruleError:
            pass  # a network that the measures do not understand trains all the same
        self._spent += time.perf_counter() - start

    def findings(self, stuck: bool) -> list[tuple[str, str]]:
        """What is wrong now: a key, and a sentence. Noise is wrong where a run is stuck."""
        program, found = self.model.program, []
        batch = self._rows.take(self._places)
        values = self.model.forward(**batch)
        for unit in unit_health(program, values):
            ways = (("dead", unit.dead, 0.2), ("saturated", unit.saturated, 0.5))
            for kind, share, most in ways:
                if share > most:  # a dead unit is saturated, too: said once
                    found.append((f"{kind} {unit.name}", f"{share:.0%} of the units behind "
                                  f"{unit.name!r} are {kind}"))
                    break
        small = {n: v for n, v in self.model.parameters.items() if v.size <= LARGEST}
        for weight in conditioning(program, small):
            if weight.largest > 0 and weight.condition > CONDITION:
                found.append((f"condition {weight.name}",
                              f"{weight.name!r} is ill-conditioned: its singular values go from "
                              f"{weight.largest:.3g} to {weight.smallest:.3g}"))
        return found + (self._noise(batch) if stuck else [])

    def _noise(self, batch: dict[str, np.ndarray]) -> list[tuple[str, str]]:
        """The gradient noise scale, from four quarters of the batch."""
        count = len(self._places) // 4
        if count < 2:
            return []
        gradients = []
        for n in range(4):
            part = {k: np.ascontiguousarray(a[n * count:(n + 1) * count])
                    for k, a in batch.items()}
            gradients.append(self.model.gradient(self.model.prepared(part))[1].copy())
        scale = noise_scale(gradients, count)
        if scale.signal > 0 and scale.batch < 10 * len(self._places):
            return []
        size = "out of reach" if scale.signal <= 0 else f"near {scale.batch:.0f}"
        return [("noise", f"the loss no longer falls, and the gradient is mostly noise: its noise "
                 f"scale is {size}; a smaller learning rate or larger batches would help")]
