"""The value of a loss where all scores of a classifier are equal: what training begins with."""

from __future__ import annotations

import math

import numpy as np

from derive.nodes import Access, IntegerAccess, LogSumExpOver
from derive.points import default_sizes
from derive.program import Program
from derive.reference import evaluate_equation


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
        labelled = any(any(isinstance(w, IntegerAccess) for w in a.where)
                       for other in program.forward.equations
                       for a in other.body.atoms(Access) if a.name == scores)
        loss = _downstream(program, scores) if labelled else {}
        for name in program.losses:
            if name in loss and abs(loss[name] - math.log(int(size))) < 1e-9:
                return scores, int(size), name
    return None


def labels_of(program: Program) -> list[str]:
    """The whole numbers that are handed in."""
    return [t.name for t in program.given if t.dtype == "int"]


def _downstream(program: Program, scores: str) -> dict[str, float]:
    """The scalars that follow from the scores and the labels alone, the scores all being 0."""
    forward = program.forward
    sizes = default_sizes(forward)
    known = {s: sizes[s.name] for s in forward.sizes}

    def zeros(name: str) -> np.ndarray:
        tensor = forward.tensors[name]
        shape = [int(s.xreplace(known)) for s in tensor.shape]
        return np.zeros(shape, dtype=int if tensor.dtype == "int" else float)

    arrays = {name: zeros(name) for name in labels_of(forward)}
    arrays[scores] = zeros(scores)
    for eq in forward.equations:
        if eq.name != scores and scores in arrays and set(eq.reads) <= set(arrays):
            arrays[eq.name] = evaluate_equation(eq, arrays, known)
    return {n: float(a) for n, a in arrays.items() if np.ndim(a) == 0}
