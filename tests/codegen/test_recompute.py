"""Memory for time: what is computed again in the backward pass, and what that takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.footprint import footprint_text, shown_bytes, training_bytes
from codegen.memory import Storage
from codegen.pipeline import Compiled, compile_program
from codegen.recompute import again, is_again, kept_tensors
from codegen.schedule import choose_batch
from derive.differentiate import derive
from derive.errors import DeclarationError
from derive.optimizers import sgd
from derive.points import random_values
from derive.program import Program
from tests.codegen.support import build, interpreted, sample, wrong_kernels
from tests.codegen.test_footprint import held
from tests.codegen.test_memory import deep, encoder, wide


def normed(layers: int = 5) -> Program:
    """Statistics over the batch, so that the backward pass has phases of its own."""
    return deep(layers)


def unrolled() -> Program:
    net = dr.Network("unrolled")
    h = dr.lstm(net.input("x", "B", 4, 3), 5)
    b, _, j = h.indices
    net.loss(dr.mean_squared_error(dr.dense(net.define("last", (b, j), dr.gelu(h[b, 3, j])), 2),
                                   net.input("t", "B", 2)))
    return net.program()


def compiled(program: Program, storage: Storage) -> Compiled:
    return compile_program(derive(program), sgd(), ("gradient",), storage=storage)


LEAST = Storage(recompute=1)  # whatever can be won


@pytest.mark.parametrize("make", [normed, encoder, unrolled])
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_are_the_same(make, parts, tmp_path):
    program = derive(make())
    made = compiled(make(), LEAST).entries["gradient"].schedule.program
    assert any(is_again(t) for t in made.tensors.values()) or make is not normed
    values = random_values(program, 0, {"B": 5})
    assert not wrong_kernels(program, values, tmp_path, parts, {"B": 5}, storage=LEAST)


def test_everything_computed_again_gives_the_same(tmp_path):
    """Also what nobody would choose: each tensor by itself, and all of them."""
    program = derive(normed(3)).only("L", *derive(normed(3)).gradients.values())
    batch = choose_batch(program)
    kept = kept_tensors(program, batch)
    values = random_values(program, 0, {"B": 3})
    want = program.evaluate(values)
    for names in ([n] for n in kept):
        got = again(program, names, batch).evaluate(values)
        for gradient in program.gradients.values():
            np.testing.assert_array_equal(got[gradient], want[gradient])
    whole = again(program, kept, batch)
    got = whole.evaluate(values)
    assert all(np.array_equal(got[g], want[g]) for g in program.gradients.values())
    assert not {n for n in kept if n in {r for eq in whole.equations for r in eq.reads
                                         if eq.name not in program.forward.defined}
                and not is_again(whole.tensors[n])}


def test_memory_falls_with_the_limit():
    free = compiled(normed(), Storage())
    whole = shown_bytes(free, 2)
    least = shown_bytes(compiled(normed(), LEAST), 2)
    assert least < 0.85 * whole
    between = (whole + least) // 2
    made = compiled(normed(), Storage(recompute=between // 4))
    assert least <= shown_bytes(made, 2) <= between
    assert "computed again" in footprint_text(made)
    assert "computed again" not in footprint_text(free)


@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_predicted_is_what_is_held(parts, tmp_path):
    with interpreted():
        model = build(normed(3), tmp_path, parts, optimizer=dr.adam(), storage=LEAST,
                      recompute="none")
        model.epoch(sample(model.program, 11), 7)
    predicted = training_bytes(model.compiled, parts)
    assert int(predicted.subs(dict.fromkeys(model.program.sizes, 7))) == held(model._run)


def test_a_chain_without_barriers_is_cut_into_shares():
    """Where all rows go through all layers at once, weight gradients added up block by block keep
    what they read for a block only."""
    net = dr.Network("chain")
    h = net.input("x", "B", 8)
    for _ in range(10):
        h = dr.dense(h, 8, dr.tanh)
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 8)))
    free = compile_program(derive(net.program()), sgd(), ("gradient",))
    made = compiled(net.program(), LEAST)
    assert shown_bytes(made, 2) < 0.8 * shown_bytes(free, 2)


def test_auto_and_none_keep_what_is_small(tmp_path):
    program = derive(normed(2))
    told: dict[str, str] = {}
    for way in ("auto", "none"):
        path = tmp_path / f"{way}.py"
        codegen.emit(program, path, recompute=way, report=lambda line, way=way: told.update(
            {way: line}))
    assert told["auto"] == told["none"]


def test_a_limit_that_cannot_be_kept_is_refused_with_the_least(tmp_path):
    program = derive(normed(3))
    with pytest.raises(DeclarationError, match=r"training takes \d+ bytes at least") as error:
        codegen.emit(program, tmp_path / "kernels.py", recompute=1000)
    assert "recompute=" in str(error.value)
    for wrong in ("some", 0, True, 1.5):
        with pytest.raises(DeclarationError, match="no number of bytes"):
            codegen.emit(program, tmp_path / "kernels.py", recompute=wrong)
    with pytest.raises(DeclarationError, match="a GPU keeps all"):
        codegen.emit(replace(program), tmp_path / "kernels.py", "cuda", recompute=10**9)


def test_copies_of_tensors_whose_names_differ_in_an_underscore_are_apart():
    net = dr.Network("alike names")
    b, i = dr.indices("b:B i:3")
    x, w = net.input("x", b, i), net.parameter("w", i)
    h = net.define("h", (b, i), dr.sin(w[i] * x[b, i]))
    g = net.define("h_", (b, i), dr.cos(w[i] * h[b, i]))
    net.loss(dr.mean(dr.sum(g[b, i] * dr.exp(g[b, i] * h[b, i]), i), b))
    program = derive(net)
    values = random_values(program, 0, {"B": 3})
    got = again(program, ["h", "h_"], choose_batch(program)).evaluate(values)
    want = program.evaluate(values)
    np.testing.assert_array_equal(got[program.gradients["w"]], want[program.gradients["w"]])


def test_blocks_are_short_before_anything_is_computed_again():
    def rows(made: Compiled) -> int:
        return max(b.rows for b in made.entries["gradient"].plan.blocks if b is not None)

    free, short = compiled(wide(), Storage()), compiled(wide(), Storage(short=True))
    assert rows(short) < rows(free) and shown_bytes(short, 2) < shown_bytes(free, 2)
    limited = compiled(wide(), Storage(recompute=shown_bytes(short, 2) // 4))
    assert rows(limited) == rows(short) and shown_bytes(limited, 2) == shown_bytes(short, 2)
    assert not any(is_again(t) for t in limited.entries["gradient"].program.tensors.values())
