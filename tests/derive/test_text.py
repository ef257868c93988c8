"""Equations as one line of text: order for readers, nothing ambiguous, ASCII only."""

from __future__ import annotations

import random

import numpy as np
import pytest

import derive as dr
from derive.nodes import Index, Reduction, bound_indices
from derive.notate import number_text, statement
from derive.points import default_sizes, random_values
from derive.reference import evaluate
from tests.networks import NETWORKS
from tests.notation_values import Values, number
from tests.programs import random_network, reached


def line(build) -> str:
    net = dr.Network("line")
    b, i, j = dr.indices("b:B i:3 j:5")
    x, w, c = net.input("x", b, i), net.parameter("W", i, j), net.parameter("c", j)
    return str(net.define("z", (b, j), build(x, w, c, b, i, j)).network.program()["z"])


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda x, w, c, b, i, j: dr.sum(w[i, j] * x[b, i], i) + c[j],
         "z[b, j] = sum over i of ( x[b, i] * W[i, j] ) + c[j]"),
        (lambda x, w, c, b, i, j: -c[j] + 1,
         "z[b, j] = 1 - c[j]"),
        (lambda x, w, c, b, i, j: c[j] / 2 - dr.sum(x[b, i], i) / 3,
         "z[b, j] = -1/3 * sum over i of ( x[b, i] ) + c[j]/2"),
        (lambda x, w, c, b, i, j: 0.044715 * c[j] ** 3,
         "z[b, j] = 0.044715 * c[j]**3"),
        (lambda x, w, c, b, i, j: dr.exp(-c[j]) / (1 + dr.exp(c[j])),
         "z[b, j] = exp(-c[j])/(1 + exp(c[j]))"),
        (lambda x, w, c, b, i, j: dr.where(c[j] > 0, c[j], 0),
         "z[b, j] = c[j] if c[j] > 0 else 0"),
        (lambda x, w, c, b, i, j: 2 * dr.where(c[j] > 0, c[j], 1) + 1,
         "z[b, j] = 1 + 2 * (c[j] if c[j] > 0 else 1)"),
        (lambda x, w, c, b, i, j: dr.max(x[b, i] * w[i, j], i) * c[j],
         "z[b, j] = c[j] * max over i of ( x[b, i] * W[i, j] )"),
        (lambda x, w, c, b, i, j: (c[j] ** 2) ** 0.5 + dr.sqrt(c[j]),
         "z[b, j] = abs(c[j]) + sqrt(c[j])"),
    ],
)  # fmt: skip
def test_a_line_reads_as_people_write(build, text):
    made = line(build)
    if "abs(" in text:  # SymPy's own rewriting of a square root of a square
        made = made.replace("Abs(", "abs(")
    assert made == text


def test_a_number_is_a_decimal_where_it_was_written_as_one():
    from sympy import Rational

    assert number_text(Rational(1, 10)) == "0.1"
    assert number_text(Rational(8943, 200000)) == "0.044715"
    assert number_text(Rational(-1, 20)) == "-0.05"
    assert number_text(Rational(1, 2)) is None
    assert number_text(Rational(1, 3)) is None


def check_lines(program) -> int:
    """Evaluate what is printed of every equation at a few points; returns how many."""
    values = random_values(program, 0, None)
    arrays = {**{k: np.asarray(v) for k, v in values.items()}, **evaluate(program, values)}
    sizes = default_sizes(program, None)
    rng = np.random.default_rng(0)
    count = 0
    for eq in program.equations:
        assert str(eq).isascii() and "\n" not in str(eq)
        spans = {(i.name, i.size) for i in indices_of(eq)}
        if len(spans) > len({name for name, _ in spans}):
            continue  # a letter with two ranges: the evaluator here knows one
        made = statement(eq.target, eq.indices, eq.body)
        judge = Values(program, arrays, sizes, {n: number(s, sizes) for n, s in spans})
        for _ in range(3):
            judge.env = {i.name: int(rng.integers(judge.ranges[i.name])) for i in eq.indices}
            there = tuple(judge.env[i.name] for i in eq.indices)
            expected = arrays[eq.name][there]
            assert np.isclose(judge.of(made.right), expected, rtol=1e-9, atol=1e-9), str(eq)
            count += 1
    return count


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_printed_has_the_value_of_the_equation(name):
    assert check_lines(dr.derive(NETWORKS[name]())) >= 2


@pytest.mark.parametrize("seed", range(1, 13))
def test_what_is_printed_of_a_random_program_has_its_value(seed):
    try:
        program = random_network(random.Random(seed).choice).program()
    except dr.ChainruleError:
        pytest.skip("the generator drew what a declaration refuses")
    if not reached(program):
        pytest.skip("the loss reaches no parameter")
    derived = dr.derive(program, reached(program), of=program.losses[0])
    assert check_lines(derived) > 0


def indices_of(eq) -> list[Index]:
    return [*eq.indices, *bound_indices(eq.body)]


def test_every_reduction_has_words():
    for kind in Reduction.__subclasses__():
        assert kind.op
