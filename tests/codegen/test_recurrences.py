"""What is done in the steps of a recurrence beside their product, and once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import derive as dr
from codegen.memory import Storage
from codegen.pipeline import Entry, compile_program
from codegen.recurrences import begins_with
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from tests.codegen.support import with_fixed_parameters, wrong_kernels

STEPS = 7


def final(net: dr.Network, h: Any) -> Any:
    """The last step of a layer."""
    b, t, j = h.indices
    return net.define("final", (b, j), h[b, t.size - 1, j])


def derived(layers: Callable[[dr.Network, Any], Any], steps: int = STEPS) -> Program:
    net = dr.Network("steps")
    h = layers(net, net.input("x", "B", steps, 3))
    net.loss(dr.cross_entropy(dr.dense(final(net, h), 2), net.input("t", "B", dtype=int)))
    return dr.derive(with_fixed_parameters(net.program()))


def labelled(net: dr.Network, x: Any) -> Any:
    """Every state is also read by a product outside of the recurrence."""
    h = dr.lstm(x, 4)
    b, t, j = h.indices
    r = dr.indices("r:6")
    return dr.tanh(net.define("every", (b, t, r), dr.sum(
        h[b, t, j] * net.parameter("V", j, r)[j, r], j)))


LAYERS: dict[str, Callable[[dr.Network, Any], Any]] = {
    "lstm": lambda net, x: dr.lstm(x, 4),
    "reversed lstm": lambda net, x: dr.lstm(x, 4, reverse=True),
    "gru": lambda net, x: dr.gru(x, 4),
    "elman": lambda net, x: dr.elman(x, 4),
    "two": lambda net, x: dr.lstm(dr.gru(x, 3), 5),
    "lengths": lambda net, x: dr.lstm(x, 4, lengths=net.input("n", "B", dtype=int)),
    "labelled": labelled,
    "both directions": lambda net, x: dr.bidirectional(dr.lstm, x, 3),
}


def gradient(program: Program, **options: Any) -> Entry:
    return compile_program(program, sgd(), storage=Storage(**options)).entries["gradient"]


@pytest.mark.parametrize("parts, block", [(1, None), (2, 2), (3, 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_agrees_with_the_reference_however_it_is_cut(
        name: str, parts: int, block: int | None, tmp_path: Path) -> None:
    program = derived(LAYERS[name])
    sizes = dict.fromkeys((s.name for s in program.sizes), 5)
    values = random_values(program, 1, sizes)
    assert not wrong_kernels(program, values, tmp_path, parts, sizes, storage=Storage(block=block))


def test_what_is_read_by_columns_is_turned_once_and_before_all_rows() -> None:
    phases = gradient(derived(LAYERS["lstm"])).schedule.phases
    (task,) = phases[0].tasks
    (turned,) = task.group.equations
    assert turned.tensor.shape == (4, 4, 4) and turned.reads == ("V1",)
    assert [p.kind for p in phases] == ["pieces", "rows", "pieces"]
    reads = {n for p in phases[1:] for t in p.tasks for e in t.group.equations
             if e.name == "_d_h1" for n in e.reads}
    assert turned.name in reads and "V1" not in reads


def test_two_weights_that_one_equation_reads_are_two_copies() -> None:
    tensors = gradient(derived(labelled)).program.tensors
    assert {tensors[n].shape for n in ("_turned_d_h1", "_turned2_d_h1")} == {(4, 4, 4), (6, 4)}


def test_a_few_steps_are_not_worth_a_copy() -> None:
    assert "_turned_d_h1" not in gradient(derived(LAYERS["lstm"], 3)).program.tensors
    assert "_turned_d_h1" in gradient(derived(LAYERS["lstm"], 4)).program.tensors


def test_the_adjoints_of_gates_are_stored_nowhere_but_where_they_are_asked_for() -> None:
    gates = {f"_d_{gate}1" for gate in "ifgo"}
    program = derived(LAYERS["lstm"])
    assert gates <= set(program.defined)
    assert not gates & set(gradient(program).plan.slots)
    assert gates <= set(gradient(program, reuse=False).plan.slots)
    assert {"_d_s1", "_d_h1"} <= set(gradient(program).plan.slots)  # which are read more than once


def test_what_is_computed_for_all_steps_lies_where_their_products_are_added_to_it() -> None:
    entries = compile_program(derived(LAYERS["lstm"]), sgd()).entries
    plan = entries["gradient"].plan
    assert plan.slots["a1"] == plan.slots["z1"]
    assert begins_with(entries["gradient"].program["z1"]) == "a1"
    (kernel,) = (k for kernels in entries["gradient"].phases for k in kernels
                 if "V1" in k.arguments and "h1" in k.arguments)
    assert "a1" not in kernel.arguments
    shown = entries["forward"].plan  # where both are looked at
    assert shown.slots["a1"] != shown.slots["z1"]


def test_gradients_of_recurrent_weights_are_added_up_by_each_thread() -> None:
    program = gradient(derived(LAYERS["lstm"], 200)).program
    assert "_share__d_V1" in program.tensors and "_share__d_U1" in program.tensors


def test_no_thread_has_a_table_of_words_of_its_own() -> None:
    net = dr.Network("words")
    words = net.input("words", "B", 200, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(final(net, dr.lstm(dr.embedding(words, 3000, 3), 4)), 2),
                              net.input("t", "B", dtype=int)))
    tensors = gradient(dr.derive(net)).program.tensors
    assert "_share__d_V1" in tensors
    assert not any(t.shape[:1] == (3000,) for n, t in tensors.items() if n.startswith("_share"))


def test_blocks_have_few_rows_however_large_a_weight_that_each_step_reads() -> None:
    program = derived(lambda net, x: dr.lstm(x, 200), 60)
    assert {b.rows for b in gradient(program).plan.blocks if b is not None} == {16}
