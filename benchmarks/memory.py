"""Peak memory of training in the emitted kernels: what was predicted, what is measured, PyTorch's.

    python benchmarks/memory.py [--rows 784-512-512-10,…] [--threads 2] [--peers torch]

Each framework runs in a process of its own. It first takes steps with two rows in a batch, so that
everything is loaded and compiled; then a second copy of the network is made and takes steps with
the row's own batch. What counts is by how much the process grows meanwhile at most: parameters,
gradients, the optimizer's moments, intermediates, the minibatch, and a framework's own caches.
Data and starting weights are there before. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from cpu_rows import ROWS, Arrays, Row, data

MEGA = 1e6


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most since `forget` (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def forget() -> int:
    """Give back what is free, begin the largest size anew; returns the size now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def growth(run: Callable[[], object]) -> int:
    """By how many bytes the process grows at most while something runs."""
    before = forget()
    kept = run()
    grown = resident("VmHWM") - before
    del kept
    return grown


def ours(row: Row, threads: int, start: Arrays | None, pipe: Connection) -> None:
    import codegen

    model = codegen.compile(row.program(), optimizer=row.optimizer, threads=threads)
    model.initialize(0)
    kernels, values, few = model.kernels, data(row, 2), data(replace(row, batch=2), 1)
    call = epoch(row)
    sizes = model._run.sizes(values, row.batch)
    parts = model._run.parts(sizes)
    for count in {1, parts}:
        model._run.parts = lambda sizes, count=count: count
        call(model._run, few, 2)

    def run() -> object:
        own = kernels.Model(threads)
        own.p[:], own.s[:], own.n[:] = model.flat, model._run.s, model._run.s
        own.settings[:] = model._run.settings
        call(own, values, row.batch)
        call(own, values, row.batch)
        return own

    pipe.send({n: v.copy() for n, v in model.parameters.items()})
    pipe.send((growth(run), predicted(model, sizes)))


def epoch(row: Row) -> Callable[..., object]:
    if row.kind != "hessian_product":
        return lambda run, values, batch: run.epoch(values, batch, np.arange(len(values["x"])))
    from cpu_rows import direction

    def products(run: object, values: Arrays, batch: int) -> None:
        vector = direction(run.parameters["W1"].shape)  # type: ignore[attr-defined]
        run.gradients(**{n: v[:batch] for n, v in values.items()}, v=vector)  # type: ignore

    return products


def predicted(model: object, sizes: tuple[int, ...]) -> int:
    run, kernels = model._run, model.kernels  # type: ignore[attr-defined]
    flat = 4 * (run.p.size + run.d.size + run.s.size + run.n.size
                + sum(m.size for m in run.moments.values()))
    return flat + 4 * kernels._ARENA["gradient"](*sizes, run.parts(sizes)) + sum(
        8 * int(np.prod(kernels._shape(n, sizes))) // (1 + (t[1] == "float"))
        for n, t in kernels.INPUTS.items())


def torch(row: Row, threads: int, start: Arrays | None, pipe: Connection) -> None:
    import torch as framework
    from cpu_torch import peer

    framework.set_num_threads(threads)
    values, few = data(row, 2), data(replace(row, batch=2), 1)
    warm = peer(replace(row, batch=2), start or {}, compiled=False)
    warm(few)

    def run() -> object:
        own = peer(row, start or {}, compiled=False)
        own(values)
        own(values)
        return own

    pipe.send(growth(run))


def apart(work: Callable, row: Row, threads: int, start: Arrays | None, answers: int) -> list:
    """What a process of its own answers."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=work, args=(row, threads, start, other))
    process.start()
    other.close()
    found = [pipe.recv() for _ in range(answers)]
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", help="names; all by default")
    parser.add_argument("--peers", default="torch")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    peers = {"torch": torch} if "torch" in args.peers else {}
    if peers and importlib.util.find_spec("torch") is None:
        print("torch is left out: it is not installed")
        peers = {}
    print(f"{'network':22}{'batch':>5}{'predicted':>11}{'measured':>10}{'torch':>9}  MB   ratio")
    rows = []
    for number, row in enumerate(ROWS):
        if args.rows and row.name not in args.rows.split(","):
            continue
        start, (own, plan) = apart(ours, row, args.threads, None, 2)
        found = {"row": row.name, "batch": row.batch, "predicted": plan, "measured": own}
        line = f"{row.name:22}{row.batch:5}{plan / MEGA:11.2f}{own / MEGA:10.2f}"
        for name, work in peers.items():
            (found[name],) = apart(work, ROWS[number], args.threads, start, 1)
            line += f"{found[name] / MEGA:9.2f}{own / found[name]:11.2f}"
        rows.append(found)
        print(line, flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
