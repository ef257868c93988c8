"""Derivations handed in as index equations: read strictly, judged like functions, line by line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import derive as dr
from derive.errors import ChainruleError
from derive.verify import verify
from derive.verify.claim import ClaimError

RIGHT = """
d_h2[b, k] = (h2[b, k] - t[b, k])/B      # a comment
d_z2[b, k] = d_h2[b, k]*h2[b, k]*(1 - h2[b, k])
d_W2[j, k] = sum[b](h1[b, j]*d_z2[b, k])
d_c2[k] = sum[b](d_z2[b, k])
d_z1[b, j] = sum[k](d_z2[b, k]*W2[j, k])*(1 - h1[b, j]**2)
d_W1[i, j] = sum[b](x[b, i]*d_z1[b, j])
d_c1[j] = sum[b](d_z1[b, j])
"""


def network() -> dr.Network:
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 2), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.tanh), 2, dr.sigmoid), t))
    return net


def test_a_derivation_in_a_file_is_read_by_what_stands_in_it(tmp_path):
    file = tmp_path / "hand.txt"
    file.write_text(RIGHT)
    assert verify(network(), file).verdict == "proved"
    with pytest.raises(ClaimError, match="there is no file"):
        verify(network(), tmp_path / "hand.tex")


def test_a_whole_derivation_is_proved_for_all_sizes():
    report = verify(network(), RIGHT)
    assert report.verdict == "proved", str(report)
    assert not any(d.sizes for d in report.proof.decisions)


def test_some_parameters_are_enough():
    report = verify(network(), "\n".join(RIGHT.splitlines()[:5]))
    assert report.verdict == "proved"
    assert [row.name for row in report.check.rows] == ["W2", "c2"]


WRONG = [
    ("(h2[b, k] - t[b, k])/B", "h2[b, k] - t[b, k]", 2, "_d_h2[b, k] = (h2[b, k] - t[b, k])/B"),
    ("(1 - h2[b, k])", "(1 - z2[b, k])", 3, "h2[b, k] * (1 - h2[b, k]) * _d_h2[b, k]"),
    ("h1[b, j]**2", "h1[b, j]", 6, "(1 - h1[b, j]**2) * _d_h1[b, j]"),
    ("sum[b](d_z1[b, j])", "mean[b](d_z1[b, j])", 8, "_d_c1[j] = sum over b"),
]


@pytest.mark.parametrize(("before", "after", "line", "right"), WRONG)
def test_the_first_wrong_line_is_named_with_the_right_one(before, after, line, right):
    assert before in RIGHT
    report = verify(network(), RIGHT.replace(before, after))
    assert report.verdict == "wrong"
    for finding in report.findings:
        assert finding.place.startswith(f"line {line}: "), str(finding)
        assert "the first wrong line" in finding.place and right in finding.place


def test_of_two_mistakes_the_first_line_is_named():
    text = RIGHT.replace("(1 - h2[b, k])", "h2[b, k]").replace("h1[b, j]**2", "h1[b, j]")
    assert verify(network(), text).findings[0].place.startswith("line 3: d_z2[b, k]")


def test_sympy_expressions_by_element():
    net = dr.Network("line")
    b, i, k = dr.Index("b", "B"), dr.Index("i", 3), dr.Index("k", 2)
    x, t, W = net.input("x", b, i), net.input("t", b, k), net.parameter("W", i, k)
    y = dr.sum(x[b, i] * W[i, k], i)
    net.loss(dr.mean((y - t[b, k]) ** 2, b, k))
    j = dr.Index("j", 3)
    right = dr.sum(x[b, i] * (dr.sum(x[b, j] * W[j, k], j) - t[b, k]), b) / b.size
    assert verify(net, {W[i, k]: right}).verdict == "proved"
    report = verify(net, {W[i, k]: 2 * right})
    assert report.verdict == "wrong" and "factor 2" in report.findings[0].words


BAD = [
    ("d_W1[i, j] = x[b, i]", "index 'b' is neither free nor bound"),
    ("d_W2[j, k] = sum[b](h3[b, j])", "'h3' is not declared"),
    ("d_W2[k, j] = 1", "another shape"),
    ("dz[b] = 1", "no equation is the gradient"),
    ("", "no equation is the gradient"),
    ("d_W1[i, j] = \\frac{1}{2}", "the left side is no symbol"),
    ("input q[b]", "a derivation declares no input"),
    ("z1[b, j] = 1", "'z1'"),
    ("d_c1[j] = 1/0*sum[b](d_z9[b, j])", "d_z9"),
    ("d_c1[j] = __import__('os')", "line 1"),
    ("d_c1[j] = " + "(" * 5000 + "1" + ")" * 5000, "deep"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_said(text: str, words: str):
    with pytest.raises(ChainruleError) as error:
        verify(network(), text)
    assert words in str(error.value)


def test_a_key_that_is_no_element_is_said():
    net = network()
    with pytest.raises(ClaimError, match="no element of a trained parameter"):
        verify(net, {"W1": 0})


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.text("d_W1cz2hx[]bijk,=+-*/()sum 019.\n", max_size=60))
def test_no_text_brings_another_error(text: str):
    try:
        report = verify(network(), text, seconds=0)
    except ChainruleError:
        return
    assert report.verdict in ("wrong", "agrees", "undecided")


UNREAD = """
d_z2[b, k] = (z2[b, k] - t[b, k])/B
d_h1[b, j] = sum[k](d_z2[b, k]*W2[j, k])
d_z1[b, j] = (1 - h1[b, j]{power})*d_h1[b, j]
d_W2[j, k] = sum[b](h1[b, j]*d_z2[b, k])
"""


def test_a_wrong_line_that_no_gradient_reads_is_reported():
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 4, dr.tanh), 2), t))
    assert dr.verify(net, UNREAD.format(power="**2")).verdict == "proved"
    report = dr.verify(net, UNREAD.format(power=""))
    assert report.verdict == "wrong" and report.exit_code == 1
    finding, = report.findings
    assert finding.parameter == "z1" and "no gradient reads it" in finding.words
    assert finding.place == "line 4: d_z1[b, j] = (1 - h1[b, j])*d_h1[b, j]"
    assert finding.formula == "_d_z1[b, j] = (1 - h1[b, j]**2) * _d_h1[b, j]"
    assert "yours" in finding.counterexample
