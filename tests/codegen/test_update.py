"""The emitted update is the optimizer's program: every rule and option, on one thread and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codegen
import derive as dr
from codegen.model import Model
from derive.errors import DeclarationError
from derive.optimizers import REGISTRY, Optimizer, all_rules
from derive.reference import evaluate
from derive.schedules import cosine, one_cycle, warmup
from tests.codegen.support import interpreted

NAMES = ("W", "c", "V")


def network() -> dr.Network:
    net = dr.Network("three tensors")
    b, i, j = dr.indices("b:B i:3 j:2")
    x = net.input("x", b, i)
    w, c, v = net.parameter("W", i, j), net.parameter("c", j), net.parameter("V", j)
    h = net.define("h", (b, j), dr.tanh(dr.sum(x[b, i] * w[i, j], i) + c[j]))
    net.loss(dr.mean(dr.sum(h[b, j] * v[j], j) ** 2, b))
    return net


def compiled(optimizer: Optimizer, folder: Path, parts: int, dtype: str = "float64") -> Model:
    with interpreted():
        made = codegen.compile(dr.derive(network()), optimizer=optimizer, dtype=dtype,
                               directory=folder, parallel=parts > 1)
    made.initialize(1)
    made._parts = parts
    return made


def reference(optimizer: Optimizer, p: np.ndarray, gradients: np.ndarray,
              factors: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """The program itself, element by element where settings differ."""
    tensors = np.repeat([0, 1, 2], [6, 2, 2])
    state = dict.fromkeys(optimizer.moments, np.zeros_like(p))
    for t, g in enumerate(gradients, 1):
        given: dict[str, Any] = {"p": p, "g": g, "t": np.float64(t), "k": tensors, **state}
        new = {n: np.zeros_like(p) for n in ("p", *state)}
        for number in range(3):
            own = {n: np.float64(v * (factors or {}).get(n, np.ones(3))[number])
                   for n, v in optimizer.settings.items()}
            values = evaluate(optimizer.program, {**given, **own}, sizes={"T": 3})
            for name in new:
                mine = tensors == number
                new[name][mine] = values[optimizer.program.updates[name]][mine]
        p, state = new.pop("p"), new
    return {"p": p, **state}


def fill(model: Model, flat: np.ndarray, values: np.ndarray) -> None:
    """The three tensors in a flat array of the model's (there are gaps between them)."""
    for view, part in zip(views(model, flat).values(), np.split(values, [6, 8]), strict=True):
        view[...] = part.reshape(view.shape)


def views(model: Model, flat: np.ndarray) -> dict[str, np.ndarray]:
    found = model.kernels._views(flat, model.kernels.PARAMETERS)
    return {name: found[name] for name in NAMES}


def joined(model: Model, flat: np.ndarray) -> np.ndarray:
    return np.concatenate([v.ravel() for v in views(model, flat).values()])


def agree(optimizer: Optimizer, folder: Path, parts: int, dtype: str = "float64",
          factors: dict[str, np.ndarray] | None = None, tolerance: float = 1e-12) -> None:
    model = compiled(optimizer, folder, parts, dtype)
    gradients = np.random.default_rng(0).normal(size=(7, 10)).astype(dtype)
    p = np.random.default_rng(1).normal(size=10).astype(dtype)
    fill(model, model.flat, p)
    want = reference(optimizer, p.astype(np.float64), gradients, factors)
    with interpreted():
        for g in gradients:
            fill(model, model._run.d, g)
            model.update()
    for name, flat in {"p": model.flat, **model.moments}.items():
        np.testing.assert_allclose(joined(model, flat), want[name], rtol=tolerance,
                                   atol=tolerance)


@pytest.mark.parametrize("name", sorted({*all_rules()} - {"muon", "gauss_newton"}))
def test_every_rule(name: str, tmp_path: Path):
    agree(REGISTRY[name](), tmp_path, 1)
    agree(REGISTRY[name](), tmp_path, 2, "float32", tolerance=3e-5)


OPTIONS: list[dict[str, Any]] = [
    {"coupled": 0.1, "decay": 0.2, "clip_value": 0.5}, {"clip_norm": 0.7},
    {"clip_norm": 0.7, "clip_value": 0.4, "coupled": 0.1, "average": 0.9},
    {"average": "polyak"}, {"lr": cosine(0.1, 5, 0.01)}, {"lr": warmup(one_cycle(0.1, 4), 2)},
]


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_options_and_schedules(options: dict[str, Any], tmp_path: Path):
    agree(REGISTRY["adam"](**options), tmp_path, 1)
    agree(REGISTRY["lamb"](**options), tmp_path, 2)


@pytest.mark.parametrize("parts", [1, 3])
def test_groups_have_factors_of_settings(parts: int, tmp_path: Path):
    optimizer = REGISTRY["adamw"](lr=0.1, groups={"[cV]": {"decay": 0}, "V": {"lr": 0.5}})
    agree(optimizer, tmp_path, parts,
          factors={"decay": np.array([1, 0, 0]), "lr": np.array([1, 1, 0.5])})


def test_a_group_that_fits_nothing_is_refused(tmp_path: Path):
    with pytest.raises(DeclarationError, match="'bias' fits no trained parameter"):
        compiled(REGISTRY["sgd"](groups={"bias": {"lr": 0}}), tmp_path, 1)


def test_a_norm_has_the_same_bits_on_any_number_of_threads(tmp_path: Path):
    found = []
    for parts in (1, 2, 5):
        model = compiled(REGISTRY["lamb"](clip_norm=0.1), tmp_path, parts)
        fill(model, model.flat, 1 + np.arange(10))
        fill(model, model._run.d, np.random.default_rng(0).normal(size=10))
        with interpreted():
            model.update()
        found.append(model.flat.copy())
    assert all((f == found[0]).all() for f in found)
