"""Random numbers as a function of integers: the same everywhere, and random enough."""

from __future__ import annotations

import numpy as np
import sympy
from scipy import stats
from sympy import Integer, Rational

import derive as dr
from derive.network import Network
from derive.nodes import Access, IntegerAccess
from derive.randomness import mix, uniform, uniform_value
from derive.reference import evaluate
from derive.simplify import collect


def grid(seed: int, *sizes: int) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) for n in sizes), indexing="ij")
    return uniform_value(np.full(sizes, seed), np.ones(sizes, int), *axes)


def test_ints_arrays_and_sympy_give_the_same_number():
    values = grid(7, 3, 4)
    for place in np.ndindex(3, 4):
        one = uniform_value(7, 1, *place)
        assert values[place] == one == float(uniform(7, 1, *place))


def test_the_numbers_are_fixed_for_ever():
    """A change would give every trained network another mask: targets are compared with these."""
    assert [uniform_value(1, 2, n) * 2**24 for n in range(3)] == [7965761, 641859, 11773189]


def test_the_mixer_is_a_bijection():
    keys = np.arange(2**16, dtype=np.int64) * 65537 % 2**32
    assert len(np.unique(mix(keys.astype("uint64")))) == 2**16


def test_numbers_are_inside_0_and_1_and_exact_in_single_precision():
    values = grid(3, 1000, 100)
    assert 0 < values.min() and values.max() < 1
    np.testing.assert_array_equal(values.astype(np.float32).astype(np.float64), values)


def test_numbers_are_uniform_and_independent():
    values = grid(3, 1000, 100)
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    for other in (grid(4, 1000, 100), np.roll(values, 1, 0), np.roll(values, 1, 1)):
        assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.01
    pairs = np.histogram2d(values[:, :-1].ravel(), values[:, 1:].ravel(), 16)[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 0.01


def test_an_element_does_not_depend_on_the_size_of_the_batch():
    np.testing.assert_array_equal(grid(3, 10, 5), grid(3, 20, 5)[:10])


def test_a_random_number_has_no_derivative():
    net = Network("n")
    x, seed = net.parameter("x", 3), net.random()
    (i,) = x.indices
    drawn = uniform(seed.tensor.access, sympy.Integer(1), i)
    net.loss(dr.sum(x[i] ** 2 * drawn, i))
    derived = dr.derive(net)
    assert sympy.expand(derived["x"].body - 2 * x[i] * drawn) == 0
    out = evaluate(derived, {"x": np.ones(3), "seed": 5})
    np.testing.assert_array_equal(out["_d_x"], 2 * grid(5, 3))


def test_algebra_leaves_the_arguments_of_a_random_number_as_they_are():
    """They are solved index expressions; a common factor taken out of one is not read back."""
    i, j = dr.indices("i:3 j:3")
    number = uniform(IntegerAccess("seed"), Integer(2), i / 3 + j / 3 + Rational(1, 3))
    a, b = Access("a", i), Access("b", j)
    assert collect(a * number + a * b * number).atoms(uniform) == {number}
