"""One thread's matrix products of the emitted kernels beside NumPy's BLAS, in GFLOP/s.

    OPENBLAS_NUM_THREADS=1 python benchmarks/products.py [--seconds 1] [--only fwd-2048,dw-2048]

The shapes are those of two threads' shares of the benchmark's networks: a product with a weight
(m rows of a batch), with a weight transposed, and a weight's gradient (the left factor transposed).
What counts is the least processor time of a run, so that other processes matter little; they
still take memory bandwidth and cache. Each result is compared with float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

import codegen
import derive as dr

# rows, columns, summed elements, whether the left and the right factor are transposed
SHAPES = {
    "fwd-2048": (128, 2048, 2048, False, False), "fwd-784-2048": (128, 2048, 784, False, False),
    "dh-2048": (128, 2048, 2048, False, True), "dw-2048": (1024, 2048, 256, True, False),
    "fwd-784-512": (64, 512, 784, False, False), "dh-512": (64, 512, 512, False, True),
    "dw-784-512": (392, 512, 128, True, False), "fwd-784-256": (64, 256, 784, False, False),
    "fwd-64": (32, 64, 64, False, False), "dh-64": (32, 64, 64, False, True),
    "dw-64": (32, 64, 64, True, False),
}


def emitted() -> Callable[..., Any]:
    """``times`` products in an emitted module's own function."""
    net = dr.Network("a product")
    h = dr.dense(net.input("x", "B", 3), 2)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 2)))
    gemm, one = codegen.compile(dr.derive(net)).kernels.gemm, np.float32(1)

    @numba.njit
    def run(times: int, size: tuple, a: tuple, b: tuple, c: tuple) -> None:
        for _ in range(times):
            gemm(size[0], size[1], size[2], one, a[0], a[1], a[2], b[0], b[1], b[2],
                 np.float32(0), c[0], c[1], c[2])

    return run


def place(matrix: np.ndarray) -> tuple[int, ...]:
    return (matrix.ctypes.data, *(s // 4 for s in matrix.strides))


def least(run: Callable[[], object], seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.thread_time()
        run()
        best = min(best, time.thread_time() - start)
    return best


def random(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix whose first element is the first of a line of the cache, as a model's arrays."""
    flat = np.empty(rows * columns + 16, np.float32)
    first = -flat.ctypes.data // 4 % 16
    matrix = flat[first:first + rows * columns].reshape(rows, columns)
    matrix[...] = rng.standard_normal((rows, columns))
    return matrix


def compared(run: Callable[..., Any], shape: tuple, seconds: float) -> str:
    """One shape: both speeds, and the error of ours."""
    (m, n, k, left, right), rng = shape, np.random.default_rng(0)
    # of a weight's gradient a thread makes half of the rows
    a = random(rng, k, 2 * m)[:, :m].T if left else random(rng, m, k)
    b = random(rng, n, k).T if right else random(rng, k, n)
    c = random(rng, m, n)
    places = [place(x) for x in (a, b, c)]
    run(1, (m, n, k), *places)
    error = np.abs(c - a.astype(float) @ b.astype(float)).max()
    times = max(1, 10**8 // (m * n * k))
    work = 2 * m * n * k * times / 1e9
    own = work / least(lambda: run(times, (m, n, k), *places), seconds)
    other = work / least(lambda: [np.dot(a, b, out=c) for _ in range(times)], seconds)
    return (f"{m:5}×{n:4}×{k:4} {own:7.1f}   numpy {other:7.1f}   error {error:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--only", help="names of shapes; all by default")
    args = parser.parse_args()
    run = emitted()
    for name in args.only.split(",") if args.only else SHAPES:
        print(f"{name:13} {compared(run, SHAPES[name], args.seconds)}", flush=True)


if __name__ == "__main__":
    main()
