"""The picture of the computation in a document: which boxes and arrows it has."""

from __future__ import annotations

import pytest

import derive as dr
from derive.document import build_document
from derive.document.markdown import markdown_text


def test_long_arrows_bend_around_other_nodes():
    net = dr.Network("residual")
    x = net.input("x", "B", 4)
    y = dr.add(x, dr.dense(dr.dense(x, 4, dr.tanh), 4))
    net.loss(dr.mean(y[tuple(y.indices)] ** 2, *y.indices))
    document = build_document(dr.derive(net))
    figure = next(s for s in document.sections if s.anchor == "graph").blocks[0]
    picture = figure.picture
    assert picture.bends[("x", y.name)]
    for arrow, points in picture.bends.items():
        for x_, y_ in points:
            for node in picture.nodes:
                left, top = picture.places[node.key]
                apart = abs(x_ - left) > picture.widths[node.key] / 2 or abs(y_ - top) > 23
                assert apart, f"{arrow} runs through {node.key}"


def picture_of(program):
    document = build_document(program)
    return next(s for s in document.sections if s.anchor == "graph").blocks[0].picture


def test_a_tensor_that_nothing_forward_reads_is_not_in_the_picture():
    """An input of a second loss, and generated helpers, are tensors without a node."""
    net = dr.Network("two losses")
    x, w = net.input("x", "B", 3), net.parameter("w", 3)
    other = net.input("other", "B")
    b, i = x.indices
    net.loss(dr.mean(dr.max(x[b, i] * w[i], i), b), "L1")
    net.loss(dr.mean(other[b] * x[b, i] * w[i], b, i), "L2")
    for loss in ("L1", "L2"):
        picture = picture_of(dr.derive(net, of=loss))
        keys = {node.key for node in picture.nodes}
        assert all(a in keys and b in keys for a, b in picture.arrows)


@pytest.mark.parametrize("layer", [dr.elman, dr.gru, dr.lstm])
def test_a_recurrence_has_an_arrow_that_leads_back(layer):
    net = dr.Network("recurrent")
    y = layer(net.input("x", "B", 3, 2), 4)
    net.loss(dr.mean(y[tuple(y.indices)] ** 2, *y.indices))
    picture = picture_of(dr.derive(net))
    order = {node.key: k for k, node in enumerate(picture.nodes)}
    assert any(order[a] > order[b] for a, b in picture.arrows)
    document = markdown_text(build_document(dr.derive(net)))
    assert "worked from $`0`$ to $`2`$" in document  # forward
    assert "worked from $`2`$ to $`0`$" in document  # backward, in reversed time
