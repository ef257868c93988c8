"""Sums whose one factor is numbers: which are recognised, and the nests that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sympy

import derive as dr
from codegen.direct import direct
from codegen.module import load, render
from codegen.pipeline import compile_program
from codegen.weights import Table, weighted
from derive.nodes import Access, Index, SumOver
from derive.optimizers import sgd
from derive.points import random_values
from derive.reference import evaluate
from tests.codegen.support import wrong_kernels

ROW, SUM, COLUMN = Index("m", 3), Index("i", 4), Index("c", 5)
MANY = Index("b", sympy.Symbol("B"))
SHAPES = {"T": (ROW.size, COLUMN.size), "X": (SUM.size, COLUMN.size)}
POWER, X = (ROW + 1)**SUM / 2, Access("X", SUM, COLUMN)


def test_an_expression_of_indices_is_a_table():
    tables, access = weighted(3*POWER*X, sympy.S.One)
    assert access == X
    (table,) = tables
    want = 3*np.arange(1, 4)**np.arange(4)[:, None]/2
    assert table == Table((SUM, ROW), tuple(want.ravel()))
    assert table.along((ROW, SUM)) == tuple(want.T.ravel())


@pytest.mark.parametrize("summand", [
    X, POWER*X*Access("Z", COLUMN), Access("g", ROW)*X, sympy.sqrt(SUM + 1)*X,
    MANY*Access("Y", MANY, COLUMN), sympy.Mul(ROW + SUM, SUM + 1)*X, Index("j", 300)*X,
    sympy.Symbol("B")*ROW*X])
def test_what_is_no_table(summand: sympy.Expr):
    assert weighted(summand, sympy.S.One) is None


def test_a_sum_with_a_table_is_a_nest_where_the_table_tells_every_row_and_sum():
    nest = direct(Access("T", ROW, COLUMN), sympy.S.One, SumOver(POWER*X, SUM), SHAPES)
    assert nest is not None and nest.nest().tables[0][0] == (0, 1)
    for body in (ROW*X, SUM*X):  # the sum, or a row, is in no table
        assert direct(Access("T", ROW, COLUMN), sympy.S.One, SumOver(body, SUM), SHAPES) is None


@pytest.mark.parametrize("columns", [1, 5, 16, 37])
def test_a_nest_of_numbers_compiled(columns: int, tmp_path: Path):
    """Two tables with rows of zeros and numbers that are no 0 or 1, in vectors that are cut; what
    lies beside the result stays as it was."""
    net = dr.Network("tables")
    x = net.input("x", "B", 3, 4, columns)
    b, i, j, c = x.indices
    m, n = dr.indices("m:2 n:3")
    y = net.define("y", (b, m, n, c), dr.sum(
        sympy.Rational(1, 3)*(m*(i - 1))*(n - j)**2*x[b, i, j, c], i, j))
    made = compile_program(net.program(), sgd(), ("forward",), ("y",))
    text = render(made)
    assert "direct_6x" in text
    kernels = load(text, tmp_path)
    model = kernels.Model()
    model.w = np.full(10_000, np.nan, "f")
    values = np.random.default_rng(0).standard_normal((2, 3, 4, columns)).astype("f")
    found = np.array(model.forward(x=values)["y"])
    want = evaluate(net.program(), {"x": values.astype(float)})[y.name]
    assert np.abs(found - want).max() <= 1e-6*np.abs(want).max()
    buffer, at, shape = kernels.offsets("forward", (2,))["y"]
    beside = np.delete(model.w, slice(at, at + int(np.prod(shape))))
    assert buffer == "w" and np.isnan(beside).all(), "something was stored beside the result"


def test_a_gather_does_not_move_by_constant_steps(tmp_path: Path):
    """Summed over the index of the gather, with another factor and with numbers."""
    net = dr.Network("gathers")
    b, j, d, o, v = dr.indices("b:B j:4 d:3 o:8 v:5")
    word, table = net.input("word", b, j, dtype=int), net.parameter("E", v, d)
    weight = net.parameter("W", j, d, o)
    y = net.define("y", (b, o), dr.sum(table[word[b, j], d]*weight[j, d, o], j, d))
    z = net.define("z", (b, d), dr.sum((j + 1)*table[word[b, j], d], j))
    net.loss(dr.sum(y[b, o]**2, b, o) + dr.sum(z[b, d]**2, b, d))
    program = dr.derive(net)
    values = {**random_values(program, 1, {"B": 3}),
              "word": np.array([[0, 4, 1, 2], [3, 3, 0, 1], [4, 2, 2, 0]])}
    assert not wrong_kernels(program, values, tmp_path, 2, {"B": 3})
