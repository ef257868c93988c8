"""The ranks of a run: what they add up, what they agree on, and which one does not answer.

Every wait is a non-blocking operation that is looked at again and again. Where one is not done in
time, the ranks that wait tell each other so; the rank from which nothing comes is the one that
hangs, and is named.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codegen.checkpoint import Checkpoint, Store
from codegen.mpi.pulse import Pulse
from derive.errors import ChainruleError, DataError, Location, MissingError
from derive.files import write_atomically

STEP_SECONDS = 5.0  # how long a rank may take longer than the others: in a step,
PAUSE = 0.5  # a longer gap between two looks at the clock is one of the whole machine
LONG_SECONDS = 600.0  # and where it compiles, reads data or writes
NOTES = "CHAINRULE_MPI_NOTES"  # the folder in which ranks leave word for the launcher
RANKS = "CHAINRULE_MPI_RANKS"  # how many ranks the launcher started
_LATE = 7  # the tag of messages between ranks that wait


class RankError(ChainruleError):
    """A rank does not answer."""


class TogetherError(ChainruleError):
    """An error that all ranks know of: each ends, and one says so."""

    def __init__(self, what: str, missing: bool = False, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.missing = missing


class DifferentRanksError(TogetherError):
    """The ranks do not run the same thing."""


def mpi(initialize: bool = True) -> Any:
    """mpi4py's module; MPI initialised, unless the process is none of the ranks.

    Raises:
        MissingError: mpi4py is not installed, or finds no MPI that fits it.
    """
    mend = 'python -m pip install "chainrule[mpi-local]"'
    try:
        import mpi4py

        mpi4py.rc.initialize &= initialize
        from mpi4py import MPI
    except ImportError as error:
        raise MissingError("mpi4py is not installed", mend=mend) from error
    except RuntimeError as error:
        raise MissingError("mpi4py finds no MPI library that it can load",
                           got=str(error).strip().splitlines()[0], mend=mend) from error
    if initialize and not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


class Team:
    """All ranks of the job, seen from one of them."""

    def __init__(self, seconds: float = STEP_SECONDS) -> None:
        self.MPI = mpi()
        self.comm = self.MPI.COMM_WORLD.Dup()
        self._last = self.MPI.COMM_WORLD.Dup()  # last steps begin when the first are done, not
        self._alarm = self.MPI.COMM_WORLD.Dup()  # at one place of the program
        self.rank, self.size = self.comm.rank, self.comm.size
        self.seconds = seconds
        self.steps_began = False
        self._types = {np.dtype(np.float32): self.MPI.FLOAT, np.dtype(np.float64): self.MPI.DOUBLE,
                       np.dtype(np.int64): self.MPI.INT64_T, np.dtype(np.int32): self.MPI.INT32_T}
        self.solo = True  # until all have compiled: a rank works for itself
        self.waits = False  # whether this rank waits for others
        self._processes = self.gather([platform.node(), os.getpid(), sorted(_cores())])
        self.pulse = Pulse(self)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and logs."""
        return self.rank == 0

    @property
    def here(self) -> int:
        """How many ranks run on this machine."""
        return sum(node == platform.node() for node, _, _ in self._processes)

    @property
    def far(self) -> bool:
        """Whether a thread shall look after what is on its way: some ranks are on other machines,
        and MPI may be called by several threads."""
        return self.here < self.size and self.MPI.Query_thread() >= self.MPI.THREAD_MULTIPLE

    @property
    def threads(self) -> int:
        """How many threads this rank may have: its share of the machine's cores."""
        cores = {c for node, _, own in self._processes if node == platform.node() for c in own}
        return max(1, min(len(_cores()), len(cores) // self.here))

    def divide(self, places: np.ndarray) -> tuple[np.ndarray, int, int]:
        """This rank's part of a minibatch: its rows, the number of the first, how many in all."""
        count = len(places)
        lo, hi = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return places[lo:hi], lo, count

    # -- what all ranks do together -------------------------------------------------------------
    def start_sum(self, array: np.ndarray) -> Any:
        """Begin to add an array up over all ranks, in place; `wait` for what is returned."""
        return self.comm.Iallreduce(self.MPI.IN_PLACE, [array, self._types[array.dtype]],
                                    op=self.MPI.SUM)

    def start_scattered_sum(self, array: np.ndarray, own: np.ndarray, counts: Sequence[int]) -> Any:
        """Begin to add an array up over all ranks; each gets its part of the sum, as counted."""
        kind = self._types[array.dtype]
        return self.comm.Ireduce_scatter([array, kind], [own, kind], list(counts), op=self.MPI.SUM)

    def start_exchange(self, sent: np.ndarray, counts: Sequence[int], got: np.ndarray,
                       expected: Sequence[int]) -> Any:
        """Begin to send each rank its part of 16-bit words."""
        kind = self.MPI.UINT16_T
        return self.comm.Ialltoallv([sent, (counts, None), kind], [got, (expected, None), kind])

    def start_gather(self, own: np.ndarray, whole: np.ndarray, counts: Sequence[int]) -> Any:
        """Begin to put the ranks' 16-bit words together, on all ranks."""
        kind = self.MPI.UINT16_T
        return self._last.Iallgatherv([own, kind], [whole, (counts, None), kind])

    def start_shared(self, array: np.ndarray, counts: Sequence[int]) -> Any:
        """Begin to send each rank's part of an array to all, in place."""
        kind = self._types[array.dtype]
        return self._last.Iallgatherv(self.MPI.IN_PLACE, [array, (counts, None), kind])

    def collect(self, own: np.ndarray) -> list[np.ndarray]:
        """Every rank's flat array, by rank, on rank 0; nothing elsewhere."""
        sizes, kind = [int(n) for n in self.gather(own.size)], self._types[own.dtype]
        whole = np.empty(sum(sizes) if self.first else 0, own.dtype)
        self.wait(self.comm.Igatherv([own, kind], [whole, (sizes, None), kind] if self.first
                                     else None, root=0), LONG_SECONDS)
        return np.split(whole, np.cumsum(sizes)[:-1]) if self.first else []

    def join(self, own: np.ndarray) -> np.ndarray:
        """The ranks' rows one after the other, on all ranks; a rank may have none."""
        own = np.ascontiguousarray(own)
        sizes, kind = [int(n) for n in self.gather(own.size)], self._types[own.dtype]
        rest = own.shape[1:]
        whole = np.empty(sum(sizes), own.dtype)
        self.wait(self.comm.Iallgatherv([own.reshape(-1), kind], [whole, (sizes, None), kind]),
                  LONG_SECONDS)
        return whole.reshape(-1, *rest)

    def add(self, array: np.ndarray) -> None:
        """Add an array up over all ranks, in place."""
        self.wait(self.start_sum(array))

    def any(self, flag: object, seconds: float | None = None) -> bool:
        """Whether it holds on any rank; the same answer everywhere."""
        found = np.array([float(bool(flag))])
        self.wait(self.start_sum(found), seconds)
        return bool(found[0] > 0)

    def same(self, value: float, seconds: float | None = None) -> float:
        """Rank 0's value, on all ranks."""
        found = np.array([float(value)])
        self.wait(self.comm.Ibcast([found, self.MPI.DOUBLE], root=0), seconds)
        return float(found[0])

    def gather(self, value: Any, seconds: float = LONG_SECONDS) -> list[Any]:
        """Every rank's value (as JSON holds it), by rank, on all ranks."""
        own = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        sizes[self.rank] = own.size
        self.wait(self.comm.Iallreduce(self.MPI.IN_PLACE, sizes, op=self.MPI.SUM), seconds)
        whole = np.zeros(int(sizes.sum()), np.uint8)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.wait(self.comm.Iallgatherv(
            [own, self.MPI.BYTE], [whole, (sizes, starts), self.MPI.BYTE]), seconds)
        return [json.loads(whole[a:a + n].tobytes()) for a, n in zip(starts, sizes, strict=True)]

    def enough(self, rows: int) -> None:
        """Check that every rank has a row of each minibatch (but the last of an epoch).

        Raises:
            DataError: on every rank.
        """
        if rows < self.size:
            raise DataError(f"{self.size} ranks are more than a minibatch has rows",
                            expected=f"at most {rows} ranks", got=self.size,
                            mend="fewer ranks, or a larger batch")

    def together(self) -> None:
        """All ranks have compiled; what they compute from here on they compute together."""
        self.meet()
        self.solo = False

    def compare(self, own: Mapping[str, str]) -> None:
        """Check that all ranks run the same thing.

        Raises:
            DifferentRanksError: on every rank, with what differs and on which ranks.
        """
        found = self.meet(dict(own))
        for what in own:
            values = [each.get(what, "nothing") for each in found]
            others = [r for r, v in enumerate(values) if v != values[0]]
            if others:
                raise DifferentRanksError(
                    f"the ranks do not agree on {what}", expected=f"on all ranks what rank 0 has: "
                    f"{values[0]}", got=f"on {ranks(others)} {values[others[0]]}",
                    mend="the same files and the same installation for every rank")

    def meet(self, value: Any = None, error: BaseException | None = None) -> list[Any]:
        """Every rank's value, or the end for all: what one rank could not do, none goes on from.

        Raises:
            TogetherError: on every rank, where some rank brought an error.
        """
        found = self.gather({"value": value, "error": None if error is None else _said(error)})
        bad = [r for r, each in enumerate(found) if each["error"] is not None]
        if not bad:
            return [each["value"] for each in found]
        said = found[bad[0]]["error"]
        where = "" if len(bad) == self.size else f"{ranks(bad)}: "
        raise TogetherError(where + said["text"], expected=said["expected"], got=said["got"],
                            mend=said["mend"], missing=said["missing"],
                            where=Location(*said["where"]) if said["where"] else None)

    def save(self, store: Store, make: Callable[[], Checkpoint], apart: Sequence[str] = ()
             ) -> None:
        """Rank 0 writes a checkpoint, and all know whether it is written; the arrays ``apart``
        are no others' to compare.

        Raises:
            OSError: on every rank, where it could not be written.
            DifferentRanksError: the parameters are not the same bits on all ranks.
        """
        found = make()
        alike = b"".join(a.tobytes() for n, a in found.arrays.items() if n not in apart)
        self.compare({"the parameters": hashlib.sha256(alike).hexdigest()[:16]})
        failed = 0
        if self.first:
            try:
                store.save(found)
            except OSError as error:
                failed = error.errno or errno.EIO
        failed = int(self.same(failed, LONG_SECONDS))
        if failed:
            raise OSError(failed, os.strerror(failed))

    # -- waiting --------------------------------------------------------------------------------
    def wait(self, request: Any, seconds: float | None = None) -> None:
        """Wait until an operation is done.

        Raises:
            RankError: some rank does not take part in time; it is named.
        """
        limit = self.seconds if seconds is None else seconds
        turns, waited, last = 0, 0.0, time.monotonic()
        self.waits = True
        try:
            while not request.Test():
                turns += 1
                if turns > 200:  # long enough for a rank that is nearly as fast
                    time.sleep(0.0001 if turns < 5000 else 0.002)
                    now = time.monotonic()
                    waited += min(now - last, PAUSE)  # a machine that slept is nobody's fault
                    last = now
                    if waited > limit:
                        self._find_silent(request, limit)
        finally:
            self.waits = False

    def _find_silent(self, request: Any, limit: float) -> None:
        """Ask who else waits; ranks that do not say so within a moment hang."""
        word = np.zeros(1)
        sent = [self._alarm.Isend(word, r, _LATE) for r in range(self.size) if r != self.rank]
        waiting, end = {self.rank}, time.monotonic() + 1.5
        status = self.MPI.Status()
        while time.monotonic() < end:
            if request.Test():
                return  # it was only slow
            while self._alarm.Iprobe(self.MPI.ANY_SOURCE, _LATE, status):
                self._alarm.Recv(word, status.source, _LATE)
                waiting.add(status.source)
            time.sleep(0.01)
        del sent
        silent = [r for r in range(self.size) if r not in waiting]
        error = RankError(f"{ranks(silent or list(range(self.size)))} did not answer for "
                          f"{limit + 1.5:.0f} s", mend="look for what it waits for; "
                          "--max-restarts goes on from the last checkpoint")
        self.end(silent, error)
        raise error

    def end(self, silent: Sequence[int], error: RankError) -> None:
        """Say that ranks hang, and kill those of this machine."""
        note(f"fault-{self.rank}", brief(error))  # before mpiexec hears of the end
        if NOTES not in os.environ:
            print(f"error: {brief(error)}", file=sys.__stderr__, flush=True)
        self._kill(silent)

    def _kill(self, silent: Sequence[int]) -> None:
        """Kill the ranks of this machine that hang: a stopped process would not hear an abort."""
        for rank in silent:
            node, pid, _ = self._processes[rank]
            if node == platform.node():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # another rank was faster

    def processor_seconds(self, rank: int) -> float:
        """Processor time that a rank has used so far; -1 on another machine."""
        node, pid, _ = self._processes[rank]
        try:
            if node == platform.node():
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
        return -1.0

    def training(self, folder: str) -> None:
        """From here on, what fails on one rank ends the job; a launcher may go on from there."""
        self.steps_began = True
        self.pulse.stop()  # from now on who does not answer is noticed by those who wait
        if self.first:
            note("folder", folder)

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        self.MPI.COMM_WORLD.Abort(code)


def _cores() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on every system
        return set(range(os.cpu_count() or 1))


def brief(error: ChainruleError) -> str:
    """An error without a line of the user's: the ranks were not started by one."""
    return "\n".join([error.what, *([f"  mend:     {error.mend}"] if error.mend else [])])


def note(name: str, text: str) -> None:
    """Leave word for the launcher, where there is one."""
    folder = os.environ.get(NOTES)
    if folder:
        write_atomically(Path(folder) / name, text.encode())


def _said(error: BaseException) -> dict[str, Any]:
    own = error if isinstance(error, ChainruleError) else ChainruleError(
        f"{type(error).__name__}: {error}")
    return {"text": own.what, "expected": _text(own.expected), "got": _text(own.got),
            "mend": own.mend, "missing": isinstance(error, MissingError),
            "where": own.where and [own.where.file, own.where.line]}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def ranks(numbers: Sequence[int]) -> str:
    """``rank 3`` or ``ranks 1, 2``."""
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
