"""Muon: the published iteration as equations and as kernels; other tensors have another rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.cuda_parts import LaunchSet
from codegen.matrix_cuda import matrix_entry
from codegen.pipeline import compile_program
from codegen.races import conflicts
from derive.errors import DeclarationError
from derive.muon import muon
from derive.reference import evaluate
from tests.codegen.cuda_support import emitted
from tests.codegen.support import interpreted, sample


def formula(p: np.ndarray, gradients: np.ndarray, lr: float = 1e-3, beta: float = 0.95,
            decay: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Jordan et al. 2024 with the scale of Liu et al. 2025, in NumPy."""
    m = np.zeros_like(p)
    for g in gradients:
        m = beta * m + (1 - beta) * g
        u = (1 - beta) * g + beta * m
        x = u.T if u.shape[0] > u.shape[1] else u
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if u.shape[0] > u.shape[1] else x
        p = p - lr * 0.2 * np.sqrt(max(p.shape)) * x - lr * decay * p
    return p, m


@pytest.mark.parametrize("shape", [(3, 5), (4, 4)])
def test_the_equations_are_the_published_ones(shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    p, gradients = rng.normal(size=shape), rng.normal(size=(40, *shape))
    rule = muon(lr=0.01, decay=0.1)
    assert rule.matrix is not None
    settings = {k: np.float64(v) for k, v in rule.settings.items() if k.startswith("matrix_")}
    x, m = p, np.zeros(shape)
    for t, g in enumerate(gradients, 1):
        values = evaluate(rule.matrix, {"p": x, "m": m, "g": g, "t": np.float64(t), **settings})
        x, m = (values[rule.matrix.updates[n]] for n in ("p", "m"))
    want = formula(p, gradients, 0.01, decay=0.1)
    np.testing.assert_allclose(x, want[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(m, want[1], rtol=1e-11, atol=1e-11)


def test_a_step_makes_singular_values_alike():
    rng = np.random.default_rng(1)
    p, g = np.zeros((6, 9)), rng.normal(size=(6, 9)) * np.logspace(0, -2, 6)[:, None]
    step = formula(p, g[None], lr=1.0)[0] / (0.2 * 3)
    spectrum = np.linalg.svd(step, compute_uv=False)
    assert spectrum.max() < 1.3 and spectrum.min() > 0.3


def network() -> dr.Network:
    net = dr.Network("matrices and others")
    x, t = net.input("x", "B", 1, 4, 4), net.input("t", "B", dtype=int)
    h = dr.relu(dr.conv2d(x, 3, 3))
    net.loss(dr.cross_entropy(dr.dense(dr.dense(h, 5, dr.tanh, dims=3), 3), t))
    return net


@pytest.mark.parametrize(("dtype", "parts", "tolerance"),
                         [("float64", 1, 1e-12), ("float32", 2, 2e-4)])
def test_kernels_follow_them_for_matrices_and_the_other_rule_for_the_rest(
        dtype: str, parts: int, tolerance: float, tmp_path: Path):
    rng = np.random.default_rng(2)
    rule = muon(lr=0.05, decay=0.1, rest=dr.sgd(lr=0.5))
    with interpreted():
        model = codegen.compile(dr.derive(network()), optimizer=rule, dtype=dtype,
                                directory=tmp_path, parallel=parts > 1)
        model.initialize(3)
        model._parts = parts
        before = {n: v.astype(float) for n, v in model.parameters.items()}
        steps = [{n: rng.normal(size=v.shape) for n, v in before.items()} for _ in range(3)]
        for step in steps:
            views = model.kernels._views(model._run.d, model.kernels.PARAMETERS)
            for name, g in step.items():
                views[name][...] = g
            model.update()
    shapes = {v.ndim for v in before.values()}
    assert shapes == {1, 2, 4}
    for name, p in before.items():
        gradients = np.stack([s[name] for s in steps])
        want = p - 0.5 * gradients.sum(axis=0)
        if p.ndim > 1:
            flat = gradients.reshape(3, len(p), -1)
            want = formula(p.reshape(len(p), -1), flat, 0.05, decay=0.1)[0].reshape(p.shape)
        np.testing.assert_allclose(model.parameters[name], want, rtol=tolerance, atol=tolerance,
                                   err_msg=name)


def test_a_gpu_follows_the_same_equations(tmp_path: Path):
    """Matrices of both kinds, one turned and one not, one of four dims; an epoch is the CPU's."""
    rule = muon(lr=dr.cosine(0.05, steps=9), decay=0.1, rest=dr.adam(lr=0.05))
    program = dr.derive(network())
    model = emitted(program, tmp_path, optimizer=rule).Model()
    model.initialize(3)
    with interpreted():
        other = codegen.compile(program, optimizer=rule, dtype="float64", directory=tmp_path,
                                parallel=False).initialize(3)
        values, order = sample(program, 5), np.arange(5)
        for _ in range(2):
            total = model.epoch(values, 3, order)
            assert total/5 == pytest.approx(other.epoch(values, 3, order=order), rel=1e-11)
    np.testing.assert_allclose(model.p, other.flat, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(model.moments["m"], other.moments["m"], rtol=1e-9, atol=1e-12)


def test_launches_for_matrices_are_proved():
    made = compile_program(dr.derive(network()), muon(), device=True)
    launcher = matrix_entry(made, LaunchSet({}, {}, {}))
    assert {launch.kind for launch in launcher.pieces} >= {"product", "elements"}
    assert [conflict for launch in launcher.pieces for conflict in conflicts(launch)] == []


def test_a_gpu_leaves_matrices_out_with_the_step(tmp_path: Path):
    program = dr.derive(network())
    kernels = emitted(program, tmp_path, optimizer=muon(rest=dr.sgd()))
    model = kernels.Model()
    model.initialize(0)
    before, values = model.p.copy(), sample(program, 3)
    values["x"][0] = np.nan
    with pytest.raises(kernels.NotFinite):
        model.epoch(values, 3, np.arange(3))
    np.testing.assert_array_equal(model.p, before)
    np.testing.assert_array_equal(model.moments["m"], 0)


def test_a_pattern_leaves_matrices_to_the_other_rule(tmp_path: Path):
    with interpreted():
        model = codegen.compile(dr.derive(network()), directory=tmp_path, dtype="float64",
                                optimizer=muon(matrices="W9", rest=dr.sgd(lr=1.0)))
        model.initialize(0)
        before = model.flat.copy()
        model._run.d[:] = 1
        model.update()
    np.testing.assert_allclose(before[:model._run.d.size] - 1, model.flat[:model._run.d.size])


def test_a_muon_within_a_muon_is_refused():
    with pytest.raises(DeclarationError, match="a rule of their own"):
        muon(rest=muon())
