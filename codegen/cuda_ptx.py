"""Kernels of an emitted module → PTX → machine code, for any GPU and without one.

What can be known without a device: that every kernel compiles for an architecture, how many
registers and how much shared memory it takes, whether registers are spilled, how many vector loads
it has, and how many of its threads a multiprocessor holds at once.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from derive.errors import ChainruleError, MissingError

Capability = tuple[int, int]


@dataclass(frozen=True)
class Architecture:
    """Limits of a multiprocessor, from the tables of compute capabilities in NVIDIA's CUDA C++
    programming guide: threads and blocks that it holds, bytes of shared memory, multiply-adds in
    single precision in a cycle, registers."""

    capability: Capability
    threads: int
    blocks: int
    shared: int
    lanes: int
    registers: int = 65536

    @property
    def name(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"


ARCHITECTURES = {a.name: a for a in (
    Architecture((7, 5), 1024, 16, 65536, 64), Architecture((8, 0), 2048, 32, 167936, 64),
    Architecture((8, 6), 1536, 16, 102400, 128), Architecture((8, 9), 1536, 24, 102400, 128),
    Architecture((9, 0), 2048, 32, 233472, 128))}
RESERVED_SHARED = 1024  # bytes that each block takes beside its own, from sm_80 on


@dataclass(frozen=True)
class Assembled:
    """What ptxas says of one kernel; ``vector_loads`` counts those in the PTX."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    spilled: int
    stack: int
    vector_loads: int

    def occupancy(self, threads: int) -> float:
        """The share of a multiprocessor's threads that so large blocks of this kernel fill."""
        limits = ARCHITECTURES[self.architecture]
        warps = -(-threads // 32)
        each = -(-self.registers * 32 // 256) * 256 * warps  # registers come in lots of 256
        shared = self.shared + (RESERVED_SHARED if limits.capability >= (8, 0) else 0)
        blocks = min(limits.blocks, limits.threads // (32 * warps), limits.registers // each,
                     limits.shared // shared if shared else limits.blocks)
        return blocks * 32 * warps / limits.threads


class AssemblyError(ChainruleError):
    """ptxas refuses a kernel."""


def ptxas() -> str:
    """Where ptxas is: in the ``nvidia-cuda-nvcc`` wheel, which fits the compiler library from the
    same index, or on the path.

    Raises:
        MissingError: it is in neither place.
    """
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in [p for where in ("cu*", "cuda_nvcc") for p in
                     Path(folder).glob(f"{where}/bin/ptxas")]:
            return str(path)
    found = shutil.which("ptxas")
    if found is None:
        raise MissingError("ptxas, which turns PTX into machine code, is not here",
                           mend="python -m pip install nvidia-cuda-nvcc")
    return found


@contextmanager
def pretended(capability: Capability) -> Iterator[None]:
    """Numba asks the device what to compile helper functions for; here it is told."""
    from numba.cuda import dispatcher

    class Pretended:
        compute_capability = capability

    asked = dispatcher.get_current_device
    dispatcher.get_current_device = Pretended
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


def kernels_of(module: ModuleType) -> dict[str, Any]:
    """The kernels that an emitted module launches, by name."""
    from numba.cuda.dispatcher import CUDADispatcher

    return {n: k for n, k in vars(module).items()
            if isinstance(k, CUDADispatcher) and not k.targetoptions.get("device")}


def signature(module: ModuleType, kernel: Any) -> tuple[Any, ...]:
    """The types that the host hands over, told by the names of a kernel's arguments."""
    from numba import types

    kinds = module.ARGUMENTS
    whole, double = types.int64, types.float64
    own = types.float32 if module.DTYPE == np.float32 else double

    def of(name: str) -> Any:
        kind = kinds.get(name, "float" if name.startswith("moment_") else
                         "double" if name.endswith("_all") else "size")
        if kind == "size":
            return whole
        held = {"float": own, "double": double, "int": whole, "half": types.uint16}
        return types.Array(held[kind], 1, "C")

    return tuple(of(n) for n in inspect.signature(kernel.py_func).parameters)


def lowered(module: ModuleType, name: str) -> Any:
    """A kernel typed and lowered to NVVM's intermediate language, by the steps of numba-cuda's own
    launch (`numba.cuda.dispatcher._Kernel`). These do not depend on the architecture, but for sums
    by atomics and fast mathematics, which emitted modules do not use: ``get_asm_str(cc=…)`` of
    what is returned is the PTX for each."""
    from numba import types
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv import nvvm

    kernel, newest = kernels_of(module)[name], max(a.capability for a in ARCHITECTURES.values())
    with pretended(newest):
        made = compile_cuda(kernel.py_func, types.void, signature(module, kernel), cc=newest,
                            nvvm_options={"fastmath": False, "opt": 3})
    function = made.library.get_function(made.fndesc.llvm_func_name)
    kernel_fixup(function, False)
    nvvm.set_launch_bounds(function, kernel.targetoptions.get("launch_bounds"))
    return made.library


def compile_kernel(module: ModuleType, name: str, capability: Capability) -> str:
    """The PTX of one kernel."""
    return str(lowered(module, name).get_asm_str(cc=capability))


def assemble(module: ModuleType, name: str, *architectures: str) -> list[Assembled]:
    """One kernel through the compiler library and ptxas, for each architecture.

    Raises:
        MissingError: ptxas is not here.
        AssemblyError: it refuses the kernel.
    """
    library = lowered(module, name)
    return [assemble_text(name, a, str(library.get_asm_str(cc=ARCHITECTURES[a].capability)))
            for a in architectures]


def assemble_text(name: str, architecture: str, text: str) -> Assembled:
    """The PTX of a kernel through ptxas; raises as `assemble`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [ptxas(), "-v", f"-arch={architecture}", str(source), "-o", f"{folder}/kernel.cubin"],
            capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssemblyError(f"ptxas refuses {name} for {architecture}",
                            got=done.stderr.strip()[:500], mend="report this with the module")
    return Assembled(
        name, architecture, _most(r"Used (\d+) registers", done.stderr),
        _most(r"(\d+) bytes smem", done.stderr), _most(r"(\d+) bytes spill", done.stderr),
        _most(r"(\d+) bytes stack frame", done.stderr),
        len(re.findall(r"ld\.\w+(?:\.\w+)*\.v[24]\.", text)))


def _most(pattern: str, text: str) -> int:
    return max(map(int, re.findall(pattern, text)), default=0)
