"""A prediction: the step of large networks on 1 to 1,024 ranks, from what one rank and two measure.

    python benchmarks/mpi_network.py --json network.json
    python benchmarks/mpi_scaling.py network.json --out docs/images

Measured: the seconds of each section of the gradient at several numbers of rows (fitted to a + b
rows), the seconds of the update, latency α and bandwidth β of a sum over two ranks. Assumed: all
ranks are as fast as this one and wait for nobody; α and β are the same between any two of them,
whatever else is sent; a rank computes while it sends. A sum of n bytes over N ranks takes

    ring   2 (N - 1) α + 2 (N - 1)/N n/β        tree   2 log₂N (α + n/β)

a reduce-scatter or all-gather half of the ring's. With overlap a bucket is sent as soon as it is
computed and the one before it is sent; without, when all is computed. Sharded, the update takes
1/N and the parameters are gathered after it. Nothing of this was measured beyond two ranks.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cpu_rows import ROWS, Row, data

NAMES = ("784-512-512-10", "784-2048-2048-10", "encoder-128-t128")
RANKS = tuple(1 << n for n in range(11))
WEAK, STRONG = 32, 4096  # rows on each rank; rows of the whole minibatch


@dataclass(frozen=True)
class Section:
    """Seconds ``fixed + each rows``, and the bytes that can be sent after it."""

    fixed: float
    each: float
    sent: int


@dataclass(frozen=True)
class Step:
    """The measured parts of a network's step."""

    name: str
    sections: tuple[Section, ...]
    update: float

    @property
    def bytes(self) -> int:
        return sum(s.sent for s in self.sections)


@dataclass(frozen=True)
class Network:
    """Latency in seconds, bytes per second."""

    name: str
    latency: float
    bandwidth: float

    def sum(self, size: int, ranks: int, tree: bool) -> float:
        """Seconds of a sum of so many bytes over the ranks, on all of them."""
        if ranks == 1 or not size:
            return 0.0
        if tree:
            return 2 * math.log2(ranks) * (self.latency + size / self.bandwidth)
        return 2 * self.half(size, ranks)

    def half(self, size: int, ranks: int) -> float:
        """Of a reduce-scatter, or of an all-gather."""
        if not size:
            return 0.0
        return (ranks - 1) * (self.latency + size / ranks / self.bandwidth)


def predict(step: Step, network: Network, ranks: int, rows: float, *, tree: bool = False,
            overlap: bool = True, shard: bool = False) -> float:
    """Seconds of a step with so many rows on each rank."""
    now, free = 0.0, 0.0  # when the section is computed; when the network is free
    late: list[int] = []
    for section in step.sections:
        now += section.fixed + section.each * rows
        if overlap:
            free = max(now, free) + _way(network, section.sent, ranks, tree, shard)
        else:
            late.append(section.sent)
    end = max(now, free)
    end += sum(_way(network, n, ranks, tree, shard) for n in late)
    if not shard:
        return end + step.update
    return end + step.update / ranks + network.half(step.bytes, ranks)


def _way(network: Network, size: int, ranks: int, tree: bool, shard: bool) -> float:
    return network.half(size, ranks) if shard else network.sum(size, ranks, tree)


# -- what is measured -----------------------------------------------------------------------------
def measure(row: Row, rounds: int) -> Step:
    """The parts of a step, on one rank of one thread."""
    from codegen.mpi.model import compile_shared
    from codegen.mpi.team import Team

    team = Team()
    model = compile_shared(row.program(), team, row.optimizer, threads=1).initialize(0)
    assert team.size == 1
    counts = (4, 16, 64, 128)
    seconds = {n: _sections(model, replace(row, batch=n), rounds) for n in counts}
    sections = []
    for at, (_, stop) in enumerate(zip(model._order, model._stops, strict=True)):
        each, fixed = np.polyfit(counts, [seconds[n][at] for n in counts], 1)
        sent = sum(b.count for b in stop.buckets) * model.kernels.DTYPE.itemsize
        sections.append(Section(max(float(fixed), 0.0), max(float(each), 0.0), sent))
    return Step(row.name, tuple(sections), statistics.median(
        _seconds(model.update) for _ in range(rounds)))


def _sections(model, row: Row, rounds: int) -> list[float]:  # type: ignore[no-untyped-def]
    """Seconds of each section for the rows of a minibatch."""
    kernels, found = model.kernels, []
    whole = model.prepared(data(row, 1))
    model.gradient({**whole, **model.part(np.arange(row.batch))[1]})
    original = kernels.gradient_section
    for _ in range(rounds):
        spent: list[float] = []

        def timed(*arguments, spent=spent):  # type: ignore[no-untyped-def]
            spent.append(_seconds(lambda: original(*arguments)))

        kernels.gradient_section = timed
        model.gradient({**whole, **model.part(np.arange(row.batch))[1]})
        kernels.gradient_section = original
        found.append(spent)
    return [statistics.median(column) for column in zip(*found, strict=True)]


def _seconds(call) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# -- what is drawn --------------------------------------------------------------------------------
def draw(steps: list[Step], network: Network, weak: bool) -> str:
    """The efficiency against one rank, by the number of ranks, as SVG."""
    from codegen.charts import as_svg, new_figure

    figure, context = new_figure(4 * len(steps), 3.4)
    ways = (("ring, overlap", "#1f5fa8", "-", {}),
            ("ring, no overlap", "#1f5fa8", ":", {"overlap": False}),
            ("tree, overlap", "#b8562a", "-", {"tree": True}),
            ("ring, overlap, sharded", "#3a7d44", "--", {"shard": True}))
    with context:
        axes = figure.subplots(1, len(steps), squeeze=False, sharey=True).ravel()
        for axis, step in zip(axes, steps, strict=True):
            for label, color, style, options in ways:
                axis.plot(RANKS, [efficiency(step, network, n, weak, **options) for n in RANKS],
                          style, color=color, label=label)
            axis.set_xscale("log", base=2)
            axis.set_title(step.name)
            axis.set_xlabel("ranks")
            axis.set_ylim(0, 1.05)
        axes[0].set_ylabel(("weak" if weak else "strong") + " scaling efficiency, predicted")
        axes[0].legend(fontsize=7)
        return str(as_svg(figure))


def efficiency(step: Step, network: Network, ranks: int, weak: bool, **options: bool) -> float:
    """The throughput per rank, as a share of that of one rank."""
    if weak:
        return predict(step, network, 1, WEAK) / predict(step, network, ranks, WEAK, **options)
    return predict(step, network, 1, STRONG) / ranks / predict(
        step, network, ranks, STRONG / ranks, **options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="what mpi_network.py --json wrote")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default=".")
    args = parser.parse_args()
    measured = [Network(r["network"], r["latency"], r["bandwidth"])
                for r in json.loads(Path(args.network).read_text())]
    networks = [*measured, Network("assumed: 2 µs, 12 GB/s", 2e-6, 12e9)]
    steps = [measure(next(r for r in ROWS if r.name == name), args.rounds) for name in NAMES]
    for weak, rows in ((True, f"{WEAK} rows on each rank"), (False, f"{STRONG} rows in all")):
        print(f"{'weak' if weak else 'strong'} scaling, {rows}: efficiency on 2, 16, 128, 1024 "
              "ranks (ring with overlap / without / tree / sharded)")
        for step in steps:
            for network in networks:
                cells = ["/".join(f"{efficiency(step, network, n, weak, **o):.2f}" for o in (
                    {}, {"overlap": False}, {"tree": True}, {"shard": True}))
                    for n in (2, 16, 128, 1024)]
                print(f"  {step.name:18} {network.name:22} {'  '.join(cells)}")
        name = f"scaling_{'weak' if weak else 'strong'}.svg"
        Path(args.out, name).write_text(draw(steps, networks[-1], weak))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
