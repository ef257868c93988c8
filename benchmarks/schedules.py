"""Every schedule of every example against the reference evaluator, tensor by tensor.

    python benchmarks/schedules.py [--examples digits,vae] [--rows 3] [--compiled]

Each loss of each network that an example declares is derived and its kernels run at a random point
under every schedule below: on one part and on several (more than there are rows among them), in
blocks of rows and whole, with sums over rows in shares and without, with places used again and
without. The emitted text runs as plain Python, or compiled. Prints a line for each that differs,
with its equations, and one at the end; the exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


import derive as dr
from codegen.loading import run_file
from codegen.memory import Storage
from derive.points import random_values
from derive.program import Program
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.programs import reached

ROOT = Path(__file__).resolve().parent.parent
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


def networks(path: Path) -> Iterator[Program]:
    """The networks that an example declares at its top level."""
    with contextlib.redirect_stdout(io.StringIO()):
        names = run_file(path)
    found = [v for v in names.values() if isinstance(v, dr.Network)]
    make = names.get("network")
    if not found and callable(make) and all(
            p.default is not p.empty for p in inspect.signature(make).parameters.values()):
        found = [make()]
    for net in dict.fromkeys(found):
        if net.program().losses:
            yield net.program()


def losses(program: Program) -> Iterator[tuple[str, Program]]:
    """Each loss of a network with its derived program."""
    for loss in program.losses:
        wrt = program.subjects.get(loss) or reached(program, loss)
        one = with_fixed_parameters(program.only(loss, *program.updates.values()))
        yield loss, dr.derive(replace(one, subjects={}), list(wrt))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", help="names; all by default")
    parser.add_argument("--rows", type=int, default=3, help="what each run-time size is")
    parser.add_argument("--compiled", action="store_true", help="by Numba, not as plain Python")
    args = parser.parse_args()
    wanted = args.examples.split(",") if args.examples else None
    runs = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "examples").glob("*.py")):
            if wanted and path.stem not in wanted:
                continue
            for program in networks(path):
                for loss, derived in losses(program):
                    begun = time.perf_counter()
                    sizes = {s.name: args.rows for s in derived.sizes}
                    values = random_values(derived, 0, sizes)
                    for name, (parts, storage) in SCHEDULES.items():
                        differ = wrong_kernels(derived, values, Path(folder), parts, sizes,
                                               args.compiled, storage)
                        runs, wrong = runs + 1, wrong + bool(differ)
                        for line in differ:
                            print(f"{path.stem}, {loss}, {name}: {line}", flush=True)
                    print(f"{path.stem:22}{loss:12}{len(derived.equations):5} equations "
                          f"{time.perf_counter() - begun:7.1f} s", flush=True)
    print(f"{runs} runs, {wrong} with a tensor that differs")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
