"""Random programs on three legs: python benchmarks/random_programs.py 2000 --kernels --second 5

Each program's gradients (of every loss) against numeric differentiation, and with ``--kernels``
every tensor of the emitted module against the reference evaluator: its text as plain Python (for
every program, or for one in so many), and really compiled for some (``--compiled``). ``--second``
adds the product of the Hessian and a vector, for every program or for one in so many, kernels
included.

Prints each that disagrees, with its seed and its equations, what the programs were made of (the
share of them that have each feature), and one line at the end. With ``--log FILE`` a verdict is
kept for each seed, and a second run goes on where the first one stopped; several processes may
each take every n-th seed (``--every N --start K``), and a run over all their logs counts them.
``--quotients`` draws programs that divide as well, which are others for the same seeds.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["SYMPY_CACHE_SIZE"] = "20000"  # with few collections (see `main`) a quarter less time

import derive as dr
from derive.errors import ChainruleError, DerivationError
from derive.points import default_sizes, random_values
from derive.program import Equation
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.judge import LARGEST, Judgement, judge, largest, ties
from tests.programs import features, random_network, reached

AGREES = Judgement("agrees")
VERDICTS = ("agrees", "undecided", "refused", "idle", "wrong", "crash")


@dataclass(frozen=True)
class Legs:
    """What to do with a program besides differentiating it numerically."""

    second: bool = False
    kernels: bool = False
    compiled: bool = False


def drawn(seed: int, quotients: bool = False) -> dr.Program | Judgement:
    """A random program, or "refused" if it cannot be declared (an element that does not exist)."""
    try:
        return random_network(random.Random(seed).choice, quotients).program()
    except ChainruleError as error:
        return Judgement("refused", str(error).splitlines()[0])


def verdict(program: dr.Program, seed: int, legs: Legs, folder: Path) -> Judgement:
    """The worst verdict on a random program; "idle" if no parameter reaches a loss."""
    try:
        found = [one for loss in program.losses
                 for one in _of_loss(program, loss, seed, legs, folder)]
    except TookLongError:
        return Judgement("undecided", f"not judged within {_LIMIT} s")
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
            if largest(derived, values, sizes) > LARGEST:
                return Judgement("undecided", "values so large that rounding decides")
            if ties(derived, values, sizes, wrong[0]):
                return Judgement("undecided", "elements that tie, but for rounding")
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
    parser.add_argument("--every", type=int, default=1, help="distance of the seeds")
    parser.add_argument("--quotients", action="store_true",
                        help="programs that also divide by elements; give them logs of their own")
    parser.add_argument("--second", type=int, nargs="?", const=1, default=0, metavar="EVERY",
                        help="second derivatives too, of one program in so many")
    parser.add_argument("--kernels", type=int, nargs="?", const=1, default=0, metavar="EVERY",
                        help="emitted modules too, of one program in so many")
    parser.add_argument("--compiled", type=int, default=0, metavar="M",
                        help="how many modules are compiled by Numba")
    parser.add_argument("--log", type=Path, nargs="+", default=[],
                        help="verdicts are kept in the first of these, known ones read from all")
    return parser.parse_args()


@dataclass(frozen=True)
class Row:
    """What is known of a seed: its verdict, its legs, and what the program is made of."""

    verdict: str
    legs: Legs
    made_of: frozenset[str]
    note: str = ""

    def line(self, seed: int) -> str:
        legs = "".join("-+"[on] for on in (self.legs.second, self.legs.kernels,
                                            self.legs.compiled))
        made = ",".join(sorted(self.made_of)) or "-"
        return f"{seed} {self.verdict} {legs} {made} {' '.join(self.note.split())[:100]}\n"

    @classmethod
    def read(cls, line: str) -> tuple[int, Row]:
        seed, verdict, legs, made, *note = line.split()
        return int(seed), cls(verdict, Legs(*(one == "+" for one in legs)),
                              frozenset(made.split(",")), " ".join(note))


_LIMIT = 60  # seconds for one program: a product over thousands of elements, at 50 digits


class TookLongError(Exception):
    """A program was not judged in time."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """`TookLongError` inside the block after so many seconds."""
    def stop(*_: object) -> None:
        raise TookLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(seed: int, legs: Legs, quotients: bool = False) -> Row:
    program = drawn(seed, quotients)
    if isinstance(program, Judgement):
        return Row(program.verdict, Legs(), frozenset(), program.note)
    with tempfile.TemporaryDirectory() as folder, limited(_LIMIT):
        one = verdict(program, seed, legs, Path(folder))
    if one.verdict in ("wrong", "crash"):
        print(f"seed {seed}: {one.verdict}: {one.note}\n", flush=True)
    done = legs if one.verdict != "idle" else Legs()
    return Row(one.verdict, done, features(program), one.note)


def main() -> int:
    args = _arguments()
    gc.set_threshold(50_000, 50, 50)
    known = dict(Row.read(line) for log in args.log if log.exists()
                 for line in log.read_text().splitlines())
    begun, seconds = time.time(), time.process_time()
    seeds = range(args.start, args.start + args.count * args.every, args.every)
    apart = args.count // args.compiled if args.compiled else 0
    for number, seed in enumerate(seeds):
        if seed in known:
            continue
        compiled = bool(apart) and number % apart == 0
        known[seed] = judged(seed, Legs(
            bool(args.second) and number % args.second == 0,
            compiled or (bool(args.kernels) and number % args.kernels == 0), compiled),
            args.quotients)
        if args.log:
            with args.log[0].open("a") as log:
                log.write(known[seed].line(seed))
    rows = [known[seed] for seed in seeds]
    print(summary(rows))
    print(f"{args.count} programs, seeds {seeds[0]} to {seeds[-1]}: "
          + ", ".join(f"{sum(row.verdict == v for row in rows)} {v}" for v in VERDICTS)
          + f"; {time.time() - begun:.0f} s, {time.process_time() - seconds:.0f} s of one core")
    return 1 if any(row.verdict in ("wrong", "crash") for row in rows) else 0


def summary(rows: list[Row]) -> str:
    """How many programs went which leg, and the share that has each feature."""
    there = [row for row in rows if row.verdict not in ("refused", "idle")]
    legs = {"numeric differentiation": len(there),
            "second, where there are": sum(row.legs.second for row in there),
            "kernels as plain Python": sum(row.legs.kernels for row in there),
            "kernels compiled": sum(row.legs.compiled for row in there)}
    counts = Counter(name for row in there for name in row.made_of)
    return "\n".join([*(f"{name:<26}{count:>7}" for name, count in legs.items()), "",
                      *(f"{name:<26}{count:>7}{count / len(there):>7.1%}"
                        for name, count in counts.most_common())])


if __name__ == "__main__":
    sys.exit(main())
