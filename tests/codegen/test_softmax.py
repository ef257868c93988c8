"""Exponentials that a log-sum-exp adds up are kept for the softmax behind it, with its values."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from sympy import Expr, Integer, Symbol

import derive as dr
from codegen.loops import (
    If,
    Let,
    Loop,
    Op,
    Statement,
    Store,
    expressions,
    local,
    statements,
)
from codegen.lower import lower_tasks
from codegen.memory import Storage
from codegen.pipeline import compile_program
from codegen.softmax import keep_exponentials
from derive.differentiate import derive
from derive.nodes import Access, Index
from derive.optimizers import sgd
from derive.program import Program
from tests.codegen.support import build, interpreted, point, wrong_kernels


def softmax(masked: bool = False, weighted: bool = False) -> Program:
    net = dr.Network("softmax")
    b, i, j = dr.indices("b:B i:4 j:5")
    x, w = net.input("x", b, i), net.parameter("w", i, j)
    z = net.define("z", (b, j), dr.sum(x[b, i]*w[i, j], i))
    score = dr.where(j < 3, z[b, j], -sympy.oo) if masked else 2*z[b, j]
    u = net.define("u", (b,), dr.logsumexp(score, j))
    p = net.define("p", (b, j), (j + 2)*dr.exp(score - u[b]) + x[b, 0] if weighted
                   else dr.exp(score - u[b]))
    net.loss(dr.mean(p[b, j]*net.input("t", b, j)[b, j] + u[b]**2, b, j))
    return net.program()


def exponentials(program: Program, name: str = "p") -> list[int]:
    """How often an exponential of a row is computed in each loop of the kernel that makes p."""
    made = compile_program(derive(program), sgd(), ("forward",))
    (kernel,) = (k for kernels in made.entries["forward"].phases for k in kernels
                 if any(isinstance(n, Store) and n.target.name == name for n in statements(k.body)))
    loops = [n for n in statements(kernel.body)
             if isinstance(n, Loop) and not any(isinstance(m, Loop) for m in n.body)]
    return [sum(len(e.atoms(sympy.exp)) for m in n.body for e in expressions(m)) for n in loops]


@pytest.mark.parametrize("program", [softmax(), softmax(weighted=True), softmax(masked=True)])
def test_each_exponential_is_computed_once(program):
    assert sum(exponentials(program)) == 1


def test_another_exponential_stays():
    net = dr.Network("another")
    b, j = dr.indices("b:B j:5")
    x, w = net.input("x", b, j), net.parameter("w", j)
    u = net.define("u", (b,), dr.logsumexp(x[b, j]*w[j], j))
    net.define("p", (b, j), dr.exp(2*x[b, j]*w[j] - u[b]))
    net.loss(dr.mean(net["p"][b, j], b, j))
    assert sum(exponentials(net.program())) == 2


B, J, K = Index("b", Symbol("B", positive=True)), Index("j", Integer(5)), Index("k", Integer(5))
TOTAL, HIGHEST, ONE = local(1), local(2), Integer(1)


def tree(read: str = "s", start: int = 0, op: Op = "+=", more: tuple[Statement, ...] = (),
         target: tuple[Expr, ...] = (B, J), used: Op = "=", factor: Expr = ONE,
         between: tuple[Statement, ...] = ()) -> tuple[Statement, ...]:
    """What a softmax is before its exponentials are kept, or something like it."""
    place = Access("u", B)
    first = Let(TOTAL, sympy.exp(Access(read, B, K) - HIGHEST), op)
    second = Store(Access("p", *target), factor*sympy.exp(Access(read, B, J) - place), used)
    return (Loop(K, Integer(0), K.size, (first, *more)), *between,
            Store(place, HIGHEST + sympy.log(TOTAL)),
            Loop(J, Integer(start), J.size, (second,)))


def test_the_tree():
    p = Access("p", B, J)
    total, *_, result = keep_exponentials(tree(), lambda: local(3))
    assert total == Loop(J, Integer(0), J.size, (
        Store(p, sympy.exp(Access("s", B, J) - HIGHEST)), Let(TOTAL, p, "+=")))
    assert result == Loop(J, Integer(0), J.size, (Store(p, p*local(3)),))


@pytest.mark.parametrize("options", [
    {"read": "p"},  # the result lies where the sum still reads
    {"start": 1},  # not all that is summed is used
    {"op": "max"},
    {"more": (Store(Access("q", B, K), Access("s", B, K)),)},
    {"target": (B, Integer(0))},  # one place for all
    {"used": "+="},  # added to what is there
    {"factor": Access("p", B, J)},  # what was there is read
    {"between": (Store(Access("p", B, Integer(0)), Integer(1)),)},
    {"between": (If(sympy.Eq(B, 0), (Store(Access("p", B, Integer(0)), Integer(1)),)),)},
])
def test_what_is_no_softmax_stays(options):
    assert keep_exponentials(tree(**options), lambda: local(3)) == tree(**options)


@pytest.mark.parametrize("storage", [Storage(reuse=False), Storage(), Storage(block=1)])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("options", [{}, {"weighted": True}, {"masked": True}])
def test_they_agree_with_the_reference(options, parts, storage, tmp_path):
    program = derive(softmax(**options))
    assert not wrong_kernels(program, point(softmax(**options), tmp_path), tmp_path, parts,
                             storage=storage)


def test_rows_of_infinities_and_nan(tmp_path):
    net = dr.Network("rows")
    b, j = dr.indices("b:B j:3")
    x, c = net.input("x", b, j), net.parameter("c", j, initial="zeros")
    u = net.define("u", (b,), dr.logsumexp(x[b, j] + c[j], j))
    net.define("p", (b, j), dr.exp(x[b, j] + c[j] - u[b]))
    net.loss(dr.mean(net["p"][b, j], b, j))
    assert sum(exponentials(net.program())) == 1
    rows = np.array([[-np.inf]*3, [np.inf, 0, 1], [np.nan, 0, 1], [1000.0, 999, -np.inf]])
    with interpreted():
        model = build(net.program(), tmp_path, dtype="float64")
        model.flat[...] = 0
        p = model._run.forward(x=rows)["p"]
    nan, e = np.nan, np.exp(-1)
    np.testing.assert_allclose(p, [[nan]*3, [nan, 0, 0], [nan]*3, [1/(1 + e), e/(1 + e), 0]])


def test_on_a_device_rows_are_spread_and_nothing_is_kept():
    made = compile_program(derive(softmax()), sgd(), ("forward",))
    tasks = [t for phase in made.entries["forward"].schedule.phases for t in phase.tasks]
    shapes = {n: t.shape for n, t in made.entries["forward"].program.tensors.items()}
    kernel = lower_tasks({t.group.equations[0].name: 0 for t in tasks},
                         [t for t in tasks if t.group.equations[0].name in "up"], shapes, True)
    assert sum(len(e.atoms(sympy.exp)) for n in statements(kernel.body)
               for e in expressions(n)) == 2
