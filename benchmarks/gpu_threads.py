"""Kernels for a GPU, thread by thread: python benchmarks/gpu_threads.py [--random N] [EXAMPLE …]

Every tensor of every example's module, of its loss and its gradients, against the reference
evaluator in double precision, at small sizes (``--rows``). The launches run as plain Python in
`tests.codegen.blocks`, whose threads and blocks come in several orders (``--orders``: ascending,
descending, then shuffled ones), and which refuses two threads that touch an element with no barrier
between them. Before that `codegen.races` proves of every launch that no two threads meet, whatever
the order (``--proofs``: this alone). ``--shared`` follows all threads of real blocks through shared
memory (`codegen.shared_memory`): what they read there was written before a barrier. ``--random N``
adds N random programs of `tests.programs`.

With NUMBA_ENABLE_CUDASIM=1 in the environment the same modules run in Numba's simulator instead,
once each: it has its own order of threads, and knows of no races. ``--log FILE`` keeps what was
found, and finds it there for a module whose text is the same. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import derive as dr
from benchmarks.gpu_examples import names, point, programs
from codegen.launches import split
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from codegen.races import conflicts, overlaps
from codegen.shared_memory import shared_conflicts
from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.optimizers import sgd
from derive.points import default_sizes
from tests.codegen.blocks import Race, order_threads
from tests.codegen.cuda_support import EVERY, simulated, stepped, wrong_launches
from tests.codegen.support import with_fixed_parameters
from tests.judge import LARGEST, largest, ties
from tests.programs import random_network, reached

ORDERS = 3


def proved(program: dr.Program, shared: bool) -> tuple[int, list[str]]:
    """How many launches there are, and what could not be proved of them: in memory over their
    trees, in ``shared`` memory by following their threads at `codegen.shared_memory.ROWS` rows."""
    made = compile_program(program, dr.adam(), device=True)
    shapes = {n: t.shape for n, t in made.packed.tensors.items()}
    count = 0
    unproved: list[str] = []
    for entry in made.entries.values():
        for kernel in (k for kernels in entry.phases for k in kernels):
            unproved += [f"{kernel.name}: {a} and {b} overlap"
                      for a, b in overlaps(kernel.tensors, entry.plan)]
            for launch in split(kernel, shapes):
                count += 1
                unproved += map(str, conflicts(launch))
    if shared:
        unproved += map(str, shared_conflicts(render_cuda(made)))
    return count, unproved


class Log:
    """Verdicts by module, arguments and seeds, in a file that grows line by line."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[str, str]()
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.known = dict(line.split(" ", 1) for line in lines)

    def __call__(self, program: dr.Program, sizes: dict[str, int], seed: int, orders: int) -> str:
        if self.path is None:
            return verdict(program, sizes, seed, orders)
        compiled = compile_program(program, sgd(), ("gradient",), storage=EVERY, device=True)
        where = os.environ.get("NUMBA_ENABLE_CUDASIM", "0")
        about = f"{render_cuda(compiled, 'float64')} {sizes} {seed} {orders} {where}"
        key = hashlib.sha256(about.encode()).hexdigest()
        if key not in self.known:
            self.known[key] = verdict(program, sizes, seed, orders)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{key} {self.known[key]}\n")
        return self.known[key]


def verdict(program: dr.Program, sizes: dict[str, int], seed: int, orders: int) -> str:
    """"agrees", or what is wrong with a module; -1 orders: its shared memory is followed."""
    count, unproved = proved(program, orders < 0)
    if unproved:
        return f"UNPROVED: {unproved[0]}"
    if orders <= 0:
        return f"agrees: {count} launches {'followed' if orders else 'proved'}"
    values = point(program, seed, sizes)
    numbas = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
    for order in range(1 if numbas else orders):
        order_threads(order)
        with tempfile.TemporaryDirectory() as folder:
            try:
                wrong = wrong_launches(program, values, Path(folder), sizes,
                                       load=simulated if numbas else stepped)
            except Race as race:
                return f"RACE, order {order}: {race}"
        if wrong and (largest(program, values, sizes) > LARGEST
                      or ties(program, values, sizes, wrong[0].partition("[")[0])):
            return "undecided: values so large, or so near each other, that rounding decides"
        if wrong:
            return f"WRONG, order {order}: {wrong[0]}"
    return f"agrees: {count} launches"


def drawn(seed: int) -> dr.Program | None:
    """A random program with its gradients; None where the draw cannot be declared or derived."""
    try:
        program = random_network(random.Random(seed).choice).program()
    except ChainruleError:
        return None
    loss = program.losses[0]
    wanted = reached(program, loss)
    if not wanted:
        return None
    return derive(with_fixed_parameters(program.only(loss, *program.updates.values())), wanted)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--rows", type=int, default=2, help="the value of every run-time size")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--proofs", action="store_const", dest="orders", const=0)
    parser.add_argument("--shared", action="store_const", dest="orders", const=-1)
    parser.add_argument("--log", type=Path, metavar="FILE")
    parser.add_argument("examples", nargs="*", help="all, where neither these nor --random")
    args = parser.parse_args(arguments)
    chosen = args.examples or (() if args.random else names())
    found: list[str] = []
    judged = Log(args.log)
    begun = time.perf_counter()
    for name in chosen:
        for label, program in programs(name, narrow=True):
            start = time.perf_counter()
            said = judged(program, dict.fromkeys(default_sizes(program), args.rows), 3,
                          args.orders)
            found.append(said)
            print(f"{label:36} {said} ({time.perf_counter() - start:.1f} s)", flush=True)
    for seed in range(args.start, args.start + args.random):
        random_program = drawn(seed)
        if random_program is None:
            continue
        found.append(judged(random_program, default_sizes(random_program), seed, args.orders))
        if not found[-1].startswith("agrees"):
            print(f"seed {seed}: {found[-1]}", flush=True)
    counts = {kind: sum(f.startswith(kind) for f in found)
              for kind in ("agrees", "undecided", "WRONG", "RACE", "UNPROVED")}
    print(f"{len(found)} programs: " + ", ".join(f"{n} {kind}" for kind, n in counts.items())
          + f"; {time.perf_counter() - begun:.0f} s")
    return 1 if counts["WRONG"] + counts["RACE"] + counts["UNPROVED"] else 0


if __name__ == "__main__":
    sys.exit(main())
