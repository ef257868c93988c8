"""Every layer and every loss of the tables in the tests of `derive`, as emitted kernels.

Each tensor of the derived program, in three parts, against the reference evaluator; and as text:
what is written reads back as the same network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import derive as dr
from derive.network import Handle, Network
from derive.points import default_sizes, random_values
from derive.program import Program
from tests.codegen.support import with_fixed_parameters, wrong_kernels
from tests.derive import test_conv, test_layers, test_recurrence
from tests.derive.test_conv import closed, new


def with_loss(loss: str) -> Callable[[], Network]:
    def make() -> Network:
        z, net = test_layers.scores()
        net.loss(test_layers.LOSSES[loss](z, net))
        return net

    return make


def layer(make: Callable[[], Handle]) -> Callable[[], Network]:
    return lambda: closed(make())


def unequal(layer: Callable[..., Handle], **settings: object) -> Callable[[], Handle]:
    def make() -> Handle:
        x = new("B", "T", 2)
        return layer(x, lengths=x.network.input("n", "B", dtype=int), **settings)

    return make


def sequence(make: Callable[..., Handle]) -> Callable[[], Handle]:
    return lambda: make(test_recurrence.sequence())


def two_directions_twice(x: Handle, lengths: Handle) -> Handle:
    inner = dr.bidirectional(dr.lstm, x, 2, lengths=lengths)
    return dr.bidirectional(dr.lstm, inner, 2, lengths=lengths)


NETWORKS: dict[str, Callable[[], Network]] = {
    **{n: layer(make) for n, make in test_layers.LAYERS.items()},
    **{n: layer(make) for n, make in test_conv.LAYERS.items()},
    **{n: layer(sequence(make)) for n, make in test_recurrence.LAYERS.items()},
    **{f"{n}, backwards, unequal": layer(unequal(make, reverse=True))
       for n, make in test_recurrence.LAYERS.items()},
    "two layers of LSTM in both directions, unequal": layer(unequal(two_directions_twice)),
    "3-D, strides, groups": layer(lambda: dr.convolution(
        new("B", 4, 5, 3, 4), 6, (3, 2, 2), dr.tanh, stride=(2, 1, 2), padding=(1, 1, 0),
        dilation=(2, 1, 1), groups=2)),
    "reflect, stride, dilation": layer(lambda: dr.convolution(
        new("B", 2, 7), 3, 3, padding=2, stride=2, dilation=2, mode="reflect")),
    **{n: with_loss(n) for n in test_layers.LOSSES},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_agree_with_the_reference(name: str, tmp_path):
    program = NETWORKS[name]().program()
    wrt = list(dr.derive(program).gradients)
    derived = dr.derive(with_fixed_parameters(program), wrt)
    sizes = default_sizes(derived)
    values = random_values(derived, 1, sizes)
    if "n" in values:  # lengths, an empty sequence among them
        values["n"] = np.arange(len(values["n"])) % (sizes["T"] + 1)
    with np.errstate(invalid="ignore"):
        assert not wrong_kernels(derived, values, tmp_path, 3, sizes)


@pytest.mark.parametrize("name", NETWORKS)
def test_text_and_back(name: str):
    program = NETWORKS[name]().program()
    again = dr.parse_network(dr.write_network(program)).program()
    assert again.hash == program.hash


def test_every_layer_and_loss_stands_in_a_table():
    from derive import _HOME

    text = "".join(open(module.__file__, encoding="utf-8").read()
                   for module in (test_layers, test_conv, test_recurrence))
    names = {*_HOME["derive.layers"], *_HOME["derive.losses"]}
    assert not [n for n in names if f"dr.{n}" not in text]


# -- programs over programs -----------------------------------------------------------------------
def classifier() -> Network:
    net = Network("classifier")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 2, dr.tanh), 4), t))
    return net


def without_a_loss() -> Network:
    net = Network("map")
    dr.dense(dr.dense(net.input("x", "B", 3), 2, dr.tanh), 4)
    return net


PRODUCTS: dict[str, Callable[[], Program]] = {
    "a Hessian": lambda: dr.hessian(classifier(), "W1"),
    "a Jacobian": lambda: dr.jacobian(classifier(), "z2", "W1"),
    "a Jacobian by an input": lambda: dr.jacobian(without_a_loss(), "z2", "x"),
    "a product with the Hessian": lambda: dr.hessian_vector(classifier(), "W1"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_second_derivatives_as_kernels(name: str, tmp_path):
    """Through the public calls: named gradients, and the emitted module's own test."""
    import codegen
    from derive.reference import evaluate
    from tests.codegen.support import interpreted

    program = PRODUCTS[name]()
    point = random_values(program, 1, {"B": 5})
    with interpreted():
        model = codegen.compile(program, directory=tmp_path, dtype="float64", parallel=False)
        for parameter, view in model.parameters.items():
            view[...] = point[parameter]
        given = {n: v for n, v in point.items() if n not in model.parameters}
        found = model.gradients(**given)
        rows = model.kernels.self_test()
    (tensor,) = program.gradients
    np.testing.assert_allclose(found[tensor], evaluate(program, point)[program.gradients[tensor]],
                               rtol=1e-12, atol=1e-14)
    assert {row[0] for row in rows} == {tensor}
    assert all(counts["fail"] == 0 and counts["pass"] > 5 for _, _, counts, _ in rows), rows


def test_a_program_without_a_loss_says_so(tmp_path):
    import codegen
    from tests.codegen.support import interpreted

    with interpreted():
        model = codegen.compile(PRODUCTS["a Jacobian by an input"](), directory=tmp_path,
                                dtype="float64", parallel=False)
        with pytest.raises(dr.DataError, match="compiled without a loss"):
            model.loss(x=np.zeros((2, 3)))
