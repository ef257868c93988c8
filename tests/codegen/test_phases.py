"""Phases that differ only in where their tensors lie are one function; repetitions are loops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import derive as dr
from codegen.module import render
from codegen.pipeline import compile_program
from codegen.repeats import REPEATS, find_runs
from derive.program import Program
from tests.codegen.support import build, differences, interpreted, sample


def plain(depth: int) -> Program:
    """Layers without a barrier between them: all in one phase over rows."""
    net = dr.Network(f"plain {depth}")
    h = net.input("x", "B", 3)
    for _ in range(depth):
        h = dr.dense(h, 4, dr.tanh)
    net.loss(dr.mean_squared_error(dr.dense(h, 2), net.input("t", "B", 2)))
    return net.program()


def normalised(depth: int) -> Program:
    """Layers with statistics over the batch: several phases each."""
    net = dr.Network(f"normalised {depth}")
    h = net.input("x", "B", 3)
    for _ in range(depth):
        h = dr.relu(dr.batch_norm(dr.dense(h, 4)))
    net.loss(dr.mean_squared_error(dr.dense(h, 2), net.input("t", "B", 2)))
    return net.program()


def blocks(depth: int) -> Program:
    """Layers of two widths in turn, with a residual connection around each pair."""
    net = dr.Network(f"blocks {depth}")
    h = dr.dense(net.input("x", "B", 3), 4)
    for _ in range(depth):
        h = dr.add(h, dr.dense(dr.dense(h, 5, dr.tanh), 4))
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 4)))
    return net.program()


def text(program: Program) -> str:
    return render(compile_program(dr.derive(program), dr.sgd()))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("network", [plain, normalised, blocks])
def test_deep_networks_agree_with_the_reference(network, parts, tmp_path):
    with interpreted():
        model = build(network(7), tmp_path, parts, dtype="float64")
        found = differences(model, sample(model.program, 5))
    assert max(found.values()) < 1e-10, found


@pytest.mark.parametrize("network", [plain, normalised, blocks])
def test_the_functions_of_a_deeper_network_are_as_many(network):
    shallow, deep = text(network(7)), text(network(19))
    assert "for layer in range(" in shallow
    assert deep.count("\ndef ") == shallow.count("\ndef ")


@given(st.lists(st.integers(0, 2), max_size=40))
def test_runs_cover_the_sequence_in_order_and_repeat_what_stands_there(keys):
    runs = find_runs(keys, lambda a, b: True)
    covered = [key for run in runs for turn in run.turns() for key in keys[turn]]
    assert covered == keys
    for run in runs:
        assert len({tuple(keys[turn]) for turn in run.turns()}) == 1
        assert run.times == 1 or run.times >= REPEATS


def test_what_may_not_be_a_turn_ends_a_run():
    runs = find_runs("ababababab", lambda last, turn: turn.start < 6)
    assert [(r.start, r.length, r.times) for r in runs] == [(0, 2, 3), (6, 4, 1)]
