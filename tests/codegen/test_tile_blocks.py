"""Softmax between products on a GPU: tiles in shared memory, a block for each tile of rows (or of
columns, for gradients of keys and values)."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import derive as dr
from codegen.launches import Launch, split
from codegen.loops import Product, statements
from codegen.memory import Storage
from codegen.module import render_cuda
from codegen.pipeline import Compiled, compile_program
from codegen.races import conflicts
from codegen.shared_memory import shared_conflicts
from codegen.threads import Barrier, Serial, Warps, threaded
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.cuda_support import emitted, stepped, wrong_launches
from tests.codegen.test_races import changed, distinct, nodes
from tests.codegen.test_tiles import attention, biased, point

SMALL = Storage(reuse=False, tiles=(4, 3))


def compiled(program: Program, storage: Storage = SMALL) -> Compiled:
    return compile_program(program, dr.sgd(), ("gradient",), device=True, storage=storage)


def launches(made: Compiled) -> list[Launch]:
    shapes = {n: t.shape for n, t in made.packed.tensors.items()}
    return [launch for kernels in made.entries["gradient"].phases for kernel in kernels
            for launch in split(kernel, shapes) if launch.tiles]


@pytest.mark.parametrize("form", [
    {}, {"causal": True, "lengths": True}, {"others": 5, "lengths": True}, {"tokens": 1}])
@pytest.mark.parametrize("rows", [1, 2])
def test_tiles_give_what_the_equations_say(form, rows, tmp_path):
    """Sizes that tiles divide, and that they do not; thread by thread, no two of which meet."""
    program = attention(**form)
    assert len(launches(compiled(program))) == 3
    assert not wrong_launches(program, point(program, rows), tmp_path, {"B": rows}, storage=SMALL)


def test_a_term_for_each_row_and_column(tmp_path):
    program = biased()
    assert not wrong_launches(program, point(program, 2), tmp_path, {"B": 2},
                              storage=Storage(reuse=False, tiles=(2, 16)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_where_the_equations_have_them(value, tmp_path):
    program = attention(causal=True)
    values = point(program, 2)
    values["x"][1, 2, 0] = value
    kernels = stepped(render_cuda(compiled(program), "float64"), tmp_path)
    model = kernels.Model()
    for name, view in model.parameters.items():
        view[...] = values[name]
    with np.errstate(all="ignore"):
        counts, _ = model.run("gradient", {n: values[n] for n in ("x", "t")})
        want = evaluate(program, values, sizes={"B": 2})
    for name, (buffer, at, shape) in kernels.offsets("gradient", counts).items():
        if name in want:
            got = np.array(getattr(model, buffer)[at:at + int(np.prod(shape))]).reshape(shape)
            np.testing.assert_allclose(got, want[name], rtol=1e-7, atol=1e-12, err_msg=name)


def test_long_attention_stores_no_scores():
    """Only what is summed over a row or a column has a place in memory; short ones, whose scores
    are few, stay as they are."""
    def made(tokens: int) -> Compiled:
        net = dr.Network("long")
        x = net.input("x", "B", tokens, 32)
        y = dr.multi_head_attention(x, 2, causal=True)
        net.loss(dr.mean_squared_error(y, net.input("t", "B", tokens, 32)))
        return compile_program(dr.derive(net), dr.sgd(), ("gradient",), device=True)

    long = made(512).entries["gradient"]
    assert long.schedule.sweeps[0].size == (64, 32)
    slots = long.plan.slots
    assert not any(name in slots for sweep in long.schedule.sweeps for name in sweep.tiles)
    assert max(int(s.elements.subs(dict.fromkeys(s.elements.free_symbols, 1)))
               for s in slots.values()) < 512*512
    assert not made(64).entries["gradient"].schedule.sweeps
    assert "in tiles of 64×32" in str(long.schedule)


def test_a_length_that_is_known_at_run_time_only(tmp_path):
    net = dr.Network("any length")
    x = net.input("x", "B", "T", 4)
    y = dr.multi_head_attention(x, 2)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", "T", 4)))
    program = dr.derive(net)
    made = launches(compiled(program))
    assert made and all(conflicts(launch) == () for launch in made)
    sizes = {"B": 1, "T": 7}
    values = dr.points.random_values(program, 0, sizes)
    assert not wrong_launches(program, values, tmp_path, sizes, storage=SMALL)


def test_an_empty_batch_has_no_gradient_and_each_launch_the_same_bits(tmp_path):
    program = attention(causal=True)
    kernels = emitted(program, tmp_path, storage=SMALL)
    model, values = kernels.Model(), point(program, 2)
    model.initialize(1)
    given = {n: values[n] for n in ("x", "t")}
    with np.errstate(all="ignore"):
        empty = {n: v[:0] for n, v in given.items()}
        assert np.isnan(model.loss(**empty))
        assert all((g == 0).all() for g in model.gradients(**empty).values())
    first, again = ({n: g.copy() for n, g in model.gradients(**given).items()} for _ in range(2))
    assert all((first[n] == again[n]).all() and first[n].any() for n in first)


# -- no two threads meet --------------------------------------------------------------------------
@cache
def proved() -> tuple[Launch, ...]:
    return tuple(launches(compiled(attention(causal=True), Storage(tiles=(4, 3)))))


def test_every_launch_is_proved():
    assert all(conflicts(launch) == () for launch in proved())


def test_a_barrier_left_out_is_seen():
    """A block waits nowhere in vain; the waits of a warp stand behind one another."""
    for launch, count in zip(proved(), (3, 3, 3), strict=True):
        tree = distinct(threaded(launch))
        barriers = [n for n in nodes(tree) if isinstance(n, Barrier)]
        block = [n for n in barriers if n.of == "block"]
        assert len(block) == count, launch.name
        for node in block:
            assert conflicts(launch, changed(tree, node, lambda _: ())), launch.name
        waits = len(block) < len(barriers)
        assert bool(conflicts(launch, without_waiting(tree))) == waits, launch.name


def test_what_the_next_turn_of_the_grid_writes_anew_is_seen():
    """A tile that is read at the end of a block's turn is written at the start of its next one."""
    launch = proved()[0]
    *shares, grid = distinct(threaded(launch))
    serial = next(n for n in grid.body if isinstance(n, Serial))
    written, barrier, read = serial.body[:3]  # scores; the softmax of them
    assert conflicts(launch, (*shares, replace(grid, body=(written, barrier, read))))
    assert not conflicts(launch, (*shares, replace(grid, body=(written, barrier, read, Barrier()))))


def without_waiting(tree: Any) -> tuple:
    """A tree in which the threads of a warp never wait for each other."""
    return tuple(replace(n, **{f.name: without_waiting(getattr(n, f.name)) for f in fields(n)
                               if f.name in ("body", "yes", "no")})
                 for n in tree if n != Barrier("warp"))


def test_rows_that_warps_share_by_another_index_are_seen():
    for launch in proved():
        tree = distinct(threaded(launch))
        warps = next(n for n in nodes(tree) if isinstance(n, Warps))
        for node in warps.body:
            wrong = changed(tree, node, lambda n: (n, Barrier()))
            assert conflicts(launch, wrong)  # a barrier that other warps pass by


def test_products_of_tiles_write_what_one_block_owns():
    """Gradients of keys and values are sums over rows: blocks have columns there."""
    (last,) = (one for one in proved() if one.over[-1].name.startswith("u"))
    targets = {n.places[0].name for n in statements(last.body) if isinstance(n, Product)}
    assert {"_d_k1", "_d_v1"} <= targets


@cache
def lines() -> tuple[str, ...]:
    """Two tiles of rows and three of columns, by real blocks of threads."""
    net = dr.Network("bare")
    q, k, v = (net.input(n, "B", 9, size) for n, size in (("q", 18), ("k", 18), ("v", 2)))
    w = net.parameter("w", dr.indices("d:18"))
    b, t, d = q.indices
    o = dr.attention(net.define("scaled", (b, t, d), q[b, t, d]*w[d]), k, v, causal=True)
    net.loss(dr.mean_squared_error(o, net.input("y", "B", 9, 2)))
    made = compile_program(dr.derive(net), dr.sgd(), ("loss", "gradient"), device=True,
                           storage=Storage(tiles=(8, 4)))
    return tuple(render_cuda(made).splitlines())


def followed(text: tuple[str, ...], entry: str = "loss") -> bool:
    return shared_conflicts("\n".join(text), rows=1, entries=(entry,)) == ()


def without(at: int) -> tuple[str, ...]:
    return (*lines()[:at], *lines()[at + 1:])


def barriers(start: str) -> list[int]:
    """Those of the function in which a text stands."""
    first = next(n for n, line in enumerate(lines()) if start in line)
    last = next(n for n, line in enumerate(lines()[first:], first) if not line.strip())
    return [n for n in range(first, last) if lines()[n].strip() == "cuda.syncthreads()"]


def test_shared_memory_is_followed():
    assert followed(lines(), "gradient")


def test_a_barrier_left_out_of_what_is_run_is_seen():
    """Both of a product of tiles (whose sum has two pieces), and of a kernel the one behind a
    product of its own."""
    inner = barriers("def tile_product")
    assert len(inner) == 2
    for at in inner:
        assert not followed(without(at)), lines()[at - 1]
    own = barriers("_tile = cuda.shared.array")
    assert not followed(without(next(at for at in own if "tile_product(" in lines()[at - 1])))
