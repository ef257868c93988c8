"""The CUDA target without a GPU: emitted launches, thread by thread, against the reference.

Each kernel runs as plain Python in `tests.codegen.blocks`, which changes the order of threads and
of blocks from launch to launch, and refuses two threads that touch an element with no barrier
between them.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cuda_cost import CARDS, costs
from codegen.cuda_device import package
from codegen.launches import split
from codegen.loops import Store
from codegen.module import render_cuda
from codegen.pipeline import compile_program
from codegen.tiling import chosen
from derive.differentiate import derive
from derive.errors import ChainruleError, DeclarationError, MissingError
from derive.points import default_sizes, random_values
from derive.program import Program
from derive.reference import evaluate
from tests.codegen.blocks import Race
from tests.codegen.cuda_support import emitted, stepped, wrong_launches
from tests.codegen.support import drawn, interpreted, product_of, sample
from tests.networks import NETWORKS


def mlp(hidden: int = 4) -> Program:
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, hidden, dr.tanh), 3), t))
    return derive(net.program())


def agrees(program: Program, folder: Path, size: int = 5, **options) -> None:
    sizes = dict.fromkeys(default_sizes(program), size)
    values = random_values(program, 3, sizes)
    assert not wrong_launches(program, values, folder, sizes, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_the_reference(name, tmp_path):
    agrees(derive(NETWORKS[name]()), tmp_path)


@pytest.mark.parametrize("size", [1, 2, 17])
def test_sizes_around_those_of_tiles(size, tmp_path):
    agrees(mlp(17), tmp_path, size)


def test_single_precision(tmp_path):
    agrees(mlp(), tmp_path, dtype="float32", tolerance=1e-5)


@pytest.mark.parametrize("seed", [*range(6), 14, 40])
def test_random_networks(seed, tmp_path):
    derived, values, sizes = drawn(seed)
    assert not wrong_launches(derived, values, tmp_path, sizes)


def test_products_in_every_arrangement(tmp_path):
    for left, right, target in itertools.product(
        ("bmik", "mbki"), ("bkn", "nbk"), ("bmin", "nbmi", "mnbi"),
    ):
        agrees(derive(product_of(left, right, target)), tmp_path)


def test_vectors_of_four_and_what_is_left_over(tmp_path):
    """Rows that are multiples of four long are loaded four at a time, others are not."""
    for inner, columns in ((4, 8), (8, 20), (6, 7), (3, 4)):
        net = dr.Network("product")
        b, i, j = dr.indices(f"b:B i:{inner} j:{columns}")
        x, w = net.input("x", b, i), net.parameter("W", i, j)
        y = net.define("y", (b, j), dr.sum(x[b, i] * w[i, j], i))
        net.loss(dr.mean(dr.sin(y[b, j]), b, j))
        agrees(derive(net.program()), tmp_path, size=18)


@pytest.mark.parametrize("each", [4, 2])
def test_every_cut_of_a_product_gives_the_same(each, tmp_path):
    """Both sizes of tiles, sums in several parts of which the last one is shorter or empty, with
    bias, activation, mask and a residual behind the tile; one that is added to what is there."""
    net = dr.Network("cuts")
    b, i, j = dr.indices("b:B i:9 j:9")
    x, w, c = net.input("x", b, i), net.parameter("W", i, j), net.parameter("c", j)
    z = net.define("z", (b, j), dr.sum(x[b, i]*w[i, j], i) + c[j])
    y = net.define("y", (b, j), x[b, j] + dr.where(b >= j, dr.tanh(z[b, j]), 0))
    s = net.define("s", (b, i), dr.sum(y[b, j]*w[i, j], j) + dr.sum(x[b, j]*w[j, i], j))
    net.loss(dr.mean(dr.sin(s[b, i]), b, i))

    def load(text: str, folder: Path):
        module = stepped(text, folder)
        module.cut = lambda *sizes: (each, 3 if sizes[-1] else 1)
        return module

    for size in (5, 21):
        program = derive(net.program())
        values = random_values(program, 3, {"B": size})
        assert not wrong_launches(program, values, tmp_path, {"B": size}, load=load)


def test_what_stands_behind_a_product_is_done_in_registers():
    """A layer is one launch, and so is an adjoint with the derivative of the activation."""
    made = compile_program(mlp(), dr.sgd(), device=True)
    shapes = {n: t.shape for n, t in made.packed.tensors.items()}
    found = [launch for kernels in made.entries["gradient"].phases for kernel in kernels
             for launch in split(kernel, shapes)]
    stores = {launch.name: [n.target.name for n in launch.behind if isinstance(n, Store)]
              for launch in found if launch.kind == "product"}
    assert stores["k1_z1"] == ["z1", "h1"]
    assert stores["k10_d_h1"] == ["_d_h1", "_d_z1"]


def test_weights_of_a_recurrence_are_kept_in_shared_memory(tmp_path):
    """Read once for each block: the steps find them in rows of odd length, forward and back."""
    net = dr.Network("steps")
    h = dr.elman(net.input("x", "B", 3, 2), 4)
    b, s, i = h.indices
    net.loss(dr.mean(h[b, s, i]**2, b, s, i))
    program = derive(net.program())
    text = render_cuda(compile_program(program, dr.sgd(), device=True))
    assert text.count("V1_kept = cuda.shared.array(20, F)") == 2
    agrees(program, tmp_path, 3)
    large = dr.Network("too large to be kept")
    h = dr.elman(large.input("x", "B", 3, 2), 80)
    large.loss(dr.mean(h[h.indices]**2, *h.indices))
    assert "_kept" not in render_cuda(compile_program(derive(large.program()), dr.sgd(),
                                                      device=True))


def test_a_bias_of_many_rows_is_summed_in_parts(tmp_path):
    """Threads sum parts of the rows side by side; the parts are added in order."""
    program = mlp(3)
    values = random_values(program, 3, {"B": 9})
    for parts in (2, 4, 16):  # as many as there are rows, and more

        def load(text: str, folder: Path, parts: int = parts):
            module = stepped(text, folder)
            module.cut_sums = lambda count, summands: parts
            return module

        assert not wrong_launches(program, values, tmp_path, {"B": 9}, load=load)


class TestProductsOfTheVendor:
    """Without a GPU: NumPy's in the place of cupy's; the launches around are the same."""

    def fake(self, calls: list[tuple[int, ...]]) -> ModuleType:
        made = ModuleType("cupy")

        def matmul(one: np.ndarray, other: np.ndarray, out: np.ndarray) -> None:
            calls.append(out.shape)
            np.matmul(one, other, out=out)

        vars(made).update(
            asarray=lambda array: array.data, matmul=matmul, lib=np.lib,
            cuda=SimpleNamespace(ExternalStream=lambda handle: nullcontext()))
        return made

    @pytest.mark.parametrize("program, products", [
        (mlp(), 5), (derive(product_of("bmik", "bkn", "bmin")), 3)])
    def test_values_are_those_of_the_reference(self, program, products, tmp_path, monkeypatch):
        calls: list[tuple[int, ...]] = []
        monkeypatch.setitem(sys.modules, "cupy", self.fake(calls))
        monkeypatch.setattr("tests.codegen.cuda_support.render_cuda",
                            partial(render_cuda, vendor=True))
        agrees(program, tmp_path, 5)
        assert len(calls) == products

    def test_without_the_library_it_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        path = codegen.emit(mlp(), tmp_path / "kernels.py", target="cuda", products="vendor")
        with pytest.raises(ImportError, match="python -m pip install cupy-cuda13x"):
            stepped(path.read_text(encoding="utf-8"), tmp_path)

    def test_wrong_options_are_refused(self, tmp_path):
        with pytest.raises(DeclarationError, match="did you mean 'vendor'"):
            codegen.emit(mlp(), tmp_path / "k.py", target="cuda", products="vendors")
        for options in ({"target": "cpu"}, {"target": "cuda", "dtype": "float16"}):
            with pytest.raises(DeclarationError, match="vendor's library are for a GPU"):
                codegen.emit(mlp(), tmp_path / "k.py", products="vendor", **options)


def test_long_sums_of_few_elements_are_cut_into_parts():
    """A weight gradient of a large batch fills the device by parts; a large product needs none."""
    card = CARDS[0].machine
    assert chosen((64, 32, 1 << 16, 1), True, card)[1] > 16
    assert chosen((64, 32, 1 << 16, 1), False, card)[1] == 1
    assert chosen((4096, 4096, 4096, 1), True, card) == (4, 1)
    assert chosen((64, 64, 64, 1), True, card)[0] == 2
    assert chosen((64, 32, 1 << 16, 1), True, CARDS[1].machine)[1] >= chosen(
        (64, 32, 1 << 14, 1), True, CARDS[1].machine)[1]


RULES = {"sgd": dr.sgd(lr=0.05), "adam": dr.adam(lr=0.05), "lamb": dr.lamb(lr=0.05)}


@pytest.mark.parametrize("name", RULES)
def test_an_epoch_is_that_of_the_cpu(name, tmp_path):
    """Gathered minibatches, a smaller last one, updates: the same parameters as on the CPU."""
    program = mlp()
    values = sample(program, 7)
    order = np.random.default_rng(1).permutation(7)
    kernels = emitted(program, tmp_path, optimizer=RULES[name])
    model = kernels.Model()
    model.initialize(4)
    with interpreted():
        other = codegen.compile(program, optimizer=RULES[name], dtype="float64", parallel=False,
                                directory=tmp_path).initialize(4)
        for _ in range(2):
            total = model.epoch(values, 3, order)
            assert total/7 == pytest.approx(other.epoch(values, 3, order=order), rel=1e-12)
    np.testing.assert_allclose(model.p, other.flat, rtol=1e-10, atol=1e-12)
    for name, moment in model.moments.items():
        np.testing.assert_allclose(moment, other.moments[name], rtol=1e-10, atol=1e-12)
    assert model.steps == other.steps == 6


def test_blocks_as_large_as_on_a_device(tmp_path):
    """256 threads: every index map of tiles and of sums over a block, which depend on nothing but
    the thread. The products of forward and backward are of all three arrangements."""
    net = dr.Network("a tile and its neighbours")
    b, i, j, k = dr.indices("b:B i:18 j:5 k:3")
    x, w = net.input("x", b, i), net.parameter("W", i, j)
    y = net.define("y", (b, j), dr.sum(x[b, i] * w[i, j], i))
    v = net.parameter("V", j, k)
    z = net.define("z", (b, k), dr.sum(dr.tanh(y[b, j]) * v[j, k], j))
    net.loss(dr.mean(dr.sin(z[b, k]), b, k))
    program = derive(net.program())
    values = random_values(program, 3, {"B": 9})
    assert not wrong_launches(program, values, tmp_path, {"B": 9}, load=partial(
        stepped, whole=True))


def test_a_loss_that_is_not_finite_stops_updates(tmp_path):
    """The host hears of it at the end of the epoch; parameters are those before that step."""
    program = mlp()
    values = sample(program, 6)
    values["x"][3, 0] = np.nan
    kernels = emitted(program, tmp_path)
    model = kernels.Model()
    model.initialize(0)
    model.epoch({n: v[:2] for n, v in values.items()}, 2, np.arange(2))
    before = model.p.copy()
    model.initialize(0)
    with pytest.raises(kernels.NotFinite) as caught:
        model.epoch(values, 2, np.arange(6))
    assert caught.value.step == 2
    np.testing.assert_array_equal(model.p, before)


def test_what_is_read_on_the_host_may_be_changed_there(tmp_path):
    model = emitted(mlp(), tmp_path).Model()
    model.initialize(0)
    values = sample(mlp(), 4)
    first = model.loss(**values)
    model.parameters["W2"][...] *= 2
    assert model.loss(**values) != first
    model.parameters["W2"][...] /= 2
    assert model.loss(**values) == pytest.approx(first, rel=1e-14)


@pytest.mark.parametrize("barrier", range(1, 5))
def test_a_missing_barrier_is_found(barrier, tmp_path):
    """The check itself: with any one barrier left out, threads meet."""
    program = mlp(20)
    lines = render_cuda(compile_program(program, dr.sgd(), device=True), "float64").splitlines()
    places = [n for n, line in enumerate(lines) if line.strip().startswith("cuda.syncthreads()")]
    text = "\n".join(line for n, line in enumerate(lines) if n != places[barrier - 1])
    kernels = stepped(text, tmp_path)
    model = kernels.Model()
    model.initialize(0)
    with pytest.raises(Race):
        for _ in range(3):
            model.gradients(**sample(program, 20))


def test_two_threads_that_write_one_element_are_found(tmp_path):
    text = render_cuda(compile_program(mlp(), dr.sgd(), device=True), "float64")
    before, after = re.split(r"(?=def \w+_d_c1_parts\()", text)
    wrong = after.replace("j = _n % 4", "j = 0", 1)
    assert wrong != after
    model = stepped(before + wrong, tmp_path).Model()
    model.initialize(0)
    with pytest.raises(Race, match="_d_c1_parts"):
        model.gradients(**sample(mlp(), 4))


@pytest.mark.parametrize("make", [
    lambda net: dr.jacobian(net, "z2", "W1"), lambda net: dr.hessian_vector(net, "W1")])
def test_jacobians_and_products_with_hessians(make, tmp_path):
    net = dr.Network("two layers")
    x, t = net.input("x", "B", 5), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, dr.tanh), 3), t))
    program = make(net.program())
    values, model = sample(program, 3), emitted(program, tmp_path).Model()
    model.initialize(1)
    want = evaluate(program, {**values, **model.parameters})
    for name, found in model.gradients(**values).items():
        np.testing.assert_allclose(found, want[program.gradients[name]], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["cude", "gpu"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(DeclarationError, match="did you mean 'cuda'"):
        codegen.compile(mlp(), target="cuda", device=name)


def test_a_device_tells_the_target_unless_they_contradict_each_other(tmp_path):
    with pytest.raises(DeclarationError, match="for the CPU do not run on a GPU"):
        codegen.compile(mlp(), target="cpu", device="cuda")
    with interpreted():
        model = codegen.compile(mlp(), device="cpu", directory=tmp_path, parallel=False)
    assert model.device == "cpu"
    if not Path("/proc/driver/nvidia/version").exists():
        with pytest.raises(MissingError):
            codegen.compile(mlp(), device="cuda")


@pytest.mark.skipif(package() is None, reason="numba-cuda is not installed")
class TestWithThePackage:
    def test_doctor_tells_driver_package_and_device(self):
        from codegen.doctor import examine

        found = {f.what: f for f in examine()}
        assert found["numba-cuda"].state == "ok" and "cuda-bindings" in found["numba-cuda"].detail
        assert {"NVIDIA driver", "GPU"} <= set(found)
        assert found["GPU"].state == "ok" or found["GPU"].mend

    def test_an_explicit_device_that_is_not_there(self, tmp_path):
        if Path("/proc/driver/nvidia/version").exists():
            pytest.skip("there is a device here")
        with pytest.raises(MissingError, match="no GPU here") as caught:
            codegen.compile(mlp(), target="cuda", device="cuda", directory=tmp_path)
        assert caught.value.mend
        model = codegen.compile(mlp(), target="cuda", directory=tmp_path, parallel=False)
        assert not hasattr(model.kernels, "TARGET")  # device="auto": the CPU's kernels

    def test_the_self_test_in_the_simulator(self, tmp_path):
        net = dr.Network("small")
        x, t = net.input("x", "B", 2), net.input("t", "B", 1)
        net.loss(dr.mean_squared_error(dr.dense(x, 1, dr.tanh), t))
        path = codegen.emit(derive(net.program()), tmp_path / "kernels.py", target="cuda")
        done = subprocess.run([sys.executable, str(path), "--self-test"], capture_output=True,
                              text=True, check=False,
                              env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all gradients agree" in done.stdout


def test_the_prediction_counts_operations_and_bytes():
    """A product of 6 x 5 and 5 x 4: 2*6*5*4 operations; 30 + 20 + 24 numbers of 4 bytes; behind it
    for each element a bias and tanh, of 4 and 24 numbers more."""
    found = costs(compile_program(mlp(), dr.sgd(), device=True), {"B": 6})
    first = found[0]
    assert (first.kind, first.operations) == ("product", 240 + 24*2)
    assert first.bytes(CARDS[0]) == 4*(74 + 28)
    assert "nothing measured" in codegen.show(mlp(), "cost", target="cuda")
    with pytest.raises(ChainruleError, match="target cuda only"):
        codegen.show(mlp(), "cost")
