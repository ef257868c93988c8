"""What goes wrong in a network while it trains, looked at seldom and cheaply, said once.

Norms of signals and adjoints, dead and saturated units, badly conditioned weights and the
gradient's noise, measured on one batch (see `codegen.probe`) before the first step, between epochs
and behind the last. What is seen is kept, for `chainrule report` to show beside the forecast.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codegen.model import Model
from codegen.probe import COMPILING, Probe, circumstances
from codegen.rows import Rows
from derive.errors import ChainruleError
from derive.files import write_atomically
from derive.flow.gauges import Reading
from derive.flow.measure import Conditioning, NoiseScale, conditioning, noise_scale

ROWS = 256
SHARE = 0.02  # of the time of training that looking may take
QUICK = 1.0  # seconds that ranks may wait for one that looks
CONDITION = 1e6
LARGEST = 1 << 20  # elements of a weight whose singular values are computed
SMALLEST, GREATEST = 1e-30, 1e30  # of an adjoint: float32 ends not far beyond
FLOW = "flow.json"


class Health:
    """Looks at a model between epochs; ``say`` is called with each new finding, and ``looks``
    keeps what was measured.

    Ranks that train together all look, at the same rows and the same weights, for nobody waits
    then; `ready` comes before, so that no rank compiles while others wait. Steps on ``all_rows``
    have a gradient without noise.
    """

    def __init__(self, model: Model, rows: Rows, say: Callable[[str], object],
                 all_rows: bool = False) -> None:
        self.model, self.say, self._all_rows = model, say, all_rows
        count = min(ROWS, len(rows))
        places = np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))
        self._rows, self._places = rows, places
        self._said: set[str] = set()
        self._spent, self._last, self._begun = 0.0, 0.0, 0.0
        self.looks: list[dict[str, Any]] = []
        self._probe: Probe | None = None

    def ready(self) -> None:
        """Choose once how to look, and compile what that needs: evaluating that is quick never
        ends, what is not quick never begins."""
        try:
            self._probe = Probe(self.model)
            batch = self._rows.take(self._places)
            if self._probe.expected(batch) < QUICK:
                self._probe.patience = math.inf
            else:
                self._probe(batch)
        except (ChainruleError, MemoryError):
            pass  # `look` meets it again

    def look(self, losses: Sequence[float], last: bool = False) -> None:
        """Measure, unless that would take too much of the time; ``losses`` of the epochs tell
        whether the run still makes progress. Behind the ``last`` one it is measured all the
        same."""
        start, first = time.perf_counter(), not self._begun
        late = self._spent + self._last > SHARE * (start - self._begun)
        if not first and late and not (last and self._missing(len(losses))):
            return
        try:
            stuck = len(losses) > 3 and losses[-1] > 0.99 * losses[-4]
            for key, text in self.findings(len(losses), stuck):
                if key not in self._said:
                    self._said.add(key)
                    self.say(text)
        except (ChainruleError, MemoryError):
            pass  # a network that the measures do not understand trains all the same
        now = time.perf_counter()
        self._last = now - start
        if first:
            self._begun = now
        else:
            self._spent += self._last

    def _missing(self, epoch: int) -> bool:
        return not self.looks or self.looks[-1]["epoch"] < epoch

    def findings(self, epoch: int, stuck: bool) -> list[tuple[str, str]]:
        """What is wrong now: a key, and a sentence. Noise is wrong where a run is stuck."""
        self._probe = self._probe or Probe(self.model, patience=COMPILING)
        batch = self._rows.take(self._places)
        readings = self._probe(batch)
        small = {n: v for n, v in self.model.parameters.items() if v.size <= LARGEST}
        weights = conditioning(self.model.program, small)
        noise = self._noise(self._probe, batch)
        self._keep(epoch, batch, readings, weights, noise)
        found = [*_of_units(readings), *_of_adjoints(readings), *_of_weights(weights)]
        if not stuck or noise is None or self._all_rows:
            return found
        return found + _of_noise(noise, len(self._places))

    def _noise(self, probe: Probe, batch: dict[str, np.ndarray]) -> NoiseScale | None:
        """The gradient noise scale, from four quarters of the batch."""
        count = len(self._places) // 4
        if count < 2:
            return None
        gradients = []
        for n in range(4):
            part = {k: np.ascontiguousarray(a[n * count:(n + 1) * count])
                    for k, a in batch.items()}
            gradients.append(probe.gradient(part))
        return noise_scale(gradients, count)

    def _keep(self, epoch: int, batch: dict[str, np.ndarray], readings: tuple[Reading, ...],
              weights: tuple[Conditioning, ...], noise: NoiseScale | None) -> None:
        around = circumstances(self.model, batch)
        self.looks.append({
            "epoch": epoch, "rows": len(self._places), "sizes": around["sizes"],
            "inputs": {n: vars(s) for n, s in around["inputs"].items()},
            "weights": around["weights"],
            "layers": {r.layer: {
                "signal": r.signal, "adjoint": r.adjoint,
                **({} if r.units is None else {
                    "dead": r.units.dead, "saturated": r.units.saturated,
                    "slope_square": r.units.slope_square})} for r in readings},
            "singular_values": {w.name: [w.largest, w.smallest] for w in weights},
            "noise_scale": None if noise is None or noise.signal <= 0 else noise.batch,
        })

    def write(self, folder: Path) -> dict[str, str]:
        """What was seen, behind what an earlier part of the run saw."""
        if not self.looks:
            return {}
        earlier = [e for e in read_looks(folder) if e["epoch"] < self.looks[0]["epoch"]]
        text = json.dumps(_plain([*earlier, *self.looks]), indent=1)
        write_atomically(folder / FLOW, (text + "\n").encode())
        return {"flow": str(folder / FLOW)}


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """What `Health.write` wrote; nothing where there is nothing whole."""
    try:
        found = json.loads((folder / FLOW).read_text(encoding="utf-8"))
        return [e for e in found if {"epoch", "layers", "inputs", "weights", "sizes"} <= set(e)]
    except (OSError, ValueError, TypeError):
        return []


def _plain(value: Any) -> Any:
    """Numbers that are not finite as None, as JSON has them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_units(readings: tuple[Reading, ...]) -> list[tuple[str, str]]:
    found = []
    for unit in (r.units for r in readings if r.units is not None):
        for kind, share, most in (("dead", unit.dead, 0.2), ("saturated", unit.saturated, 0.5)):
            if share > most:  # a dead unit is saturated, too: said once
                found.append((f"{kind} {unit.name}",
                              f"{share:.0%} of the units behind {unit.name!r} are {kind}"))
                break
    return found


def _of_adjoints(readings: tuple[Reading, ...]) -> list[tuple[str, str]]:
    """A gradient that float32 is about to lose, at the layer nearest to the loss where it is. One
    that is 0 at once (behind weights that start at 0) did not get lost on its way."""
    after = 1.0
    for r in reversed([r for r in readings if r.adjoint is not None]):
        assert r.adjoint is not None
        if r.adjoint == 0 and after > math.sqrt(SMALLEST):
            return []
        if not SMALLEST <= r.adjoint <= GREATEST and r.signal > 0:
            kind = "vanished" if r.adjoint < SMALLEST else "exploded"
            return [(kind, f"the gradient has {kind} at {r.layer!r}: its adjoint's rms is "
                     f"{r.adjoint:.2g}; chainrule diagnose tells why, and what mends it")]
        after = r.adjoint
    return []


def _of_weights(weights: tuple[Conditioning, ...]) -> list[tuple[str, str]]:
    return [(f"condition {w.name}", f"{w.name!r} is ill-conditioned: its singular values go from "
             f"{w.largest:.3g} to {w.smallest:.3g}")
            for w in weights if w.largest > 0 and w.condition > CONDITION]


def _of_noise(scale: NoiseScale, rows: int) -> list[tuple[str, str]]:
    if scale.signal > 0 and scale.batch < 10 * rows:
        return []
    size = "out of reach" if scale.signal <= 0 else f"near {scale.batch:.0f}"
    return [("noise", f"the loss no longer falls, and the gradient is mostly noise: its noise "
             f"scale is {size}; a smaller learning rate or larger batches would help")]
