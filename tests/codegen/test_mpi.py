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

import codegen
import derive as dr
from codegen.checkpoint import Store
from codegen.health import read_looks
from codegen.mpi.share import rows_apart, share
from derive.bounds import gradient_magnitudes
from derive.differentiate import derive
from derive.errors import DataError, DerivationError

pytest.importorskip("mpi4py")

from codegen.mpi.exchange import FORMATS, ROUNDING, Bucket, decode, encode
from codegen.mpi.shard import Shard, check_space, state_bytes

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


def test_two_three_and_four_ranks_take_the_steps_of_one_process(tmp_path: Path):
    folder = place(tmp_path)
    for ranks in (1, 2, 3, 4):
        more = () if ranks == 1 else ("--ranks", str(ranks))
        code, said = finish(folder, "train", "run.toml", "--out", f"r{ranks}", *more)
        assert code == 0, said
    want = parameters(folder / "r1")
    for ranks in (2, 3, 4):
        got = parameters(folder / f"r{ranks}")
        assert want.keys() == got.keys()
        for name, value in want.items():  # the last minibatch of an epoch has two rows
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12, err_msg=name)
        seen = [read_looks(folder / f"r{n}") for n in (1, ranks)]
        assert [[e["epoch"] for e in looks] for looks in seen] == [[0, 2]] * 2
        for one, other in zip(*(looks[-1]["layers"].values() for looks in seen), strict=True):
            assert one["adjoint"] == pytest.approx(other["adjoint"], rel=1e-9)


def test_ranks_in_single_precision_step_within_the_bound_of_rounding(tmp_path: Path):
    folder = place(tmp_path, epochs=1)
    text = (folder / "net.py").read_text().replace("if training else h", "if False else h")
    (folder / "net.py").write_text(text)
    (folder / "run.toml").write_text("""
model = "net.py"
[train]
epochs = 1
batch = 29
threads = 1
[data]
test_share = 0
[optimizer]
rule = "sgd"
lr = 1.0
""")
    space: dict = {}
    exec(text, space)  # the same network and rows, here
    program, batch = derive(space["network"]()), space["data"]()
    start = codegen.compile(program, threads=1).initialize(0)
    at = {**batch, **start.parameters, **start.states}
    exact = dr.evaluate(program, at, tuple(program.gradients.values()))
    sizes, eps = gradient_magnitudes(program, at), float(np.finfo(np.float32).eps)
    for ranks in (2, 4):
        code, said = finish(folder, "train", "run.toml", "--out", f"r{ranks}",
                            "--ranks", str(ranks))
        assert code == 0, said
        got = parameters(folder / f"r{ranks}")
        for name, adjoint in program.gradients.items():
            value = start.parameters[name].astype(float)
            bar = 64 * eps * sizes[name] + eps * (np.abs(value) + np.abs(exact[adjoint]))
            off = np.abs(value - exact[adjoint] - got[f"parameter/{name}"])
            assert (off <= bar).all(), (ranks, name, (off / bar).max())


def test_sharded_ranks_go_on_as_another_number_of_ranks(tmp_path: Path):
    folder = place(tmp_path)
    for verb in (("train", "run.toml", "--out", "one"),
                 ("train", "run.toml", "--out", "more", "--epochs", "1", "--ranks", "3", "--shard"),
                 ("resume", "more", "--epochs", "2", "--ranks", "2")):
        code, said = finish(folder, *verb)
        assert code == 0, said
    want, got = parameters(folder / "one"), parameters(folder / "more")
    assert want.keys() == got.keys()
    for name, value in want.items():  # moments are whole in the file
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_gradients_in_16_bits_say_what_they_lose(tmp_path: Path):
    folder = place(tmp_path, epochs=1)
    code, said = finish(folder, "train", "run.toml", "--out", "short", "--ranks", "2",
                        "--compress", "float16")
    assert code == 0, said
    lost = float(said.split("of the first one's norm ")[1].split()[0])
    assert 0 < lost < ROUNDING["float16"]


def test_long_and_many_buckets_in_flight_come_to_the_same(tmp_path: Path):
    folder = place(tmp_path, epochs=1)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("dr.dense(x, 6,", "dr.dense(x, 1700,"))
    config = (folder / "run.toml").read_text().replace("batch = 7", "batch = 29")
    (folder / "run.toml").write_text(config + "[ranks]\nbucket = 1\n")
    for out, more in (("one", ()), ("two", ("--ranks", "2")),
                      ("short", ("--ranks", "3", "--compress", "float16")),
                      ("far", ("--ranks", "2"))):
        if out == "far":  # as if they were on several machines: a thread looks after what is sent
            (folder / "net.py").write_text((folder / "net.py").read_text() + """
import codegen.mpi.team
codegen.mpi.team.Team.far = True
""")
        code, said = finish(folder, "train", "run.toml", "--out", out, *more)
        assert code == 0, said
    want = parameters(folder / "one")
    for out, bar in (("two", 1e-12), ("short", 1e-2), ("far", 1e-12)):
        got = parameters(folder / out)
        assert max(np.abs(got[n] - v).max() for n, v in want.items()) < bar, out


@pytest.mark.parametrize("kind", FORMATS)
def test_a_number_in_16_bits_is_off_by_its_rounding_at_most(kind: str):
    rng = np.random.default_rng(0)
    for scale in (1e-30, 1e-6, 1.0, 1e30):
        x = (scale * rng.standard_normal(5000)).astype(np.float32)
        y = decode(encode(x, kind), kind)
        # what float16 has no exponent for is small beside the largest number
        bar = ROUNDING[kind] * np.abs(x) + 2.0**-39 * np.abs(x).max() * (kind == "float16")
        assert (np.abs(y - x) <= bar).all()
    odd = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    np.testing.assert_array_equal(decode(encode(odd, kind), kind), odd)
    assert np.isnan(decode(encode(np.array([np.nan, -np.nan], np.float32), kind), kind)).all()


def test_ranks_with_different_networks_are_told_before_the_first_step(tmp_path: Path):
    folder = place(tmp_path)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace(
        "dr.dense(x, 6", "dr.dense(x, 6 + int(os.environ['PMI_RANK'])").replace(
        "import numpy", "import os\nimport numpy", 1))
    code, said = finish(folder, "train", "run.toml", "--ranks", "2")
    assert code == 2, said
    assert said.count("the ranks do not agree on the network") == 1
    assert "mpi4py" not in said, "the line that is pointed at would be nobody's"


def test_a_rank_that_stops_before_the_first_step_ends_the_job(tmp_path: Path):
    folder = place(tmp_path)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("def data():", """def data():
    import os, signal, time
    if os.environ["PMI_RANK"] == "1":
        time.sleep(2)  # until it has been heard
        os.kill(os.getpid(), signal.SIGSTOP)"""))
    code, said = finish(folder, "train", "run.toml", "--ranks", "2")
    assert code != 0
    assert said.count("rank 1 did not answer for") == 1, said


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_on_all(tmp_path: Path):
    folder = place(tmp_path, epochs=1)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace(
        "    return {\"x\": rng.normal(size=(29, 5)) + labels[:, None], \"t\": labels}",
        """    x = rng.normal(size=(29, 5)) + labels[:, None]
    x[3] = 1e308
    return {"x": x, "t": labels}""").replace(
        "h = dr.batch_norm(dr.dense(x, 6, dr.tanh))",
        "b, i = x.indices; h = dr.dense(net.define('y', (b, i), x[b, i]**2), 6, dr.relu)"))
    config = (folder / "run.toml").read_text()
    code, said = finish(folder, "train", "run.toml", "--out", "stops", "--ranks", "2",
                        "--test-share", "0")
    assert code == 1, said
    assert "stopped:" in said
    (folder / "run.toml").write_text(config.replace("[train]", "[train]\nskip = 3"))
    code, said = finish(folder, "train", "run.toml", "--out", "skips", "--ranks", "2",
                        "--test-share", "0")
    assert code == 0, said
    assert said.count("a step of epoch 1 was left out") == 1
    assert all(np.isfinite(v).all() for v in parameters(folder / "skips").values())


def test_the_memory_that_sharding_saves_is_the_one_that_was_predicted():
    class One:
        rank, size, solo = 1, 3, True

    net = dr.Network("two")
    x, t = net.input("x", "B", 50), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 40, dr.tanh), 10), t))
    optimizer = dr.adam(average=0.9)
    model = codegen.compile(derive(net), optimizer=optimizer, threads=1)
    whole = sum(m.nbytes for m in model._run.moments.values())
    count = int(model.kernels.P_TRAINED)
    assert whole == state_bytes(count, model.kernels.MOMENTS, 4)
    shard = Shard(model.kernels, model._run, [Bucket(0, count, 0)], One(), optimizer)
    cut = sum(m.nbytes for m in model._run.moments.values()) + shard.gradient.nbytes
    assert abs(cut - state_bytes(count, model.kernels.MOMENTS, 4, 3, True)) <= 4 * 3


def test_ranks_without_memory_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("codegen.mpi.shard.free_memory", lambda: 10_000_000)
    check_space(4_000_000, here=2)
    with pytest.raises(DataError, match="no space for 3 ranks"):
        check_space(4_000_000, here=3)


def test_forward_names_nothing_that_is_kept_for_the_next_step():
    net = dr.Network("normal")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.batch_norm(x), 3), t))
    model = codegen.compile(derive(net), threads=1).initialize(0)
    found = model.forward(x=np.random.default_rng(0).normal(size=(7, 5)))
    assert found and not set(found) & set(model.program.updates.values())


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


def test_held_out_rows_are_divided_where_a_row_is_measured_by_itself():
    def made(mixes: bool) -> dr.Program:
        net = dr.Network("rows")
        x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
        net.loss(dr.cross_entropy(dr.dense(dr.batch_norm(x) if mixes else x, 3), t))
        return derive(net)

    assert rows_apart(made(False)) and not rows_apart(made(True))


def test_a_search_on_ranks_finishes_its_trials_and_says_what_failed_once(tmp_path: Path):
    pytest.importorskip("optuna")
    folder = place(tmp_path, epochs=1)
    config = (folder / "run.toml").read_text()
    space = '[search.space]\n"optimizer.lr" = [0.1, 0.01]\n'
    (folder / "run.toml").write_text(config + "[search]\ntrials = 3\n" + space)
    code, said = finish(folder, "search", "run.toml", "--ranks", "2")
    assert code == 0, said
    assert "(3 complete, 0 cut off)" in said
    (folder / "run.toml").write_text(config + space + '"model.units" = [3, 4]\n')
    code, said = finish(folder, "search", "run.toml", "--ranks", "2", "--out", "other")
    assert code == 2
    assert said.count("argument of network() in net.py") == 1, said
