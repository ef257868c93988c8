"""Sums over rows that several equations contain are computed once, with the same values."""

from __future__ import annotations

import pytest

import derive as dr
from codegen.common_sums import common_sums
from codegen.invariants import hoist_rows
from codegen.schedule import choose_batch
from derive.differentiate import derive
from derive.program import Program
from tests.codegen.support import point, wrong_kernels
from tests.networks import NETWORKS


def normalised(channels: bool = False) -> Program:
    net = dr.Network("normalised")
    h = net.input("x", "B", 2, 3, 3) if channels else net.input("x", "B", 5)
    h = dr.relu(dr.batch_norm(dr.conv2d(h, 3, 2) if channels else dr.dense(h, 7)))
    h = dr.flatten(h) if channels else h
    net.loss(dr.cross_entropy(dr.dense(h, 3), net.input("t", "B", dtype=int)))
    return net.program()


def twice() -> Program:
    """A sum that is an equation of its own, behind one that contains it under other indices."""
    net = dr.Network("twice")
    b, c, i, k = dr.indices("b:B c:B i:4 k:4")
    x, w = net.input("x", b, i), net.parameter("w", i)
    z = net.define("z", (b, i), dr.tanh(x[b, i]*w[i]))
    u = net.define("u", (i,), w[i]*dr.sum(z[b, i], b))
    s = net.define("s", (k,), dr.sum(z[c, k], c))
    net.loss(dr.sum(u[i]**2 + dr.exp(-s[i]**2), i))
    return net.program()


def of_sums(program: Program) -> Program:
    batch = choose_batch(program)
    return common_sums(hoist_rows(program, batch), batch)


def test_the_gradient_of_a_scale_and_the_adjoint_of_a_variance_share_a_sum():
    made = {eq.name: str(eq.body) for eq in of_sums(derive(normalised())).equations}
    product = "sum over b of ((-m1[j] + z1[b, j])*_d_n1[b, j])"
    assert [n for n, body in made.items() if product in body] == ["_sum_d_g1"]
    assert "_sum_d_g1[j]" in made["_d_g1"] and "_sum_d_g1[j]" in made["_d_v1"]


def test_an_equation_that_is_the_sum_is_left_alone():
    # on several ranks its target is added up in place: neither a copy of it nor its readers know
    program = twice()
    assert of_sums(program).equations == hoist_rows(program, choose_batch(program)).equations


def test_what_no_other_equation_contains_stays():
    program = derive(NETWORKS["softmax_classifier"]())
    assert common_sums(program, choose_batch(program)) is program


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("make", [normalised, lambda: normalised(True), twice])
def test_they_agree_with_the_reference(make, parts, tmp_path):
    program = derive(make())
    assert not wrong_kernels(program, point(make(), tmp_path), tmp_path, parts)
