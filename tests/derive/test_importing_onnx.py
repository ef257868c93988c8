"""ONNX files become index equations: every operator against onnxruntime, on random arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import derive as dr

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(1)


class Weight:
    """An array that the file lists as a weight."""

    def __init__(self, values, dtype="f"):
        self.array = np.asarray(values, dtype)


def f(*shape):
    return RNG.normal(size=shape).astype("f")


def w(*shape):
    return Weight(f(*shape))


def whole(*values):
    return Weight(values, "int64")


def positive(*shape):
    return np.abs(f(*shape)) + np.float32(0.1)


def save(path: Path, nodes, inputs: dict, weights: dict, outputs, opset=17, dims=None) -> Path:
    helper, kinds = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(n, kinds(a.dtype), (dims or {}).get(n, a.shape))
         for n, a in inputs.items()],
        [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, None) for o in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


def single(path: Path, op, arrays, outputs=1, opset=17, **attributes):
    """A file with one node; its inputs, and the names of its outputs."""
    names = ["" if a is None else f"w{n}" if isinstance(a, Weight) else f"x{n}"
             for n, a in enumerate(arrays)]
    inputs = {n: a for n, a in zip(names, arrays) if n.startswith("x")}
    weights = {n: a.array for n, a in zip(names, arrays) if n.startswith("w")}
    out = [f"y{n}" for n in range(outputs)]
    node = onnx.helper.make_node(op, names, out, name="the_node", **attributes)
    return save(path, [node], inputs, weights, out, opset), inputs, out


def assert_same_as_runtime(path, inputs, outputs, sizes=None):
    expected = runtime.InferenceSession(str(path)).run(outputs, inputs)
    net, weights = dr.from_onnx(path, sizes)
    found = dr.evaluate(net.program(), {**weights, **inputs}, outputs)
    for name, want in zip(outputs, expected):
        assert found[name].shape == want.shape, net
        np.testing.assert_allclose(found[name], want, atol=2e-5, rtol=1e-5, err_msg=str(net))


LINE, PLANE = f(2, 3, 9), f(1, 2, 7, 8)
CASES = [
    *[(op, [f(2, 3), f(3)], {}) for op in ("Add", "Sub", "Mul", "Max", "Min", "PRelu")],
    ("Sum", [f(2, 3), f(3), f(1)], {}), ("Mean", [f(2, 3), f(3), f(1)], {}),
    ("Div", [f(2, 3), positive(2, 1)], {}),
    ("Pow", [positive(2, 3), Weight(2.5)], {}), ("Pow", [f(2, 3), Weight(2.0)], {}),
    *[(op, [f(2, 3)], {}) for op in (
        "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Softplus", "Erf", "Exp", "Neg", "Abs",
        "Sin", "Cos", "Softsign", "HardSigmoid", "HardSwish", "Selu", "Identity", "Dropout")],
    *[(op, [positive(2, 3)], {}) for op in ("Sqrt", "Log", "Reciprocal")],
    ("Gelu", [f(2, 3)], {"opset": 20}),
    ("Gelu", [f(2, 3)], {"opset": 20, "approximate": "tanh"}),
    ("Clip", [f(2, 3), Weight(-0.5), Weight(0.5)], {}), ("LeakyRelu", [f(2, 3)], {"alpha": 0.2}),
    ("Gemm", [f(2, 3), w(4, 3), w(4)], {"transB": 1}),
    ("Gemm", [f(3, 2), w(3, 4), w(1, 4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", [f(2, 3), w(3, 4)], {}), ("MatMul", [f(2, 5, 3), w(3, 4)], {}),
    ("MatMul", [f(2, 5, 3), f(2, 3, 4)], {}), ("MatMul", [f(2, 1, 5, 3), f(3, 3, 4)], {}),
    ("MatMul", [f(3), f(3, 4)], {}), ("MatMul", [f(2, 3), f(3)], {}),
    *[("Conv", [LINE, w(4, 3, 3), w(4)], a) for a in (
        {}, {"strides": [2]}, {"pads": [1, 2]}, {"dilations": [2]},
        {"strides": [3], "pads": [2, 0], "dilations": [2]},
        {"auto_pad": "SAME_UPPER", "strides": [2]}, {"auto_pad": "SAME_LOWER"})],
    ("Conv", [f(2, 4, 9), w(6, 2, 3)], {"group": 2}),
    ("Conv", [f(2, 4, 9), w(4, 1, 3)], {"group": 4}),
    ("Conv", [f(2, 4, 9), w(8, 1, 3)], {"group": 4}),
    ("Conv", [f(1, 2, 5, 6), w(3, 2, 3, 2), w(3)], {"strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("ConvTranspose", [f(2, 3, 5), w(3, 4, 3), w(4)], {}),
    ("ConvTranspose", [f(2, 3, 5), w(3, 4, 3), w(4)],
     {"strides": [2], "pads": [1, 0], "output_padding": [1]}),
    ("ConvTranspose", [f(1, 3, 4, 5), w(3, 2, 3, 2)], {"strides": [2, 3], "dilations": [1, 2]}),
    *[(op, [PLANE], {"kernel_shape": [2, 3], **a}) for op in ("MaxPool", "AveragePool") for a in (
        {"strides": [2, 2]}, {"strides": [2, 2], "pads": [1, 1, 0, 1]},
        {"strides": [2, 2], "ceil_mode": 1})],
    ("AveragePool", [PLANE],
     {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("GlobalAveragePool", [PLANE], {}), ("GlobalMaxPool", [PLANE], {}),
    ("BatchNormalization", [f(2, 3, 4), w(3), w(3), w(3), Weight(positive(3))], {}),
    ("LayerNormalization", [f(2, 3, 4), w(4), w(4)], {}),
    ("LayerNormalization", [f(2, 3, 4), w(3, 4), w(3, 4)], {"axis": 1}),
    ("InstanceNormalization", [f(2, 3, 4), w(3), w(3)], {}),
    *[(op, [f(2, 3, 4)], {"axis": a}) for op in ("Softmax", "LogSoftmax") for a in (-1, 0, 1)],
    ("Softmax", [f(2, 3)], {"opset": 11}),
    *[("Reshape", [f(*old), whole(*new)], {}) for old, new in (
        ((2, 3, 4), (6, 4)), ((2, 3, 4), (0, -1)), ((2, 12), (2, 3, 4)), ((2, 3, 4), (4, 3, 2)),
        ((2, 3, 4), (24,)), ((1, 3, 4), (1, 12, 1)), ((6, 4), (3, 8)), ((4, 1, 6), (2, 1, 2, 6)),
        ((1,), (1, 1, 1)), ((3, 1, 1), (3,)))],
    *[("Flatten", [f(2, 3, 4)], {"axis": a}) for a in (0, 1, 2)],
    ("Transpose", [f(2, 3, 4)], {}), ("Transpose", [f(2, 3, 4)], {"perm": [1, 0, 2]}),
    ("Concat", [f(2, 3), f(2, 1), f(2, 4)], {"axis": 1}),
    ("Split", [f(2, 7), whole(3, 4)], {"outputs": 2, "axis": 1}),
    ("Slice", [f(5, 6), whole(1, -2), whole(4, -5), whole(0, 1), whole(2, -1)], {}),
    ("Slice", [f(5, 6), whole(0), whole(2**63 - 1), whole(1), whole(4)], {}),
    ("Slice", [f(5, 6), whole(-1), whole(-(2**63)), whole(1), whole(-1)], {}),
    ("Gather", [f(5, 6), Weight(2, "int64")], {"axis": 1}),
    ("Gather", [f(5, 6), whole(0, -1, 2, 2)], {"axis": 0}),
    ("Gather", [w(5, 6), np.array([[1, 2], [4, 4]])], {"axis": 0}),
    *[(f"Reduce{op}", [f(2, 3, 4)], a) for op in (
        "Mean", "Max", "Min", "L1", "L2", "Prod", "SumSquare", "LogSumExp")
      for a in ({"axes": [1]}, {"keepdims": 0})],
    ("ReduceSum", [f(2, 3, 4), whole(1)], {}),
    ("ReduceMean", [f(2, 3, 4), whole(0, 2)], {"opset": 18, "keepdims": 0}),
    *[("LSTM", [f(4, 2, 3), w(d, 20, 3), w(d, 20, 5), w(d, 40), None, f(d, 2, 5), f(d, 2, 5)],
       {"outputs": 3, "hidden_size": 5, "direction": way})
      for way, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))],
    *[("GRU", [f(4, 2, 3), w(d, 15, 3), w(d, 15, 5), w(d, 30)],
       {"outputs": 2, "hidden_size": 5, "direction": way, "linear_before_reset": n})
      for way, d in (("reverse", 1), ("bidirectional", 2)) for n in (0, 1)],
    ("RNN", [f(4, 2, 3), w(1, 5, 3), w(1, 5, 5), w(1, 10)], {"outputs": 2, "hidden_size": 5}),
    ("RNN", [f(4, 2, 3), w(1, 5, 3), w(1, 5, 5)],
     {"outputs": 2, "hidden_size": 5, "activations": ["Relu"]}),
    ("Where", [np.array([[True, False, True]]), f(2, 3), f(2, 1)], {}),
    ("Unsqueeze", [f(2, 3), whole(0, 3)], {}), ("Squeeze", [f(2, 1, 3), whole(1)], {}),
    ("Squeeze", [f(2, 1, 3)], {}), ("Expand", [f(3, 1), whole(2, 3, 4)], {}),
    ("Pad", [f(3, 4), whole(1, 0, 2, 1)], {}),
    ("Pad", [f(3, 4), whole(1, 0, 2, 1), Weight(2.5)], {}),
    ("Pad", [f(3, 4), whole(1, 2, 2, 1)], {"mode": "reflect"}),
    ("Pad", [f(3, 4), whole(1, 2, 2, 1)], {"mode": "edge"}),
]
RNG, _FIRST = np.random.default_rng(2), RNG  # the numbers of the tests above stay
CASES += [
    *[("ConvTranspose", [f(2, 6, 5), w(6, 2, 3), w(2 * g)], {"group": g, "strides": [2]})
      for g in (2, 3, 6)],
    ("ConvTranspose", [f(1, 4, 3, 4), w(4, 1, 2, 3)],
     {"group": 2, "strides": [2, 1], "pads": [0, 1, 1, 1], "dilations": [2, 1]}),
    *[("ConvTranspose", [f(2, 3, 5), w(3, 4, 4)], {"strides": [3], **a}) for a in (
        {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
        {"output_shape": [13]}, {"output_shape": [14], "auto_pad": "SAME_UPPER"})],
    *[(op, [f(4, 3, 2), w(d, n * 5, 2), w(d, n * 5, 5), w(d, 2 * n * 5), lengths, f(d, 3, 5)],
       {"outputs": 3 if op == "LSTM" else 2, "hidden_size": 5, "direction": way})
      for op, n in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
      for way, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
      for lengths in (Weight([2, 4, 1], "int32"), np.array([4, 1, 3], "int32"))],
]
RNG = _FIRST


def label(case):
    op, _, attributes = case
    return "-".join([op, *(f"{k}={v}" for k, v in attributes.items() if k != "outputs")])


@pytest.mark.parametrize("case", CASES, ids=label)
def test_operator_is_the_one_of_onnxruntime(case, tmp_path):
    op, arrays, settings = case
    assert_same_as_runtime(*single(tmp_path / "op.onnx", op, arrays, **settings))


# -- whole networks -------------------------------------------------------------------------------
def convolutional(path, dims=None):
    """Conv, relu, pool, flatten by a computed shape, Gemm: as exporters write it."""
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "conv.weight", "conv.bias"], ["/conv/Conv_output_0"], pads=[1] * 4),
        make("Relu", ["/conv/Conv_output_0"], ["r"]),
        make("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Shape", ["p"], ["s"]), make("Gather", ["s", "zero"], ["n"]),
        make("Unsqueeze", ["n", "axis"], ["n1"]), make("Concat", ["n1", "rest"], ["to"], axis=0),
        make("Reshape", ["p", "to"], ["flat"]),
        make("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    weights = {
        "conv.weight": f(3, 1, 3, 3), "conv.bias": f(3), "fc.weight": f(5, 12), "fc.bias": f(5),
        "zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]),
    }
    inputs = {"x": f(2, 1, 4, 4)}
    return save(path, nodes, inputs, weights, ["logits"], dims=dims), inputs


def test_a_network_with_an_open_batch_size(tmp_path):
    path, inputs = convolutional(tmp_path / "net.onnx", {"x": ["batch", 1, 4, 4]})
    assert_same_as_runtime(path, inputs, ["logits"])
    net, weights = dr.from_onnx(path)
    assert str(net.program().tensors["x"].shape[0]) == "batch"
    assert {t.name for t in net.program().parameters} == {
        "conv_weight", "conv_bias", "fc_weight", "fc_bias"}
    assert weights["fc_weight"].shape == (5, 12)


def test_an_open_size_can_be_given(tmp_path):
    path, _ = convolutional(tmp_path / "net.onnx", {"x": ["batch", 1, 4, 4]})
    net, _ = dr.from_onnx(path, {"batch": 2})
    assert net.program().sizes == ()
    with pytest.raises(dr.DataError, match="no open size 'bath'"):
        dr.from_onnx(path, {"bath": 2})


def test_an_imported_network_is_trained_on(tmp_path):
    path, inputs = convolutional(tmp_path / "net.onnx")
    net, weights = dr.from_onnx(path)
    t = net.input("t", 2, dtype=int)
    net.loss(dr.cross_entropy(net["logits"], t))
    report = dr.check(dr.derive(net), {**weights, **inputs, "t": np.array([3, 0])})
    assert report.ok, report


# -- what is refused ------------------------------------------------------------------------------
def test_an_unknown_operator_is_named_with_its_node(tmp_path):
    path, *_ = single(tmp_path / "op.onnx", "Softmin", [f(3)])
    with pytest.raises(dr.DataError, match=r"'Softmin' is not known \(node 'the_node'\)") as error:
        dr.from_onnx(path)
    assert "Softmax" in str(error.value)


@pytest.mark.parametrize(("op", "arrays", "settings", "message"), [
    ("Conv", [f(1, 3, 5), w(4, 2, 3)], {}, "channels"),
    ("Conv", [f(1, 3, 5), w(4, 3, 7)], {}, "larger than what it slides over"),
    ("MatMul", [f(2, 3), w(4, 5)], {}, "cannot be multiplied"),
    ("Add", [f(2, 3), f(2, 4)], {}, "do not broadcast"),
    ("Reshape", [f(2, 3), whole(4, 2)], {}, "different numbers of elements"),
    ("Reshape", [f(2, 3), np.array([6])], {}, "computed at run time"),
    ("LSTM", [f(4, 2, 3), w(1, 20, 3), w(1, 20, 5), w(1, 40)],
     {"hidden_size": 5, "clip": 2.0}, "clip is not supported"),
    ("ConvTranspose", [LINE, w(4, 2, 3)], {"group": 3}, "a multiple of 3"),
    ("Softmax", [f(2, 3, 4)], {"opset": 11, "axis": 1}, "before opset 13"),
    ("Slice", [f(5), whole(3), whole(2)], {}, "nothing is left"),
])
def test_what_does_not_fit_names_the_node(op, arrays, settings, message, tmp_path):
    path, *_ = single(tmp_path / "op.onnx", op, arrays, **settings)
    with pytest.raises(dr.DataError, match=message) as error:
        dr.from_onnx(path)
    assert "the_node" in str(error.value)


def test_a_damaged_file_and_no_file(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x00not a model\xff" * 9)
    with pytest.raises(dr.DataError, match=r"bad\.onnx"):
        dr.from_onnx(bad)
    with pytest.raises(dr.DataError, match="no file"):
        dr.from_onnx(tmp_path / "absent.onnx")


def test_weights_in_other_files_are_not_opened(tmp_path):
    path, *_ = single(tmp_path / "op.onnx", "MatMul", [f(2, 3), w(3, 4)])
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(dr.DataError, match="lie in another file"):
        dr.from_onnx(path)
