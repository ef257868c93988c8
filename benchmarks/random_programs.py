"""Random programs on three legs: python benchmarks/random_programs.py 2000 --kernels --second 5

Each program's gradients (of every loss) against numeric differentiation, and with ``--kernels``
every tensor of the emitted module against the reference evaluator: its text as plain Python for
each program, and really compiled for some (``--compiled``). ``--second`` adds the product of the
Hessian and a vector, for every program or for one in so many, kernels included.

Prints each that disagrees, with its seed and its equations, and one line at the end. With ``--log
FILE`` a verdict is kept for each seed, and a second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import derive as dr
from derive.errors import ChainruleError, DerivationError
from derive.points import default_sizes, random_values
from derive.program import Equation
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.judge import Judgement, judge
from tests.programs import random_network, reached

AGREES = Judgement("agrees")
VERDICTS = ("agrees", "undecided", "refused", "idle", "wrong", "crash")


@dataclass(frozen=True)
class Legs:
    """What to do with a program besides differentiating it numerically."""

    second: bool = False
    kernels: bool = False
    compiled: bool = False


def verdict(seed: int, legs: Legs, folder: Path) -> Judgement:
    """The worst verdict on a random program; "refused" if it cannot be declared (an element that
    does not exist), "idle" if no parameter reaches a loss."""
    try:
        program = random_network(random.Random(seed).choice).program()
    except ChainruleError as error:
        return Judgement("refused", str(error).splitlines()[0])
    try:
        found = [one for loss in program.losses
                 for one in _of_loss(program, loss, seed, legs, folder)]
    except Exception as error:  # a mistake of ours, whatever it is: report it with its seed
        first = str(error).splitlines()[:1]
        return Judgement("crash", f"{type(error).__name__}: {' '.join(first)}\n{program}")
    return max(found, key=lambda one: VERDICTS.index(one.verdict), default=Judgement("idle"))


def _of_loss(program: dr.Program, loss: str, seed: int, legs: Legs,
             folder: Path) -> Iterator[Judgement]:
    wrt = reached(program, loss)
    if not wrt:
        return
    one = with_fixed_parameters(program.only(loss, *program.updates.values()))
    derived = dr.derive(one, wrt)
    sizes = dict(zip(default_sizes(derived), random.Random(seed).sample((1, 2, 3, 5), 2),
                     strict=False))
    yield _judged(one, derived, seed, loss, sizes)
    if legs.kernels:
        yield _kernels(derived, seed, sizes, legs, folder)
    if legs.second:
        try:
            product = dr.hessian_vector(one, wrt[0], loss)
        except DerivationError:  # the loss is linear in it
            return
        yield _judged(product.only("_along_v"), product, seed, "_along_v", sizes)
        if legs.kernels:
            yield _kernels(product, seed, sizes, legs, folder)


def _judged(program: dr.Program, derived: dr.Program, seed: int, of: str,
            sizes: dict[str, int]) -> Judgement:
    found = judge(program, derived, seed, of, sizes)
    if found.verdict != "wrong":
        return found
    return Judgement("wrong", f"{found.note}\n{program}\n  derived:\n{derived}")


def _kernels(derived: dr.Program, seed: int, sizes: dict[str, int], legs: Legs,
             folder: Path) -> Judgement:
    values, parts = random_values(derived, seed, sizes), 1 + 2 * (seed % 2)
    for compiled in (False, True)[: 1 + legs.compiled]:
        with without_formulas():
            wrong = wrong_kernels(derived, values, folder, parts, sizes, compiled)
        if wrong:
            how = "compiled" if compiled else "in plain Python"
            return Judgement("wrong", f"the kernel of {wrong[0]}, {how}, sizes {sizes}\n{derived}")
    return AGREES


@contextmanager
def without_formulas() -> Iterator[None]:
    """Equations print as their names: a third of the time of emission goes into comments."""
    whole = Equation.__str__
    Equation.__str__ = lambda equation: equation.name  # type: ignore[method-assign]
    try:
        yield
    finally:
        Equation.__str__ = whole  # type: ignore[method-assign]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--second", type=int, nargs="?", const=1, default=0, metavar="EVERY",
                        help="second derivatives too, of one program in so many")
    parser.add_argument("--kernels", action="store_true", help="emitted modules too")
    parser.add_argument("--compiled", type=int, default=0, metavar="M",
                        help="how many modules are compiled by Numba")
    parser.add_argument("--log", type=Path, help="keep verdicts here, and go on from them")
    return parser.parse_args()


def main() -> int:
    args = _arguments()
    known: dict[int, str] = {}
    if args.log and args.log.exists():
        rows = (line.split() for line in args.log.read_text().splitlines())
        known = {int(row[0]): row[1] for row in rows}
    begun, seconds = time.time(), time.process_time()
    seeds = range(args.start, args.start + args.count)
    apart = args.count // args.compiled if args.compiled else 0
    for seed in seeds:
        if seed in known:
            continue
        legs = Legs(bool(args.second) and seed % args.second == 0, args.kernels,
                    bool(apart) and seed % apart == 0)
        folder = Path(tempfile.mkdtemp())
        one = verdict(seed, legs, folder)
        shutil.rmtree(folder)
        known[seed] = one.verdict
        if one.verdict in ("wrong", "crash"):
            print(f"seed {seed}: {one.verdict}: {one.note}\n", flush=True)
        if args.log:
            with args.log.open("a") as log:
                log.write(f"{seed} {one.verdict} {legs.compiled:d} {legs.second:d} "
                          f"{' '.join(one.note.split())[:100]}\n")
    found = Counter(known[seed] for seed in seeds)
    print(f"{args.count} programs, seeds {seeds.start} to {seeds.stop - 1}: "
          + ", ".join(f"{found[v]} {v}" for v in VERDICTS)
          + f"; {time.time() - begun:.0f} s, {time.process_time() - seconds:.0f} s of one core")
    return 1 if found["wrong"] or found["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
