"""Sums into a target: which of its indices are innermost, with the reference's values."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sympy import Expr, Integer, Symbol

import derive as dr
from codegen.memory import Storage
from codegen.sums import NEAR, in_order
from derive.differentiate import derive
from derive.nodes import Access, Index
from derive.program import Program
from tests.codegen.support import point, wrong_kernels

B = Index("b", Symbol("B", positive=True, integer=True))
H, E, U = (Index(n, Integer(size)) for n, size in (("h", 3), ("e", 5), ("u", 7)))
LONG = Index("l", Integer(NEAR // 3 + 1))


@pytest.mark.parametrize("free, places, inmost", [
    ((H, E), [(B, H, E)], (H, E)),  # behind each other
    ((U, H, E), [(B, U, H, E)], (U, H, E)),
    ((U, H, E), [(B, U), (B, H, E)], (H, E)),  # an outer product
    ((H, E), [(B, E, H)], (E,)),  # turned
    ((H, E), [(B, H, U, E)], (E,)),  # something between
    ((H, E), [(B, H, E), (B, E)], (E,)),  # a factor that is read again for every h
    ((H, E), [(B, 2*H, E)], (E,)),  # in steps
    ((H, LONG), [(B, H, LONG)], (LONG,)),  # too many to stay near
    ((B, E), [(U, B, E)], (E,)),  # nobody knows how many
    ((E,), [(B, E)], (E,)),
])
def test_the_last_indices_are_innermost_where_memory_is_read_in_order(
        free: Sequence[Index], places: Sequence[tuple[Expr, ...]], inmost: Sequence[Index]):
    product = 1
    for n, where in enumerate(places):
        product *= Access(f"t{n}", *where)
    outer, inner = in_order(free, product)
    assert (tuple(outer), tuple(inner)) == (tuple(free[:len(free) - len(inmost)]), inmost)


def heads(guarded: bool = False) -> Program:
    """A bias for each column of each head, and one that only some rows have."""
    net = dr.Network("heads")
    b, i, h, e = dr.indices("b:B i:9 h:3 e:4")
    x, c, w = net.input("x", b, i, h, e), net.parameter("c", h, e), net.parameter("w", h, e)
    z = net.define("z", (b, i, h, e), dr.tanh(x[b, i, h, e] * w[h, e] + (
        dr.where(h + e < i, c[h, e], 0) if guarded else c[h, e])))
    net.loss(dr.mean(z[b, i, h, e]**2, b, i, h, e))
    return net.program()


@pytest.mark.parametrize("storage", [Storage(reuse=False), Storage(shares=True, reuse=False),
                                     Storage(columns=True, reuse=False)])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("guarded", [False, True])
def test_they_agree_with_the_reference(guarded, parts, storage, tmp_path):
    program = derive(heads(guarded))
    assert not wrong_kernels(program, point(heads(guarded), tmp_path), tmp_path, parts,
                             storage=storage)
