"""A run put together: data, kernels, evaluation and the training loop; and running it."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import codegen
from codegen.build import left_alone
from codegen.checkpoint import Store
from codegen.configuration import DataPlan, RanksPlan
from codegen.datasets import Parts
from codegen.evaluation import Evaluator, what_to_measure
from codegen.failures import NoRoomError, NotFiniteError, RefusedError
from codegen.half import STORAGES
from codegen.health import Health
from codegen.model import Model
from codegen.progress import progress
from codegen.replay import Culprit, find_culprit, write_replay
from codegen.signals import stop_request
from codegen.training import Plan, Position, Training
from derive.differentiate import derive
from derive.errors import DataError, DeclarationError
from derive.optimizers import Optimizer
from derive.program import Program


@dataclass
class Session:
    """A run that can begin, or go on: `training` knows where it is."""

    derived: Program
    model: Model
    training: Training
    compile_seconds: float
    messages: list[str] = field(default_factory=list)
    health: Health | None = None

    @property
    def history(self) -> list[dict[str, float]]:
        return self.training.at.history


@dataclass(frozen=True)
class Ended:
    """How a run ended: finished, early, interrupted, or not finite (with the step that did it)."""

    reason: str
    detail: str = ""
    replay: str = ""


def prepare(program: Program, parts: Parts, plan: Plan, optimizer: Optimizer, *,
            dtype: str = "float32", device: str = "cpu", products: str = "own", threads: int = 0,
            evaluation: Program | None = None, data: DataPlan | None = None,
            store: Store | None = None, notes: dict | None = None, team: Any = None,
            ranks: RanksPlan | None = None) -> Session:
    """Derive, compile and initialise; everything that does not fit shows here, before a step.

    Args:
        device: "cpu", "cuda", or "auto", which takes the CPU, too, where a step or an evaluation
            does not fit a GPU's memory, and says so; several ranks have the CPU.
        products: of matrices, on a GPU: as for `codegen.compile`.
        evaluation: the same network without what only training needs (dropout).
        team: of a run over MPI; this rank's view of all ranks.
        ranks: how these share the work.

    Raises:
        DataError: arrays that do not fit the network; a monitor that nothing measures.
    """
    if plan.patience and not plan.monitor and not len(parts.validation):
        raise DataError("early stopping needs rows that are neither trained on nor tested on",
                        mend="validation_share = 0.1, or name a monitor")
    if optimizer.curvature and (plan.accumulate > 1 or team is not None):
        raise DeclarationError(
            f"the rule {optimizer.name!r} solves for each step on one batch", expected="accumulate "
            "= 1 and no ranks", mend="a larger batch")
    if team is not None and (device == "cuda" or products == "vendor"):
        raise DeclarationError("several ranks do not train on a GPU", expected='device = "cpu" '
                               'and products = "own"',
                               mend="one process on the GPU: leave the ranks out")
    start = time.perf_counter()
    count = threads or (None if team is None else team.threads)
    with progress("deriving"):
        derived = derive(program)

    def made(device: str, products: str) -> Session:
        return _put_together(derived, parts, plan, optimizer, dtype, device, products, count,
                             evaluation or (program if team is not None else None), data, store,
                             notes, team, ranks)

    with progress("compiling the kernels"):
        try:
            session = made(device, products)
        except (RefusedError, NoRoomError) as error:
            if device != "auto" or dtype in STORAGES:
                raise
            session = made("cpu", "own")
            session.messages.insert(0, left_alone(error))
    session.compile_seconds = time.perf_counter() - start
    return session


def _put_together(derived: Program, parts: Parts, plan: Plan, optimizer: Optimizer, dtype: str,
                  device: str, products: str, count: int | None, evaluation: Program | None,
                  data: DataPlan | None, store: Store | None, notes: dict | None, team: Any,
                  ranks: RanksPlan | None) -> Session:
    """Compiled, initialised and run once."""
    if team is None:
        with warnings.catch_warnings(record=True) as said:  # of a GPU that is left alone
            warnings.simplefilter("always", RuntimeWarning)
            model = codegen.compile(derived, optimizer=optimizer, dtype=dtype, threads=count,
                                    device=device, products=products)
    else:
        from codegen.mpi.model import compile_shared

        rows = min(plan.batch, len(parts.train))
        team.enough(rows)
        if not team.first:
            team.meet()  # rank 0 has compiled: its kernels are found in the cache
        model = compile_shared(derived, team, optimizer, dtype, count, ranks, rows)
    model.initialize(plan.seed)
    other = codegen.compile(derive(evaluation), dtype=dtype, threads=count,
                            device=model.device) if evaluation is not None else None
    measured = what_to_measure(evaluation or derived, data.metrics if data else None)
    evaluator = Evaluator(model, parts.held_out, measured, other, team)
    made = Session(derived, model, None, 0.0)  # type: ignore[arg-type]
    if team is None:
        made.messages.extend(str(w.message) for w in said)
    made.training = Training(model, parts.train, plan, evaluate=evaluator, store=store,
                             notes=notes, warn=made.messages.append, team=team)
    made.training.warm_up()
    evaluator()
    made.health = Health(model, parts.train, made.messages.append,
                         all_rows=plan.batch * plan.accumulate >= len(parts.train))
    if team is not None:
        made.health.ready()
        if team.first:
            team.meet()
        team.together()
        if ranks is not None and ranks.compress:
            made.messages.append(model.compression(parts.train, rows))  # type: ignore
    return made


def run(session: Session, folder: Path | None = None,
        after_epoch: Callable[[], object] = lambda: None) -> Ended:
    """Train until the end, a signal, or a number that is not finite.

    Args:
        folder: where a file goes that replays a step that is not finite.
        after_epoch: called at the end of each epoch.

    Raises:
        OSError: the last checkpoint could not be written.
    """
    training, plan = session.training, session.training.plan
    team, health, seen, told = training.team, session.health, [len(session.history)], [0]

    def look(last: bool = False) -> None:
        if health is not None:
            health.look([row["loss"] for row in session.history], last)

    def tell() -> None:
        for text in session.messages[told[0]:]:
            print(f"note: {text}", file=sys.stderr)
        told[0] = len(session.messages)

    def report(at: Position, speed: float) -> None:
        if len(at.history) > seen[0]:
            seen[0] = len(at.history)
            look()
            after_epoch()
        tell()
        show(at.epoch - 1 + len(at.losses) / training.minibatches, _note(at, speed))

    with progress("measuring the flow of gradients"):
        look()
    with progress("training", plan.epochs) as show, stop_request() as stop:
        try:
            reason = training.run(lambda: bool(stop), report)
        except NotFiniteError as error:
            write = folder if team is None or team.first else None
            return _not_finite(training, error, write)
    if reason != "interrupted":
        look(last=True)
        tell()
    return Ended(reason)


def _note(at: Position, speed: float) -> str:
    last = at.history[-1] if at.history else {}
    loss = at.mean_loss if at.losses else last.get("loss", math.nan)
    parts = [f"loss {loss:.4f}"]
    parts += [f"{n.replace('_', ' ')} {last[n]:.2%}" for n in ("accuracy",) if n in last]
    return ", ".join([*parts, f"{speed:,.0f} rows/s"])


def _not_finite(training: Training, error: NotFiniteError, folder: Path | None) -> Ended:
    culprit: Culprit = find_culprit(training)
    culprit = replace(culprit, before=training.model.whole(culprit.before))
    path = ""
    if folder is not None:
        name = folder / f"not-finite-{culprit.step:09d}.safetensors"
        try:
            path = str(write_replay(name, culprit, training, error))
        except OSError as problem:
            path = f"(not written: {problem.strerror})"
    return Ended("not finite", str(culprit), path)
