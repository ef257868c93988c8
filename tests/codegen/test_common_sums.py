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


def told() -> Program:
    """A sum whose terms are known: a multiple of another sum, and what is the same in all rows."""
    net = dr.Network("told")
    b, c, i, k = dr.indices("b:B c:B i:4 k:4")
    x, w = net.input("x", b, i), net.parameter("w", i)
    z = net.define("z", (b, i), dr.tanh(x[b, i]*w[i]))
    s = net.define("s", (k,), 2*dr.sum(z[c, k], c))
    u = net.define("u", (i,), dr.sum(3*z[b, i] - w[i], b))
    net.loss(dr.sum(u[i]**2 + dr.exp(-s[i]**2), i))
    return net.program()


def of_sums(program: Program) -> Program:
    batch = choose_batch(program)
    return common_sums(hoist_rows(program, batch), batch)


def test_batch_norm_sums_over_the_batch_twice_in_its_backward_pass():
    made = {eq.name: str(eq.body) for eq in of_sums(derive(normalised())).equations}
    product = "sum over b of ((-m1[j] + z1[b, j])*_d_n1[b, j])"
    assert [n for n, body in made.items() if product in body] == ["_sum_d_g1"]
    assert "_sum_d_g1[j]" in made["_d_g1"] and "_sum_d_g1[j]" in made["_d_v1"]
    shift = "sum over b of (_d_n1[b, j])"
    assert [n for n, body in made.items() if shift in body] == ["_d_c2"]
    assert made["_d_m1"] == "_d_c2[j]*_scale_d_m1[j]"  # what z - m adds up to is zero


def test_an_equation_that_is_the_sum_comes_before_what_reads_it():
    names = [eq.name for eq in of_sums(twice()).equations]
    assert names.index("s") < names.index("u")
    assert "_sum_u" not in names


def test_a_sum_whose_terms_are_known_is_none():
    made = {eq.name: str(eq.body) for eq in of_sums(told()).equations}
    assert made["u"] == "-B*w[i] + 3*s[i]/2"
    assert "sum over c" in made["s"]


def test_what_no_other_equation_contains_stays():
    program = derive(NETWORKS["softmax_classifier"]())
    assert common_sums(program, choose_batch(program)) is program


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("make", [normalised, lambda: normalised(True), twice, told])
def test_they_agree_with_the_reference(make, parts, tmp_path):
    program = derive(make())
    assert not wrong_kernels(program, point(make(), tmp_path), tmp_path, parts)
