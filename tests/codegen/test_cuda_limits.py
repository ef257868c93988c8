"""What a module for a GPU refuses before its first launch, with the device's answers made up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cli import main
from codegen.cuda_device import Device
from codegen.failures import NoRoomError, RefusedError, guarded
from codegen.model import Model
from codegen.module import load, render_cuda
from codegen.pipeline import compile_program
from derive.differentiate import derive
from derive.errors import DataError, DeclarationError, MissingError
from derive.program import Program
from tests.codegen.cuda_support import emitted, stepped
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


@pytest.mark.parametrize("half", [None, "float16", "bfloat16"])
def test_an_architecture_that_is_too_old(half, tmp_path, monkeypatch):
    """Those that are not can store 16 bits."""
    kernels = emitted(mlp(), tmp_path, "float32", half=half)
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


def test_without_cupy_a_module_with_its_products_ends_with_a_sentence(tmp_path):
    path = codegen.emit(mlp(), tmp_path / "kernels.py", target="cuda", products="vendor")
    done = subprocess.run([sys.executable, "-c", "import runpy, sys; sys.modules['cupy'] = None; "
                           f"runpy.run_path({str(path)!r}, run_name='__main__')"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "pip install cupy" in done.stderr
    assert "Traceback" not in done.stderr


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


# -- a GPU that the kernels cannot run on ----------------------------------------------------------
@pytest.fixture
def pretended(a_card, monkeypatch, tmp_path):
    """A function of facts: from then on kernels for a GPU are loaded for such a device."""
    def pretend(**facts: Any) -> None:
        def loaded(text: str, directory: Any = None) -> ModuleType:
            if 'TARGET = "cuda"' not in text:
                return load(text, directory)
            kernels = stepped(text, tmp_path, f"pretended_{len(list(tmp_path.iterdir()))}")
            on(kernels, monkeypatch, **{k: v for k, v in facts.items() if k != "launches"})
            if not facts.get("launches", True):
                for name in ("launch_gradient", "find_bad", "advance"):
                    monkeypatch.setattr(kernels, name, None)
            return kernels

        monkeypatch.setattr("codegen.build.load", loaded)

    return pretend


REFUSED = [
    ({"capability": (6, 1)}, RefusedError, r"compute capability 6\.1.*7\.5 and later"),
    ({"MAX_THREADS_PER_BLOCK": 8}, RefusedError, "need MAX_THREADS_PER_BLOCK = .*the device has 8"),
    ({"free": 300}, NoRoomError, r"MiB of parameters.*a larger device")]


@pytest.mark.parametrize("facts, kind, why", REFUSED)
def test_auto_takes_the_cpu_where_a_gpu_is_refused_and_says_why(facts, kind, why, pretended,
                                                                tmp_path):
    pretended(**facts)
    with interpreted(), pytest.warns(RuntimeWarning, match=f"the GPU is left alone: .*{why}"):
        model = codegen.compile(mlp(), device="auto", directory=tmp_path)
    assert model.device == "cpu"
    with pytest.raises(kind, match=why):
        codegen.compile(mlp(), device="cuda", directory=tmp_path)


def test_what_the_cpu_does_not_have_is_refused_with_the_reason(pretended, tmp_path, monkeypatch):
    pretended(capability=(6, 1))
    with (pytest.warns(RuntimeWarning, match="left alone"),
          pytest.raises(DeclarationError, match=r"cannot store .* as float16[^!]*capability 6\.1")):
        codegen.compile(mlp(), device="auto", dtype="float16", directory=tmp_path)
    with pytest.raises(DeclarationError, match=r'for a GPU.*\n.*device="cpu"'):
        codegen.compile(mlp(), device="cpu", products="vendor", directory=tmp_path)
    monkeypatch.setattr("codegen.build.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "cupy", None)  # there, and broken
    with pytest.raises(MissingError, match="cannot be loaded"):
        codegen.compile(mlp(), device="auto", products="vendor", directory=tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    with interpreted(), pytest.warns(RuntimeWarning) as said:
        codegen.compile(mlp(), device="auto", products="vendor", directory=tmp_path)
    assert any("matrix products are the CPU's own" in str(w.message) for w in said)


@pytest.mark.parametrize("driver", ["", "580.1"])
def test_auto_speaks_of_a_missing_compiler_library_where_there_is_a_driver(driver, monkeypatch,
                                                                           tmp_path):
    def find() -> Device:
        raise MissingError("the library that compiles for a GPU (libNVVM) is not here",
                           got="libnvvm.so: cannot open", mend="pip install")

    monkeypatch.setattr("codegen.cuda_device.find_device", find)
    monkeypatch.setattr("codegen.cuda_device.driver", lambda: driver)
    with interpreted(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert codegen.compile(mlp(), device="auto", directory=tmp_path).device == "cpu"
    texts = [str(w.message) for w in said]
    assert texts == (["the GPU is left alone: libnvvm.so: cannot open"] if driver else [])


def errors_of_a_driver() -> list[tuple[Exception, type[Exception], str]]:
    kind = type("CudaAPIError", (Exception,), {"__module__": "numba.cuda.cudadrv.driver"})
    return [(kind("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"), NoRoomError,
             r"OUT_OF_MEMORY.*\n.*smaller batches"),
            (kind("[700] an illegal address\nand more"), RefusedError,
             r"an illegal address\n.*doctor"),
            (ValueError("ours"), ValueError, "ours")]


@pytest.mark.parametrize("error, kind, words", errors_of_a_driver())
def test_errors_of_a_driver_are_told_in_our_words(error, kind, words, kernels):
    def fail() -> None:
        raise error

    with pytest.raises(kind, match=words):
        guarded("a network", kernels, fail)


class TestTrain:
    """`chainrule train`: said before the first launch."""

    @pytest.fixture
    def train(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "net.py").write_text("""
import derive as dr
net = dr.Network("two layers")
x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, dr.tanh), 3), t))

def data():
    import numpy as np
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(100, 5)), "t": rng.integers(0, 3, 100)}
""", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))

        def call(*more: str) -> tuple[int, str]:
            with interpreted():
                code = main(["train", "net.py", "--epochs", "1", "--batch", "20", "--out", "run",
                             *more])
            out = capsys.readouterr()
            assert "Traceback" not in out.err
            return code, out.out + out.err

        return call

    @pytest.mark.parametrize("facts, words", [
        ({"free": 3000}, r"does not fit the memory.*a minibatch.*batches of up to \d+ rows fit"),
        ({"free": 1500}, "does not fit the memory.*of data.*fewer rows at a time"),
        ({"free": 300}, "does not fit the memory.*of parameters.*smaller network"),
        ({"capability": (7, 0)}, r"cannot run on this device.*7\.0.*device=.cpu.")])
    def test_what_a_gpu_cannot_do(self, facts, words, train, pretended):
        pretended(launches=False, **facts)
        code, text = train("--device", "cuda")
        assert code in (2, 4) and re.search(words, text, re.DOTALL), text
        assert not Path("run").exists()
        pretended(launches=False, **facts)
        code, text = train("--device", "auto")
        assert code == 0 and "the GPU is left alone" in text, text
        assert json.loads(Path("run/run.json").read_text())["config"]["device"] == "cpu"

    def test_products_of_the_vendor(self, train, monkeypatch):
        code, text = train("--products", "vendor")
        assert code == 2 and "are for a GPU" in text and "--device cuda" in text
        code, text = train("--products", "vendor", "--device", "auto")
        assert code == 0 and "matrix products are the CPU's own" in text
        assert json.loads(Path("run/run.json").read_text())["config"]["products"] == "own"

    def test_products_of_the_vendor_without_cupy(self, train, a_card, monkeypatch):
        monkeypatch.setattr("codegen.build.find_spec", lambda name: None)
        for device in ("cuda", "auto"):
            code, text = train("--products", "vendor", "--device", device)
            assert code == 4 and "pip install cupy-cuda13x" in text
