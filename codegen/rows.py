"""Rows of data: arrays in memory or memory maps larger than it, and which of their rows belong.

The first dim of every array is the batch. Nothing is copied until rows are taken, and then only
these, in the order of the file, so that a shuffled pass over a memory map stays within pages.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from derive.errors import DataError

Arrays = dict[str, np.ndarray]
BLOCK = 1 << 24  # bytes that are read at a time


@dataclass(frozen=True)
class Rows:
    """Arrays by input name; ``numbers`` are the rows that belong, None for all of them; ``origin``
    is where these rows stood in the data as they were read."""

    arrays: Mapping[str, np.ndarray]
    numbers: np.ndarray | None = None
    origin: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(a) if np.ndim(a) else None for name, a in self.arrays.items()}
        if len(set(lengths.values())) > 1 or None in lengths.values():
            raise DataError("the arrays have different numbers of rows", got=lengths)

    def __len__(self) -> int:
        if self.numbers is not None:
            return len(self.numbers)
        return len(next(iter(self.arrays.values()), ()))

    @property
    def resident(self) -> bool:
        """Whether all arrays are in memory."""
        return not any(_mapped(a) for a in self.arrays.values())

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row, in double precision."""
        return sum(8 * math.prod(a.shape[1:]) for a in self.arrays.values())

    def part(self, places: np.ndarray) -> Rows:
        """Some of these rows; copied where all is in memory."""
        if self.resident and self.numbers is None:
            return Rows({n: a[places] for n, a in self.arrays.items()}, None,
                        self.original(places))
        return Rows(self.arrays, places if self.numbers is None else self.numbers[places])

    def original(self, places: np.ndarray) -> np.ndarray:
        """The numbers that rows had in the data as they were read."""
        known = self.numbers if self.origin is None else self.origin
        return places if known is None else known[places]

    def take(self, places: np.ndarray | None = None) -> Arrays:
        """Rows at some places (all of them by default), in that order, in memory."""
        if places is None:
            if self.numbers is None:
                return {n: np.asarray(a) for n, a in self.arrays.items()}
            places = np.arange(len(self))
        numbers = places if self.numbers is None else self.numbers[places]
        order = np.argsort(numbers, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        # read ascending, then put in order
        return {n: np.asarray(a[numbers[order]])[back] for n, a in self.arrays.items()}

    def blocks(self, rows: int | None = None) -> Iterator[Arrays]:
        """All rows, a few at a time, in order."""
        count = rows or max(1, BLOCK // max(1, self.row_bytes))
        for first in range(0, len(self), count):
            yield self.take(np.arange(first, min(first + count, len(self))))

    def fingerprint(self) -> str:
        """A checksum of shapes, dtypes and up to 1,000 rows: whether data are those of before."""
        found = hashlib.sha256()
        places = np.unique(np.linspace(0, max(0, len(self) - 1), 1000).astype(np.int64))
        sample = self.take(places) if len(self) else {}
        for name in sorted(self.arrays):
            array = self.arrays[name]
            found.update(f"{name} {array.shape} {array.dtype} {len(self)}".encode())
            if name in sample:
                found.update(np.ascontiguousarray(sample[name]).tobytes())
        return found.hexdigest()[:16]


def _mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False
