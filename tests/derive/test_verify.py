"""Verdicts on hand-written gradients: right ones agree, the mistake in wrong ones is named."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

import derive as dr
from derive.verify import verify
from derive.verify.decide import Decision, _prove, decide
from derive.verify.hand import Hand
from derive.verify.trace import trace
from tests.derive import verify_gradients_layers, verify_gradients_sequences
from tests.derive.verify_gradients import CASES

_MODULES = verify_gradients_layers, verify_gradients_sequences  # they fill CASES when imported


def network(loss: str = "softmax") -> dr.Network:
    net = dr.Network(f"two layers, {loss}")
    x = net.input("x", "B", 3)
    h = dr.dense(x, 5, dr.tanh)
    if loss == "softmax":
        net.loss(dr.cross_entropy(dr.dense(h, 4), net.input("t", "B", dtype=int)))
    else:
        net.loss(dr.squared_error(dr.dense(h, 4, dr.sigmoid), net.input("t", "B", 4)))
    return net


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(**mistakes: bool) -> Callable:
    """The gradient of `network()` in NumPy; each keyword makes one mistake."""
    def on(name: str) -> bool:
        return mistakes.get(name, False)

    def backward(x, t, W1, c1, W2, c2):
        h = np.tanh(x @ W1 + c1)
        p = softmax(h @ W2 + c2)
        if on("softmax_twice"):
            p = softmax(p)
        dz = p.copy()
        if not on("label_forgotten"):
            dz[np.arange(len(t)), t] -= -1 if on("label_added") else 1
        if not on("sum_for_mean"):
            dz = dz / len(t)
        slope = (1 - h) if on("square_forgotten") else (1 + h**2) if on("sign_inside") else 1 - h**2
        da = (dz @ W2.T) * (1 if on("activation_forgotten") else slope)
        if on("activation_twice"):
            da = da * slope
        if on("wrong_tensor"):
            da = (dz @ W2.T) * (1 - (x @ W1 + c1) ** 2)
        dW2 = (x @ W1 + c1).T @ dz if on("input_for_output") else h.T @ dz
        db = da.mean(axis=0) if on("bias_mean") else da.sum(axis=0)
        dW1 = x.T @ da
        return {"W1": -dW1 if on("sign") else 2 * dW1 if on("two") else dW1,
                "c1": db, "W2": dW2, "c2": dz.sum(axis=0)}

    return backward


def test_a_right_gradient_is_proved_for_all_sizes():
    report = verify(network(), by_hand())
    assert report.verdict == "proved" and report.exit_code == 0, str(report)
    assert [d.parameter for d in report.proof.decisions] == ["W1", "c1", "W2", "c2"]
    assert not any(d.sizes for d in report.proof.decisions)
    assert "W1: equal for all sizes" in str(report)


@pytest.mark.parametrize("name", ["convolution_by_im2col", "causal_attention"])
def test_a_batch_joined_with_patches_or_steps_is_proved_for_all_sizes(name):
    net, function = CASES[name]
    derived = dr.derive(net())
    for decision in decide(trace(Hand(function, derived), derived), derived):
        assert decision.verdict == "proved" and not decision.sizes, decision


def by_range(x, t, W1, c1):
    p = np.exp(x @ W1 + c1)
    p = p / p.sum(axis=1, keepdims=True)
    p[range(x.shape[0]), t] -= 1
    return x.T @ p / len(x), p.mean(axis=0)


def test_positions_by_range_are_read_at_the_batch_size_at_which_the_function_runs():
    derived = dr.derive(CASES["softmax_one_hot"][0]())
    found = decide(trace(Hand(by_range, derived), derived), derived)
    assert {d.verdict for d in found} == {"proved"} and all("B" in d.sizes for d in found)


PROVED = ["softmax_one_hot", "softmax_jacobian", "mean_square", "half_square",
          "batch_norm_staged", "batch_norm_compact", "batch_norm_with_the_term_that_vanishes",
          "layer_norm", "focal", "huber", "kl_divergence", "loop_over_layers", "residual",
          "residual_of_a_hidden_layer", "autoencoder", "tied_autoencoder", "rms_norm", "embedding",
          "attention", "multi_head_attention", "through_time", "lstm", "gru",
          "convolution_by_rotated_kernels", "conv1d_with_a_flipped_kernel"]


def decisions(name: str, seconds: float = 20.0) -> tuple[Decision, ...]:
    """What algebra says of a function: without the numeric check, which takes most of the time."""
    net, function = CASES[name]
    derived = dr.derive(net())
    return decide(trace(Hand(function, derived), derived), derived, seconds)


@pytest.mark.parametrize("name", PROVED)
def test_right_gradients_that_look_different_are_proved(name: str):
    assert {(d.verdict, *d.sizes.items()) for d in decisions(name)} == {("proved",)}


def test_a_loop_over_samples_is_proved_at_the_batch_size_at_which_it_ran():
    found = decisions("softmax_sample_by_sample")
    assert {d.verdict for d in found} == {"proved"} and all("B" in d.sizes for d in found)


def test_a_pooling_that_sends_all_to_every_tied_element_is_proved_except_at_ties():
    found = decisions("max_pooling", seconds=6.0)
    assert {d.verdict for d in found} == {"kinks"} and all("may differ" in d.note for d in found)


def rectified(slope_at_zero: float) -> Callable:
    def backward(x, t, W1, c1):
        z = x @ W1 + c1
        dh = 2 * (np.maximum(z, 0) - t) / z.size
        dz = np.where(z > 0, dh, np.where(z < 0, 0, slope_at_zero * dh))
        return {"W1": x.T @ dz, "c1": dz.sum(axis=0)}

    return backward


def one_relu() -> dr.Network:
    net = dr.Network("one relu")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.mean_squared_error(dr.dense(x, 2, dr.relu), t))
    return net


def test_another_slope_at_a_kink_is_said_and_is_no_mistake():
    assert verify(one_relu(), rectified(0.0)).verdict == "proved"
    report = verify(one_relu(), rectified(0.5))
    assert report.verdict == "kinks" and report.exit_code == 0, str(report)
    assert "except at kinks; they may differ where" in str(report)


def test_a_proof_that_leaves_no_kink_out_is_a_whole_one(monkeypatch):
    """Where only the search modulo kinks came to its end in time."""
    module = sys.modules[decide.__module__]  # the package has a function of that name
    monkeypatch.setattr(module, "_prove", lambda both, pairs, unrolled, values, kinks,
                        *rest: _prove(both, pairs, unrolled, values, True, *rest) if kinks else {})
    derived = dr.derive(one_relu())
    found = decide(trace(Hand(rectified(0.0), derived), derived), derived)
    assert {(d.verdict, d.note) for d in found} == {("proved", "")}


def test_a_function_that_cannot_be_read_is_judged_by_numbers_and_the_report_says_so():
    def backward(x, t, W1, c1, W2, c2):
        scale = 1.0 if x[0, 0] > 100 else 2.0  # a branch on data
        return {n: g * scale / scale for n, g in by_hand()(x, t, W1, c1, W2, c2).items()}

    report = verify(network(), backward)
    assert report.verdict == "agrees" and report.exit_code == 0
    assert "no proof: the function could not be read as equations" in str(report)
    assert "a branch on data" in str(report)


def test_a_proof_ends_when_its_time_is_over():
    report = verify(network(), by_hand(), seconds=1e-9)
    assert report.verdict == "agrees"
    assert "no proof" in str(report)
    assert verify(network(), by_hand(), seconds=0).proof.decisions == ()


MISTAKES = [
    ("sum_for_mean", "W2", "factor B"),
    ("sign", "W1", "sign is wrong"),
    ("two", "W1", "factor 2"),
    ("label_forgotten", "c2", "missing"),
    ("label_added", "c2", "wrong sign"),
    ("activation_forgotten", "W1", "missing"),
    ("activation_twice", "W1", "twice"),
    ("square_forgotten", "W1", "without its power"),
    ("sign_inside", "W1", "wrong sign"),
    ("wrong_tensor", "W1", "z1[b, j] stands where h1[b, j] belongs"),
    ("input_for_output", "W2", "z1[b, j] stands where h1[b, j] belongs"),
    ("bias_mean", "c1", "1/B"),
]


def bias_forgotten(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1)
    p = softmax(h @ W2 + c2)
    dz = (p - np.eye(4)[t]) / len(t)
    da = dz @ W2.T * (1 - h**2)
    return {"W1": x.T @ da, "c1": da.sum(axis=0), "W2": h.T @ dz, "c2": dz.sum(axis=0)}


def test_a_mistake_in_the_recomputed_forward_pass_is_found_by_its_line():
    report = verify(network(), bias_forgotten)
    for finding in report.findings:
        assert finding.place.splitlines()[1:] == [
            "            `x @ W1`: the term c1 is missing",
            "    mended  h = np.tanh((x @ W1) + c1)",
            "                        ^       ^^^^^^"], str(finding)


def rows_left_out(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    p = softmax(h @ W2 + c2)
    dz = (p - np.eye(4)[t]) / len(t)
    if x[0, 0] < 100:  # a branch on data: it cannot be read as equations
        da = dz @ W2.T * (1 - h**2)
    return {"W1": x.T @ da, "c1": da[1:].sum(axis=0), "W2": h.T @ dz, "c2": dz.max(axis=0)}


def test_each_of_several_mistakes_is_named_in_the_text_of_a_function_without_equations():
    places = {f.parameter: f.place for f in verify(network(), rows_left_out).findings}
    assert set(places) == {"c1", "c2"}
    assert "`da[1:]`: the whole of da belongs there" in places["c1"]
    assert "`dz.max(axis=0)`: sum belongs where max stands" in places["c2"]


def undivided(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    dz = softmax(h @ W2 + c2)
    dz[np.arange(len(t)), t] -= 1
    da = dz @ W2.T * (1 - h**2)
    return {"W1": x.T @ da, "c1": da.sum(axis=0), "W2": h.T @ dz, "c2": dz.sum(axis=0)}


def test_a_missing_line_is_named_where_it_belongs():
    for finding in verify(network(), undivided).findings:
        assert "dz[np.arange(len(t)), t] -= 1" in finding.place
        assert "`dz /= len(x)` is missing after it" in finding.place


def test_a_repair_holds_at_other_sizes():
    """A factor that is 5 at one batch size and 7 at another is too much; 1/5 is not what is
    missing."""
    def backward(x, t, W1, c1, W2, c2):
        given = by_hand()(x, t, W1, c1, W2, c2)
        return {**given, "W2": given["W2"] * np.array(5.0 if len(t) % 2 else 7.0)}

    (finding,) = verify(network(), backward).findings
    assert finding.place.splitlines()[-2].strip() == \
        'mended  return {**given, "W2": given["W2"]}'


@pytest.mark.parametrize(("mistake", "parameter", "words"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_the_mistake_is_named(mistake: str, parameter: str, words: str):
    report = verify(network(), by_hand(**{mistake: True}))
    assert report.verdict == "wrong" and report.exit_code == 1
    finding = next(f for f in report.findings if f.parameter == parameter)
    assert words in finding.words, str(report)
    assert "yours" in finding.counterexample and "right" in finding.counterexample


def test_a_gradient_that_is_nearly_right_is_not_explained_by_what_changes_nothing():
    def backward(x, t, W1, c1, W2, c2):
        found = by_hand()(x, t, W1, c1, W2, c2)
        return {**found, "W1": (1 + 5e-10) * found["W1"]}

    finding, = verify(network(), backward).findings
    assert finding.words == "it is 1 +5e-10 times the right gradient, everywhere"


def test_a_mistake_without_a_name_still_gets_a_pattern():
    def backward(x, t, W1, c1, W2, c2):
        right = by_hand()(x, t, W1, c1, W2, c2)
        right["W1"][1] *= 1.0625
        return right

    report = verify(network(), backward)
    assert report.verdict == "wrong"
    assert "only those with i in {1}" in report.findings[0].words


def test_only_the_wrong_gradients_are_named():
    report = verify(network(), by_hand(sign=True))
    assert [f.parameter for f in report.findings] == ["W1"]


def test_dictionaries_and_tuples_are_taken_as_well():
    def pair(parameters, inputs):
        found = by_hand()(**parameters, **inputs)
        return tuple(found[n] for n in ("W1", "c1", "W2", "c2"))

    assert verify(network(), pair).verdict == "proved"


def test_the_report_is_text_json_and_html():
    report = verify(network(), by_hand(sign=True))
    assert "W1: its sign is wrong" in str(report)
    assert report.to_dict()["findings"][0]["parameter"] == "W1"
    page = report.to_html()
    assert "<script" not in page and "its sign is wrong" in page


def test_a_test_in_one_line_fails_with_the_report():
    dr.assert_gradient(network(), by_hand())
    with pytest.raises(AssertionError, match="W1: its sign is wrong"):
        dr.assert_gradient(network(), by_hand(sign=True))
