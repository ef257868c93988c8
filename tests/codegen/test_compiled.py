"""Compiled kernels: what only Numba can show. Few, because each compiles for seconds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import codegen
import derive as dr
from codegen.module import render
from codegen.pipeline import compile_program
from derive.program import Program
from tests.codegen.support import build, differences, poison, sample


def network() -> Program:
    """A product, an activation, a gather, a guard and a softmax: one of each kind of loop."""
    net = dr.Network("compiled")
    b, i, j, k, v = dr.indices("b:B i:7 j:5 k:3 v:4")
    x, word, t = net.input("x", b, i), net.input("word", b, dtype=int), net.input(
        "t", b, dtype=int)
    w, table = net.parameter("W", i, j), net.parameter("E", v, j)
    w2, c2 = net.parameter("W2", j, k), net.parameter("c2", k)
    h = net.define("h", (b, j), dr.tanh(
        dr.sum((x[b, i] + x[b, i - 1]) * w[i, j], i) + table[word[b], j]))
    z = net.define("z", (b, k), dr.sum(h[b, j] * w2[j, k], j) + c2[k])
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net.program()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def model(folder):
    return build(network(), folder, parts=2, dtype="float64", threads=2, optimizer=dr.adam())


def test_serial_and_split_agree_with_the_reference(model):
    values = sample(model.program, 9)
    for parts in (1, 2):
        model._run.parts = lambda sizes, parts=parts: parts
        wrong = {n: e for n, e in differences(model, values).items() if not e < 1e-10}
        assert not wrong


def test_what_several_threads_run_is_compiled_for_one_kind_of_caller(model):
    model._run.parts = lambda sizes: 2
    model.step(**sample(model.program, 9))
    kernels = model.kernels
    for function in (kernels.update_share, kernels.update_launch, kernels.gradient_team,
                     kernels.gradient_launch):
        assert len(function.signatures) <= 1, function.signatures
    assert kernels.update_launch.signatures and kernels.gradient_launch.signatures
    for helper in (kernels.view, kernels.at):  # written into their callers
        assert not hasattr(helper, "signatures")


def test_a_parallel_loop_names_nothing_that_its_threads_run():
    """They are called by address: LLVM would go through all that a loop names, four times."""
    text = render(compile_program(dr.derive(network()), dr.adam()), "float32", True)
    loops = re.findall(r"@njit\(parallel=True, .*\ndef (\w+)\((.*)\):\n((?:    .*\n)+)", text)
    assert {name for name, _, _ in loops} >= {
        "gradient_launch", "gradient_section_launch", "epoch_launch", "update_launch"}
    for name, arguments, body in loops:
        assert "address" in arguments.split(", "), name
        called = set(re.findall(r"([\w.]+)\(", body))
        assert called <= {"prange", "meet", "call_team", "call_part", "np.int64"}, name
        assert called & {"call_team", "call_part"}, name


def test_single_precision(folder):
    model = build(network(), folder, parts=1, dtype="float32")
    assert max(differences(model, sample(model.program, 9)).values()) < 1e-4


def test_the_same_bits_twice(model):
    values, rng = sample(model.program, 23), np.random.default_rng(0)
    start, runs = model.flat.copy(), []
    order = rng.permutation(23)
    for parts in (1, 1, 2, 2):
        model._run.parts = lambda sizes, parts=parts: parts
        model.initialize(0)
        model.flat[...] = start
        poison(model)
        model.epoch(values, 5, order=order)
        runs.append(model.flat.copy())
    assert (runs[0] == runs[1]).all() and (runs[2] == runs[3]).all()
    np.testing.assert_allclose(runs[0], runs[2], rtol=1e-9, atol=1e-12)


def test_the_same_bits_whatever_threads_run_the_parts(model, monkeypatch):
    values, start, ends = sample(model.program, 23), model.flat.copy(), []
    model._run.parts = lambda sizes: 2
    begun, launch = [], model.kernels.epoch_launch
    monkeypatch.setattr(model.kernels, "epoch_launch",
                        lambda members, *rest: begun.append(members) or launch(members, *rest))
    for threads in ((2,), (1,), (2, 1), (1, 2)):
        turns = [(threads*3)[n] for n in range(3)]
        monkeypatch.setattr(model.kernels._Crew, "pieces", lambda crew, steps, turns=turns: iter(
            [(turns[0], 0, 2), (turns[1], 2, 3), (turns[2], 3, steps)]))
        model.initialize(0)
        model.flat[...] = start
        ends.append((model.epoch(values, 5), model._run.losses.tolist(), model.flat.copy()))
        assert begun[-3:] == turns
    for total, losses, flat in ends[1:]:
        assert total == ends[0][0] and losses == ends[0][1]
        np.testing.assert_array_equal(flat, ends[0][2])


def test_threads_that_do_not_meet_leave_the_work_to_one(model):
    values, run = sample(model.program, 9), model._run
    run.parts = lambda sizes: 2
    want = run.loss(**values), {n: g.copy() for n, g in run.gradients(**values).items()}
    poison(model)
    sizes, given = run.sizes(values), model.kernels._GIVEN["gradient"]
    with model.kernels._threads(2):
        numba.set_num_threads(1)  # the second one begins when the first is done
        loss = model.kernels.gradient_split(
            2, *sizes, run.p, run.d, run.s, run.n, run.arena("gradient", sizes),
            *(values[n].reshape(-1) for n in given))
    assert loss == want[0]
    for name, gradient in model.kernels._views(run.d, model.kernels.PARAMETERS).items():
        np.testing.assert_array_equal(gradient, want[1][name])


def test_an_update_with_a_norm_on_two_threads(folder):
    rule = dr.adam(lr=0.01, clip_norm=0.1)
    model = build(network(), folder, parts=2, dtype="float64", threads=2, optimizer=rule)
    values, start, ends = sample(model.program, 23), model.flat.copy(), []
    for parts in (1, 2):
        model._run.parts = lambda sizes, parts=parts: parts
        model.initialize(0)
        model.flat[...] = start
        model.epoch(values, 5)
        ends.append(model.flat.copy())
    np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-12)


def test_nan_and_infinity_come_out_where_they_go_in(model):
    values, start = sample(model.program, 9), model.flat.copy()
    before = {n: m.copy() for n, m in model.moments.items()}
    for bad in (np.nan, np.inf):
        x = values["x"].copy()
        x[3, 2] = bad
        loss = model._run.loss(**{**values, "x": x})
        assert np.isnan(loss) == np.isnan(bad) or not np.isfinite(loss)
        model.parameters["W2"][0, 0] = bad
        assert not np.isfinite(model.loss(**values))
        with pytest.raises(codegen.NotFiniteError, match="NaN or infinite at step"):
            model.epoch(values, 4)
        kept = model.flat.copy()
        model.flat[...] = start
        changed = np.flatnonzero(kept != start)
        assert len(changed) == 1  # only the one that was spoilt: no step was done
        for name, moment in model.moments.items():
            np.testing.assert_array_equal(moment, before[name])


def wide() -> Program:
    """Rows of several vectors, and sums over rows as long: the order of their terms is free."""
    net = dr.Network("wide")
    x, t = net.input("x", "B", 12), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 40, dr.tanh), 4), t))
    return net.program()


RUN = """
import sys, numpy as np, derive as dr, codegen
from tests.codegen.test_compiled import wide
from tests.codegen.support import sample
d = dr.derive(wide())
m = codegen.compile(d, directory=sys.argv[1], parallel=False).initialize(0)
for n in range(5):
    m.epoch(sample(d, 61, n), 16)
stats = [f.stats for f in vars(m.kernels).values() if hasattr(f, "overloads")]
print(sum(sum(s.cache_hits.values()) for s in stats),
      sum(sum(s.cache_misses.values()) for s in stats), m.flat.tobytes().hex())
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, *arguments], cwd=root, text=True, check=False,
                          capture_output=True, env={**os.environ, **environment})


def test_a_second_start_compiles_nothing_again_and_takes_the_same_steps(tmp_path):
    first = python("-c", RUN, str(tmp_path))
    second = python("-c", RUN, str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    hits, misses, bits = second.stdout.split()
    assert int(first.stdout.split()[1]) > 5, "the first start compiles"
    assert int(hits) > 0 and int(misses) == 0, second.stdout
    assert first.stdout.split()[2] == bits, "what was just compiled rounds as what was found does"


ALONE = """
import runpy, sys
for name in ("derive", "codegen", "sympy", "jinja2", "chainrule"):
    sys.modules[name] = None  # importing one of them fails
sys.argv = [sys.argv[1], "--self-test"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_emitted_file_tests_itself_without_this_project_and_within_bounds(tmp_path):
    path = codegen.emit(dr.derive(network()), tmp_path / "kernels.py", optimizer=dr.momentum(),
                        parallel=False)
    done = python("-I", "-c", ALONE, str(path), NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all gradients agree" in done.stdout
    for parameter in ("W", "E", "W2", "c2"):
        assert f"\n{parameter} " in done.stdout


def test_the_self_test_fails_where_a_gradient_is_wrong(tmp_path):
    path = codegen.emit(dr.derive(network()), tmp_path / "kernels.py", parallel=False)
    text = path.read_text()
    assert "_d_c2[k] = F(0)" in text
    path.write_text(text.replace("_d_c2[k] = F(0)", "_d_c2[k] = F(1e-3)"))
    done = python(str(path), "--self-test", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the gradients do not agree" in done.stdout


def test_the_self_test_is_not_misled_by_the_kinks_of_wide_relu_layers(tmp_path):
    """Every step crosses the kinks of some of hundreds of units: wider bars, no false alarm."""
    net = dr.Network("wide")
    x, t = net.input("x", "B", 16), net.input("t", "B", dtype=int)
    h = dr.dense(dr.dense(x, 256, dr.relu), 128, dr.relu)
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    path = codegen.emit(dr.derive(net), tmp_path / "kernels.py", parallel=False)
    done = python(str(path), "--self-test")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("through", ["below", "everywhere"])
def test_the_self_test_leaves_out_what_a_stopped_gradient_hides(tmp_path, through):
    """The slope of the loss along W1 is not its gradient, by design: no false alarm, and said."""
    net = dr.Network("straight through")
    x = net.input("x", "B", 3)
    z = dr.dense(x, 2)
    b, j = z.indices
    h = net.define("h", (b, j), dr.straight_through(z[b, j] ** 3, z[b, j]))
    y = dr.dense(h, 2) if through == "below" else h
    net.loss(dr.mean(y.tensor.access ** 2, *y.indices))
    path = codegen.emit(dr.derive(net), tmp_path / "kernels.py", parallel=False)
    done = python(str(path), "--self-test", NUMBA_DISABLE_JIT="1")
    assert "below a stopped gradient: W1, c1\n" in done.stdout, done.stdout + done.stderr
    if through == "below":
        assert done.returncode == 0, done.stdout
        assert "\nW2 " in done.stdout and "\nW1 " not in done.stdout
    else:
        assert done.returncode == 3 and "not decided" in done.stdout
