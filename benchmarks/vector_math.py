"""The vector mathematics of emitted kernels: where its polynomials come from, and how exact it is.

    python benchmarks/vector_math.py [--every 1]     error over single-precision numbers, speed
    python benchmarks/vector_math.py --fit           the interpolating polynomials

With ``--every 1`` all 2**32 numbers are tried.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable

import mpmath as mp
import numpy as np
import scipy.special
import sympy
from numba import njit
from sympy.codegen.cfunctions import expm1, log1p

import codegen
import derive as dr
from codegen.vector_math import ERFC_SCALE

# by the name in a module: the function declared, the library's for scalars, and the exact one
FUNCTIONS: dict[str, tuple[Callable, Callable, Callable]] = {
    "fast_exp": (sympy.exp, np.exp, np.exp), "fast_expm1": (expm1, np.expm1, np.expm1),
    "fast_log": (sympy.log, np.log, np.log), "fast_log1p": (log1p, np.log1p, np.log1p),
    "fast_tanh": (sympy.tanh, np.tanh, np.tanh),
    "fast_erf": (sympy.erf, math.erf, scipy.special.erf),
    "fast_erfc": (sympy.erfc, math.erfc, scipy.special.erfc),
}


def interpolate(f: Callable, low: float, high: float, degree: int) -> list[str]:
    """Coefficients, lowest power first, of the polynomial that meets f at Chebyshev nodes."""
    mp.mp.dps = 40
    low, high = mp.mpf(low), mp.mpf(high)
    count = degree + 1
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * count))
             for k in range(count)]
    powers = mp.matrix(count, count)
    for row, x in enumerate(nodes):
        for column in range(count):
            powers[row, column] = x**column
    solved = mp.lu_solve(powers, mp.matrix([f(x) for x in nodes]))
    return [mp.nstr(solved[n], 12) for n in range(count)]


def fits() -> dict[str, list[str]]:
    """The polynomials of `codegen.vector_math`."""
    mp.mp.dps = 40
    half = mp.log(2) / 2

    scale = 1 / mp.mpf(float(np.float32(1 / ERFC_SCALE)))

    def scaled(s: mp.mpf) -> mp.mpf:
        t = s + 0.5
        y = scale * (1 / t - 1)
        return mp.erfc(y) * mp.exp(y * y) / t

    return {
        "EXP": interpolate(lambda r: (mp.exp(r) - 1 - r) / r**2, -half, half, 5),
        "TANH": interpolate(lambda z: (mp.tanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, 0, 0.36, 5),
        "LOG": interpolate(lambda f: (mp.log(1 + f) - f + f * f / 2) / f**3,
                           mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, 8),
        "ERF": interpolate(lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z), 0, 1, 6),
        "ERF_FAR": interpolate(lambda a: mp.log(mp.erfc(a)), 1, 4, 7),
        "ERFC": interpolate(scaled, 1 / (1 + 10.5 / scale) - 0.5, 0.5, 10),
    }


def functions() -> dict[str, Callable]:
    """The functions as a module has them."""
    net = dr.Network("vector mathematics")
    i = dr.indices("i:5")
    x = net.parameter("x", i)[i]
    net.loss(dr.sum(sum(f(x) for f, _, _ in FUNCTIONS.values()), i))
    kernels = sys.modules[type(codegen.compile(dr.derive(net))._run).__module__]
    return {name: getattr(kernels, name) for name in FUNCTIONS}


def largest_error(name: str, function: Callable, every: int) -> tuple[float, float]:
    """The largest error in units in the last place, and where it is."""

    @njit
    def run(values: np.ndarray, out: np.ndarray) -> None:
        for i in range(values.size):
            out[i] = function(values[i])

    worst, at = 0.0, 0.0
    block = 1 << 22
    for first in range(0, 2**32, block * every):
        bits = np.arange(first, min(first + block * every, 2**32), every, dtype=np.uint64)
        values = bits.astype(np.uint32).view(np.float32)
        out = np.empty_like(values)
        run(values, out)
        with np.errstate(all="ignore"):
            right = FUNCTIONS[name][2](values.astype(np.float64))
            single = right.astype(np.float32)
            odd = ~np.isfinite(single)
            same = (out[odd] == single[odd]) | (np.isnan(out[odd]) & np.isnan(single[odd]))
            if not same.all():
                return float("inf"), float(values[odd][~same][0])
            error = np.abs(out - right)[~odd] / np.spacing(np.abs(single[~odd]))
        if error.size and error.max() > worst:
            worst, at = float(error.max()), float(values[~odd][error.argmax()])
    return worst, at


def nanoseconds(function: Callable, library: Callable) -> tuple[float, float]:
    """Time for one value in a loop over 4096, of the function and of the library's."""
    values = np.random.default_rng(0).random(4096).astype(np.float32) * 4
    out = np.empty_like(values)

    def timed(call: Callable) -> float:
        @njit(error_model="numpy")  # the function is fixed: through an argument no loop has vectors
        def run(values: np.ndarray, out: np.ndarray) -> None:
            for i in range(values.size):
                out[i] = call(values[i])

        run(values, out)
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(50):
                run(values, out)
            best = min(best, time.perf_counter() - start)
        return best / 50 / values.size * 1e9

    return timed(function), timed(library)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--every", type=int, default=257)
    args = parser.parse_args()
    if args.fit:
        for name, coefficients in fits().items():
            print(f"{name} = ({', '.join(coefficients)})")
        return
    print(f"{'':10} {'ns':>6} {'library':>8}   largest error (ulp)")
    for name, function in functions().items():
        own, library = nanoseconds(function, FUNCTIONS[name][1])
        error, at = largest_error(name, function, args.every)
        print(f"{name:10} {own:6.2f} {library:8.2f}   {error:.2f} at {at!r}", flush=True)


if __name__ == "__main__":
    main()
