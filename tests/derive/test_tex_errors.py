"""LaTeX that cannot be read, or not in one way: an error with line and caret; never a guess."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import derive as dr
from derive.errors import ChainruleError
from derive.tex import LatexError
from derive.verify import verify
from tests.derive.tex_networks import ridge

NABLA = r"\nabla_w L = "
BAD = [
    (NABLA + r"A^\top (A v - y)", "v is not declared"),
    (NABLA + r"A^\top \hat{r}", r"\hat{r} is not declared"),
    (NABLA + r"A^\top (A w - y", "( is never closed"),
    (NABLA + r"\frac{A}{", "{ is never closed"),
    (NABLA + r"A^\top r}", "} closes nothing"),
    (NABLA + r"\left( A^\top r \right]", "does not close"),
    (NABLA + r"A^\top \foo r", r"\foo is no command"),
    (NABLA + r"\input{secret}", r"\input is refused"),
    (NABLA + r"\write18{id}", r"\write18 is refused"),
    (r"\def\x{1} " + NABLA + "w", r"\def is refused"),
    (r"\newcommand{\x}{1} " + NABLA + "w", r"\newcommand is refused"),
    (NABLA + "A w r", "inner sizes differ"),
    (NABLA + r"\sum_n A_{ni} r_n", "i is neither declared nor an index"),
    (r"\frac{\partial L}{\partial w_i} = A_{ni} r_n", "n is not declared"),
    (r"\frac{\partial J}{\partial w} = A^\top r", "J is not the loss"),
    (r"\frac{\partial L}{\partial w_i} = \sum_n A_{ni} 1/r_n y_n", "more than one reading"),
    (r"\frac{\partial L}{\partial w} = A^\top \bar{r}", "no line says what it is"),
    (r"g = A^\top r", "no line is the gradient"),
    (r"A^\top r", "no equation"),
    (r"\begin{align} \nabla_w L = w", "never closed"),
    (NABLA + "9^{9^{9^{9}}} w", "exponent"),
    (NABLA + "{" * 500 + "w" + "}" * 500, "nested too deeply"),
    (NABLA + r"\log w y", "parentheses"),
    (NABLA + r"w \star w", "1×1"),
    (NABLA + r"w \star 3", "slides an array over one of as many dims"),
    (NABLA + r"A^\top (A \star w)", "slides an array over one of as many dims"),
    (NABLA + r"A^\top r + 3 w'", "transposed"),
    (NABLA + r"A^\top r'' + 3 w", "r with 2 primes is not declared"),
    (r"a = 3 \\ " + NABLA + r"A^\top r + a' w", "a prime at a, a scalar, is no transpose"),
    (r"\frac{\partial L}{\partial w_i} = \sum_{n=1}^{N} A_{ni} r'_n + 3 w_i", "an element of r"),
    (NABLA + r"\left(A^\top A\right)^{-1} A^\top y", "the inverse of 4×4 is not read"),
    (NABLA + r"A^{-1} y", "the inverse of N×4 is not read"),
    (NABLA + r"A^\top r + \|A\|_2 w", "its largest singular value"),
    (NABLA + r"A^\top r + \|w\|_3 w", "‖·‖_3 is not read"),
    (NABLA + r"\text{prod}(r, A)", "prod hides which factor is transposed"),
    (NABLA + r"g \leftarrow A^\top r", r"\leftarrow is not read"),
    (r"\frac{\partial L}{\partial w^\top} = r^\top A + 3 w^\top", "by the transpose of w"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_read_is_said(text: str, words: str):
    with pytest.raises(ChainruleError) as error:
        verify(ridge(), text, seconds=0)
    assert words in str(error.value), str(error.value)


def test_the_place_is_shown_with_a_caret():
    with pytest.raises(LatexError) as error:
        verify(ridge(), "g = A^\\top r\n\\nabla_w L = g + 3 v")
    lines = str(error.value).splitlines()
    assert "line 2, column 20" in lines[0]
    assert lines[2].index("^") == lines[1].index("v")


def test_names_that_stand_for_nothing_are_said():
    with pytest.raises(LatexError, match="did you mean"):
        verify(ridge(), NABLA + r"X^\top r + 3 w", names={"X": "AA"})
    with pytest.raises(dr.DeclarationError, match="samples"):
        verify(ridge(), NABLA + "w", layout={"samples": "diagonal"})


TOKENS = [r"\frac", r"\sum", r"\partial", "{", "}", "(", ")", "[", "]", "_", "^", "=", "+", "-",
          "A", "r", "w", "L", "i", "n", "1", "2", r"\top", r"\delta", r"\sigma", r"\odot", "|", "'",
          r"\log", r"\max", r"\mathbf{1}", ",", r"\\", "&", "$", r"\nabla", "\n", r"\bar", " "]


@settings(max_examples=40, derandomize=True, deadline=None, database=None,
          suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(TOKENS), max_size=14) | st.text(max_size=30).map(list))
def test_no_text_brings_another_error(tokens: list[str]):
    try:
        report = verify(ridge(), NABLA + "".join(tokens), seconds=0)
    except ChainruleError:
        return
    assert report.verdict in ("wrong", "agrees", "undecided")
