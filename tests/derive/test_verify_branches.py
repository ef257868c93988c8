"""Code that branches on a size: each path is tested and proved, or the proof says which it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from derive.verify import verify
from tests.derive.test_verify import by_hand, network


def branching(wrong: Callable[[int], bool]) -> Callable:
    """The right gradient, whose W1 is doubled where a batch is of a kind."""
    right = by_hand()

    def backward(x, t, W1, c1, W2, c2):
        found = right(x, t, W1, c1, W2, c2)
        if wrong(x.shape[0]):
            found["W1"] = 2 * found["W1"]
        return found

    return backward


@pytest.mark.parametrize("wrong, size", [
    (lambda n: n == 1, 1),
    (lambda n: n > 40, 41),
    (lambda n: not n < 20, 20),
    (lambda n: n > 8 and n % 2 == 1, 9),
], ids=["one row", "large", "small", "nested"])
def test_a_mistake_on_another_branch_is_found(wrong: Callable[[int], bool], size: int):
    report = verify(network(), branching(wrong))
    assert report.verdict == "wrong"
    assert [f.parameter for f in report.findings] == ["W1"]
    assert f"where the code branches to B = {size}:" in report.findings[0].words


def test_each_branch_is_proved_on_its_own():
    report = verify(network(), branching(lambda n: n == 1 and n > 1))
    assert report.verdict == "proved"
    assert "W1: equal for all sizes with B ≠ 1" in str(report)
    assert "W1: equal for B = 1" in str(report)


def test_a_comparison_that_comes_out_alike_at_all_sizes_is_no_branch():
    report = verify(network(), branching(lambda n: n < 1 or n + 1 == 1 or n == 0))
    assert report.verdict == "proved"
    assert "with" not in str(report.proof)


def test_a_branch_that_no_small_size_reaches_is_stated():
    report = verify(network(), branching(lambda n: n > 100_000))
    assert report.verdict == "proved"
    assert "W1: equal for all sizes with B ≤ 100000" in str(report)


def test_a_size_that_is_taken_as_a_plain_number_is_proved_at_that_number_only():
    report = verify(network(), branching(lambda n: int(n) > 30))
    assert "W1: equal for B = " in str(report.proof)
    assert "for all sizes" not in str(report.proof)
