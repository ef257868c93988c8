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
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import codegen
import derive as dr
from benchmarks.cpu_rows import ROWS, Row, data
from benchmarks.gpu_examples import module_of, names, point, programs
from codegen.cuda_cost import CARDS, LAUNCH, costs
from codegen.cuda_device import Device, find_device
from codegen.cuda_ptx import ARCHITECTURES, Assembled, assemble_text, compile_kernel, kernels_of
from derive.errors import ChainruleError
from derive.points import default_sizes

ROUNDS, STEPS = 7, 50


@dataclass
class Known:
    """What ptxas said: of kernels by their code, and of PTX in a file that grows line by line."""

    log: Path | None = None
    kernels: dict[tuple[Any, ...], list[Assembled]] = field(default_factory=dict)
    texts: dict[str, Assembled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.log is not None and self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                key, found = json.loads(line)
                self.texts[key] = Assembled(**found)

    def assembled(self, module: ModuleType, name: str, architecture: str) -> Assembled:
        text = compile_kernel(module, name, ARCHITECTURES[architecture].capability)
        key = hashlib.sha256(f"{architecture} {text}".encode()).hexdigest()
        if key not in self.texts:
            self.texts[key] = assemble_text(name, architecture, text)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, asdict(self.texts[key])]) + "\n")
        return self.texts[key]


# -- what needs no GPU ---------------------------------------------------------------------------
def assembled(program: dr.Program, known: Known) -> Iterator[tuple[str, list[Assembled], int]]:
    """Every kernel of a program with what ptxas says of it for each architecture, and the threads
    of its blocks; kernels of one text are assembled once (``known``)."""
    with tempfile.TemporaryDirectory() as folder:
        path = codegen.emit(program, Path(folder) / "kernels.py", target="cuda",
                            optimizer=dr.adam())
        first = module_of(path, "kernels")
        texts = {n: _text(k) for n, k in kernels_of(first).items()}
        todo = {text: name for name, text in texts.items() if text not in known.kernels}
        for text, name in todo.items():
            known.kernels[text] = [known.assembled(first, name, a) for a in ARCHITECTURES]
        for name, text in texts.items():
            yield name, known.kernels[text], first.THREADS


def _text(kernel: Any) -> tuple[Any, ...]:
    code = kernel.py_func.__code__
    return code.co_code, code.co_consts, code.co_names, code.co_varnames


HEAD = ["| kernel | registers | occupancy, % | shared bytes | spilled | stack | vector loads |",
        "|---|---|---|---|---|---|---|"]


def rows_of(program: dr.Program, known: Known) -> list[str]:
    """A row of the table for each kernel; architectures from sm_75 to sm_90 behind each other."""
    rows = []
    for name, found, threads in assembled(program, known):
        registers = " ".join(str(one.registers) for one in found)
        shares = " ".join(f"{one.occupancy(threads):.0%}".rstrip("%") for one in found)
        loads = sorted({one.vector_loads for one in found})
        rows.append(f"| {name} | {registers} | {shares} | {max(one.shared for one in found)} | "
                    f"{sum(one.spilled for one in found)} | {sum(one.stack for one in found)} | "
                    f"{' to '.join(map(str, loads[:1] + loads[1:][-1:]))} |")
    return rows


def table(path: Path, examples: tuple[str, ...], log: Path | None) -> None:
    lines = ["# Kernels as ptxas sees them", "",
             "Made by `python benchmarks/gpu.py --table docs/cuda_kernels.md "
             f"{' '.join(examples)}`, without a GPU: "
             "single precision, Adam, blocks of 256 threads. Registers and occupancy are those of "
             f"{', '.join(ARCHITECTURES)}, in this order; spilled and stack bytes are summed over "
             "them. Vector loads are counted in the PTX.", ""]
    known = Known(log)
    for name in examples:
        for label, program in programs(name):
            start, rows = time.perf_counter(), rows_of(program, known)
            lines += [f"## examples/{label}", "", *HEAD, *rows, ""]
            path.write_text("\n".join(lines), encoding="utf-8")
            print(f"{label}: {len(rows)} kernels, {time.perf_counter() - start:.0f} s", flush=True)


def static(examples: tuple[str, ...]) -> int:
    """Registers, shared memory and spills, printed; 1 where a kernel spills or exceeds a limit."""
    known = Known()
    wrong = 0
    for name in examples:
        for label, program in programs(name):
            found = [one for _, kernels, _ in assembled(program, known) for one in kernels]
            bad = [one for one in found if one.spilled or one.shared > 48 << 10]
            wrong += len(bad)
            print(f"{label:36} {len(found)//len(ARCHITECTURES)} kernels, "
                  f"at most {max(one.registers for one in found)} registers, "
                  f"{max(one.shared for one in found)} shared bytes, {len(bad)} spill", flush=True)
    return 1 if wrong else 0


# -- what needs one --------------------------------------------------------------------------------
def compare(examples: tuple[str, ...]) -> int:
    """Loss and gradients on the device against those of the CPU."""
    worst = 0.0
    for name in examples:
        for label, program in programs(name):
            values = point(program, 3, dict.fromkeys(default_sizes(program), 3))
            found = []
            for target in ("cpu", "cuda"):
                model = codegen.compile(program, target=target, device="cuda", dtype="float64",
                                        parallel=False)
                kept = {**model.parameters, **model.states}
                for key, view in kept.items():
                    view[...] = values[key]
                given = {n: v for n, v in values.items() if n not in kept}
                found.append({"loss": np.array(model.loss(**given)), **model.gradients(**given)})
            off = max(float(np.abs(found[0][n] - found[1][n]).max()
                            / (1e-300 + np.abs(found[0][n]).max())) for n in found[0])
            worst = max(worst, off)
            print(f"{label:36} largest difference {off:.1e} of the largest value", flush=True)
    return 0 if worst < 1e-9 else 1


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
    try:
        runs["torch"] = on_the_card(row, start, where)
    except ImportError:
        print("PyTorch is not installed: it is left out")
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
    parser.add_argument("--log", type=Path, metavar="FILE", help="what ptxas said of each PTX")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("examples", nargs="*")
    args = parser.parse_args()
    examples = tuple(args.examples) or names()
    if args.table:
        table(args.table, examples, args.log)
        return 0
    try:
        device = find_device()
    except ChainruleError as error:
        print(f"nothing to run here: {error}\n\nthe static part:", flush=True)
        return static(examples)
    print(f"device: {device}", flush=True)
    wrong = compare(examples)
    if not args.compare and not device.simulated:
        for row in ROWS:
            if row.kind != "hessian_product":
                print(timed(row, device), flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
