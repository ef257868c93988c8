"""Training over MPI, with real ranks: the same run as one process, and what happens to bad ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from codegen.checkpoint import Store
from codegen.mpi.share import share
from derive.differentiate import derive
from derive.errors import DerivationError

pytest.importorskip("mpi4py")

NET = '''
import numpy as np
import derive as dr

def network(training=True):
    net = dr.Network("small")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    h = dr.batch_norm(dr.dense(x, 6, dr.tanh))
    h = dr.dropout(h, 0.3, net.random()) if training else h
    net.loss(dr.cross_entropy(dr.dense(h, 3), t))
    return net

def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, ROWS)
    return {"x": rng.normal(size=(ROWS, 5)) + labels[:, None], "t": labels}
'''
CONFIG = '''
model = "net.py"
[train]
epochs = EPOCHS
batch = 7
threads = 1
dtype = "float64"
[optimizer]
rule = "adamw"
clip_norm = 0.5
[checkpoints]
steps = 1
'''


def place(folder: Path, rows: int = 29, epochs: int = 2) -> Path:
    (folder / "net.py").write_text(NET.replace("ROWS", str(rows)))
    (folder / "run.toml").write_text(CONFIG.replace("EPOCHS", str(epochs)))
    return folder


def start(folder: Path, *verb: str) -> subprocess.Popen[str]:
    """A run whose kernels are plain Python, in a process of its own."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1",
                   "CHAINRULE_CACHE": str(folder / "cache")}
    return subprocess.Popen([sys.executable, "-m", "codegen.cli", *verb], cwd=folder, text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(folder: Path, *verb: str) -> tuple[int, str]:
    process = start(folder, *verb)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def parameters(folder: Path) -> dict[str, np.ndarray]:
    last = Store(folder / "checkpoints").latest()
    assert last is not None
    return last.arrays


def test_two_and_three_ranks_take_the_steps_of_one_process(tmp_path: Path):
    folder = place(tmp_path)
    for ranks in (1, 2, 3):
        more = () if ranks == 1 else ("--ranks", str(ranks))
        code, said = finish(folder, "train", "run.toml", "--out", f"r{ranks}", *more)
        assert code == 0, said
    want = parameters(folder / "r1")
    for ranks in (2, 3):
        got = parameters(folder / f"r{ranks}")
        assert want.keys() == got.keys()
        for name, value in want.items():  # the last minibatch of an epoch has two rows
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_a_killed_rank_is_named_and_the_run_goes_on_to_the_same_end(tmp_path: Path):
    folder = place(tmp_path, epochs=4)
    code, said = finish(folder, "train", "run.toml", "--out", "whole", "--ranks", "2")
    assert code == 0, said
    process = start(folder, "train", "run.toml", "--out", "cut", "--ranks", "2",
                    "--max-restarts", "1")
    while not list((folder / "cut" / "checkpoints").glob("step-*")):
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()
    os.kill(_rank(folder, 1), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "rank 1 was killed by signal 9 (SIGKILL)" in err and "going on" in err
    want, got = parameters(folder / "whole"), parameters(folder / "cut")
    assert all((got[name] == value).all() for name, value in want.items())


def _rank(folder: Path, number: int) -> int:
    """The process of a rank that works in a folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            here = (path / "cwd").resolve() == folder.resolve()
        except OSError:
            continue
        if here and f"PMI_RANK={number}".encode() in words:
            return int(path.name)
    raise AssertionError(f"no process of rank {number}")


def test_more_ranks_than_rows_of_a_minibatch_is_said_once(tmp_path: Path):
    folder = place(tmp_path, rows=3)
    code, said = finish(folder, "train", "run.toml", "--ranks", "3", "--test-share", "0.4")
    assert code == 2
    assert said.count("3 ranks are more than a minibatch has rows") == 1


def test_sums_over_the_batch_are_parts_and_its_size_is_that_of_all_ranks():
    net = dr.Network("mean")
    x, t = net.input("x", "B", 2), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 3), t))
    program = derive(net)
    shared = share(program)
    assert set(shared.summed) == {*program.losses, *program.gradients.values()}
    assert str(shared.program["L"]).startswith("L = 1/_all_rows * sum over b of")


def test_rows_that_read_other_rows_are_refused_by_name():
    net = dr.Network("pairs")
    b, c, i = dr.indices("b:B c:B i:2")
    x, w = net.input("x", b, i), net.parameter("w", i)
    s = net.define("s", (b, c), dr.sum(x[b, i] * w[i] * x[c, i], i))
    net.loss(dr.mean(s[b, c] ** 2, b, c))
    with pytest.raises(DerivationError, match="depend on each other") as error:
        share(derive(net))
    assert str(error.value.got).startswith("s[b, c]")
