"""A softmax worked with numbers: why scores are shifted by their largest, and what comes back.

The numbers are those of the program's own equations, evaluated at scores that are chosen large.
"""

from __future__ import annotations

import numpy as np

from derive.document.expected import labels_of
from derive.document.forms import Maker
from derive.document.tree import Block, Paragraph, Spans, Table
from derive.program import Program
from derive.reference import evaluate_equation

_SHOWN = 10  # classes in the table
_FAR = 1000.0  # beyond what exp can take


def example_scores(count: int) -> np.ndarray:
    """Scores of so many classes, whole numbers a few apart, all too large for exp."""
    return _FAR + np.arange(count) * 2 % 5 - 2.0


def worked_softmax(maker: Maker) -> list[Block]:
    """A table of one sample's classes: score, shifted score, power, probability, adjoint."""
    if maker.equal_scores is None or not maker.log_loss:
        return []
    scores, count, _ = maker.equal_scores
    program = maker.program
    row = example_scores(count)
    p, adjoint = _softmax_of(program, scores), _adjoint_of(program, scores)
    values = _evaluated(program, scores, row, [n for n in (p, adjoint) if n])
    label = 1
    shifted = row - row.max()
    columns: list[tuple[Spans, list[str]]] = [
        (maker.words("softmax.class"), [str(k) for k in range(count)]),
        ((maker.symbol(scores),), [f"{v:g}" for v in row]),
        (maker.words("softmax.shifted"), [f"{v:g}".replace("-", "−") for v in shifted]),
        (maker.words("softmax.power"), [f"{v:.4f}" for v in np.exp(shifted)]),
    ]
    for name in (p, adjoint):
        if name is not None and name in values:
            columns.append(((maker.symbol(name),),
                            [f"{v:.4f}".replace("-", "−") for v in values[name]]))
    rows = tuple(tuple((column[k],) for _, column in columns) for k in range(min(count, _SHOWN)))
    words = maker.words
    double, single = (float(np.log(np.finfo(t).max)) for t in (np.float64, np.float32))
    blocks: list[Block] = [
        Paragraph(words("softmax.intro", scores=maker.symbol(scores), label=str(label),
                        largest=f"{double:.1f}", single=f"{single:.1f}")),
        Table(tuple(head for head, _ in columns), rows, "r" * len(columns)),
    ]
    if adjoint is not None and adjoint in values:
        blocks.append(Paragraph(words("softmax.outro", adjoint=maker.symbol(adjoint)), quiet=True))
    return blocks


def _softmax_of(program: Program, scores: str) -> str | None:
    """The tensor of the softmax of the scores, which the derivation has made."""
    for tensor in program.tensors.values():
        if (tensor.origin or ("",))[0] == "softmax" and tensor.name in program.defined:
            if scores in program.defined[tensor.name].reads:
                return tensor.name
    return None


def _adjoint_of(program: Program, scores: str) -> str | None:
    found = [t.name for t in program.tensors.values()
             if t.origin == ("adjoint", scores) and t.name in program.defined]
    return found[0] if len(found) == 1 else None


def _evaluated(program: Program, scores: str, row: np.ndarray, wanted: list[str]
               ) -> dict[str, np.ndarray]:
    """The first sample's row of each tensor, where every row of the scores is ``row`` and every
    label is class 1; symbolic sizes are 1."""
    known = dict.fromkeys(program.sizes, 1)
    shape = [int(s.xreplace(known)) for s in program.tensors[scores].shape]
    arrays = {scores: np.broadcast_to(row, shape).copy()}
    arrays |= {name: np.ones([int(s.xreplace(known)) for s in program.tensors[name].shape],
                             dtype=int) for name in labels_of(program)}
    for eq in program.equations:
        if eq.name != scores and set(eq.reads) <= set(arrays):
            arrays[eq.name] = evaluate_equation(eq, arrays, known)
    return {n: arrays[n].reshape(-1, len(row))[0] for n in wanted
            if n in arrays and arrays[n].shape == tuple(shape)}
