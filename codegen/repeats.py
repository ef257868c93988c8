"""Repetitions in a sequence: what is done again and again becomes a loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

REPEATS = 3  # from here on a sequence is a loop
LONGEST = 64  # items of the longest sequence that is looked for


@dataclass(frozen=True)
class Run:
    """``length`` items from ``start`` on, ``times`` times; 1 time: as they are."""

    start: int
    length: int
    times: int

    def turns(self) -> Iterator[slice]:
        for turn in range(self.times):
            yield slice(self.start + turn*self.length, self.start + (turn + 1)*self.length)


def find_runs(keys: Sequence[Hashable], alike: Callable[[slice, slice], bool]) -> list[Run]:
    """A sequence cut into repeated and plain parts; at each place the repetition that covers most.

    ``alike``: whether two parts of equal keys may be turns of one loop.
    """
    runs: list[Run] = []
    at = plain = 0
    while at < len(keys):
        best = _longest(keys, at, alike)
        if best.times == 1:
            at += 1
            continue
        runs += [Run(plain, at - plain, 1)] if at > plain else []
        runs.append(best)
        at = plain = at + best.length*best.times
    return [*runs, Run(plain, at - plain, 1)] if at > plain else runs


def _longest(keys: Sequence[Hashable], at: int, alike: Callable[[slice, slice], bool]) -> Run:
    best = Run(at, 1, 1)
    for length in range(1, min(LONGEST, (len(keys) - at)//REPEATS) + 1):
        if best.times > 1 and best.times*best.length > len(keys) - at - best.length:
            break  # a longer one covers no more
        if best.times > 1 and length % best.length == 0 and length <= best.times*best.length:
            continue  # turns of that one
        turns = Run(at, length, (len(keys) - at)//length).turns()
        first = last = next(turns)
        times = 1
        for turn in turns:
            if keys[turn] != keys[first] or not alike(last, turn):
                break
            times, last = times + 1, turn
        if times >= REPEATS and times*length > best.times*best.length:
            best = Run(at, length, times)
    return best
