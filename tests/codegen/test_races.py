"""The proof that no two threads of a launch meet, and mutations of launches that it must see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest
import sympy
from sympy import Integer

import derive as dr
from codegen.launches import Launch, split
from codegen.loops import Let, Loop, Store, local
from codegen.pipeline import compile_program
from codegen.races import conflicts, overlaps
from codegen.threads import Barrier, Branch, Grid, Merge, One, Serial, Spread, threaded
from derive.differentiate import derive
from derive.nodes import Access
from derive.optimizers import sgd
from derive.program import Program
from tests.codegen.support import drawn
from tests.networks import NETWORKS


def launches(program: Program) -> list[Launch]:
    made = compile_program(program, sgd(), device=True)
    shapes = {n: t.shape for n, t in made.packed.tensors.items()}
    return [launch for entry in made.entries.values() for kernels in entry.phases
            for kernel in kernels for launch in split(kernel, shapes)]


@cache
def wide() -> tuple[Program, Program]:
    """Normalised rows and softmax over many classes; a recurrence: done by blocks of threads."""
    net = dr.Network("wide")
    x, t = net.input("x", "B", 40), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.layer_norm(x), 50, dr.tanh), t))
    steps = dr.Network("steps")
    h = dr.elman(steps.input("x", "B", 6, 3), 40)
    b, s, i = h.indices
    steps.loss(dr.mean(h[b, s, i]**2, b, s, i))
    return derive(net.program()), derive(steps.program())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_launch_is_proved(name):
    for launch in launches(derive(NETWORKS[name]())):
        assert conflicts(launch) == ()


@pytest.mark.parametrize("seed", [*range(4), 14, 40])
def test_launches_of_random_networks_are_proved(seed):
    for launch in launches(drawn(seed)[0]):
        assert conflicts(launch) == ()


# -- mutations -----------------------------------------------------------------------------------
def nodes(tree: Any) -> Iterator[Any]:
    """Every node of a tree of threads."""
    for node in tree:
        yield node
        for name in ("body", "yes", "no"):
            yield from nodes(getattr(node, name, ()) if is_dataclass(node) else ())


def changed(tree: Any, at: Any, change: Callable[[Any], tuple]) -> tuple:
    """The tree with one node (the very object) replaced."""
    out: list[Any] = []
    for node in tree:
        if node is at:
            out += change(node)
        else:
            inner = {f.name: changed(getattr(node, f.name), at, change) for f in fields(node)
                     if f.name in ("body", "yes", "no")}
            out.append(replace(node, **inner))
    return tuple(out)


def distinct(tree: tuple) -> tuple:
    """The same tree with a node object of its own at each place."""
    return tuple(replace(n, **{f.name: distinct(getattr(n, f.name)) for f in fields(n)
                               if f.name in ("body", "yes", "no")}) for n in tree)


def each(kind: type, *programs: Program) -> Iterator[tuple[Launch, tuple, Any]]:
    for program in programs:
        for launch in launches(program):
            tree = distinct(threaded(launch))
            for node in nodes(tree):
                if isinstance(node, kind):
                    yield launch, tree, node


def test_a_barrier_left_out_is_seen():
    """All but those behind the only loop of a recurrence's step, each thread of which touches
    nothing but elements of its own, step by step."""
    seen = []
    for launch, tree, barrier in each(Barrier, *wide()):
        loops = [n.body for n in nodes(tree) if isinstance(n, Serial) and n.body[-1] is barrier]
        single = any(len(body) == 2 and isinstance(body[0], Spread) for body in loops)
        seen.append(bool(conflicts(launch, changed(tree, barrier, lambda _: ()))))
        assert seen[-1] or single, launch.name
    assert seen.count(True) > 5, seen


def test_a_merging_left_out_is_seen():
    """Each thread would go on with the sum of its own turns."""
    for launch, tree, merge in each(Merge, *wide()):
        own = Let(merge.symbol, merge.own, merge.op)
        assert conflicts(launch, changed(tree, merge, lambda _, n=own: (n,))), launch.name


def store_at_zero(node: Any, index: sympy.Symbol) -> Any:
    """Everything inside that stores by an index stores at 0 instead."""
    if isinstance(node, Store):
        where = [e.xreplace({index: Integer(0)}) for e in node.target.where]
        return replace(node, target=Access(node.target.name, *where))
    inner = {f.name: tuple(store_at_zero(n, index) for n in getattr(node, f.name))
             for f in fields(node) if f.name in ("body", "yes", "no")}
    return replace(node, **inner)


@pytest.mark.parametrize("kind", [Grid, Spread])
def test_a_thread_index_left_out_is_seen(kind):
    seen = 0
    for launch, tree, node in each(kind, *wide(), derive(NETWORKS["strided_convolution"]())):
        for index in node.over:
            wrong = changed(tree, node, lambda n, i=index: (store_at_zero(n, i),))
            if wrong != tree and index.size != 1:
                assert conflicts(launch, wrong), (launch.name, index)
                seen += 1
    assert seen > 5


def test_a_store_by_all_threads_is_seen():
    for launch, tree, one in each(One, *wide()):
        assert conflicts(launch, changed(tree, one, lambda n: n.body)), launch.name


def test_a_barrier_that_some_threads_may_not_reach_is_seen():
    for launch, tree, spread in each(Spread, *wide()):
        inside = replace(spread, body=(*spread.body, Barrier()))
        assert conflicts(launch, changed(tree, spread, lambda _, n=inside: (n,)))
        condition = sympy.Gt(spread.over[0], 3)
        branch = Branch(condition, (Barrier(),))
        wrong = changed(tree, spread, lambda n, b=branch: (replace(n, body=(*n.body, b)),))
        assert conflicts(launch, wrong)


def test_a_stride_or_a_shift_decides():
    """T[4 i + j] is one place for each of i and j < 4, T[3 i + j] is not; T[t] and T[t - 1]
    never are one element in the same step, T[i] and T[i - 1] are in neighbouring threads."""
    i, j, t = dr.indices("i:8 j:4 t:5")

    def launch(*body: Any) -> Launch:
        return Launch("elements", "k", (i, j), body, ("T",), (), ())

    assert not conflicts(launch(Store(Access("T", 4*i + j), Integer(1))))
    assert conflicts(launch(Store(Access("T", 3*i + j), Integer(1))))
    assert conflicts(launch(Store(Access("T", i, j), Access("T", i - 1, j))))
    rows = Launch("blocks", "k", (), (), ("T",), (), ())
    inner = (Loop(t, Integer(0), t.size, (Store(Access("T", t, i), Access("T", t - 1, i)),)),)
    steps = (Serial(Loop(t, Integer(0), t.size, ()), (Spread((i,), inner[0].body), Barrier())),)
    rows = replace(rows, body=(Loop(i, Integer(0), i.size, inner),))
    assert not conflicts(rows, steps)
    crossed = Store(Access("T", t, i), Access("T", t - 1, 7 - i) + local(1))
    steps = (Serial(Loop(t, Integer(0), t.size, ()), (Spread((i,), (crossed,)),)),)
    assert conflicts(rows, steps)


def test_tensors_that_overlap_are_seen():
    made = compile_program(wide()[0], sgd(), device=True)
    entry = made.entries["gradient"]
    kernels = [k for kernels in entry.phases for k in kernels]
    assert all(not overlaps(k.tensors, entry.plan) for k in kernels)
    one, other = next((a, b) for k in kernels for a in k.tensors for b in k.tensors
                      if a != b and entry.plan.slots[a].buffer == entry.plan.slots[b].buffer == "w")
    moved = replace(entry.plan.slots[one], offset=entry.plan.slots[other].offset + 1)
    wrong = replace(entry.plan, slots={**entry.plan.slots, one: moved})
    assert overlaps((one, other), wrong)
