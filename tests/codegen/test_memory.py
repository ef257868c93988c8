"""Where intermediates lie: lifetimes share places, phases over rows run in blocks."""

from __future__ import annotations

from itertools import combinations

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Expr, Integer, Symbol

import derive as dr
from codegen import memory_blocks
from codegen.memory import OWN, Storage
from codegen.memory_lives import ALIGN, Life, lay_out
from codegen.pipeline import Entry, compile_program
from derive.differentiate import derive
from derive.optimizers import sgd
from derive.program import Program
from tests.codegen.support import build, interpreted, point, sample, wrong_kernels
from tests.networks import NETWORKS

B = Symbol("B", integer=True, positive=True)


def encoder(tokens: int = 6) -> Program:
    net = dr.Network("encoder")
    y = dr.encoder_block(net.input("x", "B", tokens, 4), 2, 8)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", tokens, 4)))
    return net.program()


def convolution() -> Program:
    net = dr.Network("convolution")
    h = dr.max_pool(dr.relu(dr.conv2d(net.input("x", "B", 1, 6, 6), 3, 3, padding=1)), 2)
    net.loss(dr.cross_entropy(dr.dense(h, 4, dims=3), net.input("t", "B", dtype=int)))
    return net.program()


def deep(layers: int) -> Program:
    net = dr.Network("deep")
    h = net.input("x", "B", 8)
    for _ in range(layers):
        h = dr.batch_norm(dr.dense(h, 8, dr.tanh))
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 8)))
    return net.program()


MADE = {**NETWORKS, "encoder": encoder, "convolution": convolution}


def entry(program: Program, storage: Storage) -> Entry:
    return compile_program(derive(program), sgd(), ("gradient",),
                           storage=storage).entries["gradient"]


def bytes_of(program: Program, storage: Storage, batch: int, parts: int = 1) -> int:
    length = entry(program, storage).plan.arena(Integer(parts))
    return 4 * int(length.subs(dict.fromkeys(length.free_symbols, batch)))


lives = st.lists(st.builds(
    lambda first, more, fixed, rows: (first, more, (B, Integer(fixed)) if rows
                                      else (Integer(fixed),)),
    st.integers(0, 9), st.integers(0, 9) | st.none(), st.integers(0, 70), st.booleans()),
    max_size=14).map(lambda rows: [
        Life(f"t{n}", first, None if more is None else first + more, shape)
        for n, (first, more, shape) in enumerate(rows)])


@given(lives, st.sampled_from([1, 3, 64]))
def test_what_is_alive_at_the_same_time_does_not_overlap(lives: list[Life], batch: int):
    offsets, length = lay_out(lives)

    def number(expr: Expr) -> int:
        return int(sympy.sympify(expr).subs(B, batch))

    def span(life: Life) -> tuple[int, int]:
        at = number(offsets[life.name])
        return at, at + number(sympy.Mul(*life.shape))

    for life in lives:
        start, stop = span(life)
        assert start % ALIGN == 0
        assert 0 <= start <= stop <= number(length)
    for one, two in combinations(lives, 2):
        ends = [float("inf") if x.last is None else x.last for x in (one, two)]
        if one.first <= ends[1] and two.first <= ends[0]:
            (a, b), (c, d) = span(one), span(two)
            assert b <= c or d <= a or a == b or c == d


@pytest.mark.parametrize("parts, block, shares", [
    (1, None, None), (1, 1, False), (1, 2, True), (3, None, True), (3, 1, None), (3, 2, True)])
@pytest.mark.parametrize("name", MADE)
def test_gradients_do_not_depend_on_where_intermediates_lie(name, parts, block, shares, tmp_path):
    program = derive(MADE[name]())
    assert not wrong_kernels(program, point(MADE[name](), tmp_path), tmp_path, parts,
                             storage=Storage(block=block, shares=shares))


def test_places_are_used_again():
    """Of a deep network with statistics over the batch, what one layer's backward pass needs is
    gone when the next layer's begins: what a layer adds is what the forward pass leaves for it."""
    each = [bytes_of(deep(n + 1), Storage(), 64) - bytes_of(deep(n), Storage(), 64)
            for n in (4, 5)]
    apart = bytes_of(deep(6), Storage(reuse=False), 64) - bytes_of(deep(5), Storage(reuse=False),
                                                                  64)
    assert each[0] == each[1] < apart / 2


def test_scores_of_attention_are_stored_for_a_block_only():
    tokens, heads, rows = 64, 2, 4096
    more = bytes_of(encoder(tokens), Storage(), 2 * rows) - bytes_of(encoder(tokens), Storage(),
                                                                     rows)
    scores = 4 * rows * heads * tokens * tokens
    assert more < scores
    plan = entry(encoder(tokens), Storage()).plan
    assert any(s.buffer == OWN and s.shape[-2:] == (tokens, tokens) for s in plan.slots.values())


def test_a_phase_in_which_the_number_of_the_row_enters_stays_whole():
    net = dr.Network("numbered")
    x = net.input("x", "B", 3)
    b, i = x.indices
    h = net.define("h", (b, i), dr.tanh(x[b, i] * b))
    net.loss(dr.mean_squared_error(dr.dense(h, 2), net.input("t", "B", 2)))
    assert not any(entry(net.program(), Storage()).plan.blocks)


def test_steps_take_no_new_work_space(tmp_path):
    with interpreted():
        model = build(encoder(), tmp_path)
        values = sample(model.program, 5)
        model.step(**values)
        arena = model._run.w
        model.step(**values)
        assert model._run.w is arena
        model.step(**sample(model.program, 3))
        assert model._run.w is arena


def block_of(program: Program) -> int:
    """The rows of the only phase's blocks that is cut."""
    (block,) = (b for b in entry(program, Storage()).plan.blocks if b is not None)
    return block.rows


def wide() -> Program:
    """Convolutions whose rows fill the cache, in front of a weight that each block reads."""
    net = dr.Network("wide")
    h = dr.relu(dr.conv2d(net.input("x", "B", 1, 20, 20), 32, 3, padding=1))
    h = dr.relu(dr.conv2d(h, 32, 3, padding=1))
    net.loss(dr.cross_entropy(dr.dense(dr.max_pool(h, 2), 10, dims=3),
                              net.input("t", "B", dtype=int)))
    return net.program()


def long() -> Program:
    """Rows of many tokens, and shares of gradients that each block is added to."""
    net = dr.Network("long")
    y = dr.encoder_block(net.input("x", "B", 48, 64), 4, 256)
    net.loss(dr.mean_squared_error(y, net.input("t", "B", 48, 64)))
    return net.program()


@pytest.mark.parametrize("make", [wide, long])
def test_a_block_has_more_rows_where_each_goes_through_much_once(make, monkeypatch):
    def rows(once: int, room: int) -> int:
        monkeypatch.setattr(memory_blocks, "ONCE", once)
        monkeypatch.setattr(memory_blocks, "ROOM", room)
        return block_of(make())

    room = memory_blocks.ROOM
    alone, some, more = rows(0, room), rows(8, room), rows(16, room)
    assert alone < some < more
    assert rows(16, 0) == alone  # no room for more
    assert alone <= rows(16, room // 4) < more


def test_what_products_with_many_rows_read_makes_no_block_longer(monkeypatch):
    net = dr.Network("layers")
    h = net.input("x", "B", 300)
    for _ in range(4):
        h = dr.dense(h, 300, dr.tanh)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 300)))
    found = []
    for once in (0, 10**9):
        monkeypatch.setattr(memory_blocks, "ONCE", once)
        found.append(block_of(net.program()))
    assert found[0] == found[1] < memory_blocks.MOST
