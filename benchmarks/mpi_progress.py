"""How much of a sum over two ranks is done while they compute, and who must call MPI for that.

    python benchmarks/mpi_progress.py [--rates 10gbit,1gbit] [--delay 0,1] [--json FILE]

Each rank computes for about as long as the sum takes (in compiled code that calls no MPI) and adds
an array up, in one of these ways:

    after     computes, then sends: what is hidden is measured against this
    unlooked  begins to send, computes without looking, waits
    points    the same, in eight pieces; between two of them it looks after what is on its way
    thread    the same, in one piece, while a thread looks (`codegen.mpi.exchange.Sender`)
    async     as unlooked, with a thread of MPICH's own (``MPIR_CVAR_ASYNC_PROGRESS``)

Printed: milliseconds of the computing and of the sum, and of each way the share of the sum that
disappears, (after - way) / (after - computing). Runs are interleaved; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from mpi_link import placed

SIZES = (1 << 20, 1 << 22, 1 << 24)
PIECES, ROUNDS, LONGEST = 8, 15, 1.5
WAYS = ("computing", "after", "unlooked", "points", "thread")


def work(only: str) -> None:
    """One rank."""
    from numba import njit

    from codegen.mpi.exchange import Bucket, Halves, Sender, advanced, finish
    from codegen.mpi.team import Team

    @njit("float64(int64, float64[:])", nogil=True)
    def compute(turns, a):  # type: ignore[no-untyped-def]
        for _ in range(turns):
            for n in range(a.size):
                a[n] = a[n] * 0.999 + 0.001
        return a[0]

    team, place = Team(seconds=60), np.ones(4096)
    team.pulse.stop()
    sender = Sender()

    def turn(way: str, turns: int, array: np.ndarray) -> float:
        counts = Bucket(0, array.size, 0).counts(team.size)
        pieces = PIECES if way == "points" else 1
        array[:] = 1
        team.comm.Barrier()
        start = time.perf_counter()
        if way in ("computing", "after"):
            compute(turns, place)
            if way == "after":
                finish([Halves(team, array, counts)])
        elif way == "thread":
            sender.send([Halves(team, array, counts)])
            compute(turns, place)
            sender.finish()
        else:
            flying: list[Any] = [Halves(team, array, counts)]
            for n in range(pieces):
                compute(turns * (n + 1) // pieces - turns * n // pieces, place)
                flying = advanced(flying) if way == "points" else flying
            finish(flying)
        passed = time.perf_counter() - start
        assert way == "computing" or (array == team.size).all()
        return passed

    one = min(turn("computing", 200, np.ones(2, np.float32)) for _ in range(5)) / 200
    found, ways = {}, ("computing", "after", only) if only else WAYS
    for size in SIZES:
        array = np.ones(size // 4, np.float32)
        alone = statistics.median(turn("after", 0, array) for _ in range(5))
        turns = max(1, int(team.same(alone) / one))
        rounds = max(3, min(ROUNDS, int(team.same(LONGEST / (2 * len(ways) * alone)))))
        rows = [{way: turn(way, turns, array) for way in ways} for _ in range(rounds)]
        found[size] = {way: statistics.median(r[way] for r in rows) for way in ways}
    if team.first:
        print(json.dumps(found), flush=True)


def measure(rate: str | None, delay: float, only: str = "") -> dict[str, dict[str, float]]:
    """Seconds by bytes and way; rate None: shared memory."""
    from codegen.mpi.launch import mpiexec

    own = [sys.executable, str(Path(__file__).resolve()), "--work", only]
    if rate is None:
        command, environment = [*mpiexec(), "-n", "2", *own], dict(os.environ)
    else:
        command, environment = placed(own, rate, delay)
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    if only == "async":
        environment["MPIR_CVAR_ASYNC_PROGRESS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300,
                          check=False)
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip() or "no answer").splitlines()[-1])
    return dict(json.loads(lines[0]))


def hidden(times: dict[str, float], way: str) -> float:
    """The share of a sum that a way hides behind computing."""
    return (times["after"] - times[way]) / (times["after"] - times["computing"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="shared,none,10gbit,1gbit")
    parser.add_argument("--delay", default="0", help="milliseconds; several with commas")
    parser.add_argument("--json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work)
        return 0
    rows: list[dict[str, Any]] = []
    for rate in args.rates.split(","):
        for delay in map(float, args.delay.split(",") if rate != "shared" else ["0"]):
            name = "shared memory" if rate == "shared" else f"TCP, {rate}, {delay:g} ms"
            given = (None if rate == "shared" else rate, delay)
            try:
                found, other = measure(*given), measure(*given, only="async")
            except RuntimeError as error:
                print(f"{name}: not here ({error})")
                continue
            for size, times in found.items():
                shares = {w: hidden(times, w) for w in WAYS[2:]}
                shares["async"] = hidden(other[size], "async")
                rows.append({"network": name, "bytes": int(size), "seconds": times, **shares})
                print(f"{name:22} {int(size) >> 20:3} MB  computing {1e3 * times['computing']:6.1f}"
                      f" ms, sum {1e3 * (times['after'] - times['computing']):6.1f} ms;  hidden: "
                      + ", ".join(f"{w} {s:.0%}" for w, s in shares.items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
