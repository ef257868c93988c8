"""When a kernel need not be compiled again for the table of all kernels: `gpu_known`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import codegen
import derive as dr
from benchmarks import gpu_known
from benchmarks.gpu_known import Known, fingerprint
from benchmarks.gpu_table import Network, page
from codegen.cuda_ptx import Assembled, compile_kernel, kernels_of
from derive.differentiate import derive
from tests.codegen.test_cuda_ptx import loaded, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")


def module(folder: Path, activation=dr.tanh, names: str = "x t", **options) -> ModuleType:
    net = dr.Network("two layers")
    signal, target = names.split()
    x, t = net.input(signal, "B", 8), net.input(target, "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 4, activation), 3), t))
    number = len(list(folder.iterdir()))
    path = codegen.emit(derive(net.program()), folder / f"kernels_{number}.py", target="cuda",
                        **options)
    return loaded(path, path.stem)


def changed(made: ModuleType, old: str, new: str) -> ModuleType:
    """The same module with another text somewhere."""
    path = Path(str(made.__file__))
    text = path.read_text(encoding="utf-8")
    assert old in text
    other = path.with_name(f"changed_{path.name}")
    other.write_text(text.replace(old, new), encoding="utf-8")
    return loaded(other, other.stem)


def test_names_and_comments_make_no_other_kernel(tmp_path):
    one, other = module(tmp_path), module(tmp_path, names="signal wanted")
    found = [{fingerprint(m, n) for n in kernels_of(m)} for m in (one, other)]
    assert found[0] == found[1] and len(found[0]) > 10


def test_what_was_compiled_before_makes_no_other_kernel(tmp_path):
    made = module(tmp_path)
    before = {n: fingerprint(made, n) for n in kernels_of(made)}
    compile_kernel(made, "k1_z1", (9, 0))
    again = loaded(Path(str(made.__file__)), "again")
    assert before == {n: fingerprint(again, n) for n in kernels_of(again)}


def test_a_function_of_the_same_name_that_does_something_else_does(tmp_path):
    """The kernel of the first product is the same text in both; what it does behind is not."""
    one, other = module(tmp_path), module(tmp_path, dr.sigmoid)
    assert fingerprint(one, "k1_z1") != fingerprint(other, "k1_z1")
    assert fingerprint(one, "find_bad") == fingerprint(other, "find_bad")


@pytest.mark.parametrize("old, new, kernels", [
    ("SIDE = 4 if SIMULATED else 16", "SIDE = 4 if SIMULATED else 8", ("k1_z1", "k1_z1_small")),
    ("launch = cuda.jit(cache=CACHE)", "launch = cuda.jit(cache=CACHE, launch_bounds=(256, 2))",
     ("k1_z1", "find_bad"))])
def test_a_number_of_the_module_or_a_bound_does(old, new, kernels, tmp_path):
    one = module(tmp_path)
    other = changed(one, old, new)
    for name in kernels:
        assert fingerprint(one, name) != fingerprint(other, name)


def test_types_of_arguments_do(tmp_path):
    one, other = module(tmp_path), module(tmp_path, dtype="float64")
    assert fingerprint(one, "k1_z1") != fingerprint(other, "k1_z1")


def test_a_kernel_with_a_value_that_is_not_understood_has_no_fingerprint(tmp_path):
    made = module(tmp_path)
    made.SIDE = object()
    with pytest.raises(TypeError, match="a kind that a fingerprint does not know"):
        fingerprint(made, "k1_z1")


def test_a_run_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    compiled = []

    def assemble(module: ModuleType, name: str, *architectures: str) -> list[Assembled]:
        compiled.append(name)
        return [Assembled(name, a, 32, 0, 0, 0, 0) for a in architectures]

    monkeypatch.setattr(gpu_known, "assemble", assemble)
    made, log = module(tmp_path), tmp_path / "log.jsonl"
    first = Known(log).assembled(made, "k1_z1")
    again = Known(log)
    assert again.assembled(made, "k1_z1") == first and compiled == ["k1_z1"]
    again.assembled(made, "find_bad")
    assert compiled == ["k1_z1", "find_bad"] and again.compiled == 1


def test_the_page_shows_each_kernel_once_and_what_spills():
    fine = [Assembled("k", a, 64, 1024, 0, 0, 4) for a in ("sm_75", "sm_90")]
    bad = [Assembled("k", a, 255, 1024, 8, 8, 4) for a in ("sm_75", "sm_90")]
    done = [Network("a.py", {"k": fine}, frozenset({"k"})),
            Network("b.py", {"k": fine, "l": bad}, frozenset({"l"}))]
    assert [len(n.wrong) for n in done] == [0, 2]
    text = "\n".join(page(done))
    assert text.count("| k | 64 64 | 100 50 | 1024 | 0 | 0 | 4 |") == 1
    assert "| b.py | 2 | 255 | 12 | 1024 | 16 | 8 |" in text
    assert "The same as one above: k." in text and "and 2 of these" in text
