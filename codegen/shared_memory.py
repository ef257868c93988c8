"""A check, kernel by kernel, that threads of a block meet in shared memory at barriers only.

    text of an emitted module → tuple of Conflict (none: every kernel has been followed)

`codegen.races` proves over the tree what threads do in memory that outlives a launch. Shared memory
is touched by functions of the template, called from these trees, whose places depend on the thread,
on literal sizes and on how often a loop went round. So here the emitted functions themselves are
followed, with as many threads as on a device, thread by thread: data are opaque, numbers of threads
and sizes are not. Two touches of an element by two threads, one of which writes, must have a
barrier between them, whatever the order of threads; every read needs a write behind which a
barrier, or the thread itself, stands; all threads pass the same barriers and shuffles. A kernel
whose touches depend on data is a conflict, too: it cannot be followed.

One block of each launch is followed, through several of its turns. What is checked holds for every
order of threads and all data, at the sizes that are handed in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from codegen.races import Conflict

ROWS = 70  # more than a tile
TURNS = 2  # of the grid's loop that a block goes through, where it is not a product in tiles


class _Data:
    """A number that nothing is known of; a condition on it is decided by `_state.decision`."""

    __array_ufunc__ = None  # numpy's scalars leave operations to it
    __slots__ = ()

    def _same(self, *_: Any) -> _Data:
        return self

    def _decided(self, *_: Any) -> bool:
        _state.asked = True
        return _state.decision

    def __index__(self) -> int:
        raise _Unknown("a place in shared memory, or a number of turns, depends on data")

    def __float__(self) -> float:
        return 0.0

    def __hash__(self) -> int:
        return 0

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _same
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _same
    __pow__ = __rpow__ = __neg__ = __abs__ = __call__ = _same
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _same
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _same
    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _decided
    __eq__ = __ne__ = _decided  # type: ignore[assignment]


DATA = _Data()


class _Unknown(Exception):
    """What cannot be followed."""


class _Memory:
    """An array on the device: its elements are opaque, but for tables of whole numbers."""

    def __init__(self, size: int, dtype: Any, table: np.ndarray | None = None) -> None:
        self.size, self.dtype, self.shape = int(size), np.dtype(dtype), (int(size),)
        self.table = table

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self
        return DATA if self.table is None else int(self.table[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def reshape(self, *_: Any) -> _Memory:
        return self

    def copy_to_host(self, array: np.ndarray | None = None, stream: Any = None) -> np.ndarray:
        return np.zeros(self.size, self.dtype) if array is None else array

    def copy_to_device(self, array: Any, stream: Any = None) -> None:
        pass


class _Own:
    """An array of one thread's own."""

    def __getitem__(self, key: Any) -> _Data:
        return DATA

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Shared:
    """An array in shared memory, which notes who is where since which barrier."""

    def __init__(self, name: str, shape: Any) -> None:
        self.name = name
        self.shape = shape if isinstance(shape, tuple) else (shape,)

    def _place(self, key: Any) -> Any:
        where = key if isinstance(key, tuple) else (key,)
        for at, size in zip(where, self.shape, strict=True):
            if not 0 <= at < size:
                raise _Unknown(f"{self.name}{list(where)} lies outside of {list(self.shape)}")
        return key

    def __getitem__(self, key: Any) -> _Data:
        _state.read(self.name, self._place(key))
        return DATA

    def __setitem__(self, key: Any, value: Any) -> None:
        _state.write(self.name, self._place(key))


Place = tuple[int, str, Any]  # barriers passed, array, element
Step = tuple[int, int]  # a thread, and the barriers of its warp that it has passed
WARP = 32


class _State:
    """The thread that is followed, and what those before it did in the same launch."""

    def __init__(self) -> None:
        self.decision = self.asked = False
        self.begin(1, (1, 1, 1), "")

    def begin(self, threads: int, grid: tuple[int, ...], kernel: str) -> None:
        self.threads, self.grid, self.kernel = threads, grid, kernel
        self.written: dict[Place, Step] = {}
        self.readers: dict[Place, set[Step]] = {}
        self.first: dict[tuple[str, Any], int] = {}
        self.needed: set[Place] = set()  # reads of what the thread has not written itself just now
        self.shared: dict[tuple[CodeType, int], _Shared] = {}
        self.met: list[str] = []

    def enter(self, thread: int) -> None:
        self.thread, self.interval, self.turn = thread, 0, 0
        self.events: list[tuple[str, int]] = []

    @property
    def step(self) -> Step:
        return self.thread, self.turn

    def apart(self, other: Step) -> bool:
        """Whether another thread's step is ordered by no barrier of the warp's."""
        return self.thread != other[0] and (
            self.thread//WARP != other[0]//WARP or self.turn == other[1])

    def read(self, name: str, place: Any) -> None:
        key = (self.interval, name, place)
        writer = self.written.get(key)
        if writer is None:
            self.needed.add(key)
        elif self.apart(writer):
            self.meet(f"{name}{[place]} is written by thread {writer[0]} and read by {self.thread}")
        self.readers.setdefault(key, set()).add(self.step)

    def write(self, name: str, place: Any) -> None:
        key = (self.interval, name, place)
        writer = self.written.setdefault(key, self.step)
        others = [s[0] for s in self.readers.get(key, ()) if self.apart(s)]
        if self.apart(writer):
            self.meet(f"{name}{[place]} is written by threads {writer[0]} and {self.thread}")
        if others:
            self.meet(f"{name}{[place]} is read by thread {min(others)} and written by "
                      f"{self.thread}")
        self.first[name, place] = min(self.interval, self.first.get((name, place), self.interval))

    def meet(self, what: str) -> None:
        self.met.append(f"{what}, with no barrier between")

    def unwritten(self) -> list[str]:
        return [f"{name}{[place]} is read and was not written before a barrier"
                for interval, name, place in self.needed
                if self.first.get((name, place), interval) >= interval]


_state = _State()


class _Kernel:
    """What a launch runs: one block, thread by thread, under both ways of deciding on data."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __getitem__(self, shape: tuple[Any, ...]) -> Callable[..., None]:
        grid = shape[0] if isinstance(shape[0], tuple) else (shape[0],)
        return lambda *arguments: self.launch([*map(int, grid), 1, 1], int(shape[1]), arguments)

    def launch(self, grid: list[int], threads: int, arguments: tuple[Any, ...]) -> None:
        own = [a for a in arguments if isinstance(a, int | np.integer)]
        key = (self.__name__, threads, *grid[2:3], *own)
        if key in _seen or not _may_wait(self.function.__code__):
            return
        _seen.add(key)
        tiles = _calls(self.function.__code__, "gemm_", "tile")
        ways: list[tuple[Any, ...]] = []
        _state.asked = False
        for decision in (False, True):
            if decision and not _state.asked:
                return
            _state.decision = decision
            turns = 1 if tiles else max(1, grid[0]//TURNS)
            _state.begin(threads, (turns, 1, grid[2]), self.__name__)
            try:
                ways.append(self._followed(threads, arguments))
            except _Unknown as why:
                _found.append(Conflict(self.__name__, str(why)))
                return
            _found.extend(Conflict(self.__name__, what) for what in
                          [*_state.met[:1], *_state.unwritten()[:1]])
        if ways[0] != ways[1]:
            _found.append(Conflict(self.__name__, "what threads touch depends on data"))

    def _followed(self, threads: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        expected: list[tuple[str, int]] = []
        block: list[tuple[str, int]] = []
        for thread in range(threads):
            _state.enter(thread)
            with np.errstate(all="ignore"):
                self.function(*arguments)
            common = [e for e in _state.events if e[0] == "barrier"]
            if thread and common != block:
                raise _Unknown(f"thread {thread} does not pass the barriers of thread 0")
            if thread % WARP and _state.events != expected:
                raise _Unknown(f"thread {thread} does not pass the barriers of its warp")
            expected, block = _state.events, common
        return block, set(_state.written), set(_state.readers)


def _may_wait(code: CodeType) -> bool:
    """Whether there may be a barrier, or shared memory, in a kernel."""
    return _calls(code, "syncthreads", "gemm_", "block_", "tile", "shared", "shfl")


def _calls(code: CodeType, *parts: str) -> bool:
    return any(p in n for n in code.co_names for p in parts)


class _Where:
    def __init__(self, values: Callable[[], tuple[int, ...]]) -> None:
        self._values = values

    x = property(lambda self: self._values()[0])
    y = property(lambda self: self._values()[1])
    z = property(lambda self: self._values()[2])


class _SharedArrays:
    @staticmethod
    def array(shape: Any, dtype: Any, alignment: Any = None) -> _Shared:
        """The same memory for the same line of the program, as a compiler has it."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lineno)
        if key not in _state.shared:
            _state.shared[key] = _Shared(f"{frame.f_code.co_name}:{frame.f_lineno}", shape)
        return _state.shared[key]


class _LocalArrays:
    @staticmethod
    def array(shape: Any, dtype: Any) -> _Own:
        return _Own()


class _Stream:
    def synchronize(self) -> None:
        pass


class _Cuda:
    """What emitted modules use of `numba.cuda`."""

    threadIdx = _Where(lambda: (_state.thread, 0, 0))
    blockIdx = _Where(lambda: (0, 0, 0))
    blockDim = _Where(lambda: (_state.threads, 1, 1))
    gridDim = _Where(lambda: (*_state.grid, 1, 1))
    shared, local = _SharedArrays(), _LocalArrays()

    @staticmethod
    def jit(device: bool = False, **options: Any) -> Callable[[Any], Any]:
        return (lambda function: function) if device else _Kernel

    @staticmethod
    def grid(_: int) -> int:
        return int(_state.thread)

    @staticmethod
    def gridsize(_: int) -> int:
        return int(_state.grid[0]*_state.threads)

    @staticmethod
    def syncthreads() -> None:
        _state.events.append(("barrier", sys._getframe(1).f_lineno))
        _state.interval += 1

    @staticmethod
    def syncwarp() -> None:
        _state.events.append(("warp", sys._getframe(1).f_lineno))
        _state.turn += 1

    @staticmethod
    def shfl_xor_sync(mask: int, value: Any, other: int) -> Any:
        _state.events.append(("shuffle", sys._getframe(1).f_lineno))
        return value

    @staticmethod
    def to_device(array: np.ndarray, stream: Any = None) -> _Memory:
        return _Memory(array.size, array.dtype, array if array.dtype.kind == "i" else None)

    @staticmethod
    def device_array(shape: Any, dtype: Any) -> _Memory:
        return _Memory(int(np.prod(shape)), dtype)

    @staticmethod
    def stream() -> _Stream:
        return _Stream()


cuda = _Cuda()
_seen: set[tuple[Any, ...]] = set()
_found: list[Conflict] = []


def shared_conflicts(text: str, rows: int = ROWS, entries: Sequence[str] | None = None
                     ) -> tuple[Conflict, ...]:
    """What threads do in shared memory that no barrier orders.

    Args:
        text: of an emitted module.
        rows: the value of every run-time size.
        entries: whose launches are followed; by default all, and the update's.
    """
    _seen.clear()
    _found.clear()
    module = _loaded(text)
    model = module.Model()
    model.sizes = lambda inputs, batch=None: tuple(rows for _ in module.SIZES)
    given = {}
    for name, (shape, kind, _) in module.INPUTS.items():
        size = int(np.prod([rows if isinstance(s, str) else s for s in shape]))
        given[name] = _Memory(size, module.DTYPE if kind == "float" else np.int64)
    for entry in entries or (n for n in module._LAUNCH if n != "matrix"):
        model.run(entry, given)
    if entries is None and module.SETTINGS:
        model.update()
    return tuple(dict.fromkeys(_found))


def _loaded(text: str) -> ModuleType:
    """A module whose blocks are as large as on a device, and whose kernels are followed."""
    text = text.replace("from numba import cuda", "from codegen.shared_memory import cuda")
    text = text.replace("SIMULATED = bool(numba.config.ENABLE_CUDASIM)", "SIMULATED = True")
    text = text.replace("if not numba.config.ENABLE_CUDASIM:", "if False:")
    text = re.sub(r"\S+ if SIMULATED else (16|32|256|\(16, )", r"\1", text)
    module = ModuleType("followed")
    exec(compile(text, "followed.py", "exec"), vars(module))  # text of our own
    own = vars(module)
    kind = own["F"]
    own["F"] = lambda value: DATA if value is DATA else kind(value)

    def multiply(stream: Any, kernels: tuple[Any, Any], sizes: tuple[int, ...], several: bool,
                 arguments: tuple[Any, ...]) -> int:
        """A product in tiles of both sizes, whole and in two parts of its sum."""
        for kernel in kernels:
            for parts in (1, 2)[:1 + several]:
                kernel[(1, 1, parts), own["SIDE"]**2, stream](*arguments)
        return 1 + several

    own |= {"wait_for_warp": cuda.syncwarp}
    own |= {"multiply": multiply, "take": lambda *_: DATA, "put": lambda *_: None}
    own |= {name: lambda *_: DATA for name in own if name.startswith("math_") or name == "mix"}
    return module
