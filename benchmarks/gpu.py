"""The CUDA target, by itself on a machine with a GPU: python benchmarks/gpu.py [EXAMPLE …]

1. Loss and gradients of every example on the device against the CPU target, in double precision.
2. Training steps against PyTorch on the same card (the networks of `cpu_rows`; float32), in
   medians of interleaved runs, once losses agree to 1e-3.
3. Beside each the roofline's prediction, where the card's data sheet is known.

Without a GPU it says so, and does the static part: every kernel of every example through the
compiler library and ptxas, for each architecture. ``--table FILE`` writes that as a page (with
``--log FILE`` a table that was interrupted goes on);
``--compare`` does the first part alone, in Numba's simulator where NUMBA_ENABLE_CUDASIM=1.

The file is not called cuda.py: scripts beside it would find that for NVIDIA's package `cuda`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import codegen
from benchmarks.cpu_rows import ROWS, Row, data
from benchmarks.gpu_examples import names, point, programs
from benchmarks.gpu_known import Known
from benchmarks.gpu_table import told
from codegen.cuda_cost import CARDS, LAUNCH, costs
from codegen.cuda_device import Device, find_device
from derive.errors import ChainruleError
from derive.points import default_sizes

ROUNDS, STEPS = 7, 50


# -- what needs one --------------------------------------------------------------------------------
def compare(examples: tuple[str, ...]) -> int:
    """Loss and gradients on the device against those of the CPU."""
    worst = 0.0
    for name in examples:
        for label, program in programs(name):
            values = point(program, 3, dict.fromkeys(default_sizes(program), 3))
            found = []
            for target in ("cpu", "cuda"):
                model = codegen.compile(program, device=target, dtype="float64", parallel=False)
                kept = {**model.parameters, **model.states}
                for key, view in kept.items():
                    view[...] = values[key]
                given = {n: v for n, v in values.items() if n not in kept}
                found.append({"loss": np.array(model.loss(**given)), **model.gradients(**given)})
            off = difference(*found)
            worst = max(worst, off)
            print(f"{label:36} largest difference {off:.1e} of the largest value", flush=True)
    return 0 if worst < 1e-9 else 1


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference, as a share of the largest value of its tensor. One that is small
    beside all gradients may be 0 but for rounding (of a bias before batch norm it is), and is
    judged as a share of a thousandth of the largest of all."""
    largest = {n: float(np.abs(v).max()) for n, v in one.items()}
    least = 1e-3*max(size for n, size in largest.items() if n != "loss") + 1e-300
    return max(float(np.abs(one[n] - other[n]).max())/max(largest[n], least) for n in one)


def on_the_card(row: Row, start: dict[str, np.ndarray], where: str) -> Callable[[], float]:
    """An epoch of PyTorch's on a device, data there; it returns the mean loss."""
    import torch

    from benchmarks.cpu_torch import KINDS, _optimizer

    torch.set_default_device(where)
    values = data(row, STEPS)
    parameters = {n: torch.tensor(v) for n, v in start.items()}
    for name, value in parameters.items():
        value.requires_grad_(not row.trained_only or name in row.trained_only)
    loss = KINDS[row.kind](parameters, **row.sizes)
    update = _optimizer(row, [v for v in parameters.values() if v.requires_grad], False)
    x, t = torch.tensor(values["x"]), torch.tensor(values["t"])

    def epoch() -> float:
        total = torch.zeros(())
        for first in range(0, len(x), row.batch):
            update.zero_grad()
            value = loss(x[first:first + row.batch], t[first:first + row.batch])
            value.backward()
            update.step()
            total += value.detach()
        return float(total) / (len(x) / row.batch)

    return epoch


def timed(row: Row, device: Device, where: str = "cuda") -> str:
    """One row: microseconds of a step here and there, and what was predicted."""
    program = row.program()
    model = codegen.compile(program, target="cuda", device="cuda", optimizer=row.optimizer)
    model.initialize(0)
    start = {n: v.copy() for n, v in model.parameters.items()}
    values = data(row, STEPS)
    there, order = model.resident(model.prepared(values)), np.arange(len(values["x"]))
    steps = -(-len(order)//row.batch)

    def ours() -> float:
        return float(np.mean(model.train_rows(there, row.batch, order)))

    runs: dict[str, Callable[[], float]] = {"chainrule": ours}
    if find_spec("torch") is None:
        print("PyTorch is not installed: it is left out")
    else:
        runs["torch"] = on_the_card(row, start, where)
    losses = {name: run() for name, run in runs.items()}  # and what is compiled is compiled
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - begun)/steps)
    found = {name: 1e6*statistics.median(s) for name, s in seconds.items()}
    note = "" if max(losses.values()) - min(losses.values()) < 1e-3 else "  LOSSES DIFFER"
    card = next((c for c in CARDS if c.name.split()[0] in device.name), None)
    rows = costs(model.compiled, dict.fromkeys(map(str, program.sizes), row.batch))
    predicted = "no data sheet" if card is None else (
        f"predicted {1e6*(sum(r.seconds(card) for r in rows) + 4*LAUNCH):8.0f} µs")
    return (f"{row.name:24} " + "  ".join(f"{n} {v:9.1f} µs" for n, v in found.items())
            + f"  {predicted}{note}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what ptxas said of each kernel")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("examples", nargs="*")
    args = parser.parse_args()
    examples = tuple(args.examples) or names()
    if args.table:
        return told(examples, Known(args.log), args.table)
    try:
        device = find_device()
    except ChainruleError as error:
        print(f"nothing to run here: {error}\n\nthe static part:", flush=True)
        return told(examples, Known(args.log))
    print(f"device: {device}", flush=True)
    wrong = compare(examples)
    if not args.compare and not device.simulated:
        for row in ROWS:
            if row.kind != "hessian_product":
                print(timed(row, device), flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
