"""Shared memory, followed thread by thread in emitted kernels; and mutations that must be seen."""

from __future__ import annotations

import re
from functools import cache

import pytest

import derive as dr
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from codegen.shared_memory import shared_conflicts
from derive.differentiate import derive
from derive.program import Program


def network() -> Program:
    """A product of three pieces along its sum, and a log-sum-exp by a block for each row."""
    net = dr.Network("a product and a reduction")
    b, i, j = dr.indices("b:B i:33 j:40")
    x, w = net.input("x", b, i), net.parameter("W", i, j)
    y = net.define("y", (b, j), dr.sum(x[b, i]*w[i, j], i))
    net.loss(dr.mean(dr.logsumexp(y[b, j], j), b))
    return derive(net.program())


@cache
def lines() -> tuple[str, ...]:
    text = render_cuda(compile_program(network(), dr.lamb(), device=True))
    return tuple(text.splitlines())


def found(changed: tuple[str, ...]) -> tuple[object, ...]:
    return shared_conflicts("\n".join(changed), rows=3, entries=("loss",))


def template(pattern: str) -> list[int]:
    """Lines of the functions that touch shared memory, up to the kernels."""
    end = next(n for n, line in enumerate(lines()) if line.startswith("# -- kernels"))
    return [n for n, line in enumerate(lines()[:end]) if re.match(pattern, line)]


def without(at: int) -> tuple[str, ...]:
    return (*lines()[:at], *lines()[at + 1:])


def test_every_launch_is_followed():
    assert shared_conflicts("\n".join(lines())) == ()


def test_random_numbers_behind_a_product_are_data():
    """What they are depends on a seed in memory; no place does."""
    net = dr.Network("noise behind a product")
    h = dr.dropout(dr.dense(net.input("x", "B", 5), 4), 0.5, net.random())
    net.loss(dr.mean(h[h.indices]**2, *h.indices))
    text = render_cuda(compile_program(derive(net.program()), dr.sgd(), device=True))
    assert re.search(r"def behind_\w+\(.*\n(?:.*\n){1,9}.*mix\(", text)
    assert shared_conflicts(text, rows=3, entries=("loss",)) == ()


def test_a_barrier_left_out_is_seen():
    barriers = template(r" +cuda\.syncthreads\(\)$")
    assert len(barriers) >= 4
    for at in barriers:
        assert found(without(at)), lines()[at - 1]


def test_a_shifted_place_is_seen():
    """What one thread writes one place further is another one's, or is read unwritten."""
    stores = template(r" +shared\[.*\] = ")
    assert stores
    for at in stores:
        wrong = re.sub(r"\] = ", " + 1] = ", lines()[at], count=1)
        assert found((*lines()[:at], wrong, *lines()[at + 1:])), lines()[at]


@pytest.mark.parametrize("line, what", [
    ("if value > 0: cuda.syncthreads()", "does not pass the barriers"),
    ("if cuda.threadIdx.x > 3: cuda.syncthreads()", "does not pass the barriers"),
    ("shared[32 + cuda.threadIdx.x] = value", "lies outside")])
def test_what_cannot_be_followed_is_said(line, what):
    at = next(n for n in template(r" +shared = ")) + 1
    indent = re.match(" *", lines()[at])
    assert indent is not None
    wrong = (*lines()[:at], indent[0] + line, *lines()[at:])
    assert any(what in str(conflict) for conflict in found(wrong))
