"""The value of a loss where all scores of a classifier are equal: what training begins with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from derive.nodes import Access, IntegerAccess, LogSumExpOver
from derive.points import default_sizes
from derive.program import Program
from derive.reference import evaluate_equation

_MOST = 3_000_000  # elements of scores that are evaluated for a remark


def equal_scores(program: Program) -> tuple[str, int, str] | None:
    """The scores of a classifier, how many classes they are of, and the loss that is the logarithm
    of this number where they are equal; None where a program has no such loss. It is evaluated,
    not assumed: a weighted loss, or one with a penalty, has another value there."""
    for eq in program.forward.equations:
        made = eq.body.atoms(LogSumExpOver)
        read = {a.name for node in made for a in node.atoms(Access)}
        sizes = {i.size for node in made for i in node.bound}
        if len(read) != 1 or len(sizes) != 1 or not (size := sizes.pop()).is_Integer:
            continue
        (scores,) = read
        if program.tensors[scores].shape[-1:] != (size,) or _elements(program, scores) > _MOST:
            continue  # a row of scores is handed in, so the classes must be the last dim
        labelled = any(any(isinstance(w, IntegerAccess) for w in a.where)
                       for other in program.forward.equations
                       for a in other.body.atoms(Access) if a.name == scores)
        loss = _downstream(program, scores, np.zeros(int(size)), 0) if labelled else {}
        for name in program.losses:
            if name in loss and abs(loss[name] - math.log(int(size))) < 1e-9:
                return scores, int(size), name
    return None


def _elements(program: Program, name: str) -> int:
    """How many elements a tensor has at the sizes that are evaluated."""
    sizes = default_sizes(program)
    known = {s: sizes[s.name] for s in program.sizes}
    return math.prod(int(s.xreplace(known)) for s in program.tensors[name].shape)


def is_log_loss(program: Program, scores: str, count: int, loss: str) -> bool:
    """Whether the loss is minus the logarithm of the softmax of the scores at the label, averaged
    over samples: evaluated at unequal scores, where one with smoothed labels is not."""
    if count < 2:
        return False
    row = np.sqrt(np.arange(count) + 1.0)  # that of the label is not their mean
    found = _downstream(program, scores, row, 1)
    return abs(found.get(loss, math.inf) - (np.log(np.exp(row).sum()) - row[1])) < 1e-9


def labels_of(program: Program) -> list[str]:
    """The whole numbers that are handed in."""
    return [t.name for t in program.given if t.dtype == "int"]


def _downstream(program: Program, scores: str, row: np.ndarray, label: int) -> dict[str, float]:
    """The scalars that follow from scores and labels alone, alike for all samples."""
    forward = program.forward
    sizes = default_sizes(forward)
    known = {s: sizes[s.name] for s in forward.sizes}

    def filled(name: str, value: Any) -> np.ndarray:
        shape = [int(s.xreplace(known)) for s in forward.tensors[name].shape]
        return np.broadcast_to(value, shape).copy()

    arrays = {name: filled(name, label) for name in labels_of(forward)}
    arrays[scores] = filled(scores, row)
    for eq in forward.equations:
        if eq.name != scores and scores in arrays and set(eq.reads) <= set(arrays):
            arrays[eq.name] = evaluate_equation(eq, arrays, known)
    return {n: float(a) for n, a in arrays.items() if np.ndim(a) == 0}
