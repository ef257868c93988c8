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


def by_hand(net: dr.Network, x: Any, begin: Callable[[Any, Any], Any],
            initial: Callable[[Any, Any], Any] = lambda b, j: 0) -> tuple[Any, Any]:
    """``z[t] = begin(a) + sum over k of h[t-1, k] V[k]``, ``h[t] = tanh(z[t])``: (a, h)."""
    b, t, i = x.indices
    j, k = dr.indices("p:4 k:4")
    own, last = net.parameter("U", i, j), net.parameter("V", k, j)
    a = net.define("a", (b, t, j), dr.sum(x[b, t, i]*own[i, j], i))
    h = net.declare("h", b, t, j, initial=initial(b, j))
    z = net.define("z", (b, t, j), begin(a, (b, t, j)) + dr.sum(h[b, t - 1, k]*last[k, j], k))
    return a, net.define(h, (b, t, j), dr.tanh(z[b, t, j]))


def first_value(net: dr.Network, x: Any) -> Any:
    """Of what is made and dead between what z begins with and z itself."""
    _, t, i = x.indices
    m = dr.indices(f"m:{4*STEPS}")
    w = net.parameter("W", i, m)

    def value(b: Any, j: Any) -> Any:
        u = net.define("u", (b, m), dr.sum(x[b, t, i]*w[i, m], t, i))
        return net.define("v", (b, j), dr.sum(u[b, m]*(m - 2*j)/100, m))

    return by_hand(net, x, lambda a, at: a[at], initial=value)[1]


def read_elsewhere(net: dr.Network, x: Any) -> Any:
    a, h = by_hand(net, x, lambda a, at: a[at])
    return net.define("g", h.indices, h[h.indices] + a[h.indices])


def at_the_step_before(a: Any, at: Any) -> Any:
    b, t, j = at
    return a[at] + a[b, t - 1, j]/2


BEGUN: dict[str, Callable[[dr.Network, Any], Any]] = {
    "alone": lambda net, x: by_hand(net, x, lambda a, at: a[at])[1],
    "first value": first_value,
    "read elsewhere": read_elsewhere,
    "read twice": lambda net, x: by_hand(net, x, at_the_step_before)[1],
    "read backwards": lambda net, x: by_hand(
        net, x, lambda a, at: a[at[0], STEPS - 1 - at[1], at[2]])[1],
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_sum_begins_with_what_nothing_else_reads_and_lies_in_its_place(
        name: str, tmp_path: Path) -> None:
    program = derived(BEGUN[name])
    held = begins_with(gradient(program).program["z"])
    assert held == ("a" if name in ("alone", "first value") else None)
    assert not wrong_kernels(program, random_values(program, 1, {"B": 5}), tmp_path, 2,
                             storage=Storage(block=2))


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


def test_a_weight_that_two_recurrences_read_is_one_copy(tmp_path: Path) -> None:
    def tied(net: dr.Network, x: Any) -> Any:
        b, t, _ = x.indices
        p, k = dr.indices("p:3 k:3")
        w, below = net.parameter("V", k, p), x
        for name in "hg":
            h = net.declare(name, b, t, p, initial=0)
            z = below[b, t, p] + dr.sum(h[b, t - 1, k]*w[k, p], k)
            below = net.define(h, (b, t, p), dr.tanh(z))
        return below

    program = derived(tied)
    read = [eq for eq in gradient(program).program.equations if "_turned_d_g" in eq.reads]
    assert {eq.name for eq in read} == {"_d_g", "_d_h"}
    assert not any(n.startswith("_turned_d_h") for n in gradient(program).program.tensors)
    assert not wrong_kernels(program, random_values(program, 1, {"B": 5}), tmp_path)


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


@pytest.mark.parametrize("places, inside", [(1, True), (2, False)])
def test_what_is_read_at_one_place_is_computed_there(
        places: int, inside: bool, tmp_path: Path) -> None:
    def layer(net: dr.Network, x: Any) -> Any:
        b, t, _ = x.indices
        p, k = dr.indices("p:3 k:3")
        h, w = net.declare("h", b, t, p, initial=0), net.parameter("V", k, p)
        m = net.define("m", (b, t, p), dr.sin(h[b, t - 1, p]) + x[b, t, p])
        other = h[b, t - 1, k] if places == 1 else m[b, t, k]
        return net.define(h, (b, t, p), dr.tanh(m[b, t, p] + dr.sum(other*w[k, p], k)))

    program = derived(layer)
    forward = compile_program(program, sgd(), ("loss",)).entries["loss"].program
    assert ("m" not in forward.defined) == inside
    assert not wrong_kernels(program, random_values(program, 1, {"B": 5}), tmp_path)


def test_what_is_computed_for_all_steps_lies_where_their_products_are_added_to_it() -> None:
    entries = compile_program(derived(LAYERS["lstm"]), sgd()).entries
    plan = entries["gradient"].plan
    assert plan.slots["a1"] == plan.slots["z1"]
    assert begins_with(entries["gradient"].program["z1"]) == "a1"
    (kernel,) = (k for kernels in entries["gradient"].phases for k in kernels
                 if "V1" in k.arguments and "h1" in k.arguments)
    assert "a1" not in kernel.arguments
    shown = entries["forward"].plan  # where both are looked at, and all gates
    assert shown.slots["a1"] != shown.slots["z1"]
    assert {"i1", "f1", "g1", "o1"} <= set(shown.slots)


def test_gradients_of_recurrent_weights_are_added_up_by_each_thread() -> None:
    program = gradient(derived(LAYERS["lstm"], 200)).program
    assert "_share__d_V1" in program.tensors and "_share__d_U1" in program.tensors


def test_no_thread_has_a_table_of_words_of_its_own() -> None:
    net = dr.Network("words")
    words = net.input("words", "B", 200, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(final(net, dr.lstm(dr.embedding(words, 1500, 3), 4)), 2),
                              net.input("t", "B", dtype=int)))
    tensors = gradient(dr.derive(net)).program.tensors
    assert "_share__d_V1" in tensors
    assert not any(t.shape[:1] == (1500,) for n, t in tensors.items() if n.startswith("_share"))


def test_blocks_have_few_rows_however_large_a_weight_that_each_step_reads() -> None:
    program = derived(lambda net, x: dr.lstm(x, 200), 60)
    assert {b.rows for b in gradient(program).plan.blocks if b is not None} == {16}
