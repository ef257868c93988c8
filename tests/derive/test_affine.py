"""Index expressions: exact solutions over the integers, against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import derive as dr
from derive.affine import bounds, implied, inside, solve
from derive.errors import DerivationError
from derive.nodes import Index
from derive.points import random_values
from derive.reference import evaluate

ROWS, COLUMNS = Index("m", 5), Index("n", 4)


def points(variables: list[Index]) -> list[dict[Index, int]]:
    ranges = [range(int(v.size)) for v in variables]
    return [dict(zip(variables, values, strict=True)) for values in itertools.product(*ranges)]


def whole(expr: sympy.Expr, at: dict) -> bool | int:
    value = expr.subs({k: sympy.Integer(v) for k, v in at.items()})
    return bool(value) if value in (sympy.true, sympy.false) else value


def solutions(where: list, target: list[Index], variables: list[Index], m: dict) -> list[tuple]:
    """What `solve` says: the values of the variables for one value of the target."""
    solved = solve(where, target, variables)
    found = []
    for left in points(list(solved.left)):
        at = {**m, **left}
        if all(whole(g, at) for g in solved.guards):
            found.append(tuple(
                int(whole(solved.values.get(v, v), at)) for v in variables))
    return sorted(found)


def expected(where: list, target: list[Index], variables: list[Index], m: dict) -> list[tuple]:
    return sorted(
        tuple(p.values()) for p in points(variables)
        if all(whole(e, p) == m[t] for e, t in zip(where, target, strict=True))
    )


p, r, q = Index("p", 4), Index("r", 3), Index("q", 2)
SYSTEMS = {
    "a stride": [2 * p + r - 1],
    "a dilation": [p + 3 * r - 2],
    "both": [3 * p + 3 * r - 1],
    "reversed": [4 - p - 0 * r],
    "coprime": [2 * p - 3 * r + 1],
    "two equations": [p + r, p - r + 1],
    "a diagonal": [p, p],
    "a diagonal with a shift": [p, p + 1],
    "without a solution": [2 * p, 2 * r + 1],
    "three unknowns": [p + 2 * r + q, p - q],
    "a quotient": [p // 2 + r],
    "a remainder": [p % 2, p // 2],
    "both of a sum": [(p + r) // 3, (p + r) % 3],
    "different divisors": [(p + 2) // 3, p % 2],
    "a negative quotient": [(p - 3) // 2 + 2],
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_solution_is_found_once(name: str):
    where = [sympy.sympify(e) for e in SYSTEMS[name]]
    target = [ROWS, COLUMNS][: len(where)]
    for m in points(target):
        assert solutions(where, target, [p, r, q], m) == expected(where, target, [p, r, q], m)


COEFFICIENTS = st.integers(-3, 3)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(COEFFICIENTS, COEFFICIENTS, COEFFICIENTS, COEFFICIENTS),
                min_size=1, max_size=2))
def test_random_systems(rows: list[tuple[int, int, int, int]]):
    where = [sympy.expand(a * p + b * r + c * q + d) for a, b, c, d in rows]
    target = [ROWS, COLUMNS][: len(where)]
    for m in points(target)[::3]:
        assert solutions(where, target, [p, r, q], m) == expected(where, target, [p, r, q], m)


def test_bounds_and_what_they_imply():
    assert bounds(2 * p - r + 1) == (-1, 7)
    assert bounds(p // 2) == (0, 1)
    assert bounds(p % 2) == (0, 1)
    assert inside(p + r, sympy.Integer(6)) == []
    assert inside(p - 1, sympy.Integer(4)) == [sympy.Ge(p - 1, 0)]
    assert implied(p >= 1, [p >= 2]) and not implied(p >= 2, [p >= 1])
    assert implied(p - 1 >= 0, [sympy.Gt(p, 0)])
    assert implied(p < 9, [])


def test_bounds_are_compared_as_whole_numbers():
    """A quotient compared as a float may round to the wrong side of its bound."""
    for condition in inside(p / 3 - r + sympy.Rational(1, 3), sympy.Integer(2)):
        assert condition.lhs.is_integer and condition.rhs.is_integer


def test_quotients_inside_quotients_are_refused():
    with pytest.raises(DerivationError, match="nests quotients"):
        solve([(p // 2 + r) // 2], [ROWS], [p, r])


def test_two_remainders_range_apart():
    i, j = Index("i", 5), Index("j", 5)
    assert bounds(i % 2 - j % 2) == (-1, 1)
    assert bounds(i // 3 - j // 3) == (-1, 1)
    size = dr.indices("k:B").size
    assert not implied(sympy.Lt(i % 2, size), [sympy.Eq(j % 2, 0)])


def test_the_bound_of_a_quotient_may_be_a_quotient_of_sizes():
    """A seed of the random programs that recurred without end: -t // 2 + 1 for t < T."""
    t = dr.indices("t:T")
    low, high = bounds(sympy.floor(-t / 2) + 1)
    assert high == 1
    assert [low.xreplace({t.size: sympy.Integer(n)}) for n in (1, 2, 3, 5)] == [1, 0, 0, -1]
    assert sympy.Ge(sympy.floor(-t / 2) + 1, 0) in inside(sympy.floor(-t / 2) + 1, t.size)


def test_equal_names_of_different_sizes_are_different_indices():
    assert Index("p", 3) != Index("p", 4)


ACCESSES = {
    "reversal": lambda x, i: x[4 - i, i % 3],
    "shift": lambda x, i: x[i - 2, 0],
    "diagonal": lambda x, i: x[i, i - 1],
    "stride": lambda x, i: x[2 * i - 1, 2],
    "constant": lambda x, i: x[3, 1] * (i + 1),
}


@pytest.mark.parametrize("name", ACCESSES)
def test_the_adjoint_of_an_access_is_its_transpose(name: str):
    """A linear map y = A x: its gradient under weights w is Aᵀ w, entry by entry."""
    net = dr.Network("n")
    i = Index("i", 5)
    x, w = net.parameter("x", 5, 3), net.input("w", i)
    y = net.define("y", (i,), ACCESSES[name](x, i))
    net.loss(dr.sum(w[i] * y[i], i))
    derived = dr.derive(net)
    weights = random_values(derived, 0)["w"]
    gradient = evaluate(derived, {"x": np.zeros((5, 3)), "w": weights})["_d_x"]
    for place in np.ndindex(5, 3):
        unit = np.zeros((5, 3))
        unit[place] = 1
        column = evaluate(derived, {"x": unit, "w": weights})["y"]
        assert np.isclose(gradient[place], column @ weights), f"{place}\n{derived['x']}"
