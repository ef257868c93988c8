"""NaN and infinity: which step, which batch, which tensor first, and a file that shows it again.

The steps of the chunk that failed are taken once more from its snapshot, one by one, and each
gradient is looked at before it is used. Kernels compute the same bits again, so the step is found;
the tensor is found by the reference evaluator, which keeps every intermediate one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sympy import S

from codegen.checkpoint import Checkpoint, CheckpointError, fit_into, read_checkpoint
from codegen.checkpoint import write_checkpoint as write
from codegen.failures import NotFiniteError
from codegen.model import Model, Values
from codegen.training import Snapshot, Training
from derive.nodes import Reduction, Select
from derive.program import Program
from derive.reference import evaluate


@dataclass(frozen=True)
class Culprit:
    """Where numbers stopped being finite: ``step`` counts updates from 1, ``rows`` are those of
    the batch (as they were read), ``tensor`` the first one that is NaN or infinite, with ``what``
    is wrong there."""

    step: int
    epoch: int
    rows: tuple[int, ...]
    tensor: str
    what: str
    before: Values
    batch: Values

    def __str__(self) -> str:
        few = ", ".join(map(str, self.rows[:8])) + (", …" if len(self.rows) > 8 else "")
        return (f"{self.what} at step {self.step} (epoch {self.epoch}), in the batch of rows "
                f"{few}")


def find_culprit(training: Training) -> Culprit:
    """The first step of the last chunk that is not finite; the model is left as before it."""
    model, snapshot, plan = training.model, training.snapshot, training.plan
    snapshot.restore()
    step = plan.batch * plan.accumulate
    for first in range(0, len(snapshot.order), step):
        rows = snapshot.order[first:first + step]
        found = _one_step(training, snapshot, rows)
        if found is not None:
            return found
    return Culprit(model.steps + 1, snapshot.epoch, _numbers(training, snapshot.order),
                   training.model.program.losses[0], "the loss is not finite",
                   {n: v.copy() for n, v in model.places.items()}, {})


def _numbers(training: Training, rows: np.ndarray) -> tuple[int, ...]:
    return tuple(map(int, training.rows.original(rows)))


def _one_step(training: Training, snapshot: Snapshot, rows: np.ndarray) -> Culprit | None:
    model, size = training.model, training.plan.batch
    before = {n: v.copy() for n, v in model.places.items()}
    updates, total = model.steps, np.zeros_like(model.flat[:0])
    for draw, at in enumerate(range(0, len(rows), size)):
        own = rows[at:at + size]
        batch = model.prepared(training.rows.take(own))
        loss, gradient = model.gradient(batch, draw)
        if not math.isfinite(loss) or not np.isfinite(gradient).all():
            tensor, what = name_tensor(model, batch, loss, gradient)
            return Culprit(updates + 1, snapshot.epoch, _numbers(training, own), tensor, what,
                           before, batch)
        part = gradient * gradient.dtype.type(len(own) / len(rows))
        total = part if at == 0 else total + part
    gradient[...] = total
    if training.reduce is not None:
        training.reduce(gradient)
    model.update()
    if np.isfinite(model.flat).all():
        return None
    name = next(n for n, v in model.parameters.items() if not np.isfinite(v).all())
    for key, view in model.places.items():
        view[...] = before[key]
    model.restored(updates, snapshot.seed)
    return Culprit(updates + 1, snapshot.epoch, _numbers(training, rows), name,
                   f"the update makes {name!r} infinite or NaN, from a finite gradient",
                   before, batch)


def name_tensor(model: Model, batch: Values, loss: float, gradient: np.ndarray
                ) -> tuple[str, str]:
    """The first tensor that is not finite in a batch, and what to say of it."""
    program = model.program
    found = first_not_finite(program, model, batch)
    if found is not None:
        why = "is -inf: all that it ranges over is masked" if _masking(program, found) else \
            "is not finite"
        return found, f"{program.tensors[found].access} {why}"
    if not math.isfinite(loss):
        return program.losses[0], f"the loss {program.losses[0]} is not finite"
    for name, (at, shape) in model.kernels.PARAMETERS.items():
        if not np.isfinite(gradient[at:at + math.prod(shape)]).all():
            return program.gradients[name], f"the gradient of {name!r} is not finite"
    return program.losses[0], "a number is not finite"


def first_not_finite(program: Program, model: Model, batch: Values) -> str | None:
    """The first tensor, in order of computation, that the kernels' precision cannot hold. A
    log-sum-exp all of which is masked is -inf; that is no fault where its readers know it."""
    values: dict[str, Any] = {n: v.astype(np.float64) for n, v in model.parameters.items()}
    values |= {n: v.astype(np.float64) for n, v in model.states.items()}
    values |= {n: np.int64(model.random_seed()) for n in model.kernels.RANDOM} | batch
    top = float(np.finfo(model.kernels.DTYPE).max)
    wanted = (*program.losses, *program.gradients.values())
    needed = program.only(*wanted)
    try:
        arrays = evaluate(needed, values, [eq.name for g in needed.groups for eq in g.equations])
    except MemoryError:
        return None
    bad = [name for name, array in arrays.items() if not (np.abs(array) <= top).all()]
    for name in bad:
        readers = [eq.name for eq in needed.equations if name in eq.reads]
        if not _masking(program, name) or set(readers) & set(bad):
            return name
    return None


def _masking(program: Program, name: str) -> bool:
    """Whether a tensor is a reduction under a mask, which leaves -inf where all is masked."""
    eq = program.defined.get(name)
    return eq is not None and isinstance(eq.body, Reduction) and isinstance(eq.body.body, Select) \
        and eq.body.body.no == S.NegativeInfinity


def write_replay(path: Path, culprit: Culprit, training: Training, error: NotFiniteError) -> Path:
    """The file that replays a step: everything before it, and the batch."""
    notes = {**training.notes, "kind": "replay", "updates": culprit.step - 1,
             "seed": training.plan.seed, "settings": training.model.settings,
             "epoch": culprit.epoch, "rows": list(culprit.rows), "tensor": culprit.tensor,
             "what": culprit.what, "error": error.what}
    arrays = {**culprit.before, **{f"batch/{n}": a for n, a in culprit.batch.items()}}
    return write(path, Checkpoint(culprit.step, arrays, notes))


def read_replay(path: Path) -> Checkpoint:
    """Read what `write_replay` wrote.

    Raises:
        CheckpointError: another kind of file, or a damaged one.
    """
    found = read_checkpoint(path)
    if found.notes.get("kind") != "replay":
        raise CheckpointError(f"{path.name!r} replays nothing", expected="a not-finite-… file",
                              got="a checkpoint", mend="chainrule resume goes on from those")
    return found


def replay(model: Model, stored: Checkpoint) -> tuple[str, str]:
    """Take the step again; the tensor that is not finite, and what to say of it ("" where all
    is finite here)."""
    own = {n: a for n, a in stored.arrays.items() if not n.startswith("batch/")}
    fit_into(model.places, own, "the file")
    model.restored(stored.notes["updates"], stored.notes["seed"])
    model.set(**stored.notes["settings"])
    batch = model.prepared({n.removeprefix("batch/"): a for n, a in stored.arrays.items()
                            if n.startswith("batch/")})
    loss, gradient = model.gradient(batch)
    if math.isfinite(loss) and np.isfinite(gradient).all():
        model.update()
        bad = [n for n, v in model.parameters.items() if not np.isfinite(v).all()]
        return (bad[0], f"the update makes {bad[0]!r} infinite or NaN") if bad else ("", "")
    return name_tensor(model, batch, loss, gradient)
