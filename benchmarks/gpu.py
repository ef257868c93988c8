"""The CUDA target: python benchmarks/gpu.py --table FILE | --compare

``--table``: every kernel of some examples through the compiler library and ptxas, for each
architecture: registers, shared memory, spills, occupancy, vector loads. Needs no GPU.
``--compare``: each example's loss and gradients on the device against the CPU target, both in
double precision. Without a device it says so; NUMBA_ENABLE_CUDASIM=1 runs it in the simulator.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.pop(0)  # this folder, in which this file would stand for the package "cuda"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import codegen
import derive as dr
from codegen.cuda_device import find_device
from codegen.cuda_ptx import ARCHITECTURES, Assembled, assemble, kernels_of
from codegen.loading import load_model
from derive.differentiate import derive
from derive.errors import ChainruleError
from derive.points import default_sizes, random_values

ROOT = Path(__file__).resolve().parent.parent
TABLE = ("digits.py",)
COMPARED = ("logistic_regression.py", "one_hidden_layer.py", "breast_cancer.py", "diabetes.py",
            "digits.py")


def derived(name: str) -> dr.Program:
    program = load_model(ROOT / "examples" / name).program
    loss = program.losses[0]
    return derive(program.only(loss, *program.updates.values()), of=loss)


def assembled(name: str, architecture: str) -> list[tuple[Assembled, float]]:
    """What ptxas says of every kernel of an example, with the occupancy of its blocks."""
    with tempfile.TemporaryDirectory() as folder:
        path = codegen.emit(derived(name), Path(folder) / "kernels.py", target="cuda",
                            optimizer=dr.adam())
        spec = importlib.util.spec_from_file_location(f"kernels_{architecture}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = [assemble(module, kernel, architecture) for kernel in kernels_of(module)]
        return [(one, one.occupancy(module.THREADS)) for one in found]


def table(path: Path, names: tuple[str, ...]) -> None:
    lines = ["# Kernels as ptxas sees them", "",
             "Made by `python benchmarks/gpu.py --table docs/cuda_kernels.md`, without a GPU: "
             "single precision, Adam, blocks of 256 threads. Vector loads are counted in the PTX.",
             ""]
    for name in names:
        lines += [f"## examples/{name}", "",
                  "| kernel | architecture | registers | shared bytes | spilled bytes "
                  "| stack bytes | occupancy | vector loads |", "|---|---|---|---|---|---|---|---|"]
        for architecture in ARCHITECTURES:
            for one, share in assembled(name, architecture):
                lines.append(f"| {one.kernel} | {architecture} | {one.registers} | {one.shared} | "
                             f"{one.spilled} | {one.stack} | {share:.0%} | {one.vector_loads} |")
            print(f"{name}, {architecture}: done", flush=True)
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def compare(names: tuple[str, ...]) -> int:
    """Loss and gradients on the device against those of the CPU."""
    try:
        print(f"device: {find_device()}")
    except ChainruleError as error:
        print(f"nothing to compare: {error}")
        return 0
    worst = 0.0
    for name in names:
        program = derived(name)
        sizes = dict.fromkeys(default_sizes(program), 3)
        point = random_values(program, 3, sizes)
        found = []
        for target in ("cpu", "cuda"):
            model = codegen.compile(program, target=target, device="cuda", dtype="float64",
                                    parallel=False)
            kept = {**model.parameters, **model.states}
            for key, view in kept.items():
                view[...] = point[key]
            data = {n: v for n, v in point.items() if n not in kept}
            found.append({"loss": np.array(model.loss(**data)), **model.gradients(**data)})
        off = max(float(np.abs(found[0][n] - found[1][n]).max()
                        / (1e-300 + np.abs(found[0][n]).max())) for n in found[0])
        worst = max(worst, off)
        print(f"{name}: largest difference {off:.1e} of the largest value", flush=True)
    return 0 if worst < 1e-9 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("examples", nargs="*")
    args = parser.parse_args()
    if args.table:
        table(args.table, tuple(args.examples) or TABLE)
    if args.compare:
        return compare(tuple(args.examples) or COMPARED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
