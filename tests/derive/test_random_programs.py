"""Random programs: the derived gradient against numeric differentiation.

Hypothesis draws a seed and the generator the rest: drawing each choice through Hypothesis shrinks
a failing program, at ten times the time for all others. A seed that fails is run again, and the
program printed, by ``benchmarks/random_programs.py 1 --start SEED``, which runs many more.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import derive as dr
from derive.errors import ChainruleError, DerivationError
from derive.network import Network
from derive.program import Program
from tests.judge import disagreement
from tests.programs import random_network, reached

SEEDS = st.integers(0, 2**32 - 1)


def examples(count: int) -> settings:
    return settings(max_examples=count, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


def drawn(seed: int, quotients: bool = False) -> Program:
    """A random program; what is refused when declared (an element outside its dim) is left out."""
    try:
        program = random_network(random.Random(seed).choice, quotients).program()
    except ChainruleError:
        assume(False)
        raise
    assume(reached(program))
    return program


@pytest.mark.parametrize("part", range(4))  # four parts of 50, for workers side by side; two divide
@examples(50)
@given(SEEDS)
def test_gradients_of_random_programs(part: int, seed: int):
    program = drawn(4 * seed + part, quotients=part >= 2)
    derived = dr.derive(program, reached(program), of=program.losses[0])
    wrong = disagreement(program, derived)
    assert wrong is None, f"{wrong}\n{program}\n\n{derived}"


@examples(25)
@given(SEEDS)
def test_second_derivatives_of_random_programs(seed: int):
    program = drawn(seed, quotients=seed % 2 == 1)
    try:
        product = dr.hessian_vector(program, reached(program)[0], program.losses[0])
    except DerivationError as error:  # a loss that is linear in its first parameter
        assert "does not depend on" in str(error)
        return
    wrong = disagreement(product.only("_along_v"), product, of="_along_v")
    assert wrong is None, f"{wrong}\n{program}\n\n{product}"


@examples(50)
@given(SEEDS)
def test_random_programs_as_text(seed: int):
    program = drawn(seed, quotients=True)
    again = dr.parse_network(dr.write_network(program)).program()
    assert dr.write_network(again) == dr.write_network(program)
    assert [eq.name for eq in again.equations] == [eq.name for eq in program.equations]


def test_the_judge_sees_a_wrong_gradient():
    net = Network("n")
    w = net.parameter("w", 3)
    (i,) = w.indices
    net.loss(dr.sum(w[i] ** 2, i))
    right = dr.derive(net)
    assert disagreement(net.program(), right) is None
    other = Network("n")
    v = other.parameter("w", 3)
    other.loss(dr.sum(v[i] ** 2, i) * 1.001)
    assert disagreement(net.program(), dr.derive(other)) is not None
