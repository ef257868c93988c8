"""Ranks of a run over MPI killed at random moments: the job ends, goes on, and ends the same.

    python benchmarks/kill_ranks.py --kills 100 --ranks 2

A random rank is killed (``kill -9``) at a random moment of training, the run is resumed on the same
number of ranks, again and again. In the end its arrays must be those of a run that nobody
disturbed, to the last bit. Printed: how often the rank was named, and the longest time from the
kill to the end of the job.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_runs import command, finished, place, step_of


def rank_process(folder: Path, number: int) -> int | None:
    """The process of a rank that works in a folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            if (path / "cwd").resolve() == folder and f"PMI_RANK={number}".encode() in words:
                return int(path.name)
        except OSError:
            continue
    return None


def campaign(folder: Path, kills: int, ranks: int, seed: int) -> dict[str, float]:
    """Kill a rank ``kills`` times, resuming each time; begin a new run when one ends."""
    chance, more = random.Random(seed), ["--ranks", str(ranks)]
    subprocess.run(command(folder, "train", "run.toml", "--out", "whole", *more), cwd=folder,
                   check=True, capture_output=True)
    want, run = finished(folder, "whole"), 0
    counts: dict[str, float] = {"kills": 0, "named": 0, "same end": 0, "longest seconds": 0.0}
    verb = ["train", "run.toml", "--out", "run0", *more]
    while True:
        process = subprocess.Popen(command(folder, *verb), cwd=folder, text=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        checkpoints = folder / f"run{run}" / "checkpoints"
        before = step_of(checkpoints)
        while process.poll() is None and step_of(checkpoints) <= before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        number = chance.randrange(ranks)
        pid = rank_process(folder, number) if counts["kills"] < kills else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        _, said = process.communicate()
        if process.returncode == 0:
            assert finished(folder, f"run{run}") == want, "another end"
            counts["same end"] += 1
            if counts["kills"] >= kills:
                return counts
            run += 1
            verb = ["train", "run.toml", "--out", f"run{run}", *more]
            continue
        if pid is None:
            raise AssertionError(said)
        counts["kills"] += 1
        counts["named"] += f"rank {number} was killed by signal 9" in said
        counts["longest seconds"] = max(counts["longest seconds"], time.monotonic() - start)
        verb = ["resume", f"run{run}", *more]
        if counts["kills"] % 10 == 0:
            print(counts, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = place(Path(name).resolve(), epochs=15, steps=1)
        print(campaign(folder, args.kills, args.ranks, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
