"""What a sum over two ranks costs: in shared memory, and over a network with limited bandwidth.

    python benchmarks/mpi_network.py [--rates 10gbit,1gbit,100mbit] [--delay 0] [--json FILE]

The network is real TCP between two network namespaces that a veth pair joins, its bandwidth limited
by a token bucket (``tc tbf``) on both ends and, where the kernel has ``netem``, with added latency
(``--delay`` in milliseconds; without it that is said and the delay is left out). User namespaces
suffice: no rights are needed. Printed: seconds of a sum by its bytes, and latency and bandwidth
fitted to T(n) = 2 α + n / β, the two steps of a sum in halves.
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

SIZES = tuple(1 << n for n in range(10, 25, 2))
# inside a user namespace of its own; its arguments: the job
_SCRIPT = """
set -e
ip link add v0 type veth peer name v1
unshare -n sleep 600 & other=$!
sleep 0.3
ip link set v1 netns $other
ip addr add 10.9.0.1/24 dev v0; ip link set v0 up; ip link set lo up
there="nsenter -t $other -n"
$there ip addr add 10.9.0.2/24 dev v1; $there ip link set v1 up; $there ip link set lo up
if [ "$DELAY" != 0 ]; then tc qdisc add dev v0 root netem delay ${DELAY}ms rate $RATE
  $there tc qdisc add dev v1 root netem delay ${DELAY}ms rate $RATE
elif [ "$RATE" != none ]; then tc qdisc add dev v0 root tbf rate $RATE burst 256kb latency 100ms
  $there tc qdisc add dev v1 root tbf rate $RATE burst 256kb latency 100ms; fi
export OTHER=$other
code=0
"$@" || code=$?
kill $other
exit $code
"""
_RANK = 'if [ "$PMI_RANK" = 1 ]; then exec nsenter -t $OTHER -n "$@"; else exec "$@"; fi'


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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [*mpiexec(), "-n", "2"]
    if rate is None:
        command += own
    else:
        environment |= {"RATE": rate, "DELAY": f"{delay:g}", "MPIR_CVAR_NOLOCAL": "1",
                        "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
        command = ["unshare", "-rn", "sh", "-c", _SCRIPT, "sh", *command, "sh", "-c", _RANK, "sh",
                   *own]
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
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--json")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return 0
    rows: list[dict[str, Any]] = []
    for rate in (None, *args.rates.split(",")):
        name = "shared memory" if rate is None else f"TCP, {rate}"
        try:
            found = measure(rate, args.delay)
        except RuntimeError as error:
            print(f"{name}: not here ({error})")
            continue
        latency, bandwidth = fit(found)
        rows.append({"network": name, "latency": latency, "bandwidth": bandwidth,
                     "seconds": found})
        print(f"{name:14} α {1e6 * latency:8.1f} µs, β {bandwidth / 1e6:8.1f} MB/s;  " + ", ".join(
            f"{n >> 10} kB {1e3 * s:.3f} ms" for n, s in found.items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
