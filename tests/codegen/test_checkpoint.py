"""Checkpoints: written all or nothing, whole or told apart, the one before it used."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from codegen.checkpoint import (
    Checkpoint,
    CheckpointError,
    Store,
    encode,
    fit_into,
    read_checkpoint,
    write_checkpoint,
)
from derive.errors import DataError


def sample(step: int = 7) -> Checkpoint:
    rng = np.random.default_rng(step)
    return Checkpoint(step, {"parameter/W": rng.normal(size=(3, 2)).astype("float32"),
                             "state/m": rng.normal(size=4), "moment/v": np.zeros((0,))},
                      {"position": {"epoch": 2, "losses": [0.1, 0.2]}, "seed": 3})


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return a.step == b.step and a.notes == b.notes and set(a.arrays) == set(b.arrays) and all(
        v.dtype == b.arrays[n].dtype and v.shape == b.arrays[n].shape
        and v.tobytes() == b.arrays[n].tobytes() for n, v in a.arrays.items())


def test_it_comes_back_bit_for_bit_and_others_can_read_it(tmp_path: Path):
    path = write_checkpoint(tmp_path / "one.safetensors", sample())
    assert same(read_checkpoint(path), sample())
    from safetensors.numpy import load_file

    assert set(load_file(path)) == set(sample().arrays)


def test_a_file_cut_anywhere_is_told(tmp_path: Path):
    whole = encode(sample())
    path = tmp_path / "cut.safetensors"
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_any_changed_byte_is_told(tmp_path: Path):
    whole = encode(sample())
    path = tmp_path / "changed.safetensors"
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            continue
        assert same(found, sample())  # a space in the header's padding, say


def test_pickled_and_foreign_files_are_refused(tmp_path: Path):
    from safetensors.numpy import save_file

    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="pickled files can run code"):
        read_checkpoint(tmp_path / "x.pkl")
    save_file({"w": np.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="no manifest"):
        read_checkpoint(tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_the_last_few_stay_and_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path):
    store = Store(tmp_path, keep=2)
    assert store.latest() is None
    for step in (1, 2, 3):
        store.save(sample(step))
    assert [p.name for p in store.files] == [f"step-{n:012d}.safetensors" for n in (2, 3)]
    store.files[-1].write_bytes(encode(sample(3))[:-5])
    with pytest.warns(RuntimeWarning, match=r"step-0+3\.safetensors' is damaged.*one before"):
        found = store.latest()
    assert found is not None and same(found, sample(2))
    store.files[0].write_bytes(b"")
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="all 2 checkpoints"):
        store.latest()


def test_no_room_at_any_byte_leaves_what_was_there(tmp_path: Path):
    store = Store(tmp_path, keep=1)
    store.save(sample(1))
    size = len(encode(sample(2)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in range(0, size, 29):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                store.save(sample(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [p.name for p in tmp_path.iterdir()] == [store.files[0].name]
    found = store.latest()
    assert found is not None and same(found, sample(1))
    store.save(sample(2))
    found = store.latest()
    assert found is not None and same(found, sample(2))


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path):
    (tmp_path / ".step-000000000001.safetensors.abc").write_bytes(b"half")
    store = Store(tmp_path)
    store.save(sample(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_another_network_is_named_tensor_by_tensor_and_changes_nothing():
    places = {"parameter/W": np.zeros((2, 2)), "parameter/c": np.zeros(2), "moment/v": np.zeros(3)}
    found = {"parameter/W": np.ones((2, 3)), "parameter/d": np.ones(2),
             "moment/v": np.ones(3, "float32")}
    with pytest.raises(DataError) as error:
        fit_into(places, found, "the checkpoint")
    text = str(error.value)
    for part in ("W: expected (2, 2), got (2, 3)", "c: expected (2,), missing", "d: not in this",
                 "moment v: expected float64, got float32"):
        assert part in text
    assert not any(v.any() for v in places.values())
