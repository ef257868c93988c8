"""Kernels of random networks against the reference evaluator: every tensor, in one or three parts.

The networks hold what few people write: accesses that leave their bounds, quotients, remainders,
gathers inside gathers, every reduction, recurrences in both directions, random numbers. Their
schedules are drawn as well. More of them run in ``benchmarks/random_programs.py --kernels``.
"""

from __future__ import annotations

import random

import numba
import numpy as np
import pytest

from codegen import scalars
from codegen.memory import Storage
from derive.randomness import GOLDEN, MASK, mix
from tests.codegen.support import drawn, wrong_kernels


# 40 asks for bounds behind what they guard, 418 has loops that no value of an index enters
@pytest.mark.parametrize("seed", [*range(12), 40, 418])
def test_random_networks(seed, tmp_path):
    derived, values, sizes = drawn(seed)
    draw = random.Random(seed).choice
    for parts in (1, 3):
        assert not wrong_kernels(derived, values, tmp_path, parts, sizes)
        storage = Storage(block=draw((None, 1, 2, 3)), shares=draw((True, False)),
                          columns=draw((False, True)))
        assert not wrong_kernels(derived, values, tmp_path, draw((1, 2, 3, 5)), sizes,
                                 storage=storage)


@pytest.mark.parametrize("compiled", [False, True])
def test_whole_numbers_are_folded_as_the_reference_does_negative_ones_too(compiled):
    # what a guard leaves out is computed all the same: NumPy refuses -2 as an unsigned number
    names = {"np": np, "kernel": numba.njit if compiled else lambda function: function}
    exec(scalars.RANDOM, names)
    for number in (-2, 0, 7, 2**31, 2**40 + 3):
        want = mix((3 ^ (number & MASK)) + GOLDEN & MASK)
        with np.errstate(over="ignore"):
            assert int(names["mix"](np.uint64(3), number)) == want, number
