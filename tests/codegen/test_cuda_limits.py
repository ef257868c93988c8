"""What a module for a GPU refuses before its first launch, with the device's answers made up."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cuda_device import Device
from codegen.model import Model
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from derive.differentiate import derive
from derive.errors import DataError, DeclarationError, MissingError
from derive.program import Program
from tests.codegen.cuda_support import emitted
from tests.codegen.support import interpreted, sample

CARD = {"free": 8 << 30, "total": 8 << 30, "capability": (8, 6), "MAX_THREADS_PER_BLOCK": 1024,
        "WARP_SIZE": 2, "MAX_GRID_DIM_X": 2**31 - 1, "MAX_GRID_DIM_Y": 65535,
        "MAX_SHARED_MEMORY_PER_BLOCK": 48 << 10}


def mlp() -> Program:
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, dr.tanh), 3), t))
    return derive(net.program())


@pytest.fixture
def kernels(tmp_path) -> ModuleType:
    return emitted(mlp(), tmp_path)


def on(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Pretend that this is the device."""
    monkeypatch.setattr(kernels, "LIMITS", {**kernels.LIMITS, "WARP_SIZE": 2})
    monkeypatch.setattr(kernels, "facts", lambda: {**CARD, **facts})
    monkeypatch.setattr(kernels, "compiles", lambda capability: None)


def test_a_device_that_fits_is_taken(kernels, monkeypatch):
    on(kernels, monkeypatch)
    model = kernels.Model()
    model.initialize(0)
    assert np.isfinite(model.loss(**sample(mlp(), 4)))


def test_parameters_that_do_not_fit(kernels, monkeypatch):
    """48 parameters of 8 bytes with gradients, a moment for each rule's, states: refused before
    anything is allocated."""
    on(kernels, monkeypatch, free=700)
    with pytest.raises(MemoryError, match=r"MiB of parameters.*gradients.*a larger device"):
        kernels.Model()


def test_intermediates_that_do_not_fit_say_how_many_rows_do(kernels, monkeypatch):
    on(kernels, monkeypatch)
    model, values = kernels.Model(), sample(mlp(), 64)
    model.initialize(0)
    need = sum(model.needs("gradient", (64,), values.values()).values())
    on(kernels, monkeypatch, free=need - 1)
    with pytest.raises(MemoryError, match=r"batches of up to (\d+) rows fit") as caught:
        model.gradients(**values)
    most = int(str(caught.value).split("up to ")[1].split()[0])
    assert 32 < most < 64
    model.gradients(**{n: v[:most] for n, v in values.items()})
    on(kernels, monkeypatch)
    model = kernels.Model()
    on(kernels, monkeypatch, free=10)
    with pytest.raises(MemoryError, match="not even a batch of one row"):
        model.gradients(**values)


def test_an_epoch_counts_data_and_minibatches(kernels, monkeypatch):
    on(kernels, monkeypatch)
    model, values = kernels.Model(), sample(mlp(), 40)
    model.initialize(0)
    need = model.needs("gradient", (20,), values.values(), ("x", "t"))
    assert need["data"] == 40*8*6 and need["a minibatch"] == 20*8*6
    on(kernels, monkeypatch, free=sum(need.values()) - 1)
    with pytest.raises(MemoryError, match=r"of a minibatch.*batches of up to 19 rows"):
        model.epoch(values, 20, np.arange(40))
    model.epoch(values, 19, np.arange(40))


def test_data_that_do_not_fit_are_refused_when_they_are_brought_over(kernels, monkeypatch):
    on(kernels, monkeypatch)
    model = kernels.Model()
    on(kernels, monkeypatch, free=1000)
    with pytest.raises(MemoryError, match="fewer rows at a time"):
        model.upload(sample(mlp(), 40))


@pytest.mark.parametrize("name, value", [
    ("MAX_THREADS_PER_BLOCK", 8), ("MAX_GRID_DIM_Y", 100), ("MAX_SHARED_MEMORY_PER_BLOCK", 1000),
    ("WARP_SIZE", 64)])
def test_a_limit_of_launches(name, value, kernels, monkeypatch):
    on(kernels, monkeypatch, **{name: value})
    with pytest.raises(kernels.Refused, match=f"need {name} = .*the device has {value}"):
        kernels.Model()


def test_an_architecture_that_is_too_old(kernels, monkeypatch):
    on(kernels, monkeypatch, capability=(6, 1))
    with pytest.raises(kernels.Refused, match=r"capability 6\.1.*7\.5 and later"):
        kernels.Model()


def test_a_compiler_library_that_is_missing(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "facts", lambda: CARD)
    monkeypatch.setattr(kernels, "LIMITS", {})

    def compile_ptx(*_: Any, **__: Any) -> None:
        raise OSError("libnvvm.so: cannot open shared object file\nand more")

    monkeypatch.setattr(type(kernels.cuda), "compile_ptx", staticmethod(compile_ptx),
                        raising=False)
    with pytest.raises(kernels.Refused, match=r"libnvvm\.so: cannot open.*pip install"):
        kernels.Model()


def test_the_models_own_words(kernels, monkeypatch):
    """`codegen.Model` says the same as an error of ours, with the network's name."""
    compiled = compile_program(mlp(), dr.sgd(), device=True)
    on(kernels, monkeypatch, capability=(6, 1))
    with pytest.raises(MissingError, match="'two layers' cannot run on this device"):
        Model(compiled, kernels, 1, lambda *_: None)  # type: ignore[arg-type]
    on(kernels, monkeypatch, free=100)
    with pytest.raises(DataError, match="does not fit the memory"):
        Model(compiled, kernels, 1, lambda *_: None)  # type: ignore[arg-type]


def test_without_the_package_a_module_says_what_to_install(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text(render_cuda(compile_program(mlp(), dr.sgd(), device=True)), encoding="utf-8")
    lines = ["import sys; sys.modules['numba.cuda'] = None",
             f"sys.argv = ['kernels.py']; exec(compile(open({str(path)!r}).read(), 'k', 'exec'))"]
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True,
                          check=False)
    assert "kernels for a GPU need numba-cuda" in done.stderr and "pip install" in done.stderr


def test_a_self_test_without_a_device_ends_with_a_sentence(tmp_path):
    from codegen.cuda_device import package

    if package() is None:
        pytest.skip("numba-cuda is not installed")
    path = codegen.emit(mlp(), tmp_path / "kernels.py", target="cuda")
    done = subprocess.run([sys.executable, str(path), "--self-test"], capture_output=True,
                          text=True, check=False)
    if done.returncode == 0:
        pytest.skip("there is a device here")
    assert done.returncode == 4 and "cannot run here" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


# -- what "auto" leaves to the CPU, though there is a GPU ------------------------------------------
@pytest.fixture
def a_card(monkeypatch):
    """A machine with a GPU that nothing runs on."""
    monkeypatch.setattr("codegen.cuda_device.find_device",
                        lambda: Device("a card", (9, 0), 80 << 30))


@pytest.mark.parametrize("options, why", [
    ({"optimizer": dr.gauss_newton()}, "'gauss_newton' runs on the CPU only"),
    ({"recompute": 1 << 30}, "limit of memory .* is kept on the CPU only")])
def test_auto_takes_the_cpu_for_what_a_gpu_cannot_do_and_says_so(options, why, a_card, tmp_path):
    net = dr.Network("line")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    net.loss(dr.mean_squared_error(dr.dense(x, 1), t))
    program = derive(net.program())
    with interpreted(), pytest.warns(RuntimeWarning, match=f"the GPU is left alone: .*{why}"):
        model = codegen.compile(program, device="auto", directory=tmp_path, **options)
    assert model.device == "cpu"
    with pytest.raises(DeclarationError, match=why):
        codegen.compile(program, device="cuda", directory=tmp_path, **options)


def test_the_vendors_products_without_cupy(a_card, monkeypatch, tmp_path):
    monkeypatch.setattr("codegen.build.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"cupy.*\n.*pip install cupy-cuda13x"):
        codegen.compile(mlp(), device="cuda", products="vendor", directory=tmp_path)
    with pytest.raises(DeclarationError, match="single or double"):
        codegen.compile(mlp(), device="cuda", products="vendor", dtype="float16",
                        directory=tmp_path)
    with pytest.raises(DeclarationError, match="unknown products"):
        codegen.compile(mlp(), products="vender", directory=tmp_path)
