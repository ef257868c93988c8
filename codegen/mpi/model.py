"""A model whose gradient is computed by all ranks together, each on its own rows of a batch.

The gradient runs section by section. What later sections read is added up over the ranks at the
end of its phase (the statistics of batch norm, say); what nothing reads any more (the gradients of
parameters) is sent on its way in buckets while the sections after it run. In each phase of
independent pieces the largest gradients are computed first: the last to be sent is then the one
that takes least time, and only that one has nothing left to hide behind.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codegen.build import compile
from codegen.configuration import RanksPlan
from codegen.model import Model, Values
from codegen.mpi.exchange import (
    LONG,
    ROUNDING,
    Bucket,
    Halves,
    Packed,
    Scattered,
    Sender,
    Whole,
    advanced,
    finish,
)
from codegen.mpi.shard import Shard, check_space
from codegen.mpi.share import FIRST, ROWS, Shared, share
from codegen.mpi.team import Team
from codegen.rows import Rows
from derive.optimizers import Optimizer
from derive.program import Program

Place = tuple[str, int, int]  # a buffer's name, start, elements


@dataclass(frozen=True)
class Stop:
    """What happens after a section: ``now`` is added up before the next one, ``later`` and the
    ``buckets`` of the flat gradient are begun."""

    now: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    buckets: tuple[Bucket, ...] = ()


class SharedModel(Model):
    """A `codegen.model.Model` on one of several ranks.

    `gradient` of a batch that `part` made is the gradient of the whole batch: the same bits on
    every rank, or where the optimizer's state is sharded the own slices of it. Of any other batch
    it is that batch's own, whole, computed here alone.
    """

    def __init__(self, made: Model, program: Program, shared: Shared, team: Team,
                 plan: RanksPlan) -> None:
        super().__init__(made.compiled, made.kernels, made.threads, made._compile_only)
        self.set(**made.settings)
        self.program, self.shared, self.team, self.plan = program, shared, team, plan
        self.overlap = True
        self.sender = Sender() if team.far else None
        self.sending = 0.0  # seconds spent on the flat gradient's way
        kernels = self.kernels
        self._where = kernels.offsets("gradient", (1,) * len(kernels.SIZES))
        self._order, self._stops = stops(shared, kernels, self._where, plan.bucket)
        sent = _numbered([b for stop in self._stops for b in stop.buckets],
                         int(kernels.P_TRAINED), team)
        self._own = {(b.start, b.count): b for b in sent}
        self.shard = Shard(kernels, self._run, sent, team, made.compiled.optimizer) if (
            plan.shard) else None
        self._alone = False

    # -- parts of a batch, and of the optimizer's state ------------------------------------------
    def part(self, places: np.ndarray) -> tuple[np.ndarray, Values]:
        """This rank's rows of a minibatch, and what tells `gradient` that they are a part."""
        own, first, count = self.team.divide(places)
        return own, _numbers(count, first)

    @property
    def apart(self) -> tuple[str, ...]:
        return tuple(f"moment/{n}" for n in self.shard.cut) if self.shard else ()

    def whole(self, values: Values) -> Values:
        return self.shard.whole(values) if self.shard else values

    def own(self, values: Values) -> Values:
        return self.shard.part(values) if self.shard else values

    def update(self) -> None:
        shard = self.shard
        if shard is None:
            super().update()
            return
        if self._alone:
            shard.take(self._run.d, shard.buckets)
        self._guarded(shard.update)

    # -- the gradient -----------------------------------------------------------------------------
    def gradient(self, prepared: Values, draw: int = 0) -> tuple[float, np.ndarray]:
        run, alone = self._run, ROWS not in prepared
        self._alone = alone
        seeds = {n: np.array([self.random_seed(draw)]) for n in self.kernels.RANDOM}
        inputs = {**prepared, **seeds}
        if alone:
            inputs |= _numbers(self.kernels.rows_of(prepared), 0)
        inputs[ROWS] = inputs[ROWS].astype(self.kernels.DTYPE)
        sizes = run.sizes(inputs)
        given = [inputs[n].reshape(-1) for n in self.kernels._GIVEN["gradient"]]
        self._parts = run.parts(sizes)
        arguments = (*sizes, run.p, run.d, run.s, run.n, run.arena("gradient", sizes), *given)
        where = self.kernels.offsets("gradient", sizes)
        with self.kernels._threads(self._parts):
            self._guarded(lambda: self._sections(arguments, where, alone))
        buffer, at, _ = where[self.program.losses[0]]
        loss = float(getattr(run, buffer)[at])
        return loss, self.shard.gradient if self.shard and not alone else run.d

    def compression(self, rows: Rows, count: int) -> str:
        """What the 16-bit format loses of the gradient of the first ``count`` rows, in a sentence;
        all ranks call it."""
        own, numbers = self.part(np.arange(count))
        prepared = {**self.prepared(rows.take(own)), **numbers}
        plan, found = self.plan, []
        for kind in (plan.compress, ""):
            self.plan = replace(plan, compress=kind)
            found.append(self.gradient(prepared)[1].astype(np.float64))
        self.plan = plan
        sums = np.array([((found[0] - found[1])**2).sum(), (found[1]**2).sum()])
        if self.shard is not None:
            self.team.add(sums)
        lost = math.sqrt(sums[0] / sums[1]) if sums[1] else 0.0
        return (f"gradients travel as {plan.compress}, each number to {ROUNDING[plan.compress]:.1g}"
                f" of itself: of the first one's norm {lost:.1e} is lost")

    def _sections(self, arguments: tuple, where: dict[str, Any], alone: bool) -> None:
        flying: list[Whole] = []
        held: list[Stop] = []
        sender = None if alone else self.sender
        for n, stop in zip(self._order, self._stops, strict=True):
            if self._parts == 1:
                self.kernels.gradient_section(n, 0, 1, *arguments)
            else:
                self.kernels.gradient_section_split(n, self._parts, *arguments)
            if alone:
                continue
            if stop.now:
                self._add_now(stop.now, where)
            if not self.overlap:
                held.append(stop)
                continue
            start = time.perf_counter()
            made = self._send(stop, where)
            if sender is None:
                flying = advanced(flying + made)  # MPI works on while it is called
            else:
                sender.send(made)
            self.sending += time.perf_counter() - start
        start = time.perf_counter()
        if sender is not None:
            sender.finish()
        finish(flying + [f for stop in held for f in self._send(stop, where)])
        if self.shard is not None and not alone:
            self.shard.take(self._run.d, [b for b in self.shard.buckets if not b.summed])
        self.sending += time.perf_counter() - start

    def _send(self, stop: Stop, where: dict[str, Any]) -> list[Whole]:
        made: list[Whole] = [
            Whole(self.team, getattr(self._run, b)[at:at + n])
            for b, at, n in (_place(where[t]) for t in stop.later)]
        size, shard = self.team.size, self.shard
        for bucket in stop.buckets:
            bucket = self._own[bucket.start, bucket.count]
            array = self._run.d[bucket.start:bucket.start + bucket.count]
            counts = bucket.counts(size)
            if self.plan.compress:
                own = shard.gradient[shard.own(bucket)] if shard else np.empty(
                    counts[self.team.rank], self.kernels.DTYPE)
                made.append(Packed(self.team, self.plan.compress, array, counts, own,
                                   None if shard else array))
            elif shard is not None:
                made.append(Scattered(self.team, array, shard.gradient[shard.own(bucket)], counts))
            elif array.nbytes >= LONG:
                made.append(Halves(self.team, array, counts))
            else:
                made.append(Whole(self.team, array))
        return made

    def _add_now(self, names: tuple[str, ...], where: dict[str, Any]) -> None:
        views = [getattr(self._run, b)[at:at + count]
                 for b, at, count in (_place(where[n]) for n in names)]
        whole = np.concatenate(views)
        self.team.add(whole)
        at = 0
        for view in views:
            view[...] = whole[at:at + view.size]
            at += view.size

    def _checked(self, values: Any, entry: str) -> Values:
        """As of the network that was declared: the numbers of rows are not the user's to give."""
        from derive.data import check_values

        wanted = [t for t in self.program.given if t.role not in ("parameter", "state", "random")]
        checked = check_values(self.program, values, names=[t.name for t in wanted])
        kinds = {"int": np.int64, "float": self.kernels.DTYPE}
        return {t.name: np.ascontiguousarray(checked[t.name], kinds[t.dtype]) for t in wanted}


def _numbers(rows: int, first: int) -> Values:
    return {ROWS: np.array([float(rows)]), FIRST: np.array([first], np.int64)}


def _place(slot: tuple[str, int, tuple[int, ...]]) -> Place:
    buffer, at, shape = slot
    return buffer, at, math.prod(shape)


# -- when what is sent --------------------------------------------------------------------------
def stops(shared: Shared, kernels: Any, where: dict[str, Any], size: int
          ) -> tuple[list[int], list[Stop]]:
    """The sections in the order in which they run, and what is added up after each: what others
    read, at the end of its phase; the rest of the flat gradient in buckets of ``size`` bytes."""
    read = {name for eq in shared.program.equations for name in eq.reads}
    sections, item = kernels.SECTIONS, kernels.DTYPE.itemsize
    ends = _extents(where, int(kernels.P_TRAINED))

    def later(n: int) -> list[str]:
        return [t for t in sections[n][1] if t in shared.summed and t not in read]

    def weight(n: int) -> tuple[int, int, int]:
        return sections[n][0], -sum(_place(where[t])[2] for t in later(n)), n

    order = sorted(range(len(sections)), key=weight)
    made: list[Stop] = []
    held: list[str] = []
    bucket: list[tuple[int, int]] = []
    for at, n in enumerate(order):
        held += [t for t in sections[n][1] if t in shared.summed and t in read]
        last = at + 1 == len(order)
        closes = last or sections[order[at + 1]][0] != sections[n][0]
        flat = [t for t in later(n) if where[t][0] == "d"]
        bucket += [(where[t][1], ends[where[t][1]]) for t in flat]
        full = sum(b - a for a, b in bucket) * item >= size
        sent = joined(bucket) if full or last else []
        made.append(Stop(tuple(held) if closes else (),
                         tuple(t for t in later(n) if where[t][0] != "d"),
                         tuple(Bucket(a, b - a, 0) for a, b in sent)))
        held, bucket = [] if closes else held, [] if sent else bucket
    return order, made


def _extents(where: dict[str, Any], total: int) -> dict[int, int]:
    """Where each gradient ends in the flat one, with what aligns the next."""
    starts = sorted(at for buffer, at, _ in where.values() if buffer == "d")
    return dict(zip(starts, [*starts[1:], total], strict=True))


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans from start to end; those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _numbered(sent: list[Bucket], total: int, team: Team) -> list[Bucket]:
    """The buckets, and what of the flat gradient is in none, each with its place in a rank's own
    arrays."""
    at, rest = 0, []
    for start, end in [*joined([(b.start, b.start + b.count) for b in sent]), (total, total)]:
        if at < start:
            rest.append(Bucket(at, start - at, 0, summed=False))
        at = end
    found, own = [], 0
    for bucket in (*sent, *rest):
        found.append(Bucket(bucket.start, bucket.count, own, bucket.summed))
        own += bucket.counts(team.size)[team.rank]
    return found


def compile_shared(program: Program, team: Team, optimizer: Optimizer | None = None,
                   dtype: str = "float32", threads: int | None = None,
                   plan: RanksPlan | None = None, rows: int = 0, **options: Any) -> SharedModel:
    """A derived program compiled for one of several ranks.

    Args:
        rows: of the largest minibatch; where given, its memory is looked for before it is taken.

    Raises:
        DerivationError: rows of the batch depend on each other.
        DeclarationError: an optimizer whose state cannot be sharded.
        DataError: there is not enough memory.
    """
    plan = plan or RanksPlan()
    shared = share(program)
    made = compile(shared.program, optimizer=optimizer, dtype=dtype, threads=threads, **options)
    if rows:
        check_space(_bytes(made, team, plan, -(-rows // team.size)), team.here)
    return SharedModel(made, program, shared, team, plan)


def _bytes(model: Model, team: Team, plan: RanksPlan, rows: int) -> int:
    """What one rank is about to fill: parameters, gradients, moments, tensors of a step."""
    kernels = model.kernels
    sizes = tuple(rows if name == kernels.BATCH else 1 for name in kernels.SIZES)
    own = -(-kernels.P_TRAINED // team.size) if plan.shard else kernels.P_TRAINED
    count = kernels.P + kernels.P_TRAINED + len(kernels.MOMENTS) * own
    arena = kernels._ARENA["gradient"](*sizes, model.threads)
    return int((count + arena) * kernels.DTYPE.itemsize)
