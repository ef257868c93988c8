"""One thread's matrix products of the emitted kernels beside NumPy's BLAS, in GFLOP/s.

    OPENBLAS_NUM_THREADS=1 python benchmarks/products.py [--seconds 1] [--only fwd-2048,dw-2048]
    python benchmarks/products.py --small [--rows 32] [--dtype float64]

The shapes are those of two threads' shares of the benchmark's networks: a product with a weight
(m rows of a batch), with a weight transposed, and a weight's gradient (the left factor transposed).
What counts is the least processor time of a run, so that other processes matter little; they
still take memory bandwidth and cache. Each result is compared with float64.

``--small``: nanoseconds of a call of the general product, and of the loops with constant bounds
that small products are instead (codegen/small.py): with a weight, with a weight transposed, and
the weight's gradient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from typing import Any

import numba
import numpy as np

import codegen
import derive as dr
from codegen.small import Small

# rows, columns, summed elements, whether the left and the right factor are transposed
SHAPES = {
    "fwd-2048": (128, 2048, 2048, False, False), "fwd-784-2048": (128, 2048, 784, False, False),
    "dh-2048": (128, 2048, 2048, False, True), "dw-2048": (1024, 2048, 256, True, False),
    "fwd-784-512": (64, 512, 784, False, False), "dh-512": (64, 512, 512, False, True),
    "dw-784-512": (392, 512, 128, True, False), "fwd-784-256": (64, 256, 784, False, False),
    "fwd-64": (32, 64, 64, False, False), "dh-64": (32, 64, 64, False, True),
    "dw-64": (32, 64, 64, True, False),
}


SIZES = [(1, 1), (3, 1), (1, 3), (3, 3), (8, 3), (8, 8), (10, 10), (16, 16), (32, 10), (10, 32),
         (32, 32), (64, 10), (64, 32), (64, 64), (128, 32), (96, 96), (128, 64), (128, 128)]


def module(layer: tuple[int, int], dtype: str) -> Any:
    """An emitted module of one dense layer."""
    net = dr.Network("a product")
    h = dr.dense(net.input("x", "B", layer[0]), layer[1])
    net.loss(dr.mean_squared_error(h, net.input("t", "B", layer[1])))
    return codegen.compile(dr.derive(net), dtype=dtype).kernels


def emitted(dtype: str = "float32") -> Callable[..., Any]:
    """``times`` products in an emitted module's own function."""
    kernels = module((512, 64), dtype)
    gemm, one, zero = kernels.gemm, kernels.F(1), kernels.F(0)

    @numba.njit
    def run(times: int, size: tuple, a: tuple, b: tuple, c: tuple) -> None:
        for _ in range(times):
            gemm(size[0], size[1], size[2], one, a[0], a[1], a[2], b[0], b[1], b[2],
                 zero, c[0], c[1], c[2])

    return run


def constant(kernels: Any, told: Small) -> Callable[..., Any]:
    """``times`` products by loops with constant bounds, as an emitted module has them."""
    made, one = kernels._small(*astuple(told)), kernels.F(1)

    @numba.cfunc(kernels._SMALL, **{**kernels.OPTIONS, "cache": False})
    def called(rows, deep, target, left, right, alpha):  # type: ignore[no-untyped-def]
        made(rows, deep, target, left, right, alpha)

    product = kernels._symbol(f"small_{len(KEPT)}", called, kernels._SMALL)
    KEPT.append(called)  # which is called by its address

    @numba.njit
    def run(times: int, size: tuple, a: tuple, b: tuple, c: tuple) -> None:
        for _ in range(times):
            product(size[0], size[2], c[0], a[0], b[0], one)

    return run


KEPT: list[Any] = []


def place(matrix: np.ndarray) -> tuple[int, ...]:
    return (matrix.ctypes.data, *(s // matrix.itemsize for s in matrix.strides))


def least(run: Callable[[], object], seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.thread_time()
        run()
        best = min(best, time.thread_time() - start)
    return best


def random(rng: np.random.Generator, rows: int, columns: int, dtype: str = "float32"
           ) -> np.ndarray:
    """A matrix whose first element is the first of a line of the cache, as a model's arrays."""
    flat = np.empty(rows * columns + 16, dtype)
    first = -flat.ctypes.data // flat.itemsize % (64 // flat.itemsize)
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


def both_ways(kernels: Any, general: Callable[..., Any], a: np.ndarray, b: np.ndarray,
              summed: bool, seconds: float) -> str:
    """Nanoseconds of a product by the general one, and by loops with constant bounds; ``summed``:
    its summed elements are not constant but its rows are."""
    (m, k), n, kind = a.shape, b.shape[1], a.dtype.name
    c = random(np.random.default_rng(0), m, n, kind)
    places = [place(each) for each in (a, b, c)]
    inner, height = (None, m) if summed else (k, None)
    told = Small(n, inner, height, 1, n, places[0][1:], places[1][1:], 0)
    ways = [partial(run, max(1, 10**6 // (m * n * k + 10_000)), (m, n, k), *places)
            for run in (general, constant(kernels, told))]
    for way in ways:
        way()
        assert np.allclose(c, a.astype(float) @ b.astype(float), atol=1e-3)
    found = [least(way, seconds / 3) / way.args[0] * 1e9 for way in ways * 3]
    return f"{min(found[::2]):8.0f} {min(found[1::2]):6.0f}"


def small_table(rows: int, dtype: str, seconds: float) -> None:
    """Both ways for small sizes, each kind of product."""
    rng, kernels, general = np.random.default_rng(0), module((3, 2), dtype), emitted(dtype)
    print("summed×columns, ns: with a weight, with it transposed, its gradient")
    for inner, columns in SIZES:
        x, w, dz = (random(rng, *shape, dtype) for shape in (
            (rows, inner), (inner, columns), (rows, columns)))
        print(f"{inner:4}×{columns:<4}", *(
            both_ways(kernels, general, a, b, b is dz, seconds)
            for a, b in ((x, w), (dz, w.T), (x.T, dz))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--only", help="names of shapes; all by default")
    parser.add_argument("--small", action="store_true", help="loops with constant bounds")
    parser.add_argument("--rows", type=int, default=32, help="of --small")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"),
                        help="of --small")
    args = parser.parse_args()
    if args.small:
        return small_table(args.rows, args.dtype, args.seconds)
    run = emitted()
    for name in args.only.split(",") if args.only else SHAPES:
        print(f"{name:13} {compared(run, SHAPES[name], args.seconds)}", flush=True)


if __name__ == "__main__":
    main()
