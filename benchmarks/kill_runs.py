"""Checkpoints against ``kill -9`` and against a full disk, at random moments and bytes.

    python benchmarks/kill_runs.py --kills 200 --full 200

Kills: a real training process that writes a checkpoint at every step is killed at a random moment,
looked at, and resumed, again and again; in the end its weights must be those of a run that nobody
disturbed, to the last bit. Full disk: a run's checkpoint fails at a random byte (by a limit on the
size of files, and on a full file system of its own where one may be mounted).
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np

NET = '''
import derive as dr

net = dr.Network("small")
x, t = net.input("x", "B", 12), net.input("t", "B", dtype=int)
net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 40, dr.tanh), 4), t))
'''
CONFIG = '''
model = "net.py"

[train]
epochs = {epochs}
batch = 16
threads = 1

[data]
source = "data.npz"

[optimizer]
rule = "adamw"
average = 0.99
clip_norm = 1.0
lr = {{kind = "warmup", warmup = 20, lr = {{kind = "cosine", lr = 3e-3, steps = 500}}}}

[checkpoints]
steps = {steps}
'''


def place(folder: Path, epochs: int, steps: int) -> Path:
    """A network, its data and a configuration in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 320)
    np.savez(folder / "data.npz", x=rng.normal(size=(320, 12)) + np.eye(4, 12)[labels], t=labels)
    (folder / "net.py").write_text(NET)
    (folder / "run.toml").write_text(CONFIG.format(epochs=epochs, steps=steps))
    return folder


def command(folder: Path, *verb: str) -> list[str]:
    return [sys.executable, "-m", "codegen.cli", *verb]


class Begun:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *verb: str) -> None:
        self.process = subprocess.Popen(command(folder, *verb), cwd=folder,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Forked:
    """The same in a copy of this process, which has imported everything: most of the time of a
    campaign goes there. (Nothing was started here that a fork would break.)"""

    def __init__(self, folder: Path, *verb: str) -> None:
        self.process = get_context("fork").Process(target=_command, args=(folder, verb))
        self.process.start()

    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _command(folder: Path, verb: tuple[str, ...]) -> None:
    from codegen.cli import main

    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.exit(main(verb))


def finished(folder: Path, out: str) -> bytes:
    """What the weights and the metrics without times are in the end."""
    from codegen.checkpoint import Store

    last = Store(folder / out / "checkpoints").latest()
    assert last is not None
    rows = [{k: v for k, v in row.items() if k != "seconds"}
            for row in last.notes["position"]["history"]]
    return b"".join(a.tobytes() for _, a in sorted(last.arrays.items())) + repr(rows).encode()


def undisturbed(folder: Path) -> bytes:
    subprocess.run(command(folder, "train", "run.toml", "--out", "whole"), cwd=folder, check=True,
                   capture_output=True)
    return finished(folder, "whole")


def look(folder: Path, counts: Counter[str]) -> int:
    """Every file that has a checkpoint's name must be whole; the step of the last one."""
    from codegen.checkpoint import Store, read_checkpoint

    store = Store(folder)
    for path in store.files:
        read_checkpoint(path)  # raises if it is not whole
    counts["killed while a file was written"] += bool(list(folder.glob(".step-*")))
    last = store.latest()
    return -1 if last is None else last.step


def kills(folder: Path, count: int, seed: int, begin: type[Begun] | type[Forked] = Begun
          ) -> Counter[str]:
    """Kill a run ``count`` times, resuming it each time; begin a new one when it ends."""
    chance, counts, run, last = random.Random(seed), Counter(), 0, -1
    want = undisturbed(folder)
    verb = ["train", "run.toml", "--out", "run0"]
    while counts["kills"] < count:
        process = begin(folder, *verb)
        checkpoints = folder / f"run{run}" / "checkpoints"
        before = last
        while process.running() and step_of(checkpoints) <= before:
            time.sleep(0.002)  # until it trains
        time.sleep(chance.uniform(0, 0.15))
        over = not process.running()
        process.kill()
        now = look(checkpoints, counts)
        assert now >= last, (now, last)  # nothing that was saved is lost
        last = now
        if over:
            assert finished(folder, f"run{run}") == want
            counts["finished bit-identical"] += 1
            run, last = run + 1, -1
            verb = ["train", "run.toml", "--out", f"run{run}"]
            continue
        counts["kills"] += 1
        verb = ["resume", f"run{run}"]
        if counts["kills"] % 20 == 0:
            print(dict(counts), flush=True)
    subprocess.run(command(folder, *verb), cwd=folder, check=True, capture_output=True)
    assert finished(folder, f"run{run}") == want
    counts["finished bit-identical"] += 1
    return counts


def step_of(folder: Path) -> int:
    names = [p.stem.removeprefix("step-") for p in folder.glob("step-*")] or ["-1"]
    return max(map(int, names))


def full(folder: Path, count: int, seed: int, mounted: Path | None) -> Counter[str]:
    """Let ``count`` checkpoints fail at a random byte; the one before must stay, bit for bit."""
    from codegen.checkpoint import encode, read_checkpoint

    chance, counts = random.Random(seed), Counter()
    session, store = session_in(folder, mounted or folder / "full")
    training = session.training
    training.save()
    previous = (store.files[-1], store.files[-1].read_bytes())
    while counts["full disks"] < count:
        if len(training.at.losses) == training.minibatches:
            training._end_epoch()
        training._chunk(np.arange(len(training.rows)))
        size = len(encode(training.checkpoint()))
        try:
            with room_for(chance.randrange(size * 5 // 4), mounted):
                training.save()
            counts["fitted"] += 1
        except OSError as error:
            counts["full disks"] += 1
            counts[error.strerror or "?"] += 1
            assert training._unsaved
            left = [p.name for p in store.folder.iterdir() if p.name.startswith(".")]
            assert not left, left
            path, content = previous
            assert path.read_bytes() == content and store.files[-1] == path
            read_checkpoint(path)
            continue
        previous = (store.files[-1], store.files[-1].read_bytes())
    training._unsaved = True
    training.save()  # there is room again
    assert store.latest() is not None
    return counts


def session_in(folder: Path, where: Path):
    from codegen.checkpoint import Store
    from codegen.configuration import read_config
    from codegen.loading import load_model
    from codegen.runs import _data
    from codegen.session import prepare

    config = read_config(folder / "run.toml")
    file = load_model(config.model)
    store = Store(where, keep=2)
    session = prepare(file.program, _data(file, config), config.plan, config.make_optimizer(),
                      threads=1, store=store)
    return session, store


class room_for:
    """So many bytes can be written inside the block: by a limit, or on a file system of its own."""

    def __init__(self, size: int, mounted: Path | None) -> None:
        self.size, self.mounted = size, mounted

    def __enter__(self) -> None:
        if self.mounted is None:
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))
            return
        state = os.statvfs(self.mounted)
        block = state.f_frsize
        free = state.f_bavail * block - self.size // block * block
        (self.mounted / "filler").write_bytes(bytes(max(0, free)))

    def __exit__(self, *_: object) -> None:
        if self.mounted is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        else:
            (self.mounted / "filler").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("error", RuntimeWarning)  # a damaged checkpoint warns
    with tempfile.TemporaryDirectory() as name:
        folder = place(Path(name), epochs=15, steps=1)
        if args.full:
            half = args.full // 2
            print("file size limit:", dict(full(folder, args.full - half, args.seed, None)))
            small = folder / "small"
            small.mkdir()
            options = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)]
            if subprocess.run(options, capture_output=True, check=False).returncode == 0:
                try:
                    print("full file system:", dict(full(folder, half, args.seed, small)))
                finally:
                    subprocess.run(["umount", str(small)], check=True)
            else:
                print("limit:", dict(full(folder, half, args.seed + 1, None)))
            shutil.rmtree(folder / "full")
        if args.kills:
            import numba  # noqa: F401  (what every process would import)

            import codegen.runs  # noqa: F401

            print("kill -9:", dict(kills(folder, args.kills, args.seed, Forked)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
