"""Every schedule of every example against the reference evaluator, tensor by tensor.

    python benchmarks/schedules.py [--examples digits,vae] [--rows 3] [--narrow] [--compiled]
    python benchmarks/schedules.py --random 200 [--start 0]

Each loss of each network that an example declares is derived and its kernels run at a random point
under every schedule below: on one part and on several (more than there are rows among them), in
blocks of rows and whole, with sums over rows in shares and without, with places used again and
without. The emitted text runs as plain Python, or compiled; ``--narrow`` gives networks the sizes
with which they run on a simulated GPU (gpu_examples.py), for large ones take hours. Prints a line
for each that differs, with its equations, and one at the end; the exit code is 1 if there is any.

``--random`` does the same with random programs, each under three schedules drawn for it; where
values are so large, or so near each other, that rounding decides, nothing is said.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


import derive as dr
from benchmarks.gpu_examples import declared, names, point
from benchmarks.gpu_threads import drawn
from codegen.memory import Storage
from codegen.rates import WAYS
from derive.points import default_sizes, random_values
from derive.program import Program
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.judge import LARGEST, largest, ties
from tests.programs import reached

DRAWS = 3  # schedules of a random program
Choice = Callable[[Sequence[Any]], Any]
SCHEDULES = {
    "one part, every tensor kept": (1, Storage(reuse=False)),
    "one part": (1, Storage()),
    "one part, blocks of one row, shares": (1, Storage(block=1, shares=True)),
    "two parts, blocks of two rows, no shares": (2, Storage(block=2, shares=False)),
    "three parts, shares": (3, Storage(shares=True)),
    "seven parts": (7, Storage()),
    "three parts, columns": (3, Storage(columns=True)),
    "two parts, windows as products": (2, Storage(windows="product")),
    "two parts, windows direct, every tensor kept": (2, Storage(windows="direct", reuse=False)),
    "three parts, windows direct, shares": (3, Storage(windows="direct", shares=True)),
    "two parts, windows by tiles, every tensor kept": (2, Storage(windows="winograd",
                                                                  reuse=False)),
    "three parts, windows by tiles, blocks of one row": (3, Storage(windows="winograd", block=1)),
}


def schedule_of(choice: Choice) -> tuple[int, Storage]:
    """Parts and storage by whatever takes one of several, such as ``random.choice``."""
    return choice((1, 2, 3, 7)), Storage(
        reuse=choice((True, True, True, False)), block=choice((None, 1, 2, 3)),
        shares=choice((None, True, False)), columns=choice((False, False, True)),
        tiles=choice((None, (1, 1), (2, 3))), windows=choice(WAYS))


def random_schedules(seed: int, folder: Path) -> tuple[int, list[str]]:
    """How many schedules of a random program were tried, and what differed."""
    program = drawn(seed)
    if program is None:
        return 0, []
    sizes, differ = default_sizes(program), []
    values = random_values(program, seed, sizes)
    choice = random.Random(seed).choice
    for _ in range(DRAWS):
        parts, storage = schedule_of(choice)
        wrong = wrong_kernels(program, values, folder, parts, sizes, storage=storage)
        if wrong and largest(program, values, sizes) <= LARGEST:
            unsure = undecided(program, values, sizes)
            differ += [f"seed {seed}, {parts} parts, {storage}: {equation}" for equation in wrong
                       if equation.partition("[")[0] not in unsure]
    return DRAWS, differ


def undecided(program: Program, values: dict[str, Any], sizes: dict[str, int]) -> set[str]:
    """Counts of elements that tie in a max or min, but for rounding, and all that follows."""
    found: set[str] = set()
    for eq in program.equations:
        if not found.isdisjoint(eq.reads) or ties(program, values, sizes, eq.name):
            found.add(eq.name)
    return found


def losses(program: Program) -> Iterator[tuple[str, Program]]:
    """Each loss of a network with its derived program."""
    for loss in program.losses:
        wrt = program.subjects.get(loss) or reached(program, loss)
        one = with_fixed_parameters(program.only(loss, *program.updates.values()))
        yield loss, dr.derive(replace(one, subjects={}), list(wrt))


def of_random_programs(seeds: Sequence[int]) -> int:
    begun, runs, wrong = time.perf_counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            count, differ = random_schedules(seed, Path(folder))
            runs, wrong = runs + count, wrong + bool(differ)
            for line in differ:
                print(line, flush=True)
    print(f"{len(seeds)} programs, seeds {seeds[0]} to {seeds[-1]}: {runs} runs, {wrong} programs "
          f"with a tensor that differs; {time.perf_counter() - begun:.0f} s")
    return int(wrong > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", help="names; all by default")
    parser.add_argument("--rows", type=int, default=3, help="what each run-time size is")
    parser.add_argument("--narrow", action="store_true", help="the networks with small sizes")
    parser.add_argument("--compiled", action="store_true", help="by Numba, not as plain Python")
    parser.add_argument("--random", type=int, metavar="N", help="N random programs instead")
    parser.add_argument("--start", type=int, default=0, help="the first of their seeds")
    args = parser.parse_args()
    if args.random:
        return of_random_programs(range(args.start, args.start + args.random))
    wanted = args.examples.split(",") if args.examples else None
    runs = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for example in names():
            if wanted and example.removesuffix(".py") not in wanted:
                continue
            for title, program in declared(example, args.narrow):
                for loss, derived in losses(program):
                    begun = time.perf_counter()
                    sizes = {s.name: args.rows for s in derived.sizes}
                    values = point(derived, 0, sizes)
                    for name, (parts, storage) in SCHEDULES.items():
                        differ = wrong_kernels(derived, values, Path(folder), parts, sizes,
                                               args.compiled, storage)
                        runs, wrong = runs + 1, wrong + bool(differ)
                        for line in differ:
                            print(f"{title}, {loss}, {name}: {line}", flush=True)
                    print(f"{title:32}{loss:12}{len(derived.equations):5} equations "
                          f"{time.perf_counter() - begun:7.1f} s", flush=True)
    print(f"{runs} runs, {wrong} with a tensor that differs")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
