"""Time to derive, to emit and to compile deep networks: `tanh` layers of 64 units, Adam.

    python benchmarks/compiling.py [--layers 250,500,1000] [--normalised 100,200,400] [--depth 20]

``normalised`` layers are as wide, with batch norm and `relu`: two phases a layer in each direction.

Each figure is of a process of its own; of the compilation the first has an empty cache, the second
finds what the first left there. ``first step`` is from the call of `codegen.compile` to the end of
one step, all imports done.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import codegen
import derive as dr
from derive.program import Program

WIDTH, CLASSES, BATCH = 64, 10, 64


def network(depth: int, normalised: bool = False) -> dr.Network:
    net = dr.Network("deep")
    h = net.input("x", "B", WIDTH)
    for _ in range(depth):
        h = dr.relu(dr.batch_norm(dr.dense(h, WIDTH))) if normalised else \
            dr.dense(h, WIDTH, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, CLASSES), net.input("t", "B", dtype=int)))
    return net


def derived(depth: int, normalised: bool = False) -> tuple[Program, float]:
    net = network(depth, normalised)
    begun = time.perf_counter()
    return dr.derive(net), time.perf_counter() - begun


def emission(depth: int, normalised: bool = False) -> str:
    program, seconds = derived(depth, normalised)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        path = codegen.emit(program, Path(folder) / "kernels.py", optimizer=dr.adam(lr=1e-3))
        took = time.perf_counter() - begun
        size = path.stat().st_size
    kind = "normalised layers" if normalised else "layers"
    return f"{depth:5} {kind}: derived in {seconds:.2f} s, emitted in {took:.2f} s, {size} bytes"


def first_step(depth: int, folder: str) -> str:
    import numba  # noqa: F401  (not to be timed)

    program, _ = derived(depth)
    rng = np.random.default_rng(0)
    values = {"x": rng.standard_normal((BATCH, WIDTH)), "t": rng.integers(0, CLASSES, BATCH)}
    begun = time.perf_counter()
    model = codegen.compile(program, optimizer=dr.adam(lr=1e-3), threads=2, directory=folder)
    model.initialize(0)
    model.step(**values)
    return f"{depth:5} layers: first step after {time.perf_counter() - begun:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="250,500,1000", help="derived and emitted")
    parser.add_argument("--normalised", default="100,200,400", help="the same, with batch norm")
    parser.add_argument("--depth", type=int, default=20, help="compiled, cold and cached")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # emit N, emit N normalised, step N FOLDER
    args = parser.parse_args()
    if args.one:
        what, depth, *more = args.one.split()
        print(emission(int(depth), bool(more)) if what == "emit" else
              first_step(int(depth), more[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        jobs = [f"emit {n}" for n in args.layers.split(",") if n]
        jobs += [f"emit {n} normalised" for n in args.normalised.split(",") if n]
        jobs += [f"step {args.depth} {folder}"] * 2 if args.depth else []
        for job in jobs:
            print(subprocess.run([sys.executable, __file__, "--one", job], check=True,
                                 capture_output=True, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
