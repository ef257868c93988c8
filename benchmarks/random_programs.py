"""Random programs against numeric differentiation: python benchmarks/random_programs.py 2000

Prints how many agreed, how many could not be declared or derived (with the error), and each that
disagreed, with its equations and its seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import derive as dr
from derive.errors import ChainruleError
from tests.programs import disagreement, random_network, reached


def judge(seed: int, second: bool) -> tuple[str, str]:
    """"agrees", "refused" or "WRONG", and what to say about it."""
    try:
        program = random_network(random.Random(seed).choice).program()
        wrt = reached(program)
        if not wrt:
            return "refused", "no parameter is reached"
        derived = dr.derive(program, wrt)
        wrong = disagreement(program, derived, seed)
        if wrong is None and second:
            wrong = _second(program, wrt[0], seed)
    except ChainruleError as error:
        return "refused", str(error).splitlines()[0]
    if wrong:
        return "WRONG", f"{wrong}\n{program}\n  derived:\n{derived}"
    return "agrees", ""


def _second(program: dr.Program, name: str, seed: int) -> str | None:
    """The product of the Hessian and a vector: the gradient of what is itself a gradient."""
    product = dr.hessian_vector(program, name)
    along = "_along_v"
    return disagreement(product.only(along), product, seed, of=along, directions=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--second", action="store_true", help="second derivatives too")
    args = parser.parse_args()
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    start = time.time()
    for number, seed in enumerate(range(args.first, args.first + args.count), start=1):
        try:
            verdict, note = judge(seed, args.second)
        except Exception as error:  # anything else is a mistake of ours: report it with its seed
            verdict, note = "CRASH", f"{type(error).__name__}: {error}"
        found[verdict] += 1
        if verdict in ("WRONG", "CRASH"):
            print(f"seed {seed}: {verdict} {note}\n", flush=True)
        elif verdict == "refused":
            reasons[note[:100]] += 1
        if number % 200 == 0:
            print(f"{number}: {dict(found)} in {time.time() - start:.0f} s", flush=True)
    print(f"{args.count} programs: {dict(found)} in {time.time() - start:.0f} s")
    for reason, times in reasons.most_common(10):
        print(f"  {times} refused: {reason}")
    return 1 if found["WRONG"] or found["CRASH"] else 0


if __name__ == "__main__":
    sys.exit(main())
