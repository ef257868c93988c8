"""A training step (forward, backward, update) in the emitted kernels against PyTorch.

The same mathematics, the same starting weights, the same minibatches, float32, the same number of
threads; runs are interleaved and medians are compared. Losses agree to 1e-4 before anything is
timed. A peer that is not installed is named and left out.

    python benchmarks/cpu.py [--threads 2] [--rounds 7] [--rows 3-3-1,64-32-10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import codegen
import derive as dr
from codegen.model import Model
from derive.optimizers import Optimizer


@dataclass(frozen=True)
class Row:
    """One network: sizes of its layers, rows of a minibatch, activation, optimizer."""

    sizes: tuple[int, ...]
    batch: int
    activation: str
    optimizer: Optimizer

    @property
    def name(self) -> str:
        return "-".join(map(str, self.sizes))

    @property
    def operations(self) -> int:
        """Of the matrix products of one step; the first layer has no gradient of its input."""
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        return sum((4 if n == 0 else 6) * a * b * self.batch for n, (a, b) in enumerate(pairs))


ROWS = (
    Row((3, 3, 1), 32, "sigmoid", dr.sgd(lr=0.1)),
    Row((64, 32, 10), 32, "relu", dr.momentum(lr=0.01)),
    Row((64, 64, 64, 10), 64, "relu", dr.adam(lr=1e-3)),
    Row((784, 128, 10), 64, "relu", dr.momentum(lr=0.01)),
    Row((784, 512, 512, 10), 128, "relu", dr.adam(lr=1e-3)),
    Row((784, 2048, 2048, 10), 256, "relu", dr.adam(lr=1e-3)),
)


def network(row: Row) -> Any:
    net = dr.Network(row.name)
    h = net.input("x", "B", row.sizes[0])
    activation = getattr(dr, row.activation)
    for size in row.sizes[1:-1]:
        h = dr.dense(h, size, activation)
    if row.activation == "sigmoid":
        t = net.input("t", "B", row.sizes[-1])
        net.loss(dr.mean_squared_error(dr.dense(h, row.sizes[-1], activation), t))
    else:
        net.loss(dr.cross_entropy(dr.dense(h, row.sizes[-1]), net.input("t", "B", dtype=int)))
    return dr.derive(net)


def data(row: Row, steps: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = steps * row.batch
    x = rng.standard_normal((rows, row.sizes[0])).astype(np.float32)
    if row.activation == "sigmoid":
        return {"x": x, "t": rng.random((rows, row.sizes[-1])).astype(np.float32)}
    return {"x": x, "t": rng.integers(0, row.sizes[-1], rows)}


def ours(row: Row, threads: int) -> tuple[Model, Callable[[dict[str, np.ndarray]], float], float]:
    """The model, an epoch over some data, and the seconds from declaration to the first step."""
    start = time.perf_counter()
    model = codegen.compile(network(row), optimizer=row.optimizer, threads=threads)
    model.initialize(0)

    def epoch(values: dict[str, np.ndarray]) -> float:
        return model._run.epoch(values, row.batch, np.arange(len(values["x"]))) / len(values["x"])

    kept = model.flat.copy()
    epoch(data(row, 2))
    ready = time.perf_counter() - start
    model.initialize(0)
    model.flat[...] = kept
    return model, epoch, ready


def torch_peer(row: Row, model: Model) -> Callable[[dict[str, np.ndarray]], float]:
    """The same in PyTorch, eager, from the model's own weights."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(zip(row.sizes, row.sizes[1:], strict=False), 1):
        layer = nn.Linear(a, b)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(model.parameters[f"W{number}"].T.copy()))
            layer.bias.copy_(torch.from_numpy(model.parameters[f"c{number}"].copy()))
        layers += [layer, nn.Sigmoid() if row.activation == "sigmoid" else nn.ReLU()]
    net = nn.Sequential(*(layers if row.activation == "sigmoid" else layers[:-1]))
    criterion = nn.MSELoss() if row.activation == "sigmoid" else nn.CrossEntropyLoss()
    s = row.optimizer.settings
    update = {
        "sgd": lambda: torch.optim.SGD(net.parameters(), lr=s["lr"]),
        "momentum": lambda: torch.optim.SGD(net.parameters(), lr=s["lr"], momentum=s["beta"]),
        "adam": lambda: torch.optim.Adam(net.parameters(), lr=s["lr"],
                                         betas=(s["beta1"], s["beta2"]), eps=s["eps"]),
    }[row.optimizer.name]()

    def epoch(values: dict[str, np.ndarray]) -> float:
        x, t = torch.from_numpy(values["x"]), torch.from_numpy(values["t"])
        total = 0.0
        for first in range(0, len(x), row.batch):
            update.zero_grad()
            loss = criterion(net(x[first:first + row.batch]), t[first:first + row.batch])
            loss.backward()
            update.step()
            total += loss.item()
        return total / (len(x) / row.batch)

    return epoch


def peak(size: int = 1024) -> float:
    """Operations a second of one large matrix product in NumPy's BLAS, on all its threads."""
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(row: Row, threads: int, rounds: int, peers: bool) -> dict[str, Any]:
    model, epoch, ready = ours(row, threads)
    runs: dict[str, Callable[[dict[str, np.ndarray]], float]] = {"chainrule": epoch}
    if peers:
        runs["torch"] = torch_peer(row, model)
    few = data(row, 4)
    losses = {name: run(few) for name, run in runs.items()}
    for name, loss in losses.items():
        if not abs(loss - losses["chainrule"]) <= 1e-4 * (1 + abs(loss)):
            raise SystemExit(f"{row.name}: {name} has the loss {loss}, ours is "
                             f"{losses['chainrule']}: nothing is timed")
    steps = max(4, min(500, int(4e9 / max(row.operations, 1))))
    values = data(row, steps)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(lambda run=run: run(values)) / steps)  # type: ignore[misc]
    found: dict[str, Any] = {"row": row.name, "batch": row.batch, "steps": steps,
                             "first_step_seconds": ready, "operations": row.operations,
                             "parts": model._run.parts(model._run.sizes(values, row.batch))}
    for name, each in times.items():
        found[name] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", help="names such as 3-3-1,64-32-10; all by default")
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(args.threads)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        peers = True
    except ImportError:
        print("torch is not installed: python -m pip install torch; our own times only")
        peers = False
    chosen = [r for r in ROWS if not args.rows or r.name in args.rows.split(",")]
    limit = peak()
    print(f"matrix-product peak {limit / 1e9:.0f} GFLOP/s\n")
    print(f"{'network':18} {'batch':>5} {'parts':>5} {'µs a step':>10} {'of peak':>8} "
          f"{'torch µs':>10} {'ratio':>6} {'least':>6}  first step")
    found = []
    for row in chosen:
        r = measure(row, args.threads, args.rounds, peers)
        found.append(r)
        own = r["chainrule"]
        other = r.get("torch")
        ratio = f"{other['median'] / own['median']:6.2f} {other['least'] / own['least']:6.2f}" if (
            other) else f"{'':6} {'':6}"
        print(f"{r['row']:18} {r['batch']:5} {r['parts']:5} {own['median'] * 1e6:10.1f} "
              f"{row.operations / own['least'] / limit:8.0%} "
              f"{other['median'] * 1e6 if other else float('nan'):10.1f} {ratio}  "
              f"{r['first_step_seconds']:.1f} s", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"peak": limit, "threads": args.threads, "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
