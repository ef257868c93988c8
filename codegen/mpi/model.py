"""A model whose gradient is computed by all ranks together, each on its own rows of a batch.

The gradient runs section by section. What later sections read is added up over the ranks at the
end of its phase (the statistics of batch norm, say); what nothing reads any more (the gradients of
parameters) is sent on its way in buckets while the sections after it run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from codegen.build import compile
from codegen.model import Model, Values
from codegen.mpi.share import FIRST, ROWS, Shared, share
from codegen.mpi.team import Team
from derive.optimizers import Optimizer
from derive.program import Program

BUCKET = 1 << 20  # bytes of gradients that are sent together

Place = tuple[str, int, int]  # a buffer's name, start, elements


@dataclass(frozen=True)
class Stop:
    """What happens after a section: ``now`` is added up before the next one, ``later`` is begun."""

    now: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


class SharedModel(Model):
    """A `codegen.model.Model` on one of several ranks.

    `gradient` of a batch that `part` made is the gradient of the whole batch, the same bits on
    every rank; of any other batch it is that batch's own, computed here alone.
    """

    def __init__(self, made: Model, program: Program, shared: Shared, team: Team) -> None:
        super().__init__(made.compiled, made.kernels, made.threads, made._compile_only)
        self.set(**made.settings)
        self.program, self.shared, self.team = program, shared, team
        self.bucket = BUCKET
        self._stops = stops(shared, self.kernels.SECTIONS)

    def part(self, places: np.ndarray) -> tuple[np.ndarray, Values]:
        """This rank's rows of a minibatch, and what tells `gradient` that they are a part."""
        own, first, count = self.team.divide(places)
        return own, _numbers(count, first)

    def gradient(self, prepared: Values, draw: int = 0) -> tuple[float, np.ndarray]:
        run, alone = self._run, ROWS not in prepared
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
        return float(getattr(run, buffer)[at]), run.d

    def _sections(self, arguments: tuple, where: dict[str, Any], alone: bool) -> None:
        pending: list[Any] = []
        bucket: list[str] = []
        last = len(self._stops) - 1
        for n, (phase, _) in enumerate(self.kernels.SECTIONS):
            if self._parts == 1:
                self.kernels.gradient_section(n, 0, 1, *arguments)
            elif n == 0 or self.kernels.SECTIONS[n - 1][0] != phase:  # all of the phase at once
                self.kernels.gradient_phases(phase, self._parts, *arguments)
            if alone:
                continue
            stop = self._stops[n]
            if stop.now:
                self._add_now(stop.now, where)
            bucket += stop.later
            if bucket and (n == last or self._bytes(bucket, where) >= self.bucket):
                pending += [self.team.start_sum(getattr(self._run, b)[at:at + count])
                            for b, at, count in runs(where[t] for t in bucket)]
                bucket = []
            for request in pending:
                request.Test()  # MPI works on while it is called
        for request in pending:
            self.team.wait(request)

    def _add_now(self, names: tuple[str, ...], where: dict[str, Any]) -> None:
        views = [getattr(self._run, b)[at:at + count]
                 for b, at, count in (_place(where[n]) for n in names)]
        whole = np.concatenate(views)
        self.team.add(whole)
        at = 0
        for view in views:
            view[...] = whole[at:at + view.size]
            at += view.size

    def _bytes(self, names: list[str], where: dict[str, Any]) -> int:
        return sum(_place(where[n])[2] for n in names) * int(self.kernels.DTYPE.itemsize)

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


def runs(slots: Iterable[tuple[str, int, tuple[int, ...]]]) -> list[Place]:
    """Places in a few flat buffers, those that touch (but for alignment) as one."""
    found: list[Place] = []
    for buffer, at, count in sorted(map(_place, slots)):
        if found and found[-1][0] == buffer == "d" and at - sum(found[-1][1:]) < 16:
            found[-1] = (buffer, found[-1][1], at + count - found[-1][1])
        else:
            found.append((buffer, at, count))
    return found


def stops(shared: Shared, sections: tuple) -> list[Stop]:
    """What is added up after each section: what others read, at the end of its phase."""
    program = shared.program
    read = {name for eq in program.equations for name in eq.reads}
    made: list[Stop] = []
    held: list[str] = []
    for n, (phase, names) in enumerate(sections):
        own = [t for t in names if t in shared.summed]
        held += [t for t in own if t in read]
        later = tuple(t for t in own if t not in read)
        ends = n + 1 == len(sections) or sections[n + 1][0] != phase
        made.append(Stop(tuple(held) if ends else (), later))
        held = [] if ends else held
    return made


def compile_shared(program: Program, team: Team, optimizer: Optimizer | None = None,
                   dtype: str = "float32", threads: int | None = None, **options: Any
                   ) -> SharedModel:
    """A derived program compiled for one of several ranks.

    Raises:
        DerivationError: rows of the batch depend on each other.
    """
    shared = share(program)
    made = compile(shared.program, optimizer=optimizer, dtype=dtype, threads=threads, **options)
    return SharedModel(made, program, shared, team)
