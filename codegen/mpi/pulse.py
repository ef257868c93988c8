"""Whether every rank is alive while kernels are compiled and data are read.

Then a rank may rightly answer nobody for minutes. So a thread of each rank says once a second
how far the rank has come: the processor time of its main thread, the bytes that the process has
read and written, whether it waits for others. Rank 0 listens to all, rank 1 to rank 0. A rank from
which nothing comes for `SILENT` seconds has stopped (on another machine: for `FAR` seconds, for a
main thread that keeps Python's lock also keeps the word back, and its processor time is not to be
seen from here); one that comes no further for `STUCK` seconds, and does not wait, hangs. Either is
named, and the job ends.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from codegen.mpi.team import Team

BEAT = 1.0  # seconds between two words
SILENT = 6.0  # seconds without a word and without processor time
FAR = 30.0  # seconds without a word from another machine
STUCK = 60.0  # seconds without processor time, reading or writing
_TAG = 11


class Pulse:
    """The thread of one rank; without an MPI for several threads, or for one rank, there is none:
    then only those who wait notice, after ten minutes."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if team.size > 1 and team.MPI.Query_thread() >= team.MPI.THREAD_MULTIPLE:
            self._comm = team.MPI.COMM_WORLD.Dup()
            self._main = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No more words are sent or expected."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        team = self.team
        watched = range(1, team.size) if team.first else [0] if team.rank == 1 else []
        heard = dict.fromkeys(watched, 0.0)  # seconds since the last word
        stuck = dict.fromkeys(watched, 0.0)
        last: dict[int, Any] = {}
        spent = {rank: team.processor_seconds(rank) for rank in watched}
        requests: list[Any] = []
        tick, sent = time.monotonic(), 0.0
        to = 1 if team.first else 0
        while not self._over.wait(BEAT / 4):
            now = time.monotonic()
            passed, tick = min(now - tick, BEAT), now  # a machine that slept is nobody's fault
            if now - sent >= BEAT:
                sent = now
                requests = [r for r in requests if not r[0].Test()]
                word = np.array(self._progress())
                requests.append((self._comm.Isend(word, to, _TAG), word))
            status = team.MPI.Status()
            while self._comm.Iprobe(team.MPI.ANY_SOURCE, _TAG, status):
                word = np.zeros(3)
                self._comm.Recv(word, status.source, _TAG)
                rank, progress = status.source, word.tolist()
                moved = progress[0] > 0 or progress[1:] != last.get(rank)
                heard[rank] = 0.0
                stuck[rank] = 0.0 if moved else stuck[rank]
                last[rank] = progress[1:]
            for rank in watched:
                heard[rank] += passed
                stuck[rank] += passed
                if heard[rank] > SILENT and rank in last:
                    before, spent[rank] = spent[rank], team.processor_seconds(rank)
                    if spent[rank] > before:  # Python's lock is held, no more than that
                        heard[rank] = 0.0
                    elif spent[rank] >= 0 or heard[rank] > FAR:
                        self._ended(rank, f"did not answer for {heard[rank]:.0f} s")
                if stuck[rank] > STUCK and rank in last:
                    self._ended(rank, f"has done nothing for {STUCK:.0f} s")

    def _progress(self) -> list[float]:
        """Whether the rank waits; processor seconds of its main thread; bytes in and out."""
        return [float(self.team.waits), round(time.clock_gettime(self._main), 1), _transferred()]

    def _ended(self, rank: int, how: str) -> None:
        from codegen.mpi.team import RankError

        self.team.end([rank], RankError(
            f"rank {rank} {how}, before the first step", mend="look for what it waits for: a "
            "file, a network, a lock of another process"))
        self.team.abort(1)


def _transferred() -> float:
    """Bytes that the main thread has read and written; what this one reads does not count."""
    try:
        lines = Path(f"/proc/self/task/{os.getpid()}/io").read_text().split()
        return float(int(lines[1]) + int(lines[3]))
    except (OSError, IndexError, ValueError):
        return 0.0
