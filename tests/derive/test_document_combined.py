"""Closed forms: adjoints of statistics put in, of the same value as the equation they replace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import derive as dr
from derive.document.combined import combined
from derive.points import random_values
from derive.reference import evaluate
from derive.text import expression_text
from tests.networks import NETWORKS


def normalised(layer):
    net = dr.Network("normalised")
    y = layer(dr.dense(net.input("x", "B", 3), 4))
    net.loss(dr.mean(dr.sin(y[tuple(y.indices)]), *y.indices))
    return dr.derive(net)


def attention():
    net = dr.Network("attention")
    y = dr.multi_head_attention(net.input("x", "B", 3, 4), 2, causal=True)
    net.loss(dr.mean(dr.sin(y[tuple(y.indices)]), *y.indices))
    return dr.derive(net)


PROGRAMS = {
    "batch norm": lambda: normalised(dr.batch_norm),
    "layer norm": lambda: normalised(dr.layer_norm),
    "rms norm": lambda: normalised(dr.rms_norm),
    "attention": attention,
    **{name: (lambda name=name: dr.derive(NETWORKS[name]())) for name in NETWORKS},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_closed_form_has_the_value_of_its_adjoint(name):
    program = PROGRAMS[name]()
    values = random_values(program, 3, None)
    expected = evaluate(program, values)
    for eq in program.equations:
        made = combined(program, eq)
        if made is not None:
            other = replace(program, equations=tuple(
                replace(e, body=made.body) if e is eq else e for e in program.equations))
            np.testing.assert_allclose(evaluate(other, values)[eq.name], expected[eq.name],
                                       rtol=1e-9, atol=1e-12, err_msg=str(eq))


def test_batch_norm_comes_out_as_people_know_it():
    program = PROGRAMS["batch norm"]()
    made = combined(program, program.defined["_d_z1"])
    assert made.used == ("_d_v1", "_d_m1")
    assert [(mean, of) for _, mean, of in made.zeros] == [("m1", "z1")]
    text = expression_text(made.body)
    assert text.startswith("g1[j] * (") and text.endswith(")/sqrt(v1[j] + 0.00001)")
    assert "_d_m1" not in text and "_d_v1" not in text


def test_a_softmax_comes_out_with_its_sum():
    program = PROGRAMS["attention"]()
    text = expression_text(combined(program, program.defined["_d_s1"]).body)
    assert "( -p1[b, h, i, u1] * _d_p1[b, h, i, u1] )" in text


@pytest.mark.parametrize("name", ["softmax_classifier", "recurrent", "strided_convolution"])
def test_where_nothing_is_normalised_there_is_no_closed_form(name):
    program = PROGRAMS[name]()
    assert not [eq for eq in program.equations if combined(program, eq)]
