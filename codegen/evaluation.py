"""What is measured at the end of an epoch: losses and metrics on the parts that are held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codegen.datasets import class_scores
from codegen.model import Model
from codegen.pipeline import label_inputs
from codegen.rows import Rows
from derive.errors import DataError, unknown_name
from derive.functions import softplus
from derive.metrics import REGISTRY, measure
from derive.program import Program

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Measured:
    """What metrics compare, and which: an output of the network with an input."""

    output: str
    target: str
    metrics: tuple[str, ...]


def what_to_measure(program: Program, metrics: Sequence[str] | None = None) -> Measured | None:
    """Output, target and metrics as the loss shows them: scores picked by labels, or two tensors
    of one shape that only the loss compares. None where it shows neither.

    Raises:
        DeclarationError: a metric that is not known.
        DataError: metrics are asked for, and the loss does not show of what.
    """
    for name in metrics or ():
        if name not in REGISTRY:
            raise unknown_name("metric", name, REGISTRY)
    pair = class_scores(program)
    usual: tuple[str, ...] = ("accuracy",)
    if pair is None:
        pair, usual = _compared(program)
    if pair is None:
        if metrics:
            raise DataError("the loss does not show which output the metrics are of",
                            expected="scores picked by labels, or an output minus a target")
        return None
    return Measured(*pair, tuple(metrics) if metrics is not None else usual)


def _compared(program: Program) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    labels = [t for t in program.inputs if t.name in label_inputs(program)]
    for eq in program.forward.equations:
        for target in (t for t in labels if t.name in eq.reads):
            for name in eq.reads:
                other = program.tensors[name]
                if name in program.defined and other.shape == target.shape:
                    kind = "binary_accuracy" if eq.body.has(softplus) else "r2"
                    return (name, target.name), (kind,)
    return None, ()


class Evaluator:
    """Measures a model on held-out rows; ``other`` is the network as it is for inference, with the
    same parameters (no dropout), where that is another program. The ranks of a ``team`` divide the
    rows, unless the network mixes them."""

    def __init__(self, trained: Model, parts: Mapping[str, Rows], measured: Measured | None,
                 other: Model | None = None, team: Any = None) -> None:
        self.trained, self.measured = trained, measured
        self.model = model = other or trained
        self.parts = {n: rows for n, rows in parts.items() if len(rows)}
        self._team = None
        if team is not None:
            from codegen.mpi.share import rows_apart

            self._team = team if rows_apart(model.program) else None
        for rows in self.parts.values():  # what does not fit shows before the first step
            for block in rows.blocks():
                model.prepared(block)

    def __call__(self) -> dict[str, float]:
        """``test_loss``, ``accuracy`` and so on; of other parts than the test ``part_accuracy``."""
        found: dict[str, float] = {}
        if self.model is not self.trained:
            with self.trained.weights_in_place():
                self.trained.share(self.model)
            self.model.restored(self.trained.steps, int(self.trained._run.seed))
        with self.model.weights_in_place():
            for part, rows in self.parts.items():
                prefix = "" if part == "test" else f"{part}_"
                loss, scores = self._one(rows)
                found[f"{part}_loss"] = loss
                found |= {f"{prefix}{name}": value for name, value in scores.items()}
        return found

    def _one(self, rows: Rows) -> tuple[float, dict[str, float]]:
        team = self._team if self._team is not None and not self._team.solo else None
        own = rows if team is None else rows.part(team.divide(np.arange(len(rows)))[0])
        products, outputs, targets = [], [], []
        for block in own.blocks(BLOCK_ROWS):
            products.append(len(next(iter(block.values()))) * self.model.loss(**block))
            if self.measured is not None:
                y, t = self._pair(block)
                outputs.append(y)
                targets.append(t)
        if team is not None:
            products = [x for part in team.gather(products) for x in part]
        total = math.fsum(products) / len(rows)
        if self.measured is None:
            return total, {}
        if not outputs:  # more ranks than rows: nothing, in the right shape
            outputs, targets = ([a[:0]] for a in self._pair(rows.take(np.arange(1))))
        y, t = np.concatenate(outputs), np.concatenate(targets)
        if team is not None:
            y, t = team.join(y), team.join(t)
        return total, {name: measure(name, y, t) for name in self.measured.metrics}

    def _pair(self, block: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What metrics compare."""
        assert self.measured is not None
        given = {n: a for n, a in block.items() if n != self.measured.target}
        name = self.measured.output
        return self.model.predict([name], **given)[name], block[self.measured.target]
