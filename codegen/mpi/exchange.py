"""One bucket of the flat gradient on its way between ranks.

A bucket is a run of the flat gradient, cut into as many slices as there are ranks. Its sum over the
ranks is wanted whole on each (`Whole`), or a rank wants its own slice only (`Scattered`). Where the
numbers travel in 16 bits (`Packed`), each slice goes to the rank that owns it, which adds up in
float32, in the order of the ranks: so an error is one rounding of each part and one of the sum,
whatever the number of ranks, and no sum leaves the range of the short format.

All begin when they are made and are looked after by ``advance``, for MPI works while it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from codegen.mpi.team import Team

FORMATS = ("float16", "bfloat16")
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # of one number, relative
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
    """The sum over all ranks, in place, on each of them."""

    def __init__(self, team: Team, array: np.ndarray) -> None:
        self.team, self.request = team, team.start_sum(array)

    def advance(self) -> bool:
        """Let MPI work; whether it is done."""
        return bool(self.request.Test())

    def wait(self) -> None:
        """Until it is done."""
        self.team.wait(self.request)


class Scattered(Whole):
    """The sum over all ranks, to each rank its own slice of it."""

    def __init__(self, team: Team, array: np.ndarray, own: np.ndarray, counts: list[int]) -> None:
        self.team = team
        self.request = team.start_scattered_sum(array, own, counts)


class Packed:
    """The sum over all ranks, sent in 16 bits: the slice ``own``, and the whole array where it is
    to be written to ``whole``."""

    def __init__(self, team: Team, kind: str, array: np.ndarray, counts: list[int],
                 own: np.ndarray, whole: np.ndarray | None) -> None:
        self.team, self.kind, self.counts = team, kind, counts
        self.own, self.whole = own, whole
        edges = np.cumsum([0, *counts])
        sent = np.concatenate([encode(array[a:b], kind)
                               for a, b in pairwise(edges)])
        self.words = [n + _HEAD for n in counts]
        mine = self.words[team.rank]
        self._sent = sent  # lives until it has arrived
        self._got = np.empty(mine * team.size, np.uint16)
        self.request = team.start_exchange(sent, self.words, self._got, [mine] * team.size)
        self._gathering = False

    def advance(self) -> bool:
        if not self.request.Test():
            return False
        return self._next()

    def wait(self) -> None:
        self.team.wait(self.request)
        while not self._next():
            self.team.wait(self.request)

    def _next(self) -> bool:
        """What follows when the words in flight have come."""
        if self._gathering:
            assert self.whole is not None
            at, first = 0, 0
            for count, words in zip(self.counts, self.words, strict=True):
                self.whole[first:first + count] = decode(self._got[at:at + words], self.kind)
                at, first = at + words, first + count
            self._gathering, self.whole = False, None
            return True
        if self._sent.size:
            mine = self.words[self.team.rank]
            total = np.zeros(mine - _HEAD, np.float32)
            for rank in range(self.team.size):
                total += decode(self._got[rank * mine:(rank + 1) * mine], self.kind)
            self.own[...] = total
            self._sent = self._sent[:0]
            if self.whole is None:
                return True
            self._got = np.empty(sum(self.words), np.uint16)
            self._packed = encode(total, self.kind)
            self.request = self.team.start_gather(self._packed, self._got, self.words)
            self._gathering = True
            return False
        return True


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
