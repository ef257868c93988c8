"""Kernels of random networks against the reference evaluator: every tensor, in one or three parts.

The networks hold what few people write: accesses that leave their bounds, quotients, remainders,
gathers inside gathers, every reduction, recurrences in both directions, random numbers. Their
schedules are drawn as well. More of them run in ``benchmarks/random_programs.py --kernels``.
"""

from __future__ import annotations

import random

import pytest

from codegen.memory import Storage
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
