"""One bucket of the flat gradient on its way between ranks.

A bucket is a run of the flat gradient, cut into as many slices as there are ranks. Its sum over the
ranks is wanted whole on each (`Whole`; `Halves` where it is long), or a rank wants its own slice
only (`Scattered`). Where the numbers travel in 16 bits (`Packed`), each slice goes to the rank that
owns it, which adds up in float32, in the order of the ranks: so an error is one rounding of each
part and one of the sum, whatever the number of ranks, and no sum leaves the range of the format.

All begin when they are made and are looked after by ``advance``, for MPI works while it is called.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from codegen.mpi.team import Team

FORMATS = ("float16", "bfloat16")
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of one number, relative
LONG = 1 << 16  # bytes from which on two steps are faster than one
_HEAD = 2  # words before a slice: its scale, a float32


@dataclass(frozen=True)
class Bucket:
    """Elements ``start .. start + count`` of the flat gradient; ``own`` is where this rank's slice
    of them begins in its own arrays. What ``summed`` is not, all ranks have alike."""

    start: int
    count: int
    own: int
    summed: bool = True

    def counts(self, size: int) -> list[int]:
        """How many elements each rank owns."""
        edges = [self.count * r // size for r in range(size + 1)]
        return [b - a for a, b in pairwise(edges)]

    def slice(self, rank: int, size: int) -> slice:
        """The elements of the flat gradient that a rank owns."""
        return slice(self.start + self.count * rank // size,
                     self.start + self.count * (rank + 1) // size)


class Whole:
    """The sum over all ranks, in place, on each of them.

    Attributes:
        last: whether the last step has begun. All ranks begin these in one order, that of the
            buckets, or what one sends would not be what another expects.
    """

    def __init__(self, team: Team, array: np.ndarray) -> None:
        self.team, self.last = team, True
        self.request = team.start_sum(array)

    def advance(self) -> bool:
        """Let MPI work; whether all is done."""
        if not self.request.Test():
            return False
        if self.last:
            self.end()
        else:
            self.last = True
            return self.go_on()
        return True

    def reach_last(self) -> None:
        """Until the last step has begun."""
        if not self.last:
            self.team.wait(self.request)
            self.last = True
            self.go_on()

    def wait(self) -> None:
        """Until all is done, the last step having begun."""
        self.team.wait(self.request)
        self.end()

    def go_on(self) -> bool:
        """Begin the last step; whether there is nothing to do in it."""
        raise AssertionError("one step has none after it")

    def end(self) -> None:
        """What is left to do when all has come."""


class Scattered(Whole):
    """The sum over all ranks, to each rank its own slice of it."""

    def __init__(self, team: Team, array: np.ndarray, own: np.ndarray, counts: list[int]) -> None:
        self.team, self.last = team, True
        self.request = team.start_scattered_sum(array, own, counts)


class Halves(Whole):
    """The sum over all ranks, in place: first to each rank its slice of it, then all slices to all.

    Faster than one all-reduce between processes of one machine (MPICH 5.0, 1 to 16 MB), and what
    an all-reduce of long messages does anyway between machines.
    """

    def __init__(self, team: Team, array: np.ndarray, counts: list[int]) -> None:
        self.team, self.last, self.array, self.counts = team, False, array, counts
        first = sum(counts[:team.rank])
        self._slice = array[first:first + counts[team.rank]]
        self._own = np.empty_like(self._slice)
        self.request = team.start_scattered_sum(array, self._own, counts)

    def go_on(self) -> bool:
        self._slice[...] = self._own
        self.request = self.team.start_shared(self.array, self.counts)
        return False


class Packed(Whole):
    """The sum over all ranks, sent in 16 bits: the slice ``own``, and the whole array where it is
    to be written to ``whole``."""

    def __init__(self, team: Team, kind: str, array: np.ndarray, counts: list[int],
                 own: np.ndarray, whole: np.ndarray | None) -> None:
        self.team, self.kind, self.counts, self.last = team, kind, counts, False
        self.own, self.whole = own, whole
        edges = np.cumsum([0, *counts])
        self._sent = np.concatenate([encode(array[a:b], kind) for a, b in pairwise(edges)])
        self.words = [n + _HEAD for n in counts]
        mine = self.words[team.rank]
        self._got = np.empty(mine * team.size, np.uint16)
        self.request = team.start_exchange(self._sent, self.words, self._got, [mine] * team.size)

    def go_on(self) -> bool:
        mine = self.words[self.team.rank]
        total = np.zeros(mine - _HEAD, np.float32)
        for rank in range(self.team.size):
            total += decode(self._got[rank * mine:(rank + 1) * mine], self.kind)
        self.own[...] = total
        if self.whole is None:
            return True
        self._got = np.empty(sum(self.words), np.uint16)
        self._sent = encode(total, self.kind)
        self.request = self.team.start_gather(self._sent, self._got, self.words)
        return False

    def end(self) -> None:
        if self.whole is None:
            return
        at, first = 0, 0
        for count, words in zip(self.counts, self.words, strict=True):
            self.whole[first:first + count] = decode(self._got[at:at + words], self.kind)
            at, first = at + words, first + count


class Sender:
    """Buckets on their way, looked after by a thread while compiled code runs.

    MPI works while it is called, and a section of the backward pass may take longer than a bucket
    needs. The thread sleeps between two looks: what it costs is theirs.
    """

    def __init__(self, pause: float = 0.0003) -> None:
        self.pause = pause
        self._flying: list[Whole] = []
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, made: list[Whole]) -> None:
        """Look after these as well."""
        with self._lock:
            self._flying += made
        if made:
            self._some.set()

    def finish(self) -> None:
        """Wait until all are done.

        Raises:
            Exception: what the thread has met.
        """
        with self._lock:
            flying, self._flying = self._flying, []
            self._some.clear()
            if self._error is not None:
                raise self._error
        finish(flying)

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(self.pause)
            with self._lock:
                try:
                    self._flying = advanced(self._flying)
                except Exception as error:  # said by the thread that asks
                    self._error, self._flying = error, []
                if not self._flying:
                    self._some.clear()


def advanced(flying: list[Whole]) -> list[Whole]:
    """Look after buckets in the order in which they were sent; those that are not done."""
    left = []
    for n, each in enumerate(flying):
        if not each.advance():
            left.append(each)
        if not each.last:
            return left + flying[n + 1:]
    return left


def finish(flying: list[Whole]) -> None:
    """Wait until all buckets are done."""
    for each in flying:
        each.reach_last()
    for each in flying:
        each.wait()


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers as 16-bit words, behind a power of two by which they were divided.

    float16 has a short range: its largest number becomes about 2¹⁵. NaN and infinity stay.
    """
    single = values.astype(np.float32, copy=False)
    words = np.empty(single.size + _HEAD, np.uint16)
    scale = np.float32(1.0)
    if kind == "float16":
        most = np.abs(single).max(initial=0.0)
        if 0 < most < np.inf:
            scale = np.float32(2.0 ** max(int(np.frexp(most)[1]) - 15, -126))
        with np.errstate(over="ignore", invalid="ignore"):
            words[_HEAD:] = (single / scale).astype(np.float16).view(np.uint16)
    else:
        bits = single.view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        words[_HEAD:] = ((bits + (np.uint32(0x7FFF) + even)) >> np.uint32(16)).astype(np.uint16)
        lost = np.isnan(single)
        if lost.any():  # rounding up could carry a NaN into infinity
            words[_HEAD:][lost] = 0x7FC0
    words[:_HEAD] = np.array([scale], np.float32).view(np.uint16)
    return words


def decode(words: np.ndarray, kind: str) -> np.ndarray:
    """The numbers of `encode`, in float32."""
    scale = words[:_HEAD].copy().view(np.float32)[0]
    if kind == "float16":
        return np.asarray(words[_HEAD:].view(np.float16).astype(np.float32) * scale)
    return (words[_HEAD:].astype(np.uint32) << np.uint32(16)).view(np.float32)
