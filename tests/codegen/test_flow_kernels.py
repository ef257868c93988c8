"""The forecast of gradients beside what emitted kernels compute."""

from __future__ import annotations

import numpy as np
import pytest

import codegen
import derive as dr
from derive.flow.forecast import forecast
from derive.flow.sample import draw


def test_gradients_of_emitted_kernels_are_as_forecast():
    """tanh, width 256, labels drawn at random: each weight's gradient within 20 % in rms, over
    four draws of data and weights (ten logits fluctuate by 10 % a draw)."""
    net = dr.Network("kernels")
    h, t = net.input("x", "B", 256), net.input("t", "B", dtype=int)
    for _ in range(2):
        h = dr.dense(h, 256, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    derived = dr.derive(net)
    predicted = forecast(derived, sizes={"B": 64})
    model = codegen.compile(derived, dtype="float64", parallel=False)
    squares: dict[str, list[float]] = {}
    for seed in range(4):
        values = draw(predicted, seed)
        for name, view in model.parameters.items():
            view[...] = values[name]
        for name, gradient in model.gradients(x=values["x"], t=values["t"]).items():
            squares.setdefault(name, []).append(float(np.mean(gradient**2)))
    for name in predicted.weights:
        measured = np.sqrt(np.mean(squares[name]))
        assert measured == pytest.approx(predicted[f"_d_{name}"].rms, rel=0.20), name
