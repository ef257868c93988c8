"""Measuring how sums over windows are computed fastest on this machine.

`measured_rates` takes the rates of the cost model (rates.py) from a few small kernels; `tuned`
measures each equation of a program that has several ways, alone, on its own sizes and one thread,
and keeps the fastest. Both are kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from codegen.memory import Storage
from codegen.module import cache_folder, load, render
from codegen.pack import Packing
from codegen.pipeline import compile_program
from codegen.rates import RATES, Kept, Rates, read_kept, write_kept
from codegen.taps import single_taps
from codegen.winograd import CALL, SIZE, STEP
from derive.layers import convolution, dense
from derive.network import Network
from derive.nodes import IntegerAccess, accesses
from derive.optimizers import sgd
from derive.program import Equation, Program, Tensor

BUDGET = 300.0  # seconds, compiling included
ROWS = 64  # of the batch, so that the call itself does not count
REPEATS = 7
Report = Callable[[str], object]


def tuned(program: Program, storage: Storage, dtype: str = "float32",
          directory: str | Path | None = None, budget: float = BUDGET,
          report: Report = lambda line: None) -> Storage:
    """The storage with the fastest way for each sum over windows of a derived program.

    What was measured before is not measured again. After ``budget`` seconds what is left goes by
    the predicted time.

    Raises:
        MissingError: the cache folder cannot be made or written.
        DataError: what is kept there cannot be read or written.
    """
    folder = cache_folder(directory)
    begun, kept = time.perf_counter(), read_kept(folder)
    rates = kept.rates or measured_rates(folder)
    ways, chosen = dict(kept.ways), []
    packing = Packing(single_taps(program), rates=rates)
    packing.run()
    for name in packing.chosen:
        eq = packing.program[name]
        key = _key(eq, packing.program, dtype)
        if key not in ways:
            if time.perf_counter() - begun > budget:
                report(f"{name}: not measured, {budget:g} s are over")
                continue
            times = {way: seconds(packing.program, eq, way, dtype, folder)
                     for way in sorted(packing.possible[name])}
            ways[key] = min(times, key=lambda way: times[way])
            report(f"{name}: " + ", ".join(f"{way} {t*1e6:.1f} µs a row"
                                           for way, t in times.items()))
        chosen.append((name, ways[key]))
    write_kept(folder, Kept(rates, ways))
    return replace(storage, rates=rates, windows=tuple(chosen) or "auto")


def _key(eq: Equation, program: Program, dtype: str) -> str:
    """What an equation's time depends on: the equation with its sizes."""
    shapes = {n: tuple(map(str, program.tensors[n].shape)) for n in (*eq.reads, eq.name)}
    return hashlib.sha256(f"{eq} {shapes} {dtype}".encode()).hexdigest()[:16]


def seconds(program: Program, eq: Equation, way: str, dtype: str, folder: Path) -> float:
    """The least time of a row of an equation computed alone that way, of a few runs on one
    thread."""
    whole = {a.name for a in accesses(eq.body) if isinstance(a, IntegerAccess)}
    given = {n: Tensor(n, program.tensors[n].indices, role="input",
                       dtype="int" if n in whole else program.tensors[n].dtype)
             for n in eq.reads}
    tensor = Tensor(eq.name, eq.tensor.indices)
    alone = replace(program, tensors={**given, eq.name: tensor},
                    equations=(replace(eq, tensor=tensor),), losses=(), gradients={}, updates={},
                    jacobians={}, subjects={}, steps=())
    made = compile_program(alone, sgd(), ("forward",), (eq.name,), Storage(windows=way))
    model = load(render(made, dtype, False, cache=True), folder).Model()
    rng = np.random.default_rng(0)
    values = {n: rng.standard_normal([int(s) if s.is_Integer else ROWS for s in t.shape])
              .astype(model.p.dtype) for n, t in given.items()}
    model.forward(**values)
    best = float("inf")
    for _ in range(REPEATS):
        begun, turns = time.perf_counter(), 0
        while turns < 3 or time.perf_counter() - begun < 0.02:
            model.forward(**values)
            turns += 1
        best = min(best, (time.perf_counter() - begun)/turns)
    return best/ROWS


def measured_rates(folder: Path) -> Rates:
    """The rates of this machine, from a product, a convolution each way, and a copy."""
    size, low, high, kernel = 14, 16, 32, 3

    def each(net: Network, name: str, way: str) -> float:
        program = net.program()
        return seconds(program, program[name], way, "float32", folder)*1e9

    plain = Network("product")
    dense(plain.input("x", "B", 512), 512, bias=False)
    product = each(plain, "z1", "product")/512**2
    windows = Network("windows")
    convolution(windows.input("x", "B", low, size + 2, size + 2), high, kernel, bias=False)
    work, patches = size**2*high*low*kernel**2, size**2*low*kernel**2
    direct = each(windows, "y1", "direct")/work
    patch = (each(windows, "y1", "product") - work*product)/patches
    copied = Network("copy")
    x = copied.input("x", "B", 64, 128)
    b, i, j = x.indices
    copied.define("y", (b, j, i), x[b, i, j] + 1)
    border = each(copied, "y", "auto")/(64*128)
    tiles = (SIZE*size//STEP)**2
    beside = tiles*low*high*product + border*((size + 2)**2*low + size**2*high) + CALL*SIZE**2
    transform = (each(windows, "y1", "winograd") - beside)/(tiles*(low + high))
    slower = product/RATES.product

    def sure(difference: float, stated: float) -> float:
        """A difference of times, which is nothing on a busy machine: then the stated proportion
        stands."""
        return difference if difference > stated*slower/10 else stated*slower

    patch = sure(patch, RATES.patch)
    return Rates(product=product, direct=direct, patch=patch,
                 partial=patch*RATES.partial/RATES.patch, border=border,
                 transform=sure(transform, RATES.transform))
