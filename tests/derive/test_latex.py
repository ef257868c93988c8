"""LaTeX of equations: symbols, order, and nothing that a name could smuggle in."""

from __future__ import annotations

import pytest

import derive as dr
from derive.latex import equation_latex, escape, expression_latex
from derive.symbols import Style, Symbols, symbol_of_name
from tests.networks import NETWORKS


def latex_of(name: str) -> dict[str, str]:
    program = dr.derive(NETWORKS[name]())
    symbols = Symbols(program)
    return {eq.name: equation_latex(eq, symbols=symbols) for eq in program.equations}


def test_a_classifier_is_set_as_in_a_textbook():
    made = latex_of("softmax_classifier")
    assert made["_u_h"] == r"u_{h;bj} = \sum_{i} x_{bi}\,W_{1;ij} + c_{1;j}"
    assert made["_d_z"] == r"\bar{z}_{bk} = \frac{p_{bk} - [k = t_{b}]}{B}"
    assert made["_d_W1"] == (
        r"\frac{\partial L}{\partial W_{1;ij}} = \sum_{b} x_{bi}\,\bar{u}_{h;bj}")
    assert made["_d_u_h"] == r"\bar{u}_{h;bj} = [h_{bj} > 0]\,\bar{h}_{bj}"
    assert made["_u_L"] == r"u_{L;b} = \log\sum_{k} e^{z_{bk}}"


def test_a_stride_leaves_its_conditions_under_the_sum():
    made = latex_of("strided_convolution")["_d_X"]
    assert r"\equiv 0" in made and r"\text{mod }2" in made and r"\substack{" in made
    assert r"(k - r + 1)/2" in made


def test_a_recurrence_reads_the_step_before():
    assert latex_of("recurrent")["_u_h"] == (
        r"u_{h;tbj} = \sum_{i} x_{tbi}\,U_{ij} + \sum_{k} h_{t - 1,b,k}\,V_{kj}")


@pytest.mark.parametrize(
    ("name", "latex"),
    [("W1", "W_{1}"), ("y_hat", r"\hat{y}"), ("alpha", r"\alpha"), ("beta1", r"\beta_{1}"),
     ("lr", r"\mathrm{lr}"), ("W_ih", r"W_{\mathrm{ih}}"), ("x_1_2", "x_{1,2}"),
     ("m_next", r"m^{\prime}"), ("ŷ", r"\hat{y}"), ("损失", r"\text{损失}"),
     ("h_tilde_3", r"\tilde{h}_{3}")],
)  # fmt: skip
def test_names_become_symbols(name, latex):
    net = dr.Network("names")
    net.input(name)
    program = net.program()
    assert expression_latex(program.tensors[net[name].name].access) == latex


@pytest.mark.parametrize("name", [r"\write18", "<script>", "__import__", "a$b", "x^2", "x{y", ""])
def test_names_that_could_act_are_refused(name):
    net = dr.Network("names")
    with pytest.raises(dr.DeclarationError):
        net.input(name)


def test_running_text_is_escaped():
    made = escape(r"\write18{id} 50% a_b #1 $x$ ~^&")
    assert r"\write18" not in made and r"\textbackslash{}write18\{id\}" in made
    assert r"50\%" in made and r"a\_b" in made and r"\$x\$" in made


def test_two_softmaxes_have_two_symbols():
    net = dr.Network("two")
    x, w = net.input("x", "B", 3), net.parameter("W", 3)
    b, i = x.indices
    first = dr.mean(dr.logsumexp(x[b, i] * w[i], i), b)
    second = dr.mean(dr.logsumexp(x[b, i] - w[i], i), b)
    net.loss(first + second)
    program = dr.derive(net)
    made = list(map(Symbols(program).tensor, program.tensors))
    assert len(set(made)) == len(made)


def test_a_reader_s_own_notation_is_kept():
    program = dr.derive(NETWORKS["softmax_classifier"]())
    delta = Symbols(program, Style(adjoint="delta"))
    assert equation_latex(program.defined["_d_z"], symbols=delta).startswith(r"\delta_{z;bk}")
    partial = Symbols(program, Style(adjoint="partial"))
    assert equation_latex(program.defined["_d_z"], symbols=partial).startswith(
        r"\frac{\partial L}{\partial z_{bk}}")
    named = Symbols(program, Style(names={"_u_h": "a"}))
    assert equation_latex(program.defined["_u_h"], symbols=named).startswith("a_{bj} =")


def test_a_second_derivative_has_symbols_too():
    net = dr.Network("twice")
    w = net.parameter("w", 3)
    (i,) = w.indices
    net.loss(dr.sum(w[i] ** 3, i))
    first = dr.derive(net)
    assert symbol_of_name("w").letter == "w"
    assert all(equation_latex(eq, symbols=Symbols(first)) for eq in first.equations)


def test_notebooks_show_equations_and_programs():
    program = dr.derive(NETWORKS["softmax_classifier"]())
    assert program["W1"]._repr_latex_().startswith(r"$\displaystyle \bar{W}_{1;ij} =")
    assert program._repr_latex_().startswith("$\\begin{aligned}")
