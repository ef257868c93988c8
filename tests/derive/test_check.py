"""The checker: right gradients pass at every scale, every planted mistake is caught."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.check import check
from derive.errors import DataError, DerivationError
from derive.points import random_values
from derive.reference import evaluate
from tests.networks import NETWORKS, softmax_classifier

Gradients = dict[str, np.ndarray]


def right(derived: dr.Program, point: dict) -> Gradients:
    found = evaluate(derived, point, tuple(derived.gradients.values()))
    return {name: found[grad].copy() for name, grad in derived.gradients.items()}


@pytest.mark.parametrize("digits", [50, 15])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_derived_gradients_agree_with_numeric_differentiation(network: str, digits: int):
    derived = dr.derive(NETWORKS[network]())
    report = check(derived, seed=3, digits=digits)
    assert report.ok, f"{derived}\n{report}"


def drop_one_over_n(g: Gradients) -> None:
    g["W1"] *= 3


def flip_the_sign_of_a_row(g: Gradients) -> None:
    g["W1"][1] *= -1


def transpose(g: Gradients) -> None:
    g["W1"][...] = g["W1"].T.reshape(g["W1"].shape)


def swap_two_entries(g: Gradients) -> None:
    low, high = np.argmin(g["W2"]), np.argmax(g["W2"])
    g["W2"].flat[[low, high]] = g["W2"].flat[[high, low]]


def lose_an_entry(g: Gradients) -> None:
    g["W2"].flat[np.argmax(np.abs(g["W2"]))] = 0


def one_entry_off_by_a_millionth(g: Gradients) -> None:
    g["W2"].flat[np.argmax(np.abs(g["W2"]))] *= 1 + 1e-6


def everything_off_by_a_billionth(g: Gradients) -> None:
    for array in g.values():
        array *= 1 + 1e-9


def swap_the_biases(g: Gradients) -> None:
    g["c2"][...] = g["c2"][::-1]


def nan_in_one_place(g: Gradients) -> None:
    g["c1"][0] = np.nan


MISTAKES = [
    drop_one_over_n, flip_the_sign_of_a_row, transpose, swap_two_entries, lose_an_entry,
    one_entry_off_by_a_millionth, everything_off_by_a_billionth, swap_the_biases,
    nan_in_one_place,
]


@pytest.mark.parametrize("digits", [50, 15])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.__name__)
def test_every_planted_mistake_is_caught(mistake, digits: int):
    derived = dr.derive(softmax_classifier())
    point = random_values(derived, seed=1)
    gradients = right(derived, point)
    mistake(gradients)
    assert check(derived, point, gradients=gradients, digits=digits).verdict == "fail"


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4, 1e8])
def test_the_verdict_does_not_depend_on_the_scale(scale: float):
    net = dr.Network("scaled")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(x, 2, dr.tanh), t) * scale)
    derived = dr.derive(net)
    point = random_values(derived, seed=2)
    for digits in (50, 15):
        assert check(derived, point, digits=digits).ok
        off = right(derived, point)
        off["W1"] *= 1 + 1e-6
        assert check(derived, point, gradients=off, digits=digits).verdict == "fail"
        off["W1"] *= -1
        assert check(derived, point, gradients=off, digits=digits).verdict == "fail"


def test_a_gradient_that_is_zero_by_symmetry_passes():
    """A bias in front of a batch norm: its gradient is exactly zero, computed as rounding."""
    derived = dr.derive(NETWORKS["batch_norm"]())
    report = check(derived, seed=0)
    row = next(r for r in report.rows if r.name == "c")
    assert row.verdict == "pass" and abs(row.value) < 1e-15


def test_a_factor_that_depends_on_indices_only_counts_by_its_size():
    """cos(i) is negative for some i: an error bar must not be."""
    net = dr.Network("rotary")
    i = dr.indices("i:5")
    a = net.parameter("a", i)
    net.loss(dr.sum(dr.sin(a[i]) * dr.cos(i), i))
    report = check(dr.derive(net), seed=0)
    assert report.ok and all(row.tolerance > 0 for row in report.rows), report


@pytest.mark.parametrize("digits", [50, 15])
@pytest.mark.parametrize("bend", [1e-2, 1e-4, 1e-6, 1e-9])
def test_a_right_gradient_beside_a_sharp_bend_is_never_called_wrong(bend: float, digits: int):
    """sqrt(a² + c²) is smooth, but looks like |a| to any step longer than its bend."""
    net = dr.Network("bend")
    i = dr.indices("i:3")
    a, c = net.parameter("a", i), net.input("c", i)
    net.loss(dr.sum(dr.sqrt(a[i] ** 2 + c[i] ** 2), i))
    derived = dr.derive(net)
    point = {"a": bend * np.array([0.3, -0.7, 0.5]), "c": bend * np.array([1, 0.5, -0.2])}
    assert check(derived, point, digits=digits).verdict != "fail"
    if digits == 50 or bend >= 1e-4:
        assert check(derived, point, digits=digits).ok
        wrong = right(derived, point)
        wrong["a"][0] *= 1 + 1e-3
        assert check(derived, point, gradients=wrong, digits=digits).verdict == "fail"


def kinked(at: float) -> tuple[dr.Program, dict]:
    net = dr.Network("kinked")
    i = dr.indices("i:2")
    a = net.parameter("a", i)
    net.loss(dr.sum(dr.relu(a[i]), i))
    return dr.derive(net), {"a": np.array([at, 1.0])}


def test_a_point_on_a_kink_is_undecided_and_says_so():
    derived, point = kinked(0.0)
    for digits in (50, 15):
        report = check(derived, point, digits=digits)
        assert report.verdict == "undecided" and "kink" in str(report)


def test_close_to_a_kink_smaller_steps_decide():
    derived, point = kinked(1e-3)
    for digits in (50, 15):
        assert check(derived, point, digits=digits).ok


def test_a_large_tensor_is_checked_along_directions_and_samples():
    net = dr.Network("wide")
    x, t = net.input("x", "B", 40), net.input("t", "B", 30)
    net.loss(dr.squared_error(dr.dense(x, 30, dr.tanh), t))
    derived = dr.derive(net)
    point = random_values(derived, seed=0)
    assert check(derived, point).ok
    off = right(derived, point)
    off["W1"][[3, 9]] = off["W1"][[9, 3]]  # directions of plus and minus one can miss a swap
    report = check(derived, point, gradients=off)
    assert next(r for r in report.rows if r.name == "W1").verdict == "fail"


def test_the_wrong_shape_and_a_missing_gradient_are_errors():
    derived = dr.derive(softmax_classifier())
    point = random_values(derived)
    good = right(derived, point)
    with pytest.raises(DataError, match=r"'W1'.*\n.*\(3, 5\)"):
        check(derived, point, gradients={**good, "W1": good["W1"].T})
    with pytest.raises(DataError, match="no gradient is given for 'c1'"):
        check(derived, point, gradients={k: v for k, v in good.items() if k != "c1"})


def test_a_program_without_gradients_is_no_pass():
    with pytest.raises(DerivationError, match="no gradients to check"):
        check(softmax_classifier())


def test_a_tiny_gradient_beside_large_ones_is_never_passed_with_its_sign_flipped():
    net = dr.Network("two scales")
    i = dr.indices("i:2")
    a, c = net.parameter("a", i), net.parameter("c", i)
    net.loss(dr.sum(dr.sin(a[i]), i) + dr.sum(dr.sin(c[i]), i) * 1e-15)
    derived = dr.derive(net)
    point = random_values(derived, seed=0)
    for digits, verdict in ((50, "fail"), (15, "undecided")):
        flipped = right(derived, point)
        flipped["c"] *= -1
        assert check(derived, point, gradients=flipped, digits=digits).verdict == verdict


def test_the_report_is_a_table_and_a_dictionary():
    report = check(dr.derive(softmax_classifier()))
    assert "W1" in str(report) and str(report).splitlines()[-1].startswith("pass; seed 0")
    assert report.to_dict()["rows"][0]["verdict"] == "pass"


def test_a_quotient_without_a_value_is_undecided():
    net = dr.Network("n")
    w = net.parameter("w")
    net.loss(1 / w.tensor.access)
    report = dr.check(dr.derive(net), {"w": 0.0})
    assert report.verdict == "undecided", report
