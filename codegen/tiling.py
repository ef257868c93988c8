"""How a matrix product is cut for a device: tiles, and parts of its sum.

`tiling` is the text that emitted modules hold (they choose when a size is known), and what the
prediction of costs asks for the card of a data sheet.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass

EACH = (4, 2)  # rows and columns of a tile for each thread of a block
SIDE = 16  # threads on each side of a tile
WAIT = 600  # cycles from one request of memory to what it brings
LAUNCH = 4500  # cycles of a launch more


@dataclass(frozen=True)
class Machine:
    """What the choice depends on: multiprocessors, and multiply-adds of each in a cycle."""

    processors: int
    lanes: int


def tiling(rows, columns, inner, times, cut, processors, lanes, side, wait, launch):  # type: ignore
    """Rows and columns of a tile for each thread, and the parts of the sum over ``inner``.

    The least of an estimate in cycles: the most loaded multiprocessor multiplies (a small tile
    reads shared memory more often for each product), or blocks wait for memory piece by piece;
    parts take a launch more, and pass memory twice. ``cut``: there may be several parts, of 2**24
    elements in all at most.
    """
    best = math.inf, 0, 0
    for each, reach in ((4, 0.75), (2, 0.4)):
        tile = side*each
        depth = 4*side*side//tile
        count = -(-rows//tile)*-(-columns//tile)*times
        parts = 1
        while parts == 1 or (cut and parts*2*depth <= inner and parts <= 256
                             and parts*rows*columns*times <= 1 << 24):
            pieces = -(-inner//(parts*depth))
            work = -(-count*parts//processors)*pieces*depth*tile*tile/(lanes*reach)
            waiting = -(-count*parts//(8*processors))*(pieces + 1)*wait
            cycles = max(work, waiting)
            if parts > 1:
                cycles += launch + 0.8*parts*rows*columns*times/processors
            if cycles < best[0]:
                best = (cycles, each, parts)
            parts *= 2
    return best[1], best[2]


def text() -> str:
    """The function as it stands in an emitted module."""
    lines = inspect.getsource(tiling).splitlines()
    return "\n".join([lines[0].partition("  # type")[0], *lines[1:]])


def chosen(sizes: tuple[int, int, int, int], cut: bool, machine: Machine) -> tuple[int, int]:
    """The choice for a product of (rows, columns, inner, times)."""
    each, parts = tiling(*sizes, cut, machine.processors, machine.lanes, SIDE, WAIT, LAUNCH)
    return int(each), int(parts)
