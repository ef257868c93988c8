"""Kernels of random networks against the reference evaluator: every tensor, in one or three parts.

The networks hold what few people write: accesses that leave their bounds, quotients, remainders,
gathers inside gathers, every reduction, recurrences in both directions, random numbers. More of
them run in ``benchmarks/random_programs.py --kernels``.
"""

from __future__ import annotations

import random

import pytest

import derive as dr
from derive.errors import ChainruleError
from derive.points import default_sizes, random_values
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.programs import random_network, reached


# 40 asks for bounds behind what they guard, 418 has loops that no value of an index enters
@pytest.mark.parametrize("seed", [*range(12), 40, 418])
def test_random_networks(seed, tmp_path):
    try:
        program = random_network(random.Random(seed).choice).program()
    except ChainruleError:
        pytest.skip("the generator drew what a declaration refuses")
    loss = program.losses[0]
    if not reached(program, loss):
        pytest.skip("the loss reaches no parameter")
    one = program.only(loss, *program.updates.values())
    derived = dr.derive(with_fixed_parameters(one), reached(program, loss))
    sizes = default_sizes(derived)
    values = random_values(derived, seed, sizes)
    for parts in (1, 3):
        assert not wrong_kernels(derived, values, tmp_path, parts, sizes)
