"""Softmax between products in tiles: what is found, what it stores, and that it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sympy import Integer

import derive as dr
from codegen.memory import Storage
from codegen.module import load, render
from codegen.pipeline import Compiled, Entry, compile_program
from codegen.tile_search import TILE
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.support import interpreted, wrong_kernels


def attention(tokens: int = 7, others: int = 0, causal: bool = False, lengths: bool = False
              ) -> Program:
    """Two heads of three features; ``others``: of attention to so many steps of a context."""
    net = dr.Network("attention")
    x = net.input("x", "B", tokens, 6)
    y = dr.multi_head_attention(
        x, 2, causal=causal, context=net.input("c", "B", others, 6) if others else None,
        lengths=net.input("len", "B", dtype=int) if lengths else None)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", tokens, 6)))
    return dr.derive(net)


def biased() -> Program:
    """Scores with a term for each row and column added."""
    net = dr.Network("biased")
    b, i, u, d, e = dr.indices("b:B i:5 u:4 d:3 e:2")
    q, k, v = net.input("q", b, i, d), net.input("k", b, u, d), net.input("v", b, u, e)
    w, near = net.parameter("w", d), net.input("near", i, u)
    scaled = net.define("scaled", (b, i, d), q[b, i, d] * w[d])
    s = net.define("s", (b, i, u), dr.sum(scaled[b, i, d] * k[b, u, d], d))
    s2 = net.define("s2", (b, i, u), s[b, i, u] + near[i, u])
    p = net.define("p", (b, i, u), dr.softmax(s2[b, i, u], u))
    o = net.define("o", (b, i, e), dr.sum(p[b, i, u] * v[b, u, e], u))
    net.loss(dr.mean_squared_error(o, net.input("y", "B", 5, 2)))
    return dr.derive(net)


def entry(program: Program, storage: Storage) -> Entry:
    return compile_program(program, sgd(), ("gradient",), storage=storage).entries["gradient"]


def point(program: Program, rows: int, lengths: tuple[int, ...] = (0, 3, 5)
          ) -> dict[str, np.ndarray]:
    values = random_values(program, 0, {"B": rows})
    if "len" in values:
        values["len"] = np.array(lengths[:rows])
    return values


@pytest.mark.parametrize("tiles", [(2, 3), (1, 1), (3, 16)])
@pytest.mark.parametrize("form", [
    {}, {"causal": True}, {"causal": True, "lengths": True}, {"others": 5, "lengths": True},
    {"tokens": 1}])
def test_tiles_give_what_the_equations_say(form, tiles, tmp_path):
    program = attention(**form)
    storage = Storage(tiles=tiles)
    assert len(entry(program, storage).schedule.sweeps) == 2
    for parts, rows in ((1, 1), (2, 3)):
        assert not wrong_kernels(program, point(program, rows), tmp_path, parts, {"B": rows},
                                 storage=storage)


def test_the_sweep_compiled(tmp_path):
    program = attention(causal=True)
    assert not wrong_kernels(program, point(program, 3), tmp_path, 1, {"B": 3}, compiled=True,
                             storage=Storage(tiles=(2, 3)))


def runs(program: Program, folder: Path, storage: Storage) -> Iterator[tuple[Compiled, object]]:
    compiled = compile_program(program, sgd(), ("gradient",), storage=storage)
    with interpreted():
        yield compiled, load(render(compiled, "float64", False), folder)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_nan_and_inf_are_where_the_equations_have_them(causal, lengths, tmp_path):
    """In every tensor of the softmax, also where a whole row is masked or all of it is -inf."""
    net = dr.Network("bare")
    q, k, v = (net.input(n, "B", 5, s) for n, s in (("q", 3), ("k", 3), ("v", 2)))
    w = net.parameter("w", dr.indices("d:3"))
    b, t, d = q.indices
    scaled = net.define("scaled", (b, t, d), q[b, t, d] * w[d])
    o = dr.attention(scaled, k, v, causal=causal,
                     lengths=net.input("len", "B", dtype=int) if lengths else None)
    net.loss(dr.mean_squared_error(o, net.input("y", "B", 5, 2)))
    program = dr.derive(net)
    base = point(program, 2)
    for compiled, kernels in runs(program, tmp_path, Storage(tiles=(2, 2))):
        kept = compiled.entries["gradient"].plan.kept
        for name in "qkv":
            for value in (np.nan, np.inf, -np.inf):
                for place in ((1, 2, 0), (1, slice(0, 3)), slice(None)):
                    values = {n: np.array(a, copy=True) for n, a in base.items()}
                    values[name][place] = value
                    model = kernels.Model()
                    model.p[:3] = values["w"]
                    want = evaluate(program, values, sizes={"B": 2})
                    counts, _ = model.run("gradient", {
                        t.name: values[t.name] for t in program.given if t.role == "input"})
                    for n, (buffer, at, shape) in kernels.offsets("gradient", counts).items():
                        if n in kept:
                            got = getattr(model, buffer)[at:at + int(np.prod(shape))]
                            np.testing.assert_allclose(got.reshape(shape), want[n], rtol=1e-7,
                                                       err_msg=f"{n} for {name} {place}")


def test_a_bias_of_positions_is_part_of_the_sweep(tmp_path):
    program = biased()
    made = entry(program, Storage(tiles=(2, 3)))
    assert {"s", "s2", "p"} <= {n for s in made.schedule.sweeps for n in s.tiles}
    assert not wrong_kernels(program, point(program, 3), tmp_path, 1, {"B": 3},
                             storage=Storage(tiles=(2, 3)))


def test_scores_are_never_stored_whole():
    """Work space grows with the length, not with its square."""
    def elements(tokens: int) -> int:
        plan = entry(attention(tokens), Storage(tiles=TILE)).plan
        return int(plan.arena(Integer(1)).subs("B", 1).subs(
            dict.fromkeys(plan.arena(Integer(1)).free_symbols, 1)))

    assert elements(4096) < 2.1 * elements(2048)
    assert elements(2048) < 2048 * 2048


def test_long_sequences_are_tiled_and_short_ones_are_not():
    assert not entry(attention(32), Storage()).schedule.sweeps
    assert len(entry(attention(2048), Storage()).schedule.sweeps) == 2
    assert not entry(attention(2048), Storage(tiles=False)).schedule.sweeps
    assert not entry(attention(2048), Storage(reuse=False)).schedule.sweeps  # all is wanted
    assert len(entry(attention(), Storage(reuse=False, tiles=(2, 2))).schedule.sweeps) == 2


def test_what_is_wanted_is_stored():
    """Where weights of attention are looked at when all is done, they are there."""
    program = attention()
    compiled = compile_program(program, sgd(), ("forward",), storage=Storage(tiles=(2, 2)))
    assert not compiled.entries["forward"].schedule.sweeps
    compiled = compile_program(program, sgd(), ("forward",), ("y1",), Storage(tiles=(2, 2)))
    assert len(compiled.entries["forward"].schedule.sweeps) == 1


@pytest.mark.parametrize(("length", "sweeps"), [(32, 0), (2048, 2)])
def test_a_gpu_keeps_short_scores_and_has_tiles_of_long_ones(length: int, sweeps: int):
    compiled = compile_program(attention(length), sgd(), ("gradient",), device=True)
    assert len(compiled.entries["gradient"].schedule.sweeps) == sweeps
