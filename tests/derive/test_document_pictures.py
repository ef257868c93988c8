"""The picture of the computation in a document: which boxes and arrows it has."""

from __future__ import annotations

import re

import numpy as np
import pytest

import derive as dr
from derive.boxes import Accent, Token
from derive.document import build_document
from derive.document.markdown import markdown_text
from derive.graph import picture_svg, svg_text


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


def residual() -> dr.Network:
    """A convolution beside a skip: 22 boxes, and statistics for prediction."""
    net = dr.Network("residual")
    x, t = net.input("x", "B", 2, 4, 4), net.input("t", "B", 3)
    h = dr.relu(dr.batch_norm(dr.conv2d(x, 2, 3, padding=1)))
    y = dr.relu(dr.add(x, dr.batch_norm(dr.conv2d(h, 2, 3, padding=1))))
    net.loss(dr.squared_error(dr.dense(dr.flatten(y), 3), t))
    return net


def corners(path: str) -> list[tuple[float, float]]:
    """Points of an arrow: of its curves, and of the straight ways down beside boxes."""
    found: list[tuple[float, float]] = []
    for kind, text in re.findall(r"([MCV])([^MCV]+)", path):
        numbers = [float(n) for n in text.split()]
        if kind == "C":
            ends = [found[-1], *zip(numbers[::2], numbers[1::2], strict=True)]
            for s in np.linspace(0, 1, 12):
                weights = (1 - s) ** 3, 3 * s * (1 - s) ** 2, 3 * s * s * (1 - s), s ** 3
                found.append(tuple(sum(w * e[k] for w, e in zip(weights, ends, strict=True))
                                   for k in (0, 1)))  # type: ignore[arg-type]
        else:
            found.append((numbers[0], numbers[1]) if kind == "M" else (found[-1][0], numbers[0]))
    return found


def test_no_box_lies_on_another_and_no_arrow_runs_through_one():
    picture = picture_of(dr.derive(residual()))
    assert len(picture.nodes) > 20 and any(picture.bends.values())
    assert not [node.key for node in picture.nodes if "running" in node.key]
    boxes = {n.key: (picture.places[n.key], picture.widths[n.key] / 2) for n in picture.nodes}
    for a, ((x1, y1), half) in boxes.items():
        for b, ((x2, y2), other) in boxes.items():
            assert a == b or y1 != y2 or abs(x1 - x2) > half + other, f"{a} lies on {b}"
    drawn = re.findall(r'<path class="arrow"[^>]* d="([^"]+)"', picture_svg(picture, ""))
    assert len(drawn) == len(picture.arrows)
    for arrow, path in zip(picture.arrows, drawn, strict=True):
        for u, v in corners(path):
            for key, ((x, y), half) in boxes.items():
                apart = abs(u - x) > half or abs(v - y) > picture.height / 2 - 1
                assert apart, f"{arrow} runs through {key}"


def test_a_bar_does_not_cross_the_stem_of_a_letter():
    def bar(letter: str) -> str:
        return svg_text(Accent("bar", Token(letter)))

    assert "overline" in bar("h") and "\u0304" not in bar("h")
    assert "overline" not in bar("y") and "y\u0304" in bar("y")
