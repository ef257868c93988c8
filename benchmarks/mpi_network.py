"""What a sum over two ranks costs: in shared memory, and over a network with limited bandwidth.

    python benchmarks/mpi_network.py [--rates none,1gbit,100mbit] [--delay 0,1] [--json FILE]

The network is real TCP between two network namespaces, its bandwidth limited and, with ``--delay``
(milliseconds, several with commas), its latency added to: `mpi_link`. Printed: seconds of a sum by
its bytes, and latency and bandwidth fitted to T(n) = 2 α + n / β, the two steps of a sum in halves.
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

SIZES = tuple(1 << n for n in range(10, 25, 2))


def work() -> None:
    """One rank: the median seconds of a sum in halves, by bytes."""
    from codegen.mpi.exchange import Bucket, Halves
    from codegen.mpi.team import Team

    team = Team(seconds=60)
    team.pulse.stop()
    found = {}
    for size in SIZES:
        array = np.ones(size // 4, np.float32)
        counts, seconds = Bucket(0, array.size, 0).counts(team.size), []
        for _ in range(9):
            array[:] = 1
            team.comm.Barrier()
            start = time.perf_counter()
            sent = Halves(team, array, counts)
            while not sent.advance():
                pass
            seconds.append(time.perf_counter() - start)
        assert (array == team.size).all()
        found[size] = statistics.median(seconds)
    if team.first:
        print(json.dumps(found), flush=True)


def measure(rate: str | None, delay: float) -> dict[int, float]:
    """Seconds by bytes; rate None: shared memory."""
    from codegen.mpi.launch import mpiexec

    own = [sys.executable, str(Path(__file__).resolve()), "--work"]
    command, environment = [*mpiexec(), "-n", "2", *own], dict(os.environ)
    if rate is not None:
        command, environment = placed(own, rate, delay)
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300,
                          check=False)
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError((done.stderr.strip() or "no answer").splitlines()[-1])
    return {int(n): s for n, s in json.loads(lines[0]).items()}


def fit(found: dict[int, float]) -> tuple[float, float]:
    """Latency in seconds and bytes per second: from the shortest sums, and from the longest (what
    is between them fits into a token bucket's burst)."""
    sizes = sorted(found)
    latency = statistics.median(found[n] for n in sizes[:3]) / 2
    return latency, sizes[-1] / max(found[sizes[-1]] - 2 * latency, 1e-9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="none,10gbit,1gbit,100mbit")
    parser.add_argument("--delay", default="0")
    parser.add_argument("--json")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return 0
    rows: list[dict[str, Any]] = []
    links = [(rate, delay) for rate in args.rates.split(",") for delay in args.delay.split(",")]
    for rate, delay in [(None, "0"), *links]:
        name = "shared memory" if rate is None else f"TCP, {rate}, {delay} ms"
        try:
            found = measure(rate, float(delay))
        except RuntimeError as error:
            print(f"{name}: not here ({error})")
            continue
        latency, bandwidth = fit(found)
        rows.append({"network": name, "latency": latency, "bandwidth": bandwidth,
                     "seconds": found})
        print(f"{name:20} α {1e6 * latency:8.1f} µs, β {bandwidth / 1e6:8.1f} MB/s;  " + ", ".join(
            f"{n >> 10} kB {1e3 * s:.3f} ms" for n, s in found.items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
