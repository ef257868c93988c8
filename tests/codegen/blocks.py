"""A stand-in for `numba.cuda` that runs kernels thread by thread and looks for races.

The threads of a block run one at a time, each up to the next barrier, in an order that changes from
launch to launch. Every element of every array that a kernel gets, and of shared memory, remembers
who touched it: two threads of which one writes, with no barrier between them or in two blocks, are
a `Race`. Places outside an array are an error, memory that nobody wrote is NaN.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class Race(AssertionError):
    """Two threads touch an element, at least one of them writes, nothing keeps them apart."""


Touch = tuple[int, int, int, int]  # block, thread, barriers passed, those of the warp


class _Memory:
    """Who touched each element in the launch that runs."""

    def __init__(self) -> None:
        self.writes: dict[int, Touch] = {}
        self.reads: dict[int, set[Touch]] = {}

    def touch(self, place: int, write: bool) -> None:
        me = (_state.block, _state.thread, _state.interval, _state.turns[_state.thread])
        last = self.writes.get(place)
        if last is not None and _meet(last, me):
            raise Race(f"element {place} is written by {last} and touched by {me} "
                       "(block, thread, barriers passed)")
        if not write:
            self.reads.setdefault(place, set()).add(me)
            return
        for other in self.reads.pop(place, ()):
            if _meet(other, me):
                raise Race(f"element {place} is read by {other} and written by {me} "
                           "(block, thread, barriers passed)")
        self.writes[place] = me


def _meet(one: Touch, other: Touch) -> bool:
    if one[0] != other[0]:
        return True
    warp = one[1]//cuda.warpsize == other[1]//cuda.warpsize
    return one[1] != other[1] and one[2] == other[2] and not (warp and one[3] != other[3])


class Array:
    """An array on the device."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.memory = data, _Memory()

    shape = property(lambda self: self.data.shape)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)

    def _place(self, key: Any) -> int:
        where = key if isinstance(key, tuple) else (key,)
        place = 0
        for at, size in zip(where, self.data.shape, strict=True):
            if not 0 <= int(at) < size:
                raise IndexError(f"{key} lies outside an array of shape {self.data.shape}")
            place = place*size + int(at)
        return place

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return Array(self.data[key])
        self.memory.touch(self._place(key), False)
        return self.data[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory.touch(self._place(key), True)
        self.data[key] = value

    def reshape(self, *shape: int) -> Array:
        return Array(self.data.reshape(*shape))

    def copy_to_host(self, array: np.ndarray | None = None, stream: Any = None) -> np.ndarray:
        if array is None:
            return self.data.copy()
        array[...] = self.data
        return array

    def copy_to_device(self, array: np.ndarray | Array, stream: Any = None) -> None:
        self.data[...] = array.data if isinstance(array, Array) else array


class _State:
    """The thread that runs, and the launch that it is of."""

    block = thread = interval = blocks = threads = 0
    turns: list[int] = [0]  # barriers of its warp that each thread has passed
    at: tuple[int, int, int] = (0, 0, 0)
    grid: tuple[int, int, int] = (1, 1, 1)


_state = _State()
_random = random.Random(0)
_orders: list[int] = [2]


def order_threads(order: int) -> None:
    """The order of threads and of blocks from now on: 0 ascending, 1 descending, every other
    number a sequence of shuffled ones."""
    _orders[0] = order
    _random.seed(order)


def _ordered(numbers: list[int]) -> list[int]:
    if _orders[0] == 1:
        numbers.reverse()
    elif _orders[0] > 1:
        _random.shuffle(numbers)
    return numbers


class _Block:
    """The threads of one block, taking turns."""

    def __init__(self, body: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.body, self.arguments = body, arguments
        self.shared: dict[Any, Array] = {}
        self.turns = [threading.Semaphore(0) for _ in range(_state.threads)]
        self.back = threading.Semaphore(0)
        self.slots: list[Any] = [None]*_state.threads
        self.left = set(range(_state.threads))
        self.waiting: dict[int, str] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        workers = [threading.Thread(target=self._thread, args=(n,), daemon=True)
                   for n in range(_state.threads)]
        for worker in workers:
            worker.start()
        interval, ready = 0, set(self.left)
        while self.left and self.error is None:
            for number in _ordered(sorted(ready)):
                self.waiting.pop(number, None)
                _state.thread, _state.interval = number, interval
                self.turns[number].release()
                self.back.acquire()
                if self.error is not None:
                    raise self.error
            ready = self._warps()
            if not ready and self.left:
                if {self.waiting.get(n) for n in range(_state.threads)} != {"barrier"}:
                    raise Race("some threads of a block wait at a barrier that others pass by")
                interval, ready = interval + 1, set(self.left)
        if self.error is not None:
            raise self.error

    def _warps(self) -> set[int]:
        """The threads of warps all of which wait for each other."""
        found: set[int] = set()
        for first in range(0, _state.threads, cuda.warpsize):
            warp = set(range(first, min(first + cuda.warpsize, _state.threads)))
            kinds = {self.waiting.get(n) for n in warp}
            if len(kinds) == 1 and kinds <= {"shuffle", "warp"}:
                found |= warp
        return found

    def _thread(self, number: int) -> None:
        self.turns[number].acquire()
        try:
            with np.errstate(all="ignore"):
                self.body(*self.arguments)
        except BaseException as error:
            self.error = error
        self.left.discard(number)
        self.back.release()

    def wait(self, kind: str) -> None:
        number = _state.thread
        self.waiting[number] = kind
        self.back.release()
        self.turns[number].acquire()


class _Kernel:
    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __getitem__(self, shape: tuple[Any, ...]) -> Callable[..., None]:
        grid, threads = shape[0], shape[1]
        return lambda *arguments: self.launch(grid, int(threads), arguments)

    def launch(self, grid: Any, threads: int, arguments: tuple[Any, ...]) -> None:
        x, y, z = (int(grid), 1, 1) if not isinstance(grid, tuple) else (*map(int, grid),)
        _state.grid = x, y, z
        assert threads % cuda.warpsize == 0 or threads == 1
        for argument in arguments:
            if isinstance(argument, Array):
                argument.memory = _Memory()
        _state.threads, _state.blocks = threads, x*y*z
        for block in _ordered(list(range(_state.blocks))):
            _state.turns = [0]*threads
            _state.block, _state.at = block, (block % x, block//x % y, block//(x*y))
            cuda.block = _Block(self.function, arguments)
            try:
                if threads == 1 or not _waits(self.function):
                    self._plainly(arguments)
                else:
                    cuda.block.run()
            except Race as error:
                raise Race(f"{self.__name__}: {error}") from None

    def _plainly(self, arguments: tuple[Any, ...]) -> None:
        for number in _ordered(list(range(_state.threads))):
            _state.thread, _state.interval = number, 0
            with np.errstate(all="ignore"):
                self.function(*arguments)


def _waits(function: Callable[..., None]) -> bool:
    """Whether there may be a barrier in a kernel."""
    return any(n == "syncthreads" or n.startswith(("tile", "block_"))
               for n in function.__code__.co_names)


class _Place:
    def __init__(self, x: Callable[[], int], y: Callable[[], int],
                 z: Callable[[], int] = lambda: 1) -> None:
        self._x, self._y, self._z = x, y, z

    x = property(lambda self: self._x())
    y = property(lambda self: self._y())
    z = property(lambda self: self._z())


class _Shared:
    @staticmethod
    def array(shape: Any, dtype: Any, alignment: None = None) -> Array:
        """The same memory for the same line of the program, as a compiler has it."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lineno)
        block = cuda.block
        if key not in block.shared:
            block.shared[key] = Array(np.full(shape, np.nan, dtype))
        return block.shared[key]


class _Stream:
    def __int__(self) -> int:
        return 0

    def synchronize(self) -> None:
        pass


class _Cuda:
    """What emitted modules use of `numba.cuda`."""

    warpsize = 2
    block: Any = None
    threadIdx = _Place(lambda: _state.thread, lambda: 0)
    blockIdx = _Place(lambda: _state.at[0], lambda: _state.at[1],
                      lambda: _state.at[2])
    blockDim = _Place(lambda: _state.threads, lambda: 1)
    gridDim = _Place(lambda: _state.grid[0], lambda: _state.grid[1],
                     lambda: _state.grid[2])
    shared = _Shared()

    @staticmethod
    def jit(device: bool = False, **options: Any) -> Callable[[Any], Any]:
        return (lambda function: function) if device else _Kernel

    @staticmethod
    def grid(_: int) -> int:
        return _state.at[0]*_state.threads + _state.thread

    @staticmethod
    def gridsize(_: int) -> int:
        return _state.grid[0]*_state.threads

    def syncthreads(self) -> None:
        if _state.threads > 1:
            self.block.wait("barrier")

    def syncwarp(self) -> None:
        if _state.threads > 1:
            self.block.wait("warp")
            _state.turns[_state.thread] += 1

    def shfl_xor_sync(self, mask: int, value: Any, other: int) -> Any:
        me, block = _state.thread, self.block
        if _state.threads == 1:
            return value
        block.slots[me] = value
        block.wait("shuffle")
        found = block.slots[me ^ other]
        block.wait("shuffle")
        return found

    @staticmethod
    def to_device(array: np.ndarray, stream: Any = None) -> Array:
        return Array(np.array(array))

    @staticmethod
    def device_array(shape: Any, dtype: Any) -> Array:
        fill = (np.nan if np.dtype(dtype).kind == "f" else
                0x7FFF if np.dtype(dtype) == np.uint16 else 10**9)  # NaN in 16 bits
        return Array(np.full(shape, fill, dtype))

    @staticmethod
    def stream() -> _Stream:
        return _Stream()


cuda = _Cuda()


