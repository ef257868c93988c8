"""A small share of benchmarks/mutations.py: wrong gradients are called wrong, right ones never."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import mutation_catalogue
import mutation_support
import mutations

# one network of each sort that costs little; the share of their mutants that runs here
NETWORKS = ("softmax_jacobian", "huber", "focal", "tied_autoencoder", "through_time", "embedding")
SHARE = 0.03


@pytest.fixture(scope="module", autouse=True)
def numbers_once():
    """The numeric truth of a network is computed once for all its mutants."""
    before = mutations.checking.Slopes
    mutations.checking.Slopes = mutations.OnceSlopes
    yield
    mutations.checking.Slopes = before


@pytest.mark.parametrize("name", NETWORKS)
def test_every_mistake_is_seen(name: str):
    records = list(mutations.mutation_records(mutation_support.hand(name), SHARE))
    wrong = [r for r in records if r["effect"] == "differs"]
    assert wrong
    for r in wrong:
        assert r["verdict"] in ("wrong", "refused"), (r["before"], r["after"], r["said"])
    for r in records:
        if r["effect"] == "refused":
            assert r["verdict"] == "refused", (r["before"], r["after"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_right_gradient_written_differently_is_never_called_wrong(name: str):
    records = list(mutations.variant_records(mutation_support.hand(name), 5))
    assert len(records) == 5
    assert [r["verdict"] for r in records] == ["ok"] * 5, [r.get("source") for r in records]


@pytest.mark.parametrize(("name", "power"), [
    ("layer_norm", -4),  # a loss times 1e-4: adjoints that are each other's multiple by 1/40000
    ("batch_norm_staged", 4),  # of a bias in front of the norm, nothing but rounding is left
])
def test_a_right_gradient_of_a_loss_of_another_scale_is_proved(name: str, power: int):
    one = mutation_support.hand(name)
    function = mutation_support.compiled(
        mutation_support.source_of(one.tree, power), one.main, power)
    said, report = mutations.verdict_of(mutation_support.scaled(name, power), function)
    assert (said, report.verdict) == ("ok", "proved"), str(report)


HIDDEN = [  # at a batch of three rows; at margins that are all active; at units that are all alive
    ("softmax_difference", "p /= len(x)", "p /= x.shape[-1]"),
    ("hinge", "z = x @ W1 + c1", "z = -(x @ W1 + c1)"),
    ("autoencoder", "dy @ W2.T * (z > 0)", "dy @ W2.T * (z > -0.05)"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), HIDDEN, ids=[h[0] for h in HIDDEN])
def test_a_mistake_that_one_point_would_hide_is_seen(name: str, right: str, wrong: str):
    one = mutation_support.hand(name)
    source = mutation_support.source_of(one.tree)
    assert right in source, source
    function = mutation_support.compiled(source.replace(right, wrong), one.main)
    with mutations.verdict_only(True):
        assert mutations.verdict_of(one.program, function)[0] == "wrong"


def test_a_change_that_changes_no_value_is_no_mistake():
    one = mutation_support.hand("softmax_jacobian")
    kinds = {m.before + " -> " + m.after: mutation_support.effect(m.tree, one).kind
             for m in mutation_catalogue.mutants(one.tree) if m.kind == "subtrahend forgotten"}
    assert kinds["z - np.max(z, axis=1, keepdims=True) -> z"] == "equal"
    assert sorted(kinds.values()).count("differs") == 1  # the off-diagonal terms


def test_the_rules_of_other_checkers_pass_what_is_wrong_at_small_scale():
    rules = mutation_support.rules("huber")
    right = mutation_support.right_values("huber", 0)
    wrong = {n: -g for n, g in right.items()}
    assert not any(rules.detects(right, 1.0).values())
    assert all(rules.detects(wrong, 1.0).values())
    assert not any(rules.detects(wrong, 1e-8).values())


def test_the_catalogue_is_as_wide_as_it_says():
    assert len(mutation_catalogue.ALL_KINDS) == len(set(mutation_catalogue.ALL_KINDS)) >= 45
    assert set(mutation_catalogue.HELD_OUT_KINDS) <= set(mutation_catalogue.ALL_KINDS)
    assert set(mutation_catalogue.HELD_OUT_NETWORKS) <= set(mutation_support.CASES)
