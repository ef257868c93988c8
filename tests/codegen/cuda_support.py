"""What the tests of the CUDA target share: emitted modules without a device."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from codegen.memory import Storage
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from derive.optimizers import Optimizer, sgd
from derive.program import Program
from derive.reference import evaluate

EVERY = Storage(reuse=False)  # all tensors are there to be compared


def stepped(text: str, folder: Path, name: str = "stepped", whole: bool = False) -> ModuleType:
    """An emitted module that runs thread by thread and looks for races; blocks are small, or as
    large as on a device (``whole``)."""
    text = text.replace("from numba import cuda", "from tests.codegen.blocks import cuda")
    text = text.replace("SIMULATED = bool(numba.config.ENABLE_CUDASIM)", "SIMULATED = True")
    text = text.replace("if not numba.config.ENABLE_CUDASIM:", "if False:")
    if whole:
        text = re.sub(r"\S+ if SIMULATED else (16|32|256|\(16, )", r"\1", text)
    module = simulated(text, folder, name)
    if not whole:
        module.WARP, module.HALVES = 2, (1,)  # shuffles, too
    module.wait_for_warp = module.cuda.syncwarp
    return module


def simulated(text: str, folder: Path, name: str = "simulated") -> ModuleType:
    """An emitted module as it stands; in Numba's simulator where that is switched on."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emitted(program: Program, folder: Path, dtype: str = "float64",
            optimizer: Optimizer | None = None, **options: Any) -> ModuleType:
    compiled = compile_program(program, optimizer or sgd(), device=True, **options)
    return stepped(render_cuda(compiled, dtype), folder, f"stepped_{abs(hash(str(folder)))}")


def wrong_launches(program: Program, values: dict[str, np.ndarray], folder: Path,
                   sizes: dict[str, int] | None = None, dtype: str = "float64",
                   tolerance: float = 1e-8,
                   load: Callable[[str, Path], ModuleType] = stepped,
                   storage: Storage = EVERY) -> list[str]:
    """The equations whose launches give something else than the reference evaluator."""
    compiled = compile_program(program, sgd(), ("gradient",), storage=storage, device=True)
    there = compiled.entries["gradient"].plan.kept
    with np.errstate(all="ignore"):
        kernels = load(render_cuda(compiled, dtype), folder)
        model = kernels.Model()
        if sizes is not None:  # an input need not tell every size
            model.sizes = lambda inputs, batch=None: tuple(sizes[n] for n in kernels.SIZES)
        for name in ("d", "n"):
            getattr(model, name)[...] = np.nan
        for kept in (model.parameters, model.states):
            for name, view in kept.items():
                view[...] = values[name]
        given = {t.name: np.ascontiguousarray(
                     values[t.name], kernels.DTYPE if t.dtype == "float" else np.int64)
                 for t in program.given if t.role not in ("parameter", "state")}
        want = evaluate(program, values, sizes=sizes)
        counts, _ = model.run("gradient", given)
    wrong = []
    buffers = {name: getattr(model, name) for name in "pdsnw"}
    for name, (buffer, at, shape) in kernels.offsets("gradient", counts).items():
        if name not in want or name not in there:
            continue
        got = buffers[buffer][at:at + int(np.prod(shape))].reshape(shape)
        scale = 1e-3 + np.abs(want[name]).max(initial=0)
        with np.errstate(all="ignore"):
            same = (np.abs(got - want[name]) <= tolerance*scale) | (got == want[name])
        if not (same | (np.isnan(got) & np.isnan(want[name]))).all():
            wrong.append(str(program[name]))
    return wrong


