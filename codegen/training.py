"""The training loop: minibatches in a seeded order, evaluation, early stopping, checkpoints.

Everything random is a function of (seed, epoch), and everything else that a step depends on lies in
the checkpoint. So a resumed run takes the same steps, to the last bit, as one that was never
interrupted, on the same number of threads.

A step is three calls: the gradient of a batch, a reduction of it (for accumulation, or across
machines), and the update. Where nothing stands between them, whole chunks of steps run in one
compiled call instead; chunks last about a quarter of a second, and signals, progress and
checkpoints are looked after between two of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codegen.checkpoint import Checkpoint, Store, fit_into
from codegen.failures import NotFiniteError
from codegen.kept import Kept
from codegen.model import Model, Values
from codegen.rows import Rows
from derive.errors import DataError

CHUNK_SECONDS = 0.25
CHUNK_BYTES = 1 << 26  # of rows that are gathered from a memory map at a time

Evaluate = Callable[[], dict[str, float]]
Reduce = Callable[[np.ndarray], None]  # changes the flat gradient in place
Report = Callable[["Position", float], None]  # where the run is, and rows in a second
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    ``accumulate`` minibatches make one step. ``patience`` epochs without a better ``monitor``
    (a column of the history) end the run; ``plateau`` such epochs multiply the learning rate by
    ``factor``. A checkpoint is made every ``seconds``, or every ``steps`` minibatches, and the
    last ``keep`` stay. Up to ``skip`` steps of the run whose loss or gradient is NaN or infinite
    are left out; one more ends it.
    """

    epochs: int = 50
    batch: int = 64
    seed: int = 0
    accumulate: int = 1
    monitor: str = ""
    patience: int = 0
    min_delta: float = 0.0
    plateau: int = 0
    factor: float = 0.1
    seconds: float = 60.0
    steps: int = 0
    keep: int = 3
    skip: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is at least 1", got=getattr(self, name))
        for name in ("patience", "plateau", "steps", "min_delta", "seed", "skip"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is at least 0", got=getattr(self, name))


@dataclass
class Position:
    """Where a run is: in the data, in its history, and the best so far."""

    epoch: int = 1
    losses: list[float] = field(default_factory=list)  # of this epoch's minibatches; NaN: skipped
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = math.inf
    plateau: int = 0  # epochs since the learning rate was lowered, or since the best
    skipped: int = 0  # steps that were left out

    @property
    def mean_loss(self) -> float:
        """Of the minibatches of this epoch so far."""
        known = [x for x in self.losses if not math.isnan(x)]
        return math.fsum(known) / len(known) if known else math.nan

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def shuffled(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in an epoch: the same on every machine."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    return stream.permutation(rows)


class Training:
    """A run in progress: a model, its data, and where it is."""

    def __init__(self, model: Model, rows: Rows, plan: Plan, *, evaluate: Evaluate | None = None,
                 store: Store | None = None, reduce: Reduce | None = None,
                 notes: dict[str, Any] | None = None, warn: Warn = lambda text: None,
                 team: Any = None) -> None:
        if not len(rows):
            raise DataError("there are no rows to train on")
        self.model, self.rows, self.plan, self.store = model, rows, plan, store
        self.evaluate, self.reduce, self.warn = evaluate, reduce, warn
        self.notes = notes or {}
        self.team = team  # a codegen.mpi.team.Team where several ranks train one model
        self.at = Position()
        self._best: Kept | Values = {}
        self._prepared = model.prepared(rows.take()) if rows.resident else None
        self._resident: Values | None = None  # the same, on the device where there is one
        if self._prepared is None:  # every row is looked at before the first step
            own = rows if team is None else rows.part(team.divide(np.arange(len(rows)))[0])
            for block in own.blocks():
                model.prepared(block)
        self._pace = 0.0  # seconds of a minibatch
        self._saved = (time.perf_counter(), 0)
        self._unsaved = True

    def warm_up(self) -> None:
        """Compile what a step runs, by a step that is taken back."""
        places = np.arange(min(self.plan.batch, len(self.rows)))
        before = Snapshot(self.model, 1, 0, places)
        try:
            if self._direct:
                self.model.train_rows(self._at_hand(places), len(places), places)
            else:
                self.model.gradient(self.model.prepared(self.rows.take(places)))
                self.model.update()
        except NotFiniteError:
            pass  # the run itself will say so, with all that belongs to it
        before.restore()

    @property
    def best(self) -> Values:
        """The best weights so far, by kind and name; of a model on a device they come from there
        when they are asked for."""
        if isinstance(self._best, Kept):
            self._best = self._best.places
        return self._best

    # -- the loop -------------------------------------------------------------------------------
    @property
    def minibatches(self) -> int:
        """How many an epoch has."""
        return -(-len(self.rows) // self.plan.batch)

    @property
    def done(self) -> int:
        """Minibatches since the start."""
        return (self.at.epoch - 1) * self.minibatches + len(self.at.losses)

    def run(self, stop: Callable[[], object] = bool, report: Report | None = None) -> str:
        """Train to the end; returns "finished", "early" or "interrupted".

        Raises:
            NotFiniteError: a number is NaN or infinite; `snapshot` is how it was just before.
            OSError: the last checkpoint could not be written.
        """
        while self.at.epoch <= self.plan.epochs and not self._enough():
            order = shuffled(len(self.rows), self.plan.seed, self.at.epoch)
            while len(self.at.losses) < self.minibatches:
                asked = stop()
                if asked if self.team is None else self.team.any(asked):
                    self.save()
                    return "interrupted"
                self._chunk(order)
                if report is not None:
                    report(self.at, self.plan.batch / max(self._pace, 1e-9))
                self._maybe_save()
            self._end_epoch()
            if report is not None:
                report(self.at, self.plan.batch / max(self._pace, 1e-9))
        self.save()
        return "early" if self._enough() else "finished"

    def _enough(self) -> bool:
        waited = len(self.at.history) - self.at.best_epoch
        return bool(self.plan.patience) and waited >= self.plan.patience

    def _chunk(self, order: np.ndarray) -> None:
        """Some minibatches, from where this epoch is."""
        first, batch = len(self.at.losses), self.plan.batch
        count = self._length(first)
        places = order[first * batch:(first + count) * batch]
        self.snapshot = Snapshot(self.model, self.at.epoch, first, places)
        start = time.perf_counter()
        data = self._prepared
        if data is None and self.team is None:
            data = self.model.prepared(self.rows.take(places))
            places = np.arange(len(places))
        if self._direct:
            losses = self.model.train_rows(self._at_hand(places, data), batch, places)
        else:
            losses = self._separately(data, places)
        if not self.model.finite():
            raise NotFiniteError("a parameter is NaN or infinite")
        passed = time.perf_counter() - start
        self.at.losses += losses.tolist()
        self.at.seconds += passed
        self._pace = passed / count
        self._unsaved = True

    def _at_hand(self, places: np.ndarray, data: Values | None = None) -> Values:
        """All rows where the model has them at hand; where they are not in memory, those given,
        or read now."""
        if self._resident is None and self._prepared is not None:
            self._resident = self.model.resident(self._prepared)
        return self._resident or data or self.model.prepared(self.rows.take(places))

    def _length(self, first: int) -> int:
        """How many minibatches a chunk has: whole steps."""
        step = self.plan.accumulate
        count = max(1, int(CHUNK_SECONDS / self._pace)) if self._pace else 1
        if self.plan.steps:
            count = min(count, self.plan.steps - self.done % self.plan.steps)
        if self._prepared is None:
            count = min(count, max(1, CHUNK_BYTES // (self.rows.row_bytes * self.plan.batch)))
        if self.team is not None:
            count = int(self.team.same(count))
        return min(-(-count // step) * step, self.minibatches - first)

    @property
    def _direct(self) -> bool:
        """Whether nothing stands between the gradient of a minibatch and the update."""
        return (self.model.direct and self.plan.accumulate == 1 and self.reduce is None
                and self.team is None and not self.plan.skip)

    def _batch(self, data: Values | None, places: np.ndarray) -> Values:
        """A minibatch; of several ranks each reads its own part."""
        part: Values = {}
        if self.team is not None:
            places, part = self.model.part(places)  # type: ignore[attr-defined]
        if data is None:
            return {**self.model.prepared(self.rows.take(places)), **part}
        return {**{n: np.ascontiguousarray(a[places]) for n, a in data.items()}, **part}

    def _separately(self, data: Values | None, places: np.ndarray) -> np.ndarray:
        """Steps of several minibatches each, with a reduction before the update.

        The gradient of a step is the mean over its rows, g = (1/N) Σ Nᵢ gᵢ.
        """
        losses: list[float] = []
        size, step = self.plan.batch, self.plan.batch * self.plan.accumulate
        bad = False
        for first in range(0, len(places), step):
            total: np.ndarray | None = None
            rows = places[first:first + step]
            count = -(-len(rows) // size)
            for draw, at in enumerate(range(0, len(rows), size)):
                own = rows[at:at + size]
                loss, gradient = self.model.gradient(self._batch(data, own), draw)
                if not math.isfinite(loss) and not self.plan.skip:
                    raise NotFiniteError("the loss is NaN or infinite")
                bad |= not math.isfinite(loss)
                losses.append(loss)
                part = gradient * gradient.dtype.type(len(own) / len(rows))
                total = part if total is None else total + part
            assert total is not None
            if self.plan.skip and self._skips(bad or not np.isfinite(total).all()):
                losses[len(losses) - count:] = [math.nan] * count
                bad = False
                continue
            gradient[...] = total
            if self.reduce is not None:
                self.reduce(gradient)
            self.model.update()
        return np.array(losses)

    def _skips(self, bad: bool) -> bool:
        """Whether a step is left out: on all ranks, where it is not finite on one."""
        if self.team is not None:
            bad = self.team.any(bad)
        if bad:
            if self.at.skipped >= self.plan.skip:
                raise NotFiniteError("the loss or the gradient is NaN or infinite, and "
                                     f"{self.plan.skip} steps were left out already")
            self.at.skipped += 1
            self.warn(f"a step of epoch {self.at.epoch} was left out: its loss or gradient is NaN "
                      f"or infinite ({self.at.skipped} of at most {self.plan.skip})")
        return bad

    # -- the end of an epoch --------------------------------------------------------------------
    def _end_epoch(self) -> None:
        at, size, count = self.at, self.plan.batch, len(self.rows)
        weights = [min(size, count - n * size) for n in range(self.minibatches)]
        known = [(w, x) for w, x in zip(weights, at.losses, strict=True) if not math.isnan(x)]
        seen = sum(w for w, _ in known)
        mean = math.fsum(w * x for w, x in known) / seen if seen else math.nan
        row = {"epoch": float(at.epoch), "loss": mean, "seconds": at.seconds}
        if self.evaluate is not None:
            row |= self.evaluate()
        if "lr" in self.model.settings:
            row["lr"] = self.model.settings["lr"]
        at.history.append(row)
        self._compare(row)
        at.epoch, at.losses = at.epoch + 1, []
        self._unsaved = True

    def _compare(self, row: dict[str, float]) -> None:
        """Keep the best weights; lower the learning rate on a plateau."""
        at, plan = self.at, self.plan
        name = plan.monitor or ("validation_loss" if "validation_loss" in row else "loss")
        if name not in row:
            raise DataError(f"the monitor {name!r} is not measured", expected=", ".join(row))
        score = row[name] if smaller_is_better(name) else -row[name]
        if score < at.best_score - plan.min_delta:
            at.best_score, at.best_epoch, at.plateau = score, len(at.history), 0
            self._best = self.model.keep(weights=True)
            return
        at.plateau += 1
        if plan.plateau and at.plateau >= plan.plateau:
            self.model.set(lr=self.model.settings["lr"] * plan.factor)
            at.plateau = 0

    # -- checkpoints ----------------------------------------------------------------------------
    def checkpoint(self) -> Checkpoint:
        """All that a later process needs to go on from here."""
        arrays = {**self.model.whole(self.model.places),
                  **{f"best/{n}": v for n, v in self.best.items()}}
        return Checkpoint(self.done, arrays, {
            **self.notes, "position": self.at.to_dict(), "updates": self.model.steps,
            "seed": self.plan.seed, "settings": self.model.settings,
        })

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it is of another network; tensors that differ are named.
        """
        own = {n: a for n, a in checkpoint.arrays.items() if not n.startswith("best/")}
        fit_into(self.model.places, self.model.own(own),
                 f"the checkpoint of step {checkpoint.step}")
        self._best = {n.removeprefix("best/"): a.copy() for n, a in checkpoint.arrays.items()
                      if n.startswith("best/")}
        notes = checkpoint.notes
        self.at = Position(**notes["position"])
        self.model.restored(notes["updates"], notes["seed"])
        self.model.set(**{n: v for n, v in notes["settings"].items()
                          if n in self.model.settings})
        self._saved, self._unsaved = (time.perf_counter(), self.done), False

    def save(self) -> None:
        """Write a checkpoint if anything was learnt since the last one.

        Raises:
            OSError: it cannot be written; the ones before are whole.
        """
        if self.store is not None and self._unsaved:
            if self.team is None:
                self.store.save(self.checkpoint())
            else:
                self.team.save(self.store, self.checkpoint, self.model.apart)
            self._saved, self._unsaved = (time.perf_counter(), self.done), False

    def _maybe_save(self) -> None:
        when, done = self._saved
        by_steps = self.plan.steps and self.done - done >= self.plan.steps
        late = not self.plan.steps and time.perf_counter() - when >= self.plan.seconds
        if self.team is not None:
            late = bool(self.team.same(late))
        if not by_steps and not late:
            return
        try:
            self.save()
        except OSError as error:  # the disk may have room again before the run ends
            self.warn(f"no checkpoint at step {self.done}: {error.strerror}; "
                      "the ones before are whole, training goes on")
            self._saved = (time.perf_counter(), self.done)


class Snapshot:
    """Everything that the steps of one chunk start from."""

    def __init__(self, model: Model, epoch: int, first: int, places: np.ndarray) -> None:
        self.epoch, self.first, self.order = epoch, first, places
        self.seed = int(model._run.seed)
        self._kept = model.keep()

    def restore(self) -> None:
        self._kept.put_back()


def smaller_is_better(name: str) -> bool:
    """Whether a column of the history is to fall: losses do, shares do not."""
    return not name.endswith(("accuracy", "f1", "r2"))
