"""Derivations in LaTeX, as papers have them: proved, or wrong at the right line."""

from __future__ import annotations

import pytest

from derive.verify import verify
from tests.derive import tex_networks as nets
from tests.derive.tex_derivations import LSTM, RIGHT, WRONG


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_are_proved(name: str):
    network, text, options, verdict, _ = RIGHT[name]
    report = verify(network(), text, **options)
    assert report.verdict == verdict, str(report)


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_line_is_named(name: str):
    network, text, options, verdict, line = WRONG[name]
    report = verify(network(), text, seconds=0, **options)
    assert report.verdict == verdict, str(report)
    assert all(f.place.startswith(f"line {line}:") for f in report.findings), str(report)


STATED = r"\frac{\partial L}{\partial o_t} &= \delta h_t \odot \tanh(c_t) \\"
BESIDE = LSTM.replace(r"\frac{\partial L}{\partial W_f}",
                      STATED + "\n" + r"\frac{\partial L}{\partial W_f}")


def test_a_delta_of_a_gate_and_the_adjoint_of_the_gate_are_two_things():
    assert verify(nets.lstm(), BESIDE, seconds=0).verdict == "agrees"


def test_a_wrong_line_that_no_gradient_reads_is_reported():
    text = BESIDE.replace(STATED, STATED.replace(r"\tanh(c_t)", "c_t"))
    report = verify(nets.lstm(), text)
    (found,) = report.findings
    assert report.exit_code == 1 and found.parameter == "o" and "no gradient" in found.words
    assert found.place.startswith("line 10: ") and "tanh(c[t, b, j])" in found.formula
