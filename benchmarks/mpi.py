"""Two ranks of one thread against one process of two threads, on rows of the CPU benchmark.

    python benchmarks/mpi.py [--rounds 7] [--rows 784-2048-2048-10,…] [--json FILE]
    python benchmarks/mpi.py --rate 1gbit [--delay 0.5]   # ranks at both ends of a link

Both do the same minibatches; runs are interleaved, and the figure is the median of the rounds'
ratios (1.00: the ranks are as fast as the threads; the aim is 0.90 for steps of 5 ms and more).
``sending`` is the share of a step that is spent on the gradients' way where they are sent at its
end. ``points`` and ``thread`` are the shares of that which disappear where each bucket is sent as
soon as it is computed, (seconds of a step without overlap - with) / (seconds of sending): MPI is
called between sections of the backward pass, or by a thread. ``shard`` and ``bfloat16`` are the
steps of these options against the plain ones of the ranks; ``state`` the bytes of the optimizer's
moments and own slice on rank 0, whole and in slices, measured, with what `state_bytes` predicts for
the slices in brackets. A row takes a minute, most of it compiling; on a machine that others use,
only ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cpu_rows import ADAM, ROWS, Row, data
from mpi_link import placed

LARGE = ("784-512-512-10", "784-2048-2048-10", "cnn-28x28-32-64", "lstm-64-128-t64",
         "lstm-128-256-t64", "encoder-128-t128", "encoder-256-t256", "784-256-32-256-784")
# a deep one: most of its gradients have other layers' backward pass to hide behind
DEEP = Row("784-8x1024-10", "mlp", {"layers": (784, *[1024] * 8, 10)}, 512, ADAM)
SECONDS = 3600.0  # that ranks wait for an order
WAYS = ("plain", "late", "thread", "shard", "bfloat16")


# -- what is timed ------------------------------------------------------------------------------
def threads_of(row: Row, count: int) -> None:
    """One process of several threads: for each number of steps on stdin, its seconds."""
    import codegen

    model = codegen.compile(row.program(), optimizer=row.optimizer, threads=count).initialize(0)
    for line in sys.stdin:
        steps = int(line)
        values = model.prepared(data(row, steps))
        start = time.perf_counter()
        model.train_rows(values, row.batch, np.arange(steps * row.batch))
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def ranks_of(row: Row) -> None:
    """One of several ranks: rank 0 reads a number of steps and a way, and answers."""
    from codegen.configuration import RanksPlan
    from codegen.mpi.exchange import Sender
    from codegen.mpi.model import SharedModel, compile_shared
    from codegen.mpi.shard import state_bytes
    from codegen.mpi.team import Team

    team = Team()
    team.pulse.stop()
    team.solo = False
    program, models = row.program(), {}
    plans = {"plain": RanksPlan(), "shard": RanksPlan(shard=True),
             "bfloat16": RanksPlan(compress="bfloat16")}
    for name, plan in plans.items():
        models[name] = compile_shared(program, team, row.optimizer, threads=1, plan=plan)
        models[name].initialize(0)
    behind = Behind(models["plain"])
    models |= {"late": models["plain"], "thread": models["plain"]}
    sender = Sender()
    values: dict[int, list[dict[str, np.ndarray]]] = {}

    def batches(model: SharedModel, steps: int) -> list[dict[str, np.ndarray]]:
        if steps not in values:
            whole = model.prepared(data(row, steps))
            values[steps] = []
            for n in range(steps):
                own, part = model.part(np.arange(n * row.batch, (n + 1) * row.batch))
                values[steps].append({**{k: np.ascontiguousarray(a[own])
                                         for k, a in whole.items()}, **part})
        return values[steps]

    while True:
        words = (sys.stdin.readline() or "0 0").split() if team.first else ["0", "0"]
        steps, way = (int(team.same(float(w), SECONDS)) for w in words)
        if not steps:
            return
        model = models[WAYS[way]]
        model.overlap, model.sender = WAYS[way] != "late", (
            sender if WAYS[way] == "thread" else None)
        given = batches(model, steps)
        team.meet()
        before, behind.seconds, start = model.sending, 0.0, time.perf_counter()
        for batch in given:
            model.gradient(batch)
            model.update()
        passed = time.perf_counter() - start
        if team.first:
            state = sum(m.nbytes for m in model.moments.values())
            state += model.shard.gradient.nbytes if model.shard else 0
            kernels = model.kernels
            print(json.dumps({
                "seconds": passed, "sending": model.sending - before,
                "behind": behind.seconds, "state": state,
                "predicted": state_bytes(int(kernels.P_TRAINED), kernels.MOMENTS,
                                         kernels.DTYPE.itemsize, team.size,
                                         model.shard is not None)}), flush=True)


class Behind:
    """Seconds of the sections of a gradient after which a bucket is already on its way."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        first = next(n for n, stop in enumerate(model._stops) if stop.buckets)
        late, section = set(model._order[first + 1:]), model.kernels.gradient_section

        def timed(number: int, *arguments: Any) -> None:
            start = time.perf_counter()
            section(number, *arguments)
            self.seconds += (time.perf_counter() - start) * (number in late)

        model.kernels.gradient_section = timed


# -- who times ----------------------------------------------------------------------------------
class Side:
    """A job that answers orders on a pipe; between two of them it sleeps."""

    def __init__(self, command: list[str], environment: Mapping[str, str] = os.environ) -> None:
        environment = {**environment, "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=environment)

    def ask(self, order: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        while True:  # MPI may say something of its own
            line = self.process.stdout.readline()
            if line.startswith("{"):
                return dict(json.loads(line))
            if not line:
                raise RuntimeError(f"a job ended with {self.process.wait()}")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(name: str, ranks: int, rounds: int, rate: str, delay: float) -> dict[str, Any]:
    """One row of the table; without a rate, of ranks that share memory."""
    from codegen.mpi.launch import mpiexec

    own = [sys.executable, __file__, "--work", name]
    one = Side([*own, "--threads", str(ranks)])
    work = [sys.executable, "-m", "mpi4py", *own[1:]]
    many = Side(*placed(work, rate, delay)) if rate else Side([*mpiexec(), "-n", str(ranks), *work])
    for way in range(len(WAYS)):  # compiled, and warm
        many.ask(f"2 {way}")
    one.ask("2")
    steps = max(2, int(0.4 / max(one.ask("4")["seconds"] / 4, 1e-4)))
    rows = []
    for _ in range(rounds):
        found = {"threads": one.ask(str(steps))}
        found |= {way: many.ask(f"{steps} {n}") for n, way in enumerate(WAYS)}
        rows.append(found)
    one.end()
    many.end()

    def median(of: Any) -> float:
        return float(statistics.median(map(of, rows)))

    return {
        "row": name, "steps": steps,
        "ms": 1e3 * median(lambda r: r["threads"]["seconds"]) / steps,
        "efficiency": median(lambda r: r["threads"]["seconds"] / r["plain"]["seconds"]),
        "sending": median(lambda r: r["late"]["sending"] / r["late"]["seconds"]),
        "bound": median(lambda r: min(1.0, r["late"]["behind"] / r["late"]["sending"])),
        "points": median(lambda r: (r["late"]["seconds"] - r["plain"]["seconds"])
                         / r["late"]["sending"]),
        "thread": median(lambda r: (r["late"]["seconds"] - r["thread"]["seconds"])
                         / r["late"]["sending"]),
        "shard": median(lambda r: r["shard"]["seconds"] / r["plain"]["seconds"]),
        "bfloat16": median(lambda r: r["bfloat16"]["seconds"] / r["plain"]["seconds"]),
        "state": rows[0]["plain"]["state"], "state_sharded": rows[0]["shard"]["state"],
        "state_predicted": rows[0]["shard"]["predicted"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", default=",".join(LARGE))
    parser.add_argument("--rate", default="", help="of a link: none, 10gbit, 100mbit, …")
    parser.add_argument("--delay", type=float, default=0, help="of a link, milliseconds")
    parser.add_argument("--json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        row = next(r for r in (*ROWS, DEEP) if r.name == args.work)
        if args.threads:
            threads_of(row, args.threads)
        else:
            ranks_of(row)
        return 0
    found = []
    print(f"{'row':20} {'ms':>7} {'ranks/threads':>13} {'sending':>8} {'bound':>6} {'points':>7} "
          f"{'thread':>7} {'shard':>6} {'bfloat16':>8}  state")
    for name in args.rows.split(","):
        each = measure(name, args.ranks, args.rounds, args.rate, args.delay)
        found.append(each)
        print(f"{name:20} {each['ms']:7.2f} {each['efficiency']:13.2f} {each['sending']:8.1%} "
              f"{each['bound']:6.0%} {each['points']:7.0%} {each['thread']:7.0%} "
              f"{each['shard']:6.2f} {each['bfloat16']:8.2f}  "
              f"{each['state']:,} → {each['state_sharded']:,} ({each['state_predicted']:,})",
              flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
