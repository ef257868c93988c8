"""What ptxas said of kernels, kept in a file that grows line by line: a kernel that was assembled
once, in another network or in a run that was interrupted, is not compiled again.

Two kernels are the same where everything is that the compiler sees: the instructions of their
functions, with what each name of a module stands for (functions that are called, and numbers),
the types of their arguments, the bounds of their launch, and the versions of what compiles them.
Not seen are the names of kernels, of arguments and of variables, lines and docstrings.
"""

from __future__ import annotations

import dis
import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from codegen.cuda_ptx import ARCHITECTURES, Assembled, assemble, kernels_of, ptxas, signature

PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm")
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis))


def fingerprint(module: ModuleType, name: str) -> str:
    """Equal for kernels that compile to the same code.

    Raises:
        TypeError: a kernel uses a value of a kind that is not known here.
    """
    kernel = kernels_of(module)[name]
    about = _value(kernel, {}), str(signature(module, kernel)), versions()
    return hashlib.sha256(repr(about).encode()).hexdigest()


@cache
def versions() -> str:
    """Of Numba, the compiler library and ptxas."""
    told = subprocess.run([ptxas(), "--version"], capture_output=True, text=True, check=True)
    return f"{[(p, version(p)) for p in PACKAGES]} {told.stdout}"


def _value(value: Any, seen: dict[int, str]) -> str:
    """What the compiler sees of a value; functions that were described before are in ``seen``."""
    from numba import types
    from numba.cuda.dispatcher import CUDADispatcher

    if isinstance(value, (*_PLAIN, np.generic, np.dtype, types.Type)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple | frozenset):
        parts = [_value(v, seen) for v in value]
        return f"{type(value).__name__} {sorted(parts) if isinstance(value, frozenset) else parts}"
    if isinstance(value, ModuleType):  # numba.types is numba.core.types until something is compiled
        return f"module {value.__name__.rpartition('.')[2]}"
    if isinstance(value, type | BuiltinFunctionType):
        return f"{type(value).__name__} {value.__module__}.{value.__qualname__}"
    if isinstance(value, CUDADispatcher):
        return f"{sorted(value.targetoptions.items())} {_function(value.py_func, seen)}"
    if isinstance(value, FunctionType):
        return _function(value, seen)
    if isinstance(value, CodeType):
        return f"code {value.co_argcount} {value.co_flags}"
    if callable(getattr(value, "_defn", None)):  # an intrinsic
        return f"intrinsic {_function(value._defn, seen)}"
    raise TypeError(f"{value!r} of {type(value)} is of a kind that a fingerprint does not know")


def _function(function: FunctionType, seen: dict[int, str]) -> str:
    if id(function) not in seen:
        seen[id(function)] = f"number {len(seen)}"  # for one that calls itself
        cells = [c.cell_contents for c in function.__closure__ or ()]
        lines = [_value(v, seen) for v in (*cells, *(function.__defaults__ or ()))]
        lines += _instructions(function.__code__, function.__globals__, seen)
        seen[id(function)] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return seen[id(function)]


def _instructions(code: CodeType, known: dict[str, Any], seen: dict[int, str]) -> list[str]:
    """The instructions of a function and of those in it; names of its own are numbers."""
    lines = [f"{code.co_argcount} {code.co_flags} {len(code.co_cellvars)} {len(code.co_freevars)}"]
    for step in dis.get_instructions(code):
        about = step.arg
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found = known[step.argval] if step.argval in known else f"builtin {step.argval}"
            about = f"{step.arg & 1} {_value(found, seen)}"
        elif step.opname in ("LOAD_CONST", "RETURN_CONST", "KW_NAMES"):
            constant = code.co_consts[step.arg]
            about = _value(constant, seen)
            if isinstance(constant, CodeType):
                lines += _instructions(constant, known, seen)
        elif step.opcode in dis.hasname:
            about = step.argval
        lines.append(f"{step.opname} {about}")
    return lines


@dataclass
class Known:
    """Verdicts on kernels by their fingerprints, for each architecture of the table."""

    log: Path | None = None
    verdicts: dict[str, list[Assembled]] = field(default_factory=dict)
    compiled: int = 0

    def __post_init__(self) -> None:
        if self.log is not None and self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                key, found = json.loads(line)
                self.verdicts[key] = [Assembled(**one) for one in found]

    def assembled(self, module: ModuleType, name: str) -> list[Assembled]:
        """A kernel through the compiler library and ptxas, where none like it was before."""
        key = fingerprint(module, name)
        if key not in self.verdicts:
            self.compiled += 1
            self.verdicts[key] = assemble(module, name, *ARCHITECTURES)
            if self.log is not None:
                line = json.dumps([key, [asdict(one) for one in self.verdicts[key]]])
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        return [replace(one, kernel=name) for one in self.verdicts[key]]
