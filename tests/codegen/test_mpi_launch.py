"""How ranks are started, and what is said where that cannot work."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")

from codegen.mpi.exchange import Sender, Whole
from codegen.mpi.launch import _status, mpiexec
from derive.errors import MissingError
from tests.codegen.test_mpi import _rank, finish, place, start


def test_an_mpiexec_of_another_mpi_is_refused_before_ranks_start(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "mpiexec"
    other.write_text("#!/bin/sh\necho 'mpiexec (Open MPI) 5.0.11'\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingError, match="mpiexec is that of Open MPI, mpi4py loads MPICH"):
        mpiexec()


@pytest.mark.parametrize("size", ["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_rank_that_believes_to_be_the_only_one_says_so_and_writes_nothing(
        tmp_path: Path, size: str):
    folder = place(tmp_path)
    for rank, times in (("0", 1), ("1", 0)):  # said once: by the rank that mpiexec calls the first
        environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", size: "2", "SLURM_PROCID": rank}
        done = subprocess.run([sys.executable, "-m", "codegen.mpi", "train", "run.toml"], text=True,
                              cwd=folder, capture_output=True, env=environment, check=False)
        assert done.returncode == 4, done.stderr
        said = done.stdout + done.stderr
        assert said.count("mpiexec started 2 ranks, and mpi4py sees 1") == times
    assert not (folder / "run").exists()


def test_a_launcher_that_is_told_to_end_ends_its_ranks(tmp_path: Path):
    folder = place(tmp_path, epochs=200)
    process = start(folder, "train", "run.toml", "--out", "long", "--ranks", "2")
    while not list((folder / "long" / "checkpoints").glob("step-*")):
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    for rank in (0, 1):
        with pytest.raises(AssertionError, match="no process"):
            _rank(folder, rank)


def test_a_rank_that_exits_is_named_with_its_code_not_those_that_are_killed_with_it(
        tmp_path: Path):
    folder = place(tmp_path)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("def data():", """def data():
    import os
    if os.environ["PMI_RANK"] == "1":
        os._exit(3)"""))
    code, said = finish(folder, "train", "run.toml", "--ranks", "3")
    assert code == 3, said
    assert said.count("rank 1 ended without a word, exit code 3") == 1, said


@pytest.mark.parametrize("reaped", [False, True])
@pytest.mark.parametrize(("how", "status"), [("exit 3", 3 << 8), ("kill -9 $$", 9)])
def test_how_a_process_has_ended_is_known_of_strangers(how: str, status: int, reaped: bool):
    process = subprocess.Popen(["sh", "-c", how])
    file = os.pidfd_open(process.pid)
    select.select([file], [], [], 10)
    if reaped:
        process.wait()
    assert _status(process.pid, file) in ({status, None} if reaped else {status})  # older kernels
    process.wait()
    os.close(file)


def test_ranks_that_raise_at_first_are_said_once_with_the_line(tmp_path: Path):
    folder = place(tmp_path)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("net.loss(", "dr.indices('b:B b:B'); net.loss("))
    code, said = finish(folder, "train", "run.toml", "--ranks", "2")
    assert code == 2, said
    assert said.count("index 'b' is declared twice") == 1
    assert f"at {folder / 'net.py'}:" in said


class Slow(Whole):
    """A bucket in two steps that is done when it has been looked at so many times."""

    def __init__(self, looks: int, log: list[str], name: str) -> None:
        self.looks, self.log, self.name, self.last = looks, log, name, False

    def advance(self) -> bool:
        self.looks -= 1
        if self.looks > 0:
            return False
        self.reach_last()
        return True

    def reach_last(self) -> None:
        if not self.last:
            self.last = True
            self.log.append(self.name)

    def wait(self) -> None:
        self.looks = 0


def test_a_thread_looks_after_buckets_and_begins_last_steps_in_their_order():
    sender, log = Sender(pause=0.0), list[str]()
    buckets = [Slow(looks, log, name) for looks, name in ((30, "a"), (1, "b"), (3, "c"))]
    for bucket in buckets:
        sender.send([bucket])
    end = time.monotonic() + 10
    while len(log) < 3 and time.monotonic() < end:
        time.sleep(0.001)  # nobody but the thread looks
    assert log == ["a", "b", "c"]
    sender.finish()


def test_what_the_thread_meets_is_raised_where_buckets_are_waited_for():
    class Broken(Slow):
        def advance(self) -> bool:
            raise OSError("the network is gone")

    sender = Sender(pause=0.0)
    sender.send([Broken(1, [], "a")])
    with pytest.raises(OSError, match="the network is gone"):
        for _ in range(1000):
            time.sleep(0.001)
            sender.send([])
            if sender._error is not None:
                sender.finish()
