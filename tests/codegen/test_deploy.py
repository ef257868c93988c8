"""A deployed network: one module for inference and its weights, the outputs of the reference."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cli import main
from codegen.deployment import read_trained
from derive.importing.arrays import read_arrays
from derive.inference import inference
from derive.network import Network
from derive.points import random_values
from derive.reference import evaluate
from tests.codegen.support import interpreted


def classifier(training: bool = False, rate: float = 0.0) -> Network:
    """A convolution, batch norm, dropout and a last layer."""
    net = dr.Network("classifier")
    x, t = net.input("x", "B", 2, 6), net.input("t", "B", dtype=int)
    h = dr.relu(dr.batch_norm(dr.conv1d(x, 3, 3), training=training))
    if rate:
        h = dr.dropout(h, rate, net.random("seed"), training)
    net.loss(dr.cross_entropy(dr.dense(h, 4, dims=2), t))
    return net


def words() -> Network:
    """Tokens of run-time length, attention with a mask."""
    net = dr.Network("words")
    tokens, n = net.input("tokens", "B", "T", dtype=int), net.input("n", "B", dtype=int)
    x = dr.encoder_block(dr.embedding(tokens, 7, 4), 2, 5, lengths=n)
    b, t, d = x.indices
    mean = net.define("mean", (b, d), dr.mean(x[b, t, d], t))
    net.loss(dr.cross_entropy(dr.dense(mean, 3), net.input("t", "B", dtype=int)))
    return net


def recurrent() -> Network:
    net = dr.Network("recurrent")
    h = dr.lstm(net.input("x", "B", 4, 3), 2)
    b, _, j = h.indices
    last = net.define("last", (b, j), h[b, 3, j])
    net.loss(dr.mean_squared_error(dr.dense(last, 2), net.input("y", "B", 2)))
    return net


NETWORKS = {"classifier": classifier, "words": words, "recurrent": recurrent}


def loaded(path: Path):
    spec = util.spec_from_file_location(f"deployed_{path.stem}", path)
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def values_of(net: Network, seed: int = 0) -> dict[str, np.ndarray]:
    values = random_values(net.program(), seed, {"B": 5, "T": 4})
    return {n: abs(v) + 0.5 if "variance" in n else v for n, v in values.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_batches_and_single_rows_give_the_outputs_of_the_reference(name, dtype, tmp_path):
    net = NETWORKS[name]()
    values = values_of(net)
    done = codegen.deploy(net, values, tmp_path / "net.py", dtype=dtype)
    (output,) = done.outputs
    want = evaluate(net.program(), values, [output])[output]
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    with interpreted():
        module = loaded(done.module)
        found = module.Network()
        data = {n: values[n] for n in done.inputs}
        np.testing.assert_allclose(found(**data)[output], want, tolerance, tolerance)
        for row in (0, 3):
            one = found.one(**{n: v[row] for n, v in data.items()})[output]
            np.testing.assert_allclose(one, want[row], tolerance, tolerance)
        assert module.check(found) < 1e-4


def test_the_module_holds_the_forward_pass_alone(tmp_path):
    net = classifier()
    done = codegen.deploy(dr.derive(net), values_of(net), tmp_path / "net.py")
    text = done.module.read_text()
    functions = {f.name for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef)}
    assert not functions & {"gradient", "loss", "update", "epoch", "initialize"}
    assert done.inputs == ("x",) and done.outputs == ("z1",)
    stored, _ = read_arrays(done.weights)
    assert {n for n in stored if "/" not in n} == {
        "K1", "c1", "g1", "c2", "W1", "c3", "running_mean1", "running_variance1"}
    assert all(a.dtype == np.float32 for n, a in stored.items() if "/" not in n)


def test_only_what_the_outputs_need_is_stored(tmp_path):
    net = classifier()
    done = codegen.deploy(net, values_of(net), tmp_path / "net.py", outputs="h1")
    stored, _ = read_arrays(done.weights)
    assert done.outputs == ("h1",) and "W1" not in stored and "K1" in stored


def test_the_compiled_module_runs_alone_and_checks_itself(tmp_path):
    net = dr.Network("plain")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, dr.relu), 3), t))
    values = values_of(net)
    done = codegen.deploy(net, values, tmp_path / "net.py", parallel=False,
                          sample={"x": values["x"], "t": values["t"]})
    code = ("import numpy as np, net, sys; n = net.Network(); "
            f"y = n(x=np.array({values['x'].tolist()}))['z2']; print(y.shape, net.check(n) < 1e-5, "
            "[m for m in ('derive', 'codegen', 'sympy', 'safetensors') if m in sys.modules])")
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                         text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert ran.stdout.strip() == "(5, 3) True []", ran.stderr
    stored, _ = read_arrays(done.weights)
    assert stored["output/z2"].shape == (5, 3)


@pytest.mark.parametrize("wrong, says", [
    (lambda n, x: n(y=x), "no input is called 'y'"),
    (lambda n, x: n(), "the input 'x' of shape ('B', 2, 6) is missing"),
    (lambda n, x: n(x=x[:, :1]), "x has shape ('B', 2, 6), got (5, 1, 6)"),
    (lambda n, x: n.one(x=x), "x has shape ('B', 2, 6), got (1, 5, 2, 6)"),
    (lambda n, x: n(x=x.astype(str)), "got (5, 2, 6) of <U"),
])
def test_the_module_names_wrong_inputs(wrong, says, tmp_path):
    net = classifier()
    values = values_of(net)
    done = codegen.deploy(net, values, tmp_path / "net.py")
    with interpreted():
        network = loaded(done.module).Network()
        with pytest.raises(ValueError, match=re.escape(says)):
            wrong(network, values["x"])


def test_tokens_out_of_range_and_sizes_that_disagree(tmp_path):
    net = words()
    values = values_of(net)
    done = codegen.deploy(net, values, tmp_path / "net.py")
    with interpreted():
        network = loaded(done.module).Network()
        with pytest.raises(ValueError, match="tokens holds numbers from 0 to 7, expected 0 to 6"):
            network(tokens=[[0, 7]], n=[2])
        with pytest.raises(ValueError, match="n: B is 2, but 1 elsewhere"):
            network(tokens=[[0, 1]], n=[2, 1])


@pytest.mark.parametrize("spoil, says", [
    (lambda b: b[:-5], "was cut"), (lambda b: b[:4], "was cut"),
    (lambda b: b"\x80\x04." * 9, "was cut"),
])
def test_the_module_refuses_damaged_weights(spoil, says, tmp_path):
    net = classifier()
    done = codegen.deploy(net, values_of(net), tmp_path / "net.py")
    done.weights.write_bytes(spoil(done.weights.read_bytes()))
    with interpreted(), pytest.raises(ValueError, match=says):
        loaded(done.module).Network()


def test_the_weights_of_another_network_are_named(tmp_path):
    net, other = classifier(), recurrent()
    done = codegen.deploy(net, values_of(net), tmp_path / "net.py")
    there = codegen.deploy(other, values_of(other), tmp_path / "other.py")
    with interpreted(), pytest.raises(ValueError, match=re.escape("K1 has shape (3, 2, 3)")):
        loaded(done.module).Network(there.weights)


@pytest.mark.parametrize("net, options, says", [
    (classifier(True), {}, "the moments of the batch"),
    (classifier(True, 0.5), {"outputs": "z1"}, "depend on random numbers (seed)"),
    (classifier(), {"outputs": "z9"}, "output 'z9' is not declared"),
])
def test_a_network_for_training_is_refused(net, options, says, tmp_path):
    with pytest.raises(dr.DeclarationError, match=re.escape(says)):
        codegen.deploy(net, values_of(net), tmp_path / "net.py", **options)


def test_missing_values_and_foreign_files(tmp_path):
    net = classifier()
    with pytest.raises(dr.DataError, match="no value is given for K1"):
        codegen.deploy(net, {}, tmp_path / "net.py")
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(dr.DataError, match="was not written by this tool"):
        codegen.deploy(net, values_of(net), tmp_path / "mine.py")
    with pytest.raises(dr.DeclarationError, match="ends in"):
        codegen.deploy(net, values_of(net), tmp_path / "net.onnx")


def test_outputs_are_what_the_loss_reads_without_labels():
    assert inference(classifier().program())[1] == ("z1",)
    net = dr.Network("two heads")
    x = net.input("x", "B", 3)
    first, second = dr.dense(x, 2), dr.dense(x, 2, dr.tanh)
    b, j = first.indices
    net.loss(dr.mean((first[b, j] - net.input("y", "B", 2)[b, j]) ** 2 * second[b, j], b, j))
    assert inference(net.program())[1] == ("z1", "h1")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "import derive as dr\nnet = dr.Network('n')\nx = net.input('x', 'B', 3)\n"
        "net.loss(dr.cross_entropy(dr.dense(x, 2), net.input('t', 'B', dtype=int)))\n")
    arrays = {"parameter/W1": np.ones((3, 2)), "parameter/c1": np.zeros(2)}
    np.savez("weights.npz", **arrays)
    assert main(["deploy", "net.py", "weights.npz", "-o", "out.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["z1"]
    assert Path("out.safetensors").is_file()
    assert main(["deploy", "net.py", "nothing.npz"]) == 2
    pytest.importorskip("onnx")
    assert main(["deploy", "net.py", "weights.npz", "-o", "out.onnx"]) == 0
    assert dr.from_onnx("out.onnx")[1].keys() == {"W1", "c1"}


def test_weights_are_read_from_runs_checkpoints_and_state_dicts(tmp_path):
    net = dr.Network("n")
    net.loss(dr.cross_entropy(dr.dense(net.input("x", "B", 3), 2),
                              net.input("t", "B", dtype=int)))
    weight, bias = np.arange(6.0).reshape(3, 2), np.ones(2)
    files = {
        "run": {"parameter/W1": weight, "parameter/c1": bias, "moment/m": np.zeros(9)},
        "best": {"parameter/W1": 0 * weight, "best/parameter/W1": weight,
                 "best/parameter/c1": bias},
        "plain": {"W1": weight, "c1": bias},
        "torch": {"fc.weight": weight.T, "fc.bias": bias},
    }
    for name, arrays in files.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        found = read_trained(tmp_path / f"{name}.npz", net.program())
        assert (found["W1"] == weight).all() and (found["c1"] == bias).all(), name
