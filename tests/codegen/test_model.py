"""A model from outside: starting values, what is refused, saving and loading, training."""

from __future__ import annotations

import numpy as np
import pytest

import codegen
import derive as dr
from derive.errors import ChainruleError, DataError, DeclarationError, DerivationError
from tests.codegen.support import build, interpreted, sample
from tests.codegen.test_kernels import mlp
from tests.networks import NETWORKS


@pytest.fixture
def plain():
    with interpreted():
        yield


@pytest.fixture
def model(plain, tmp_path):
    return build(mlp("relu", "labels", (8, 6, 3)), tmp_path, optimizer=dr.adam(lr=0.05))


def test_fan_in_follows_from_the_equations(plain, tmp_path):
    net = dr.Network("starts")
    b, s, v, d, j, o, p, r = dr.indices("b:B s:6 v:50 d:40 j:30 o:7 p:4 r:3")
    token = net.input("token", b, s, dtype=int)
    table, w = net.parameter("E", v, d), net.parameter("W", d, j)
    c, g = net.parameter("c", j), net.parameter("g", j)
    k, own = net.parameter("K", o, j, r), net.parameter("own", j, initial=0.5)
    z = net.define("z", (b, s, j),
                   dr.tanh(g[j] * dr.sum(table[token[b, s], d] * w[d, j], d) + c[j]) + own[j])
    y = net.define("y", (b, o, p), dr.relu(dr.sum(z[b, p + r, j] * k[o, j, r], j, r)))
    net.loss(dr.mean(y[b, o, p], b, o, p))
    started = codegen.compile(dr.derive(net), directory=tmp_path, parallel=False).initialize(0)
    found = {n: float(v.std()) for n, v in started.parameters.items()}
    assert found["E"] == pytest.approx(1, rel=0.1)
    assert found["W"] == pytest.approx(40**-0.5, rel=0.1)  # summed over 40 values
    assert found["K"] == pytest.approx((2 / 90) ** 0.5, rel=0.1)  # over 30 * 3, before a relu
    assert (started.parameters["c"] == 0).all() and (started.parameters["g"] == 1).all()
    assert found["own"] == pytest.approx(0.5, rel=0.3)
    again = started.flat.copy()
    assert (started.initialize(0).flat == again).all()
    assert (started.initialize(1).flat != again).any()


def test_predict_needs_no_labels_and_names_what_it_gives(model):
    x = sample(model.program, 4)["x"]
    found = model.forward(x=x)
    assert set(found) == {"z1", "h1", "z2"} and found["z2"].shape == (4, 3)
    assert set(model.predict(outputs=["z2"], x=x)) == {"z2"}
    with pytest.raises(ChainruleError, match="'z3' is not declared"):
        model.predict(outputs=["z3"], x=x)


def test_predict_of_the_loss_compiles_what_it_needs(model):
    values = sample(model.program, 4)
    assert model.predict(["L"], **values)["L"] == pytest.approx(model.loss(**values), rel=1e-5)


@pytest.mark.parametrize("change, message", [
    ({"x": np.zeros((5, 7))}, "'x'"),
    ({"x": np.full((5, 8), np.nan)}, "x"),
    ({"t": np.array([0, 1, 2, 3, 0])}, "t"),
    ({"t": np.array([0, 1, 2, -1, 0])}, "t"),
    ({"t": np.zeros(5)[:, None]}, "t"),
    ({"y": np.zeros(3)}, "'y'"),
])
def test_data_that_do_not_fit_are_refused(change, message, model):
    values = {**sample(model.program, 5), **change}
    for call in (model.loss, model.gradients, model.step):
        with pytest.raises(ChainruleError, match=message):
            call(**values)
    with pytest.raises(ChainruleError, match=message):
        model.epoch(values, 2)


def test_arrays_in_another_layout_or_dtype_are_converted(model):
    values = sample(model.program, 5)
    want = model.loss(**values)
    assert model.loss(x=np.asfortranarray(values["x"]), t=values["t"].astype(np.int8)) == want
    assert model.loss(x=np.repeat(values["x"], 2, axis=1)[:, ::2], t=values["t"]) == want
    assert model.loss(x=values["x"].tolist(), t=values["t"].tolist()) == want


def test_a_missing_input_is_named(model):
    with pytest.raises(DataError, match="'t'"):
        model.loss(x=sample(model.program, 5)["x"])


def test_the_order_of_an_epoch_is_checked(model):
    values = sample(model.program, 5)
    for order in ([0, 1, 5], [-1, 0], []):
        with pytest.raises(DataError, match="order"):
            model.epoch(values, 2, order=order)


def test_training_learns_and_can_be_stopped(model):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8))
    data = {"x": x, "t": (x[:, 0] > 0).astype(int)}
    history = model.fit(data, epochs=6, batch=8, validation=data)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["validation_loss"] == pytest.approx(model.loss(**data), rel=1e-5)

    def stop(row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    before = model.flat.copy()
    assert len(model.fit(data, epochs=9, batch=8, callback=stop)) == 2
    assert (model.flat != before).any()


def test_settings_change_without_compiling(model):
    values, start = sample(model.program, 5), model.flat.copy()
    model.set(lr=0.0)
    model.step(**values)
    np.testing.assert_array_equal(model.flat, start)
    with pytest.raises(ChainruleError, match="did you mean 'lr'"):
        model.set(lrr=1.0)


def test_saved_weights_come_back_with_the_optimizer(model, tmp_path):
    values = sample(model.program, 5)
    model.step(**values)
    path = model.save(tmp_path / "weights.npz")
    kept = [model.flat.copy(), *(m.copy() for m in model.moments.values())]
    model.step(**values)
    after = model.flat.copy()
    model.initialize(9).load(path)
    for want, got in zip(kept, [model.flat, *model.moments.values()], strict=True):
        np.testing.assert_array_equal(got, want)
    model.step(**values)
    np.testing.assert_array_equal(model.flat, after)
    assert [p.name for p in tmp_path.iterdir() if "weights" in p.name] == ["weights.npz"]


def test_weights_of_another_network_are_refused_and_nothing_changes(model, tmp_path, plain):
    other = build(mlp("relu", "labels", (8, 7, 3)), tmp_path)
    path = other.save(tmp_path / "other.npz")
    before = model.flat.copy()
    with pytest.raises(DataError, match=r"W1: expected \(8, 6\), got \(8, 7\)"):
        model.load(path)
    np.testing.assert_array_equal(model.flat, before)


def test_damaged_missing_and_pickled_files_are_refused(model, tmp_path):
    path = model.save(tmp_path / "weights.npz")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:500])
    np.savez(tmp_path / "pickled.npz", W1=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("cut.npz", "pickled.npz", "text.npz", "none.npz"):
        with pytest.raises(DataError):
            model.load(tmp_path / name)


def test_a_foreign_file_is_not_overwritten(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text("mine = 1\n")
    program = dr.derive(mlp("tanh", "labels"))
    with pytest.raises(DataError, match="was not written by this tool"):
        codegen.emit(program, path)
    assert path.read_text() == "mine = 1\n"
    codegen.emit(program, path, force=True)
    codegen.emit(program, path, optimizer=dr.adam())  # its own it may overwrite
    assert "adam" in path.read_text()


@pytest.mark.parametrize("options, message", [
    ({"target": "gpu"}, "unknown target 'gpu'"),
    ({"dtype": "float16"}, "cannot store intermediates as float16"),
    ({"dtype": "float17"}, "unknown dtype 'float17'"),
    ({"threads": 0}, "at least 1"),
    ({"threads": 10_000}, "more than Numba was started with"),
    ({"optimizer": "adamw"}, r"'adamw' is none\n.*rule with its settings(.|\n)*=dr\.adamw\(\)"),
    ({"optimizer": dr.adam}, "a rule with its settings"),
])
def test_unknown_options_are_refused(options, message):
    with pytest.raises(DeclarationError, match=message):
        codegen.compile(dr.derive(mlp("tanh", "labels")), **options)


def test_a_network_that_is_not_derived_is_refused(tmp_path):
    net = dr.Network("plain")
    net.loss(dr.mean_squared_error(dr.dense(net.input("x", "B", 2), 1), net.input("y", "B", 1)))
    for use in (codegen.compile, lambda one: codegen.emit(one, tmp_path / "k.py")):
        with pytest.raises(DerivationError, match=r"a Network\n.*dr\.derive\(net\)"):
            use(net)


@pytest.mark.parametrize("seed", ["a", -1, 0.5])
def test_a_seed_that_is_none_is_refused(model, seed):
    with pytest.raises(DataError, match="whole number of at least 0"):
        model.initialize(seed)


@pytest.mark.parametrize("batch", [0, 2.5, "8"])
def test_a_minibatch_of_no_whole_number_of_rows_is_refused(model, batch):
    with pytest.raises(DataError, match="a minibatch has a whole number of rows"):
        model.epoch(sample(model.program, 9), batch)


def test_a_program_without_gradients_is_refused():
    with pytest.raises(DerivationError, match="no gradient"):
        codegen.compile(mlp("tanh", "labels"))


def test_a_parameter_of_run_time_size_is_refused():
    net = dr.Network("sized")
    b, j = dr.indices("b:B j:3")
    x, w = net.input("x", b, j), net.parameter("w", b)
    net.loss(dr.sum(w[b] * x[b, j], b, j))
    with pytest.raises(DeclarationError, match="'w' has a size that is known only at run time"):
        codegen.compile(dr.derive(net))


@pytest.mark.parametrize("stage, words", [
    ("simplified", "_d_W1[i, j] = "), ("schedule", "phase 2: pieces"),
    ("memory", "arena: "), ("loops", "product_nx3x5_"), ("text", "def epoch("),
])
def test_every_stage_prints(stage, words):
    assert words in codegen.show(dr.derive(NETWORKS["softmax_classifier"]()), stage)


def test_an_unknown_stage_names_the_nearest():
    with pytest.raises(DerivationError, match="did you mean 'schedule'"):
        codegen.show(dr.derive(mlp("tanh", "labels")), "schedul")


def test_a_network_that_is_not_derived_has_no_stages():
    with pytest.raises(DerivationError, match="kernels are made of a derived program"):
        codegen.show(dr.Network("net"), "schedule")


def test_names_that_the_module_uses_itself_do_no_harm(plain, tmp_path):
    net = dr.Network('"""quoted\\')
    b, lo, F, np_ = dr.indices("b:B lo:3 F:4 np:2")
    x = net.input("p", b, lo)
    w, step = net.parameter("gemm", lo, F), net.parameter("k1_z", F, np_)
    relu = net.define("relu", (b, F), dr.relu(dr.sum(x[b, lo] * w[lo, F], lo)))
    math = net.define("w", (b, np_), dr.sum(relu[b, F] * step[F, np_], F))
    net.loss(dr.mean(math[b, np_] ** 2, b, np_), name="loss")
    made = build(net.program(), tmp_path, dtype="float64")
    from tests.codegen.support import differences

    assert max(differences(made, sample(made.program)).values()) < 1e-10


def test_a_failure_of_numba_comes_in_our_own_words(model, monkeypatch):
    from numba.core.errors import TypingError

    def fail(**values: object) -> None:
        raise TypingError("no implementation of function f\nwith a long trace")

    monkeypatch.setattr(model._run, "loss", fail)
    with pytest.raises(codegen.KernelError, match="no implementation of function f"):
        model.loss(**sample(model.program, 5))


def test_an_emitted_text_that_would_do_more_is_refused():
    from codegen.module import inspect_text

    inspect_text(codegen.show(dr.derive(mlp("gelu", "labels")), "text"))
    for text in ("import os", "from subprocess import run", "eval('1')", "f = exec"):
        with pytest.raises(DerivationError, match="would use"):
            inspect_text(text)


def test_frozen_parameters_have_no_gradient_and_stay(plain, tmp_path):
    derived = dr.derive(mlp("tanh", "labels"), wrt=["W2", "c2"])
    made = codegen.compile(derived, optimizer=dr.adam(lr=0.1), directory=tmp_path,
                           parallel=False).initialize(0)
    values, before = sample(derived, 5), {n: v.copy() for n, v in made.parameters.items()}
    assert set(made.gradients(**values)) == {"W2", "c2"}
    made.step(**values)
    changed = {n for n, v in made.parameters.items() if (v != before[n]).any()}
    assert changed == {"W2", "c2"}


def test_states_take_their_next_value_after_each_step(plain, tmp_path):
    net = dr.Network("running mean")
    b, j = dr.indices("b:B j:3")
    x, w = net.input("x", b, j), net.parameter("w", j)
    mean = net.state("mean", j)
    net.update(mean, 0.5 * mean[j] + 0.5 * dr.mean(x[b, j], b))
    net.loss(dr.mean((w[j] * x[b, j] - mean[j]) ** 2, b, j))
    made = build(net.program(), tmp_path, dtype="float64")
    x = np.random.default_rng(0).standard_normal((8, 3))
    made.step(x=x)
    np.testing.assert_allclose(made.states["mean"], 0.5 * x.mean(0))
    made.epoch({"x": x}, 4)
    want = 0.5 * (0.5 * (0.5 * x.mean(0)) + 0.5 * x[:4].mean(0)) + 0.5 * x[4:].mean(0)
    np.testing.assert_allclose(made.states["mean"], want)
