"""An epoch updates rows of a weight behind their gradient, and learns what steps learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codegen
import derive as dr
from codegen import train_step
from codegen.module import load, render
from codegen.pipeline import compile_program
from codegen.train_step import Behinds, find_behinds
from derive.optimizers import Optimizer
from tests.codegen.support import interpreted


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates go behind gradients, and past the caches, however few parameters there are, eight
    rows at a time."""
    monkeypatch.setattr(train_step, "FROM", 1)
    monkeypatch.setattr(train_step, "STREAMED", 1)
    monkeypatch.setattr(train_step, "AT_ONCE", 1)
    monkeypatch.setattr(train_step, "HIGH", 8)


def classes(net: dr.Network, h: Any) -> dr.Network:
    net.loss(dr.cross_entropy(dr.dense(h, 3), net.input("t", "B", dtype=int)))
    return net


def mlp() -> dr.Network:
    net = dr.Network("mlp")
    return classes(net, dr.dense(net.input("x", "B", 19), 17, dr.tanh))


def normalised() -> dr.Network:
    net = dr.Network("normalised")
    h = net.input("x", "B", 19)
    for _ in range(3):
        h = dr.relu(dr.batch_norm(dr.dense(h, 19)))
    return classes(net, h)


def penalised() -> dr.Network:
    """The gradient of W reads V, and that of V reads W, both where weight gradients are made."""
    net = dr.Network("penalised")
    b, i, j = dr.indices("b:B i:19 j:17")
    x, u = net.input("x", b, i), net.parameter("u", j)
    w, v = net.parameter("W", i, j), net.parameter("V", i, j)
    z = net.define("z", (b, j), dr.sum(x[b, i] * w[i, j], i) + u[j])
    net.loss(dr.mean(dr.sum(z[b, j]**2, j), b) + dr.sum(v[i, j]**2 * w[i, j], i, j))
    return net


NETWORKS = {"mlp": mlp, "normalised": normalised, "penalised": penalised}


def found(net: dr.Network, optimizer: Optimizer | None = None) -> Behinds | None:
    return find_behinds(compile_program(dr.derive(net), optimizer or dr.adam()))


def data(net: dr.Network, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {"x": rng.standard_normal((rows, 19)), "t": rng.integers(0, 3, rows)}
    return {n: v for n, v in values.items() if n in net.program().tensors}


def made(net: dr.Network, folder: Path, parts: int, count: int = 2) -> tuple[Any, ...]:
    """The buffers and calls of so many models alike, in plain Python."""
    runs = []
    for _ in range(count):
        with interpreted():
            model = codegen.compile(dr.derive(net), optimizer=dr.adam(lr=0.01), dtype="float64",
                                    directory=folder, parallel=parts > 1)
        model.initialize(1)
        model._run.parts = lambda sizes: parts
        runs.append(model._run)
    return tuple(runs)


def test_what_a_kernel_writes_is_looked_up_once_however_deep_the_network(
        monkeypatch: pytest.MonkeyPatch) -> None:
    net = dr.Network("deep")
    h = net.input("x", "B", 19)
    for _ in range(12):
        h = dr.dense(h, 19, dr.tanh)
    compiled = compile_program(dr.derive(classes(net, h)), dr.adam())
    kernels = sum(len(p) for p in compiled.entries["gradient"].phases)
    calls, written = [], train_step.written
    monkeypatch.setattr(train_step, "written", lambda k: calls.append(k) or written(k))
    behinds = find_behinds(compiled)
    assert behinds is not None and len(behinds.gradients) == 26
    assert len(calls) <= 4*kernels


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_epoch_learns_bit_by_bit_what_steps_learn(name: str, parts: int, tmp_path: Path
                                                     ) -> None:
    net = NETWORKS[name]()
    epoch, steps = made(net, tmp_path, parts)
    (text,) = (p.read_text() for p in tmp_path.glob("*.py"))
    assert "    update_rows(lo, hi, _d_" in text
    values = data(net, 12)
    with np.errstate(all="ignore"):
        epoch.epoch(values, 5, np.arange(12))
        for first in (0, 5, 10):
            steps.step(**{n: v[first:first + 5] for n, v in values.items()})
    assert epoch.steps == steps.steps == 3
    np.testing.assert_array_equal(epoch.p, steps.p)
    np.testing.assert_array_equal(epoch.d, steps.d)  # a gradient can be read as before
    for moment, each in epoch.moments.items():
        np.testing.assert_array_equal(each, steps.moments[moment])


@pytest.mark.parametrize("name", ["mlp", "normalised"])
def test_nothing_is_learnt_from_a_step_whose_loss_is_not_finite(name: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    run, other = made(net, tmp_path, 2)
    values = data(net, 10)
    with np.errstate(all="ignore"):
        other.epoch({n: v[:5] for n, v in values.items()}, 5, np.arange(5))
        values["x"][7, 0] = np.nan
        with pytest.raises(Exception, match="2"):
            run.epoch(values, 5, np.arange(10))
    np.testing.assert_array_equal(run.p, other.p)


def test_all_that_nothing_reads_any_more_is_updated_behind_its_gradient() -> None:
    mine = found(mlp())
    assert mine is not None and mine.rest == ()
    assert set(mine.gradients.values()) == {"W1", "c1", "W2", "c2"}
    deep = found(normalised())
    assert deep is not None and deep.rest == ()


def test_what_another_gradient_reads_is_updated_when_all_is_done() -> None:
    mine = found(penalised())
    assert mine is not None
    assert set(mine.gradients.values()) == {"u"}
    assert mine.rest == ((32, 691),)  # W and V, and what lies between them


@pytest.mark.parametrize("optimizer", [
    dr.adam(clip_norm=1.0), dr.muon(), dr.adam(groups={"c*": {"lr": 0.1}}),
])
def test_a_rule_that_needs_all_gradients_first_is_not_cut(optimizer: Optimizer) -> None:
    assert found(mlp(), optimizer) is None


def test_few_parameters_stay_in_the_cache_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "FROM", 2**16)
    assert found(mlp()) is None


def test_a_models_arrays_begin_where_lines_of_the_cache_do(tmp_path: Path) -> None:
    (run,) = made(mlp(), tmp_path, 2, count=1)
    with np.errstate(all="ignore"):
        run.epoch(data(mlp(), 7), 5, np.arange(7))
    arrays = [run.p, run.d, run.w, *run.moments.values(), *run.batches[5]]
    assert [a.ctypes.data % 64 for a in arrays] == [0] * len(arrays)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_what_goes_past_the_caches_arrives_whole_and_nothing_beside_it(kind: str, tmp_path: Path
                                                                      ) -> None:
    module = load(render(compile_program(dr.derive(mlp()), dr.adam()), kind, True), tmp_path)
    source = np.arange(1, 201, dtype=kind)
    for first in (0, 1, 5, 16, 31):
        for count in (0, 1, 7, 8, 15, 16, 17, 100, 200):
            target = np.zeros(300, kind)
            module.stream(source, target, first, first + count)
            want = np.zeros(300, kind)
            want[first:first + count] = source[:count]
            np.testing.assert_array_equal(target, want)


@pytest.mark.parametrize("rule", [dr.adam(lr=0.01), dr.sgd(lr=0.1), dr.momentum(lr=0.1), dr.adam(
    groups={"c*": {"lr": 0.1}})], ids=["adam", "sgd", "momentum", "groups"])
def test_threads_that_write_past_the_caches_learn_bit_by_bit_what_one_and_what_steps_learn(
        rule: Optimizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = dr.Network("wide")
    h = dr.dense(net.input("x", "B", 19), 131, dr.tanh)
    net.loss(dr.cross_entropy(dr.dense(h, 3), net.input("t", "B", dtype=int)))
    runs = []
    for _ in range(3):
        model = codegen.compile(dr.derive(net), optimizer=rule, directory=tmp_path, threads=2)
        model.initialize(1)
        model._run.parts = lambda sizes: 2
        runs.append(model._run)
    epoch, alone, steps = runs
    values = {n: np.asarray(v, epoch.p.dtype if n == "x" else np.int64)
              for n, v in data(net, 40).items()}
    for members, run in ((2, epoch), (1, alone)):
        monkeypatch.setattr(model.kernels._Crew, "pieces", lambda crew, steps, members=members:
                            iter([(members, 0, steps)]))
        run.epoch(values, 8, np.arange(40))
    np.testing.assert_array_equal(epoch.p, alone.p)
    for first in range(0, 40, 8):
        steps.step(**{n: v[first:first + 8] for n, v in values.items()})
    np.testing.assert_array_equal(epoch.p, steps.p)
    (text,) = (p.read_text() for p in tmp_path.glob("*.py"))
    assert "        stream(piece, p, first, last)" in text


def test_a_module_for_one_thread_has_nothing_to_write_past_the_caches() -> None:
    text = render(compile_program(dr.derive(mlp()), dr.adam()), "float32", False)
    assert "    update_rows(lo, hi, _d_" in text
    assert "stream(" not in text and "update_span" not in text


def test_few_parameters_are_not_written_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "FROM", 2**15)
    monkeypatch.setattr(train_step, "STREAMED", 2**15)
    text = render(compile_program(dr.derive(mlp()), dr.adam()), "float32", True)
    assert "update_share" in text and "stream(" not in text and "update_span" not in text


def test_a_few_more_are_written_so_all_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "FROM", 2**16)
    text = render(compile_program(dr.derive(mlp()), dr.adam()), "float32", True)
    assert "update_rows(" not in text and "        update_span(" in text
