"""The training loop: the same bits however it is cut, what stops it, what it keeps."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import derive as dr
from codegen.checkpoint import Store
from codegen.datasets import split
from codegen.replay import read_replay, replay
from codegen.rows import Rows
from codegen.session import Session, prepare, run
from codegen.signals import stop_request
from codegen.training import Plan
from derive.errors import DataError
from tests.codegen.support import interpreted


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    with interpreted():
        yield


def network(dropout: bool = True) -> dr.Network:
    net = dr.Network("small")
    x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
    h = dr.dense(x, 6, dr.tanh)
    h = dr.dropout(h, 0.3, net.random()) if dropout else h
    net.loss(dr.cross_entropy(dr.dense(h, 2), t))
    return net


def rows(count: int = 50) -> Rows:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    return Rows({"x": rng.normal(size=(count, 3)) + labels[:, None], "t": labels})


def session(folder: Path | None = None, net: dr.Network | None = None, data: Rows | None = None,
            optimizer: Any = None, validation: float = 0.2, **plan: Any) -> Session:
    own = {"epochs": 3, "batch": 4, "seed": 5, **plan}
    store = Store(folder, keep=own.get("keep", 100)) if folder else None
    parts = split(data or rows(), 0.0, 0, validation)
    return prepare((net or network()).program(), parts, Plan(**own),
                   optimizer or dr.adamw(lr=dr.cosine(0.05, 20), average=0.9, clip_norm=0.5),
                   threads=1, store=store, notes={"model": "net.py"})


def bits(made: Session) -> bytes:
    arrays = {**made.model.places, **made.training.best}
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in made.history]
    return b"".join(v.tobytes() for v in arrays.values()) + repr(history).encode()


def test_a_run_resumed_from_any_checkpoint_is_bit_identical(tmp_path: Path):
    whole = session(tmp_path / "c", steps=1)
    assert run(whole).reason == "finished"
    want = bits(whole)
    files = Store(tmp_path / "c", 100).files
    assert len(files) == 30  # 40 rows, 10 minibatches, 3 epochs
    from codegen.checkpoint import read_checkpoint

    for path in (files[0], files[12], files[19], files[28], files[29]):
        again = session()
        again.training.restore(read_checkpoint(path))
        run(again)
        assert bits(again) == want, path.name


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_how_steps_are_cut_into_chunks_changes_no_bit(chunk: int):
    one, other = session(), session()
    run(one)
    other.training._length = lambda first: min(  # type: ignore[method-assign]
        chunk, other.training.minibatches - first)
    run(other)
    assert bits(one) == bits(other)


def test_memory_maps_give_the_bits_of_arrays(tmp_path: Path):
    data = rows()
    for name, array in data.arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = Rows({n: np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in data.arrays})
    assert not mapped.resident
    one, other = session(data=data), session(data=mapped)
    run(one)
    run(other)
    assert bits(one) == bits(other)


def test_accumulated_minibatches_are_one_larger_one():
    net, sgd = network(dropout=False), dr.sgd(lr=0.5)
    large = session(net=net, optimizer=sgd, batch=12)
    small = session(net=net, optimizer=sgd, batch=4, accumulate=3)
    run(large)
    run(small)
    assert small.model.steps == large.model.steps == 12
    np.testing.assert_allclose(small.model.flat, large.model.flat, rtol=2e-5, atol=1e-6)


def test_a_reduction_stands_between_gradient_and_update():
    seen: list[int] = []
    made = session()
    made.training.reduce = lambda gradient: seen.append(gradient.size)
    plain = session()
    run(made)
    run(plain)
    assert len(seen) == 30 and bits(made) == bits(plain)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_later(number: signal.Signals, tmp_path: Path, capsys):
    whole = session()
    run(whole)
    made = session(tmp_path / "c")
    save, length = made.training._maybe_save, made.training._length
    made.training._length = lambda first: min(4, length(first))  # type: ignore[method-assign]

    def kick() -> None:
        save()
        if made.training.done == 14:
            os.kill(os.getpid(), number)

    made.training._maybe_save = kick  # type: ignore[method-assign]
    assert run(made).reason == "interrupted"
    assert number.name in capsys.readouterr().err
    found = Store(tmp_path / "c").latest()
    assert found is not None and found.step == 14
    again = session()
    again.training.restore(found)
    assert run(again).reason == "finished" and bits(again) == bits(whole)


def test_the_second_signal_ends_at_once(capsys):
    with pytest.raises(KeyboardInterrupt), stop_request() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)


def test_early_stopping_keeps_the_best_weights():
    made = session(optimizer=dr.sgd(lr=0.0), epochs=9, patience=2)
    scores = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    made.training.evaluate = lambda: {"validation_loss": next(scores)}
    first = made.model.flat.copy()
    assert run(made).reason == "early"
    assert len(made.history) == 4 and made.training.at.best_epoch == 2
    np.testing.assert_array_equal(made.training.best["parameter/W1"],
                                  made.model.parameters["W1"])
    np.testing.assert_array_equal(first, made.model.flat)


def test_a_plateau_lowers_the_learning_rate():
    made = session(optimizer=dr.sgd(lr=1.0), epochs=6, plateau=2, factor=0.5)
    made.training.evaluate = lambda: {"validation_loss": 1.0}
    run(made)
    assert [row["lr"] for row in made.history] == [1, 1, 1, 0.5, 0.5, 0.25]


def test_early_stopping_without_held_out_rows_is_refused():
    with pytest.raises(DataError, match="validation_share"):
        session(patience=3, validation=0.0)


# -- what is not finite ---------------------------------------------------------------------------
def overflowing() -> dr.Network:
    net = dr.Network("overflowing")
    b, i = dr.indices("b:B i:3")
    x, w = net.input("x", b, i), net.parameter("w", i, initial="ones")
    s = net.define("s", (b,), dr.sum(x[b, i] * w[i], i))
    e = net.define("e", (b,), dr.exp(s[b]))
    net.loss(dr.mean(e[b], b))
    return net


def test_the_tensor_the_step_and_the_batch_are_named_and_replayed(tmp_path: Path):
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[17] = 60  # exp(180) is more than single precision holds
    made = session(net=overflowing(), data=Rows({"x": x}), validation=0.0,
                   optimizer=dr.sgd(lr=1e-4))
    ended = run(made, tmp_path)
    assert ended.reason == "not finite"
    assert "e[b] is not finite at step" in ended.detail and "17" in ended.detail
    stored = read_replay(Path(ended.replay))
    assert 17 in stored.notes["rows"] and len(stored.notes["rows"]) == 4
    again = session(net=overflowing(), data=Rows({"x": x}), validation=0.0,
                    optimizer=dr.sgd(lr=1e-4))
    assert replay(again.model, stored) == ("e", "e[b] is not finite")
    assert again.model.steps == stored.notes["updates"]


def test_a_gradient_that_is_not_finite_stops_before_it_is_used(tmp_path: Path):
    net = dr.Network("root")
    b, i = dr.indices("b:B i:3")
    x, w = net.input("x", b, i), net.parameter("w", i, initial="ones")
    s = net.define("s", (b,), dr.sum(x[b, i] * w[i], i))
    net.loss(dr.mean(dr.sqrt(s[b]), b))
    x_ = np.ones((20, 3))
    x_[5] = 0  # √0 is finite, its slope is not
    made = session(net=net, data=Rows({"x": x_}), validation=0.0, optimizer=dr.sgd(lr=1e-3))
    ended = run(made, tmp_path)
    assert ended.reason == "not finite" and "5" in ended.detail and "_d_" in ended.detail
    assert np.isfinite(made.model.flat).all()


def test_a_learning_rate_that_diverges_is_named(tmp_path: Path):
    made = session(net=network(False), optimizer=dr.sgd(lr=1e38), validation=0.0)
    ended = run(made, tmp_path)
    assert ended.reason == "not finite" and ended.replay
    assert np.isfinite(made.model.flat).all()


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = session(tmp_path / "c", steps=5)
    store = made.training.store
    assert store is not None
    real, calls = store.save, []

    def save(checkpoint: Any) -> Path:
        calls.append(checkpoint.step)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        return real(checkpoint)

    monkeypatch.setattr(store, "save", save)
    assert run(made).reason == "finished"
    assert sum("No space left" in m for m in made.messages) == 2
    found = store.latest()
    assert found is not None and found.step == 30


# -- data -----------------------------------------------------------------------------------------
def test_rows_are_taken_in_the_order_that_is_asked_for(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    mapped = Rows({"x": np.load(tmp_path / "x.npy", mmap_mode="r")})
    places = np.array([7, 0, 3, 3])
    np.testing.assert_array_equal(mapped.take(places)["x"][:, 0], [14, 0, 6, 6])
    part = mapped.part(np.array([9, 4, 2]))
    np.testing.assert_array_equal(part.take(np.array([2, 0]))["x"][:, 0], [4, 18])
    assert [len(b["x"]) for b in part.blocks(2)] == [2, 1] and len(part) == 3


def test_bad_rows_of_a_memory_map_show_before_the_first_step(tmp_path: Path):
    data = rows()
    data.arrays["t"][33] = 2
    for name, array in data.arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = Rows({n: np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in data.arrays})
    with pytest.raises(DataError, match="'t' holds 2"):
        session(data=mapped, validation=0.0)


@pytest.mark.parametrize("plan", [{"epochs": 0}, {"batch": 0}, {"patience": -1}])
def test_plans_that_make_no_sense_are_refused(plan: dict[str, int]):
    with pytest.raises(DataError):
        Plan(**plan)
