"""MathML of equations: well-formed, Core elements only, names escaped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import derive as dr
from derive.boxes import Fence, Frac, Row, Script, Token, row
from derive.mathml import box_mathml, equation_mathml, math
from derive.symbols import Symbols
from tests.networks import NETWORKS

CORE = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msub", "msup", "msubsup", "mfrac",
        "msqrt", "munder", "mover", "mtable", "mtr", "mtd"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_equation_is_well_formed_mathml_core(name):
    program = dr.derive(NETWORKS[name]())
    symbols = Symbols(program)
    for eq in program.equations:
        root = ElementTree.fromstring(equation_mathml(eq, symbols))
        assert {e.tag for e in root.iter()} <= CORE
        assert root.get("display") == "block"


def test_children_are_as_many_as_each_element_takes():
    program = dr.derive(NETWORKS["strided_convolution"]())
    wanted = {"msub": 2, "msup": 2, "mfrac": 2, "munder": 2, "mover": 2, "msubsup": 3}
    for eq in program.equations:
        for element in ElementTree.fromstring(equation_mathml(eq, Symbols(program))).iter():
            assert len(element) == wanted.get(element.tag, len(element))


def test_letters_are_escaped():
    made = math(row(Token("<script>", "upright"), Token("a&b", "text")))
    assert "<script>" not in made
    assert ElementTree.fromstring(made)[0][0].text == "<script>"


def test_a_tall_fence_grows_and_a_low_one_does_not():
    low = box_mathml(Fence("(", Token("x"), ")"))
    tall = box_mathml(Fence("(", Frac(Token("x"), Token("y")), ")"))
    assert 'stretchy="false"' in low and 'stretchy="true"' in tall


def test_bold_letters_are_unicode_s():
    assert "𝐖" in box_mathml(Script(Token("W", "bold"), Token("1", "number")))


def test_a_minus_behind_a_sign_stands_close_and_a_broken_sum_goes_on_with_its_sign():
    minus, x = Token("−", "op"), Token("x")
    assert '<mo form="prefix">−</mo>' in math(Row((Token("y"), Token("=", "op"), minus, x)))
    assert "form" not in math(Row((Token("y"), minus, x)))
    assert '<mo form="infix">−</mo>' in math(Row((minus, x)), block=True, follows=True)
