"""Repeated layers: which equations are taken for one layer ℓ, and how names are written with ℓ."""

from __future__ import annotations

import pytest

import derive as dr
from derive.document.folding import Folding, LayerSymbols
from derive.layout import Setter
from derive.symbols import Symbols
from tests.remembered import printed
from tests.reread import verdicts


def encoder(blocks: int = 5, head: bool = False) -> dr.Network:
    net = dr.Network("encoder")
    h = net.input("x", "B", 3, 4)
    for _ in range(blocks):
        h = dr.encoder_block(h, 2, 6)
    h = dr.layer_norm(h) if head else h
    net.loss(dr.mean_squared_error(h, net.input("t", "B", 3, 4)))
    return net


def folding(net: dr.Network) -> Folding:
    program = net.program()
    return Folding(program, program.equations)


def plain_layers(*names: str) -> dr.Network:
    """Dense layers of one width by equations; the weights are called as given."""
    net = dr.Network("layers")
    b, i, j = dr.indices("b:B i:4 j:4")
    h = net.input("x", b, i)
    for k, name in enumerate(names):
        weight = net.parameter(name, i, j)
        h = net.define(f"h{k + 1}", (b, j), dr.tanh(dr.sum(h[b, i] * weight[i, j], i)))
    net.loss(dr.mean(dr.sum(h[b, j] ** 2, j), b))
    return net


def test_dense_layers_have_their_number_in_their_names():
    found = folding(plain_layers(*(f"W{k + 1}" for k in range(7))))
    (fold,) = found.folds
    assert (fold.start, fold.period, fold.count, fold.first) == (1, 1, 6, 2)
    assert found.number_in("W4") == (4, "ℓ+1") and found.number_in("h1") == (1, "ℓ−2")


@pytest.mark.parametrize("head", [False, True])
def test_blocks_begin_where_least_is_handed_on(head: bool):
    """Only the residual stream, although there are as many blocks from q on."""
    found = folding(encoder(head=head))
    (fold,) = found.folds
    first = found.forward[fold.start].name
    assert (first, fold.period, fold.count, fold.first) == ("m3", 18, 4, 2)


def test_numbers_of_a_block_with_two_norms_are_written_with_the_layer():
    found = folding(encoder())
    written = {found.number_in(name) for name in ("m5", "m6", "y7", "y9", "Wq3", "y6")}
    assert written == {(5, "2ℓ−1"), (6, "2ℓ"), (7, "3ℓ−2"), (9, "3ℓ"), (3, "ℓ"), (6, "3ℓ−3")}
    (fold,) = found.folds
    symbols = found.symbols(Symbols(found.program), fold)
    assert isinstance(symbols, LayerSymbols)
    assert symbols.tensor("m5").subs == ("2ℓ−1",)
    assert symbols.tensor("_d_z6").subs == ("2ℓ",)  # put in where it is used: no tensor


def test_weights_whose_names_do_not_go_on_are_each_shown():
    """For ℓ there is no way to write A, Q, C, …, so no layer may stand for them."""
    assert folding(plain_layers("A", "Q", "C", "D", "E", "F", "G")).folds == []
    assert folding(plain_layers("W1", "W2", "W3", "W5", "W4", "W6", "W7")).folds == []


def test_a_shared_weight_has_no_number_of_a_layer():
    net = dr.Network("shared")
    b, i, j = dr.indices("b:B i:4 j:4")
    h, weight = net.input("x", b, i), net.parameter("W1", i, j)
    for k in range(6):
        h = net.define(f"h{k + 1}", (b, j), dr.tanh(dr.sum(h[b, i] * weight[i, j], i)))
    net.loss(dr.mean(dr.sum(h[b, j] ** 2, j), b))
    found = folding(net)
    assert len(found.folds) == 1 and found.number_in("W1") is None


def test_multiples_of_the_layer_are_set_as_products():
    texts = {Setter()._subscript(text) for text in ("ℓ", "2ℓ", "2ℓ−1", "2ℓ+1", "ℓ−1")}
    assert len(texts) == 5


def test_what_stands_for_all_blocks_is_read_again_and_equal():
    derived = dr.derive(encoder())
    _, found = printed(derived, detail="full")
    folded = [item for item in found if r"3\ell - 2" in item.latex]
    assert folded and all(trouble is None for _, trouble in verdicts(derived, folded))
