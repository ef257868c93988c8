"""Every kernel of a module through the compiler library and ptxas, without a GPU."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import codegen
import derive as dr
from codegen.cuda_device import package
from codegen.cuda_ptx import ARCHITECTURES, Assembled, assemble, compile_kernel, kernels_of, ptxas
from derive.differentiate import derive
from derive.errors import MissingError


def missing() -> str:
    if package() is None:
        return "numba-cuda is not installed"
    try:
        ptxas()
    except MissingError:
        return "there is no ptxas: neither the wheel nvidia-cuda-nvcc nor on the path"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")


def module(folder: Path, name: str, dtype: str) -> ModuleType:
    net = dr.Network("layers")
    x, t = net.input("x", "B", 8), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(x, 4), t))
    path = codegen.emit(derive(net.program()), folder / f"{name}.py", target="cuda", dtype=dtype,
                        optimizer=dr.adam(), force=True)
    return loaded(path, name)


def loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("architecture, dtype, some", [
    ("sm_75", "float64", "k1_"), ("sm_90", "float32", ("k", "update_")),
    ("sm_75", "float16", ("k1_", "rescale", "count_bad"))])
def test_kernels_are_assembled_without_spills(architecture, dtype, some, tmp_path):
    made = module(tmp_path, f"kernels_{architecture}", dtype)
    found = {name: assemble(made, name, architecture) for name in kernels_of(made)
             if name.startswith(some)}
    for one in found.values():
        assert one.spilled == 0 and one.stack == 0, one
        assert one.shared <= 48 * 1024 and one.registers <= 255, one
    product = next(one for name, one in found.items() if name.startswith("k1_"))
    assert product.vector_loads > 0


@pytest.mark.parametrize("storage, capability, widened", [
    ("float16", (7, 5), r"cvt\.f32\.f16"), ("bfloat16", (9, 0), r"shl\.b32")])
def test_what_lies_in_16_bits_is_loaded_four_at_a_time(storage, capability, widened, tmp_path):
    """A layer's product reads the signal before it by two words, and rounds what it stores."""
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 8), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(dr.dense(x, 16), 8), 4), t))
    path = codegen.emit(derive(net.program()), tmp_path / "kernels.py", target="cuda",
                        dtype=storage)
    made = loaded(path, f"kernels_{storage}")
    name = next(n for n, k in kernels_of(made).items()
                if n.startswith("k2_z2") and "half" in inspect.signature(k.py_func).parameters)
    text = compile_kernel(made, name, capability)
    assert re.search(r"ld\.global\.v2\.[bu]32", text), name
    assert re.search(r"ld\.shared\.v4\.f32", text), "tiles are read from shared memory by fours"
    assert re.search(widened, text) and re.search(r"st\.global\.[bu]16", text)


def test_occupancy_is_what_the_tightest_limit_leaves():
    """Blocks of 256 threads on sm_90: 64 registers fill half of 2,048 threads (65,536 registers),
    32 all of them; 100 KiB of shared memory leave room for two blocks."""
    light = Assembled("k", "sm_90", 32, 0, 0, 0, 0)
    assert light.occupancy(256) == 1.0
    assert Assembled("k", "sm_90", 64, 0, 0, 0, 0).occupancy(256) == 0.5
    assert Assembled("k", "sm_90", 32, 100 * 1024, 0, 0, 0).occupancy(256) == 0.25
    assert set(ARCHITECTURES) == {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90"}
