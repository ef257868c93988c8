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
from codegen.cuda_ptx import (
    ARCHITECTURES,
    Assembled,
    assemble,
    assemble_text,
    compile_kernel,
    kernels_of,
    lowered,
    pretended,
    ptxas,
    signature,
)
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
    found = {name: assemble(made, name, architecture)[0] for name in kernels_of(made)
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


def test_all_architectures_share_what_does_not_depend_on_them(tmp_path):
    """A kernel is typed and lowered once; its PTX is what numba-cuda makes for each alone."""
    from numba import cuda

    made = module(tmp_path, "shared", "float32")
    kernel = kernels_of(made)["k1_z1"]
    library = lowered(made, "k1_z1")
    for capability in ((7, 5), (9, 0)):
        with pretended(capability):
            alone, _ = cuda.compile_ptx(kernel.py_func, signature(made, kernel), cc=capability)
        found = library.get_asm_str(cc=capability)
        assert f".target sm_{capability[0]}{capability[1]}" in found
        assert without_names(found) == without_names(alone)


def without_names(text: str) -> tuple[list[str], list[str]]:
    """Declarations, whose order is that of a set, and instructions. Names tell how many functions
    were compiled in this process before."""
    lines = re.sub(r"_ZN\w+|_cudapy\w+", "name", text).splitlines()
    return (sorted(line for line in lines if line.startswith(".")),
            [line for line in lines if not line.startswith(".")])


def test_a_kernel_that_spills_is_told(tmp_path):
    """Eight blocks of 256 threads on a multiprocessor leave a thread of a product 32 registers."""
    text = compile_kernel(module(tmp_path, "spilling", "float32"), "k1_z1", (9, 0))
    assert assemble_text("k1_z1", "sm_90", text).spilled == 0
    rationed = re.sub(r"(\.entry [^{]*\))\s*\{", r"\1\n.maxntid 256\n.minnctapersm 8\n{", text,
                      count=1)
    assert rationed != text
    assert assemble_text("k1_z1", "sm_90", rationed).spilled > 0


def test_occupancy_is_what_the_tightest_limit_leaves():
    """Blocks of 256 threads on sm_90: 64 registers fill half of 2,048 threads (65,536 registers),
    32 all of them; 100 KiB of shared memory leave room for two blocks."""
    light = Assembled("k", "sm_90", 32, 0, 0, 0, 0)
    assert light.occupancy(256) == 1.0
    assert Assembled("k", "sm_90", 64, 0, 0, 0, 0).occupancy(256) == 0.5
    assert Assembled("k", "sm_90", 32, 100 * 1024, 0, 0, 0).occupancy(256) == 0.25
    assert set(ARCHITECTURES) == {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90"}
