"""The optimizer's state cut into slices, one for each rank (stage 1 of ZeRO: Rajbhandari et al.,
2020).

A rank owns a slice of every bucket of the flat gradient. It gets the sum of that slice only, keeps
the optimizer's moments of it only, updates these parameters, and all gather the parameters from
their owners. What a norm needs of other slices is added up over the ranks. The kernels are those
of the emitted module: each takes a part of the flat arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from codegen.mpi.exchange import Bucket
from codegen.mpi.team import Team
from derive.errors import DataError, DeclarationError
from derive.optimizers import Optimizer

WHOLE = ("average",)  # moments that other parts of a run read whole


@dataclass(frozen=True)
class Piece:
    """A part of a rank's slices with one set of settings: its number in the module's SEGMENTS,
    where it lies in the flat arrays and in the rank's own."""

    segment: int
    start: int
    count: int
    own: int


class Shard:
    """This rank's slices: `gradient` and the moments are as long as all of them together."""

    def __init__(self, kernels: ModuleType, run: Any, buckets: Sequence[Bucket], team: Team,
                 optimizer: Optimizer) -> None:
        if optimizer.matrix is not None:
            raise DeclarationError(f"the state of {optimizer.name!r} cannot be sharded: it updates "
                                   "whole matrices", mend="another optimizer, or shard = false")
        self.kernels, self.run, self.team, self.buckets = kernels, run, team, tuple(buckets)
        self.length = own_length(buckets, team.rank, team.size)
        self.gradient = np.zeros(self.length, kernels.DTYPE)
        self.cut = tuple(n for n in kernels.MOMENTS if n not in WHOLE)
        for name in self.cut:
            run.moments[name] = np.zeros(self.length, kernels.DTYPE)
        self.pieces = list(_pieces(buckets, kernels.SEGMENTS, team))

    def own(self, bucket: Bucket, rank: int | None = None) -> slice:
        """Where a bucket's slice lies in the own arrays."""
        count = bucket.counts(self.team.size)[self.team.rank]
        return slice(bucket.own, bucket.own + count)

    def take(self, flat: np.ndarray, buckets: Iterable[Bucket]) -> None:
        """The own slices of buckets whose sum is already known."""
        for bucket in buckets:
            self.gradient[self.own(bucket)] = flat[bucket.slice(self.team.rank, self.team.size)]

    # -- the update ---------------------------------------------------------------------------
    def update(self) -> None:
        """The optimizer's step on the own slices, and all parameters from their owners."""
        run, team = self.run, self.team
        run.steps += 1
        run.s[...] = run.n
        norms: list[np.ndarray] = []  # of each norm, the value for every segment
        for add_up, result, each in self.kernels.NORMS:
            sums = np.zeros(len(self.kernels.SEGMENTS))
            for piece in self.pieces:
                sums[piece.segment] += add_up(*self._arguments(piece, norms))
            if not team.solo:
                team.add(sums)
            if not each:
                sums[...] = sums.sum()
            norms.append(np.array([result(total, run.steps, run.settings) for total in sums]))
        for piece in self.pieces:
            self.kernels.update_part(*self._arguments(piece, norms))
        if team.solo:  # only to have it compiled
            return
        arrays = [run.p, *(run.moments[n] for n in WHOLE if n in run.moments)]
        for request in [team.start_shared(a[b.start:b.start + b.count], b.counts(team.size))
                        for a in arrays for b in self.buckets]:
            team.wait(request)

    def _arguments(self, piece: Piece, norms: list[np.ndarray]) -> tuple[Any, ...]:
        run, kernels = self.run, self.kernels
        flat = slice(piece.start, piece.start + piece.count)
        own = slice(piece.own, piece.own + piece.count)
        factors = getattr(kernels, "FACTORS", None)
        settings = run.settings if factors is None else run.settings * factors[piece.segment]
        moments = [run.moments[n][own if n in self.cut else flat] for n in kernels.MOMENTS]
        return (0, piece.count, run.steps, settings, *(v[piece.segment] for v in norms),
                run.p[flat], self.gradient[own], *moments)

    # -- checkpoints --------------------------------------------------------------------------
    def whole(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Places of a model with the moments put together, on rank 0; all ranks call it."""
        found = dict(values)
        for name in self.cut:
            key = f"moment/{name}"
            parts = self.team.collect(values[key])
            if self.team.first:
                flat = np.zeros(self.kernels.P_TRAINED, self.kernels.DTYPE)
                for rank, part in enumerate(parts):
                    at = 0
                    for bucket in self.buckets:
                        count = bucket.counts(self.team.size)[rank]
                        flat[bucket.slice(rank, self.team.size)] = part[at:at + count]
                        at += count
                found[key] = flat
        return found

    def part(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of the places in a checkpoint, the own slices of the moments."""
        found, size = dict(values), self.kernels.P_TRAINED
        for key in (f"moment/{n}" for n in self.cut):
            flat = values.get(key)
            if flat is not None and flat.shape == (size,):  # another one is refused by name later
                found[key] = np.concatenate([flat[:0], *(
                    flat[b.slice(self.team.rank, self.team.size)] for b in self.buckets)])
        return found


def own_length(buckets: Sequence[Bucket], rank: int, size: int) -> int:
    """How many elements a rank owns."""
    return sum(b.counts(size)[rank] for b in buckets)


def _pieces(buckets: Sequence[Bucket], segments: np.ndarray, team: Team) -> Iterable[Piece]:
    for bucket in buckets:
        part = bucket.slice(team.rank, team.size)
        for number, (lo, hi) in enumerate(segments.tolist()):
            start, stop = max(lo, part.start), min(hi, part.stop)
            if start < stop:
                yield Piece(number, start, stop - start, bucket.own + start - part.start)


# -- memory -----------------------------------------------------------------------------------
def state_bytes(trained: int, moments: Sequence[str], itemsize: int, ranks: int = 1,
                sharded: bool = False) -> int:
    """Bytes of the optimizer's state on one rank, predicted: with k moments of n parameters,
    k·n, or k·n/ranks (rounded up) where the state is sharded, plus the gradient's own slice."""
    cut = [m for m in moments if m not in WHOLE]
    if not sharded:
        return len(moments) * trained * itemsize
    own = -(-trained // ranks)
    return (len(cut) * own + (len(moments) - len(cut)) * trained + own) * itemsize


def check_space(need: int, here: int) -> None:
    """Whether the ranks of this machine find the memory that each is about to fill.

    Args:
        need: bytes of one rank.
        here: how many ranks run on this machine.

    Raises:
        DataError: they do not.
    """
    free = free_memory()
    if free is not None and need * here > free:
        raise DataError(f"there is no space for {here} rank{'s' * (here > 1)} on this machine",
                        expected=f"{_size(need)} for parameters, gradients, moments and the "
                        "tensors of a step" + (", on each" if here > 1 else ""),
                        got=f"{_size(free)} free", mend="smaller minibatches, fewer ranks on one "
                        "machine, or a sharded optimizer state (--shard)")


def free_memory() -> int | None:
    """Bytes that are free here, as the kernel and the limits of the process have it; None where
    nobody says."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(max(0, limit - used * os.sysconf("SC_PAGE_SIZE")))
    except (ImportError, OSError):
        pass
    return min(found, default=None)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
