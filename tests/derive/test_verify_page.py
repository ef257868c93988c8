"""The report as HTML: well formed, escaped, formulas side by side with the difference marked."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from derive.verify import verify
from derive.verify.report import difference
from tests.derive.test_verify import by_hand, network


def page(report) -> ET.Element:
    text = report.to_html()
    assert "<script" not in text and "http://" not in text and "https://" not in text
    return ET.fromstring(text.replace("<!DOCTYPE html>", ""))


def marked(report, tag: str) -> list[str]:
    return [x.text for x in page(report).iter(tag)]


def sign_inside(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    p = np.exp(h @ W2 + c2)
    p = p / p.sum(axis=1, keepdims=True)
    p[np.arange(len(t)), t] -= 1 < 2  # <b>&amp;
    p = p / len(t)
    da = (p @ W2.T) * (1 - h)
    return {"W1": x.T @ da, "c1": da.sum(axis=0), "W2": h.T @ p, "c2": p.sum(axis=0)}


def test_the_line_and_the_formula_stand_beside_the_right_ones_with_the_difference_marked():
    report = verify(network(), sign_inside)
    first = report.findings[0]
    assert first.source == "da = (p @ W2.T) * (1 - h)" and first.mended
    assert first.equation.startswith("_d_") and first.formula.startswith("_d_")
    assert first.matrix
    texts = ["".join(x.itertext()) for x in page(report).iter("code")]
    for shown in (first.source, first.mended, first.equation, first.formula, first.matrix,
                  first.counterexample):
        assert shown in texts
    assert "".join(marked(report, "ins"))


def test_what_a_user_wrote_is_escaped():
    def hostile(x, t, W1, c1, W2, c2):
        return {**by_hand()(x, t, W1, c1, W2, c2), "c2": np.zeros(4)}

    hostile.__name__ = "<script>alert(1)</script>"
    assert "<script" not in verify(network(), hostile).to_html()


def test_a_notebook_shows_the_report_and_a_proof_is_in_it():
    report = verify(network(), by_hand())
    cell = ET.fromstring(report._repr_html_())
    style, section = cell  # a cell has no style of ours unless it brings it along
    assert style.tag == "style" and ".verdict .sides" in (style.text or "")
    assert section.get("class") == "verdict proved"
    assert "W1: equal for all sizes" in "".join(cell.itertext())
    assert "W1: equal for all sizes" in "".join(page(report).itertext())


def test_the_page_says_how_a_derivation_was_read():
    net = dr.Network("line")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    net.loss(dr.squared_error(dr.dense(x, 1, bias=False), t))
    report = verify(net, r"\frac{\partial L}{\partial W_1} = \frac{1}{B} x^\top (x W_1 - t)")
    assert report.ok and report.notes
    texts = ["".join(x.itertext()) for x in page(report).iter("code")]
    assert set(report.notes) <= set(texts)


def test_the_command_writes_the_page(tmp_path: Path):
    from codegen.cli import main

    (tmp_path / "net.py").write_text(
        "import derive as dr\nnet = dr.Network('line')\nx = net.input('x', 'B', 2)\n"
        "net.loss(dr.mean_squared_error(dr.dense(x, 1, bias=False), net.input('t', 'B', 1)))\n")
    (tmp_path / "hand.py").write_text(
        "def backward(x, t, W1):\n    return {'W1': x.T @ (x @ W1 - t) / len(t)}\n")
    html = tmp_path / "verdict.html"
    assert main(["verify", str(tmp_path / "net.py"), str(tmp_path / "hand.py"),
                 "--html", str(html)]) == 1
    assert "x.T @ (x @ W1 - t) / len(t)" in html.read_text()


def test_spaces_that_differ_are_not_marked():
    assert difference("d = g*(1 + r**2)", "d = g*(1 - r ** 2)") == "         ^"


def test_a_place_that_several_gradients_have_is_said_once():
    report = verify(network(), by_hand(sum_for_mean=True))
    assert len(report.findings) == 4
    assert str(report).count("as above") == 3
    assert str(report).count(report.findings[0].place.splitlines()[0]) == 1
    places = [p for p in page(report).iter("p") if p.get("class") == "quiet"]
    assert len(places) == 4 and places[0].find("code") is not None
    assert "".join(places[1].itertext()).endswith("as above")


def test_a_notebook_shows_an_error_without_our_own_lines():
    with pytest.raises(dr.ChainruleError) as caught:
        verify(network(), lambda x, t, W1: W1)
    assert caught.value._render_traceback_() == [f"HandError: {caught.value}"]
