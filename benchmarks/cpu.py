"""A training step (forward, backward, update) in the emitted kernels against other frameworks.

The same mathematics, the same starting weights, the same minibatches, float32, the same number of
threads; runs are interleaved and medians are compared. Losses agree to 1e-4 before anything is
timed. A peer that is not installed is named and left out. Beside each row: its operations and the
bytes that its equations read and write when none are fused, each with its share of what this
machine reached in the same run (above 100 % where fusion keeps bytes in the cache), the largest
memory of our process, and the time from its start to the end of the first two steps, compilation
included.

    python -m pip install -e '.[bench]'
    python benchmarks/cpu.py [--threads 2] [--rounds 7] [--rows 3-3-1,cnn-8x8-8-16] [--json FILE]
                             [--peers torch,compile,jax,alone] [--seconds 1] [--pause]

With ``--pause`` every process is started, compiled and compared before anything is timed: what is
timed then needs seconds of a quiet machine, not minutes. The peer "alone" is ours on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from cpu_rows import ROWS, Arrays, Row, data, direction

Epoch = Callable[[Arrays], float]
PEERS = {"torch": "torch", "compile": "torch", "jax": "jax", "alone": "codegen"}


def ours(row: Row, threads: int) -> tuple[Epoch, Arrays, dict[str, Any]]:
    """An epoch over some data, the starting weights, and what is known about the network."""
    import codegen
    from derive.cost import equation_cost, total_cost

    program = row.program()
    model = codegen.compile(program, optimizer=row.optimizer, threads=threads)
    model.initialize(0)
    start = {n: v.copy() for n, v in model.parameters.items()}
    total = total_cost(equation_cost(eq, program) for eq in program.equations)
    known = dict.fromkeys(program.sizes, row.batch)
    sizes = model._run.sizes(data(row, 1), row.batch)
    about = {
        "operations": int(total.operations.subs(known)), "bytes": int(total.bytes.subs(known)),
        "parts": model._run.parts(sizes),
        "arena_bytes": int(model._run.arena("gradient", sizes).nbytes),
    }

    def epoch(values: Arrays) -> float:
        return model._run.epoch(values, row.batch, np.arange(len(values["x"]))) / len(values["x"])

    def products(values: Arrays) -> float:
        vector = direction(model.parameters["W1"].shape)
        total = 0.0
        for first in range(0, len(values["x"]), row.batch):
            batch = {n: v[first:first + row.batch] for n, v in values.items()}
            total += np.vdot(model._run.gradients(**batch, v=vector)["W1"], vector)
        return float(total / (len(values["x"]) / row.batch))

    return (products if row.kind == "hessian_product" else epoch), start, about


def work(name: str, number: int, threads: int, start: Arrays | None, pipe: Connection) -> None:
    """One framework in a process of its own, so that no two pools of threads meet: it answers
    each number of steps with the mean loss, the seconds, these and what getting ready took, and its
    largest memory so far."""
    row = ROWS[number]
    begun = time.perf_counter()
    about: dict[str, Any] = {}
    if name == "jax":
        # JAX has no setting for its threads; it takes as many as it may run on
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
        from cpu_jax import peer

        run = peer(row, start or {})
    elif name in ("chainrule", "alone"):
        run, start, about = ours(row, threads if name == "chainrule" else 1)
    else:
        import torch
        from cpu_torch import peer as torch_peer

        torch.set_num_threads(threads)
        run = torch_peer(row, start or {}, compiled=name == "compile")
    ready = time.perf_counter() - begun
    pipe.send((start, about))
    while (steps := pipe.recv()) > 0:
        values = data(row, steps)
        at = time.perf_counter()
        loss = run(values)
        took = time.perf_counter() - at
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((loss, took, ready + took, used))


class Peer:
    """A worker process and the pipe to it."""

    def __init__(self, name: str, number: int, threads: int, start: Arrays | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, daemon=True,
                                       args=(name, number, threads, start, other))
        self.process.start()
        other.close()
        self.start, self.about = self.pipe.recv()

    def run(self, steps: int) -> tuple[float, float, float, int]:
        self.pipe.send(steps)
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(0)
        self.process.join(10)
        self.process.kill()


def machine() -> dict[str, float]:
    """Operations a second of one large matrix product on all threads of NumPy's BLAS, and bytes
    a second (read and written) of copying what fits in no cache."""
    a = np.random.default_rng(0).standard_normal((1536, 1536)).astype(np.float32)
    product = min(timed(lambda: a @ a) for _ in range(5))
    big, other = np.ones(2**25, np.float32), np.empty(2**25, np.float32)
    copy = min(timed(lambda: np.copyto(other, big)) for _ in range(5))
    return {"operations": 2 * 1536**3 / product, "bytes": 2 * big.nbytes / copy}


def handing() -> float:
    """What it costs a core to write what another has read: nanoseconds for a line of 64 bytes. One
    that shares its last cache with the other needs some 8, else 20 to 30; the cores of a virtual
    machine are now of the one kind and now of the other. One thread goes from core to core: threads
    of this process that wait would disturb what is timed."""
    lines = 4096
    buffer = np.zeros(16*lines, np.float32)
    allowed = os.sched_getaffinity(0)
    here, there = sorted(allowed)[:2]

    def written(reader: int) -> float:
        os.sched_setaffinity(0, {here})
        buffer.fill(1)
        os.sched_setaffinity(0, {reader})
        buffer.max()
        os.sched_setaffinity(0, {here})
        return timed(lambda: buffer.fill(2))

    try:
        crossed, own = (min(written(reader) for _ in range(20)) for reader in (there, here))
    finally:
        os.sched_setaffinity(0, allowed)
    return (crossed - own) / lines * 1e9


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Bench:
    """One row, ready to be timed: every framework in its process, their losses compared."""

    def __init__(self, number: int, threads: int, wanted: list[str]) -> None:
        self.row = row = ROWS[number]
        self.own = Peer("chainrule", number, threads, None)
        self.workers = {"chainrule": self.own,
                        **{n: Peer(n, number, threads, self.own.start) for n in wanted}}
        # Two steps: one, and one after an update. Adam magnifies the rounding of gradients that
        # are zero by symmetry (biases in front of batch norm): after four steps of that row, the
        # same kernels in float32 and float64 are 9e-4 apart.
        self.firsts = {name: w.run(2) for name, w in self.workers.items()}
        loss = self.firsts["chainrule"][0]
        for name, first in self.firsts.items():
            if not abs(first[0] - loss) <= 1e-4 * (1 + abs(loss)):
                raise SystemExit(f"{row.name}: {name} has the loss {first[0]}, ours is {loss}: "
                                 "nothing is timed")

    def measure(self, rounds: int, seconds: float, hands: bool) -> dict[str, Any]:
        """Interleaved runs of at most so many seconds each; the processes end. Before each round,
        and after the last, what handing a line from core to core costs."""
        try:
            # the first runs are slower, and few steps would share what a call costs
            once = max(min(w.run(4)[1] for _ in range(5)) for w in self.workers.values()) / 4
            steps = max(4, min(500, int(seconds / once)))
            times: dict[str, list[float]] = {name: [] for name in self.workers}
            memory = {}
            handed = [handing()] if hands else []
            for _ in range(rounds):
                for name, w in self.workers.items():
                    _, took, _, memory[name] = w.run(steps)
                    times[name].append(took / steps)
                handed += [handing()] if hands else []
        finally:
            for w in self.workers.values():
                w.close()
        return {
            "row": self.row.name, "batch": self.row.batch, "steps": steps, **self.own.about,
            "losses": {n: f[0] for n, f in self.firsts.items()},
            "first_step_seconds": {n: f[2] for n, f in self.firsts.items()},
            "process_bytes": memory, "handed_ns": handed,
            "times": {name: {"median": statistics.median(each), "least": min(each),
                             "most": max(each), "each": each} for name, each in times.items()},
        }


def line(found: dict[str, Any], limits: dict[str, float], wanted: list[str]) -> str:
    """One row of the table: medians, and the ratio of each peer's to ours."""
    own = found["times"]["chainrule"]
    cells = [f"{found['row']:20}{found['batch']:4}{found['parts']:2}{own['median'] * 1e6:10.1f}",
             f"±{(own['most'] - own['least']) / own['median'] / 2:4.0%}"]
    for what in ("operations", "bytes"):
        cells.append(f"{found[what] / 1e6:9.2f}{found[what] / own['median'] / limits[what]:5.0%}")
    for name in wanted:
        other = found["times"].get(name)
        cells.append(f"{other['median'] / own['median']:8.2f}" if other else f"{'':8}")
    handed = found["handed_ns"]
    return " ".join([*cells, f"{found['process_bytes']['chainrule'] / 1e6:6.0f} MB",
                     f"{found['first_step_seconds']['chainrule']:5.1f} s",
                     f"{min(handed):6.0f} to {max(handed):.0f} ns" if handed else ""]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", help="names such as 3-3-1,64-32-10; all by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, of each run")
    parser.add_argument("--peers", default="torch,compile,jax",
                        help="alone is ours on one thread; %(default)s by default")
    parser.add_argument("--pause", action="store_true",
                        help="make all rows ready, and wait for return before any is timed")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    wanted = [p for p in args.peers.split(",") if p]
    for name in wanted:
        if importlib.util.find_spec(PEERS[name]) is None:
            print(f"{name} is left out: {PEERS[name]} is not installed")
    wanted = [p for p in wanted if importlib.util.find_spec(PEERS[p]) is not None]
    numbers = [n for n, row in enumerate(ROWS)
               if not args.rows or row.name in args.rows.split(",")]
    benches: Iterable[Bench] = (Bench(n, args.threads, wanted) for n in numbers)
    if args.pause:
        benches = list(benches)
        input("ready: press return\n")
    limits = machine()
    hands = args.threads > 1 and hasattr(os, "sched_getaffinity") and len(
        os.sched_getaffinity(0)) > 1
    print(f"{args.threads} threads; matrix products {limits['operations'] / 1e9:.0f} GFLOP/s, "
          f"copying {limits['bytes'] / 1e9:.0f} GB/s\n")
    print(f"{'network':20}{'rows':>4}{'':2}{'µs a step':>10} {'':5} {'MFLOP':>9}{'peak':>5} "
          f"{'MB':>9}{'copy':>5} " + " ".join(f"{p:>8}" for p in wanted)
          + "  process first step  a line to the other core")
    found = []
    for bench in benches:
        found.append(bench.measure(args.rounds, args.seconds, hands))
        print(line(found[-1], limits, wanted), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"limits": limits, "threads": args.threads, "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
