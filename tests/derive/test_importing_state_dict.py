"""State dicts: PyTorch's names and layouts, against a forward pass written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import derive as dr
from derive.importing.arrays import read_arrays

RNG = np.random.default_rng(3)


def f(*shape):
    return RNG.normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlp():
    net = dr.Network("mlp")
    h = dr.dense(net.input("x", "B", 5), 5, dr.tanh)
    return net, dr.dense(h, 5)


def state_of_mlp():
    return {"0.weight": f(5, 5), "0.bias": f(5), "2.weight": f(5, 5), "2.bias": f(5)}


def run(net, out, state, x, **settings):
    values = dr.load_state_dict(net, state, **settings)
    return dr.evaluate(net.program(), {"x": x, **values}, [out.name])[out.name]


def test_a_square_linear_weight_is_transposed_all_the_same():
    (net, out), state, x = mlp(), state_of_mlp(), f(3, 5)
    h = np.tanh(x @ state["0.weight"].T + state["0.bias"])
    np.testing.assert_allclose(run(net, out, state, x),
                               h @ state["2.weight"].T + state["2.bias"])


def test_layers_are_in_the_order_of_their_numbers_not_of_the_file():
    (net, out), state, x = mlp(), state_of_mlp(), f(3, 5)
    renamed = {k.replace("2.", "10.").replace("0.w", "9.w").replace("0.b", "9.b")
               .replace("19.", "10."): v for k, v in reversed(state.items())}
    assert list(renamed) == ["10.bias", "10.weight", "9.bias", "9.weight"]
    np.testing.assert_array_equal(run(net, out, renamed, x), run(net, out, state, x))


def test_the_declared_layout_takes_arrays_as_they_are():
    net, _ = mlp()
    own = {"W1": f(5, 5), "c1": f(5), "W2": f(5, 5), "c2": f(5)}
    loaded = dr.load_state_dict(net, own, "declared")
    for name, array in own.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_gates_of_an_lstm_stand_in_one_dim_and_its_biases_are_added():
    net = dr.Network("lstm")
    out = dr.lstm(net.input("x", "B", 3, 4), 4)
    state = {"weight_ih_l0": f(16, 4), "weight_hh_l0": f(16, 4),
             "bias_ih_l0": f(16), "bias_hh_l0": f(16)}
    x = f(2, 3, 4)
    h, c = np.zeros((2, 4)), np.zeros((2, 4))
    for t in range(3):
        z = (x[:, t] @ state["weight_ih_l0"].T + h @ state["weight_hh_l0"].T
             + state["bias_ih_l0"] + state["bias_hh_l0"])
        i, forget, g, o = np.split(z, 4, axis=1)
        c = sigmoid(forget) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(run(net, out, state, x)[:, t], h)


def test_a_gru_keeps_its_biases_apart():
    net = dr.Network("gru")
    out = dr.gru(net.input("x", "B", 3, 4), 4)
    state = {"gru.weight_ih_l0": f(12, 4), "gru.weight_hh_l0": f(12, 4),
             "gru.bias_ih_l0": f(12), "gru.bias_hh_l0": f(12)}
    x, h = f(2, 3, 4), np.zeros((2, 4))
    for t in range(3):
        a = np.split(x[:, t] @ state["gru.weight_ih_l0"].T + state["gru.bias_ih_l0"], 3, axis=1)
        e = np.split(h @ state["gru.weight_hh_l0"].T + state["gru.bias_hh_l0"], 3, axis=1)
        r, z = sigmoid(a[0] + e[0]), sigmoid(a[1] + e[1])
        h = (1 - z) * np.tanh(a[2] + r * e[2]) + z * h
        np.testing.assert_allclose(run(net, out, state, x)[:, t], h)


def convolutional():
    net = dr.Network("cnn")
    x = dr.conv1d(net.input("x", "B", 2, 4), 3, 3)
    x = dr.conv_transpose(dr.batch_norm(x, training=False), 3, 3)
    return net, dr.dense(x, 2, dims=2)


STATE_OF_CNN = {
    "conv.weight": f(3, 2, 3), "conv.bias": f(3), "bn.weight": f(3), "bn.bias": f(3),
    "bn.running_mean": f(3), "bn.running_var": f(3) ** 2 + 1, "bn.num_batches_tracked": np.array(7),
    "up.weight": f(3, 3, 3), "up.bias": f(3), "fc.weight": f(2, 12), "fc.bias": f(2),
}
BIASES = {"c1": "conv.bias", "c2": "bn.bias", "c3": "up.bias"}


def test_convolutions_norms_and_a_flattened_linear_layer():
    (net, out), state, x = convolutional(), STATE_OF_CNN, f(2, 2, 4)
    windows = np.lib.stride_tricks.sliding_window_view(x, 3, axis=2)
    y = np.einsum("bcpr,ocr->bop", windows, state["conv.weight"]) + state["conv.bias"][:, None]
    y = (y - state["bn.running_mean"][:, None]) / np.sqrt(state["bn.running_var"] + 1e-5)[:, None]
    y = y * state["bn.weight"][:, None] + state["bn.bias"][:, None]
    up = np.zeros((2, 3, 4))
    for p in range(2):
        up[:, :, p : p + 3] += np.einsum("bc,cor->bor", y[:, :, p], state["up.weight"])
    up += state["up.bias"][:, None]
    expected = up.reshape(2, -1) @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(run(net, out, state, x, names=BIASES), expected)


def test_what_several_arrays_fit_is_asked_for_not_guessed():
    net, _ = convolutional()
    with pytest.raises(dr.DataError, match="3 stored arrays fit c1, c2, c3") as error:
        dr.load_state_dict(net, STATE_OF_CNN)
    assert "conv.bias" in str(error.value) and 'names={"c1"' in str(error.value)


def test_shapes_that_disagree_are_both_shown():
    net, _ = mlp()
    state = {**state_of_mlp(), "2.weight": f(7, 5)}
    with pytest.raises(dr.DataError) as error:
        dr.load_state_dict(net, state, names={"W2": "2.weight"})
    assert "(5, 5)" in str(error.value) and "(7, 5)" in str(error.value)


def test_a_missing_array_and_one_too_many():
    (net, _), state = mlp(), state_of_mlp()
    with pytest.raises(dr.DataError, match="no stored array fits 'c1'"):
        dr.load_state_dict(net, {k: v for k, v in state.items() if "bias" not in k})
    with pytest.raises(dr.DataError, match="1 stored arrays belong to no tensor"):
        dr.load_state_dict(net, {**state, "head.weight": f(2, 9)})
    assert set(dr.load_state_dict(net, {**state, "head.weight": f(2, 9)}, strict=False)) == {
        "W1", "c1", "W2", "c2"}


def test_a_mistyped_name_suggests_the_nearest():
    net, _ = mlp()
    with pytest.raises(dr.DataError, match=r"did you mean '0\.weight'"):
        dr.load_state_dict(net, state_of_mlp(), names={"W1": "0.weigth"})


def test_nan_in_a_file_is_found():
    net, _ = mlp()
    with pytest.raises(dr.DataError, match=r"'0\.bias' holds NaN"):
        dr.load_state_dict(net, {**state_of_mlp(), "0.bias": np.full(5, np.nan)})


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.pkl"])
def test_pickles_are_never_read(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    net, _ = mlp()
    with pytest.raises(dr.DataError, match="pickled files can run code"):
        dr.load_state_dict(net, tmp_path / name)


def test_an_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], dtype=object))
    net, _ = mlp()
    with pytest.raises(dr.DataError, match="without pickled objects"):
        dr.load_state_dict(net, tmp_path / "w.npz")


def test_safetensors_and_npz_give_the_same(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    (net, _), state = mlp(), state_of_mlp()
    safetensors.save_file(state, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **state)
    a, b = (dr.load_state_dict(net, tmp_path / f"w.{kind}") for kind in ("safetensors", "npz"))
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


def test_a_damaged_safetensors_file(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 64)
    net, _ = mlp()
    with pytest.raises(dr.DataError, match="no readable"):
        dr.load_state_dict(net, tmp_path / "w.safetensors")


# -- and back -------------------------------------------------------------------------------------
def lstm_and_attention():
    """A module with every kind of joint array: gates, two biases, a joint projection, moments."""
    net = dr.Network("all")
    h = dr.lstm(net.input("x", "B", 3, 4), 4)
    y = dr.multi_head_attention(h, 2)
    b, t, d = y.indices
    dr.dense(dr.batch_norm(net.define("mean", (b, d), dr.mean(y[b, t, d], t)), training=False), 5)
    state = {"rnn.weight_ih_l0": f(16, 4), "rnn.weight_hh_l0": f(16, 4), "rnn.bias_ih_l0": f(16),
             "rnn.bias_hh_l0": f(16), "att.in_proj_weight": f(12, 4), "att.in_proj_bias": f(12),
             "att.out_proj.weight": f(4, 4), "att.out_proj.bias": f(4), "bn.weight": f(4),
             "bn.bias": f(4), "bn.running_mean": f(4), "bn.running_var": abs(f(4)),
             "bn.num_batches_tracked": np.array(7), "head.weight": f(5, 4), "head.bias": f(5)}
    names = {"Wq1": "att.in_proj_weight[0:4]", "Wk1": "att.in_proj_weight[4:8]",
             "Wv1": "att.in_proj_weight[8:12]", "cq1": "att.in_proj_bias[0:4]",
             "ck1": "att.in_proj_bias[4:8]", "cv1": "att.in_proj_bias[8:12]",
             "co1": "att.out_proj.bias", "c2": "bn.bias"}
    return net, state, names


def test_a_state_dict_like_another_has_its_names_shapes_and_numbers(tmp_path):
    net, state, names = lstm_and_attention()
    values = dr.load_state_dict(net, state, names=names)
    path = dr.save_state_dict(net, values, tmp_path / "x.safetensors", like=state, names=names,
                              dtype="float64")
    written, notes = read_arrays(path)
    assert notes == {"format": "pt"} and list(written) == sorted(state)
    both = state["rnn.bias_ih_l0"] + state["rnn.bias_hh_l0"]  # they are one here
    want = {**state, "rnn.bias_ih_l0": both, "rnn.bias_hh_l0": np.zeros(16)}
    for key, array in want.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)


def test_without_another_they_are_called_after_the_equations(tmp_path):
    net, _ = mlp()
    values = {"W1": f(5, 5), "c1": f(5), "W2": f(5, 5), "c2": f(5)}
    path = dr.save_state_dict(net, values, tmp_path / "x.safetensors", names={"W2": "last.weight"},
                              dtype="float64")
    written, _ = read_arrays(path)
    assert set(written) == {"z1.weight", "z1.bias", "last.weight", "z2.bias"}
    np.testing.assert_array_equal(written["z1.weight"], values["W1"].T)
    again = dr.load_state_dict(net, path, names={"W1": "z1.weight", "W2": "last.weight",
                                                 "c1": "z1.bias", "c2": "z2.bias"})
    for name, array in values.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("options, says", [
    ({"values": {}}, "no value is given for W1"),
    ({"path": "x.pt"}, "written as .safetensors"),
    ({"names": {"W1": "w", "W2": "w"}}, "two tensors would be stored as 'w'"),
    ({"like": {"a.weight": np.ones((5, 4))}}, "the shapes disagree"),
])
def test_what_cannot_be_stored_is_named(options, says, tmp_path):
    net, _ = mlp()
    values = {"W1": f(5, 5), "c1": f(5), "W2": f(5, 5), "c2": f(5)}
    settings = {"values": values, "path": "x.safetensors", **options}
    path = tmp_path / settings.pop("path")
    with pytest.raises(dr.DataError, match=says):
        dr.save_state_dict(net, settings.pop("values"), path, **settings)
    assert not path.exists()
