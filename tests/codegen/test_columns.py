"""Phases split over columns: fewer barriers where statistics over the batch stand between
products, and right wherever they are asked for."""

from __future__ import annotations

import pytest

import derive as dr
from codegen.memory import Storage
from codegen.schedule import make_schedule
from derive.differentiate import derive
from derive.program import Program
from tests.codegen.support import point, wrong_kernels
from tests.codegen.test_memory import convolution, deep, encoder
from tests.networks import NETWORKS


def normalised(depth: int) -> Program:
    net = dr.Network(f"normalised {depth}")
    h = net.input("x", "B", 5)
    for _ in range(depth):
        h = dr.relu(dr.batch_norm(dr.dense(h, 7)))
    net.loss(dr.cross_entropy(dr.dense(h, 3), net.input("t", "B", dtype=int)))
    return net.program()


def part_of_columns() -> Program:
    """A mean of every second column of what is computed beside it."""
    net = dr.Network("part of columns")
    b, i, j, k = dr.indices("b:B i:4 j:6 k:3")
    x, w = net.input("x", b, i), net.parameter("w", i, j)
    z = net.define("z", (b, j), dr.sum(x[b, i]*w[i, j], i))
    m = net.define("m", (k,), dr.mean(z[b, 2*k], b))
    v = net.define("v", (j,), dr.mean(z[b, j]**2, b))
    n = net.define("n", (b, k), (z[b, 2*k] - m[k])*v[2*k] + z[b, 5 - k])
    net.loss(dr.mean(dr.sum(dr.tanh(n[b, k]), k)**2, b))
    return net.program()


MADE = {**NETWORKS, "encoder": encoder, "convolution": convolution, "deep": lambda: deep(2),
        "normalised": lambda: normalised(3), "part of columns": part_of_columns}


def kinds(program: Program, columns: bool = True) -> list[str]:
    return [phase.kind for phase in make_schedule(derive(program), columns=columns).phases]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", MADE)
def test_phases_of_columns_agree_with_the_reference(name, parts, tmp_path):
    program = derive(MADE[name]())
    assert not wrong_kernels(program, point(MADE[name](), tmp_path), tmp_path, parts,
                             storage=Storage(reuse=False, columns=True))


def test_a_layer_with_batch_norm_has_one_barrier_in_each_direction():
    depth = 6
    assert kinds(normalised(depth), False).count("rows") == 2*depth + 1
    found = kinds(normalised(depth))
    assert found.count("columns") + 1 == len(found) == 2*depth + 1


def test_what_rows_can_do_alone_stays_with_the_rows():
    for program in (convolution(), encoder(), NETWORKS["softmax_classifier"]()):
        assert kinds(program)[0] == "rows" and "rows" not in kinds(program)[1:]


def test_what_is_read_beyond_the_own_column_waits_for_the_next_phase():
    schedule = make_schedule(derive(part_of_columns()), columns=True)
    place = {eq.name: n for n, phase in enumerate(schedule.phases)
             for task in phase.tasks for eq in task.group.equations}
    assert place["v"] == place["z"]  # at the own column
    assert place["m"] > place["z"]  # which is at every second one
    assert place["n"] > place["v"]
