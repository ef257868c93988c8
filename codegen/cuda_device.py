"""What there is of a GPU here: package, compiler library, driver, device.

`numba.cuda` is touched nowhere else in this package: another one with the same kernel API takes
its place by one line here and one in ``templates/cuda.py.jinja``.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codegen.failures import first_line
from derive.errors import MissingError

INSTALL = 'python -m pip install "chainrule[cuda13]" (or [cuda12], as the driver is)'


@dataclass(frozen=True)
class Device:
    """A GPU, or the simulator."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes
    simulated: bool = False

    def __str__(self) -> str:
        if self.simulated:
            return "Numba's simulator (NUMBA_ENABLE_CUDASIM)"
        return (f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}, "
                f"{self.memory / 2**30:.1f} GiB")


def package() -> str | None:
    """The version of the package that compiles for GPUs, or None where it is not installed."""
    try:
        return importlib.metadata.version("numba-cuda")
    except importlib.metadata.PackageNotFoundError:
        return None


def simulated() -> bool:
    """Whether kernels would run in Numba's simulator."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def find_device() -> Device:
    """The device that kernels would run on.

    Raises:
        MissingError: there is none; says which part is missing, and how to mend it.
    """
    if package() is None or find_spec("numba_cuda") is None:
        raise MissingError("kernels for a GPU are compiled by numba-cuda, which is not installed",
                           mend=INSTALL)
    if simulated():
        return Device("simulator", (0, 0), 0, True)
    from numba import cuda

    try:
        ready = bool(cuda.is_available())
    except Exception:  # whatever a half-installed driver raises
        ready = False
    if not ready:
        raise MissingError(
            "there is no GPU here that numba-cuda can use", got=_reason(cuda),
            mend='a machine with an NVIDIA driver, or device="auto" for the CPU instead '
                 "(NUMBA_ENABLE_CUDASIM=1 simulates a device, slowly)")
    _compiler()
    try:
        device = cuda.get_current_device()
        _, total = cuda.current_context().get_memory_info()
    except Exception as error:  # one in use by others alone, or without memory for a context
        raise MissingError("the GPU here cannot be used", got=first_line(error),
                           mend='end what else runs on it (nvidia-smi), or device="cpu"') from None
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return Device(name, tuple(device.compute_capability), int(total))


def _reason(cuda: Any) -> str:
    try:
        error = cuda.cuda_error()
    except Exception as failure:
        error = failure
    lines = str(error or "no device was found").strip().splitlines()
    return lines[-1 if lines[0].startswith("Error at") and len(lines) > 1 else 0].strip(" :")


def _compiler() -> None:
    """Raises MissingError where the library that makes PTX is missing."""
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except Exception as error:
        raise MissingError("the library that compiles for a GPU (libNVVM) is not here",
                           got=first_line(error), mend=INSTALL) from None


def driver() -> str:
    """The version of NVIDIA's driver, "found" where it is not told, "" where there is none."""
    text = Path("/proc/driver/nvidia/version")
    if not text.exists():
        return "found" if shutil.which("nvidia-smi") else ""
    words = text.read_text(encoding="utf-8").split("Kernel Module")[-1].split()
    return next((w for w in words if w[0].isdigit()), "found")
