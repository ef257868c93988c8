"""ONNX files of programs: onnxruntime gives the outputs of the reference evaluator."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy

import derive as dr
from derive.errors import ChainruleError
from derive.network import Handle, Network
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from tests.derive.test_conv import new
from tests.derive.test_layers import LAYERS
from tests.networks import NETWORKS
from tests.programs import random_network

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
runtime.set_default_logger_severity(3)

SIZES = {"B": 3, "T": 4, "U": 5}
TRAINING = ("batch norm", "batch norm of images", "dropout", "noise", "reparametrise",
            "encoder, post-norm, dropout")
MORE = {
    "conv1d": lambda: dr.conv1d(new("B", 2, 9), 3, 3, stride=2, padding=1, dilation=2),
    "conv2d": lambda: dr.conv2d(new("B", 2, 6, 5), 3, 3, stride=2, padding=1),
    "conv3d": lambda: dr.conv3d(new("B", 2, 4, 5, 4), 3, 2),
    "depthwise": lambda: dr.depthwise(new("B", 2, 6), 3),
    "groups": lambda: dr.conv1d(new("B", 4, 6), 6, 3, groups=2),
    "transposed": lambda: dr.conv_transpose(new("B", 2, 4), 3, 3, stride=2, padding=1),
    "max pool": lambda: dr.max_pool(new("B", 2, 6, 4), 2),
    "average pool": lambda: dr.average_pool(new("B", 2, 7), 3, padding=1),
    "global average pool": lambda: dr.global_average_pool(new("B", 2, 3, 4)),
    "global max pool": lambda: dr.global_max_pool(new("B", 2, 3, 4)),
    "reflect": lambda: dr.pad(new("B", 2, 5), 2, "reflect"),
    "circular": lambda: dr.pad(new("B", 2, 5), 2, "circular"),
    "bilinear": lambda: dr.upsample(new("B", 2, 4, 3), 2, "bilinear"),
    "flatten": lambda: dr.flatten(new("B", 2, 4, 3)),
    "unflatten": lambda: dr.unflatten(new("B", 12), 3, 4),
    "gru": lambda: dr.gru(new("B", 4, 3), 2),
    "lstm": lambda: dr.lstm(new("B", "T", 3), 2),
    "lstm from the end": lambda: dr.lstm(new("B", "T", 3), 2, reverse=True),
    "unequal lengths": lambda: (lambda x: dr.lstm(
        x, 2, lengths=x.network.input("n", "B", dtype=int)))(new("B", 4, 3)),
    "both ways": lambda: dr.bidirectional(dr.elman, new("B", 4, 3), 2),
    "embedding": lambda: dr.embedding(Network("n").input("w", "B", 3, dtype=int), 5, 2),
    "take": lambda: (lambda x: dr.take(x, x.network.input("c", "B", 3, dtype=int)))(
        new("B", 3, 4)),
    **{f: (lambda f=f: getattr(dr, f)(new("B", 3))) for f in (
        "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "gelu", "silu",
        "exp", "sin", "cos", "erf", "abs", "softmax")},
}
CASES = {n: make for n, make in {**LAYERS, **MORE}.items() if n not in TRAINING}


def with_inputs(program: Program) -> Program:
    """What has a run-time size is data."""
    open_size = {t.name for t in program.given if any(not s.is_Integer for s in t.shape)}
    tensors = {n: replace(t, role="input") if n in open_size | {"X"} else t
               for n, t in program.tensors.items()}
    return replace(program, tensors=tensors)


def run(path: Path, values: dict, outputs: list[str], dtype: str) -> list[np.ndarray]:
    session = runtime.InferenceSession(str(path))
    given = {i.name: np.asarray(values[i.name]) for i in session.get_inputs()}
    return session.run(outputs, {n: a.astype(dtype) if a.dtype.kind == "f" else a
                                 for n, a in given.items()})


def point(program: Program, seed: int = 3) -> dict[str, np.ndarray]:
    values = random_values(program, seed, SIZES)
    return {n: abs(v) + 0.5 if "variance" in n else v for n, v in values.items()}


def assert_same(program: Program, outputs: list[str], path: Path, dtype: str = "float32"):
    values = point(program)
    dr.to_onnx(program, values, path, outputs, dtype)
    want = evaluate(program, values, outputs, SIZES)
    found = run(path, values, outputs, dtype)
    tolerance = 2e-5 if dtype == "float32" else 1e-11
    for name, array in zip(outputs, found, strict=True):
        assert array.shape == want[name].shape, program[name]
        np.testing.assert_allclose(array, want[name], tolerance, tolerance, err_msg=str(program))


@pytest.mark.parametrize("name", CASES)
def test_layers(name, tmp_path):
    y: Handle = CASES[name]()
    assert_same(with_inputs(y.network.program()), [y.name], tmp_path / "y.onnx")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_up_to_their_loss(name, tmp_path):
    """Softmax with gathers of labels, maxima, products, diagonals, batch norm by hand, in double
    precision."""
    program = with_inputs(NETWORKS[name]())
    assert_same(program, list(program.losses), tmp_path / "loss.onnx", "float64")


@pytest.mark.parametrize("part", range(2))
def test_random_programs(part, tmp_path):
    """Affine accesses that leave their bounds, quotients, gathers, every reduction, recurrences in
    both directions."""
    for seed in range(10 * part, 10 * part + 10):
        try:
            program = with_inputs(random_network(random.Random(seed).choice).program())
            values = random_values(program, seed, default_sizes(program))
        except ChainruleError:  # refused when declared
            continue
        outputs = list(program.defined)
        if program.role("random") or "erf" in str(program) or "gelu" in str(program):
            continue  # onnxruntime has no erf in double precision
        want = evaluate(program, values, outputs, default_sizes(program))
        dr.to_onnx(replace(program, losses=()), values, tmp_path / "r.onnx", outputs, "float64")
        for name, array in zip(outputs, run(tmp_path / "r.onnx", values, outputs, "float64")):
            np.testing.assert_allclose(array, want[name], 1e-9, 1e-9, err_msg=f"{seed} {program}")


def test_a_file_for_any_batch_and_length_comes_back_as_the_same_network(tmp_path):
    net = dr.Network("words")
    words, length = net.input("words", "B", "T", dtype=int), net.input("n", "B", dtype=int)
    x = dr.encoder_block(dr.embedding(words, 7, 4), 2, 5, lengths=length)
    b, t, d = x.indices
    mean = net.define("mean", (b, d), dr.mean(x[b, t, d], t))
    net.loss(dr.cross_entropy(dr.dense(mean, 3), net.input("label", "B", dtype=int)))
    weights = {n: v for n, v in point(net.program()).items()
               if net.program().tensors[n].role == "parameter"}
    path = dr.to_onnx(net, weights, tmp_path / "words.onnx")
    program = net.program()
    for rows, steps in ((1, 2), (5, 6)):
        rng = np.random.default_rng(0)
        data = {"words": rng.integers(0, 7, (rows, steps)), "n": rng.integers(1, steps, rows)}
        want = evaluate(program, {**weights, **data}, ["z3"])["z3"]
        np.testing.assert_allclose(run(path, data, ["z3"], "float32")[0], want, 1e-5, 1e-5)
    names = [i.name for i in runtime.InferenceSession(str(path)).get_inputs()]
    assert names == ["words", "n"]  # no label, no loss


def test_products_are_matrix_products_and_weights_stand_under_their_names(tmp_path):
    net = dr.Network("plain")
    z = dr.dense(dr.dense(net.input("x", "B", 5), 4, dr.relu), 3)
    net.loss(dr.cross_entropy(z, net.input("t", "B", dtype=int)))
    model = onnx.load(dr.to_onnx(net, point(net.program()), tmp_path / "plain.onnx"))
    assert [n.op_type for n in model.graph.node if n.op_type != "Identity"] == [
        "MatMul", "Add", "Relu", "MatMul", "Add"]
    assert {w.name for w in model.graph.initializer} == {"W1", "c1", "W2", "c2"}
    (batch,) = [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim
                if d.dim_param]
    assert batch == "B"


@pytest.mark.parametrize("setting", [
    (3, 1, 0, 1), (3, 2, 1, 1), (2, 3, 2, 2), (4, 2, 1, 1), (1, 2, 0, 1), (3, 3, 0, 1),
], ids=str)
def test_sums_over_windows_are_convolutions(setting, tmp_path):
    kernel, stride, padding, dilation = setting
    x = dr.Network("n").input("x", "B", 2, 9, 8)
    y = dr.conv2d(x, 3, kernel, stride=stride, padding=padding, dilation=dilation)
    assert_same(y.network.program(), [y.name], tmp_path / "y.onnx")
    nodes = [n.op_type for n in onnx.load(tmp_path / "y.onnx").graph.node]
    assert "Conv" in nodes and not {"Gather", "Einsum"} & set(nodes)


def test_what_only_looks_like_a_convolution_is_none(tmp_path):
    """A window that is cut, one that begins before its padding, a shared index."""
    net = dr.Network("n")
    b, o, c, p, r = dr.indices("b:B o:2 c:3 p:4 r:3")
    x, k, square = net.input("x", b, c, dr.indices("n:9")), net.parameter("K", o, c, r), \
        net.parameter("S", c, c.renamed("d"), r)
    bodies = {"cut": dr.where(p + r < 4, x[b, c, p + r], 0) * k[o, c, r],
              "late": x[b, c, p + r + 1] * k[o, c, r], "back": x[b, c, p - r + 4] * k[o, c, r],
              "turned": x[b, c, p + r] * k[o, c, 2 - r]}
    for name, body in bodies.items():
        net.define(name, (b, o, p), dr.sum(body, c, r))
    net.define("diagonal", (b, c, p), dr.sum(x[b, c, p + r] * square[c, c, r], r))
    assert_same(net.program(), [*bodies, "diagonal"], tmp_path / "y.onnx")
    assert "Conv" not in [n.op_type for n in onnx.load(tmp_path / "y.onnx").graph.node]


@pytest.mark.parametrize("make, says", [
    (lambda x: dr.dropout(x, 0.5, x.network.random("seed")), "depend on random numbers"),
    (dr.batch_norm, "the moments of the batch"),
    (lambda x: x.network.define("y", x.indices, sympy.gamma(x.tensor.access)),
     "ONNX cannot say the equation of 'y': it has no operator for the function gamma"),
])
def test_what_onnx_cannot_say_is_refused_with_the_equation(make, says, tmp_path):
    y = make(dr.Network("n").input("x", "B", 4))
    program = y.network.program()
    with pytest.raises(ChainruleError, match=re.escape(says)):
        dr.to_onnx(program, point(program), tmp_path / "y.onnx", y.name)
    assert not (tmp_path / "y.onnx").exists()


def test_missing_values_and_settings(tmp_path):
    net = dr.dense(dr.Network("n").input("x", "B", 4), 2).network
    with pytest.raises(dr.DataError, match="no value is given for W1, c1"):
        dr.to_onnx(net, {}, tmp_path / "y.onnx", "z1")
    with pytest.raises(dr.DataError, match="the shape of 'W1' is wrong"):
        dr.to_onnx(net, {"W1": np.ones((2, 4)), "c1": np.ones(2)}, tmp_path / "y.onnx", "z1")
    with pytest.raises(dr.DeclarationError, match="'z9' is not declared"):
        dr.to_onnx(net, {}, tmp_path / "y.onnx", "z9")
    with pytest.raises(dr.DeclarationError, match="float16"):
        dr.to_onnx(net, {}, tmp_path / "y.onnx", "z1", dtype="float16")
