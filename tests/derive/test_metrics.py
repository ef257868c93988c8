"""Metrics against scikit-learn, on scores with ties, missing classes and several dims."""

from __future__ import annotations

import numpy as np
import pytest

from derive.metrics import REGISTRY, measure, metric_program

sklearn = pytest.importorskip("sklearn.metrics")


def scores(rows: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)  # small whole numbers, so that many scores are equal
    return rng.integers(0, 3, (rows, classes)).astype(float), rng.integers(0, classes, rows)


def test_accuracy_takes_the_first_of_equal_scores():
    z, t = scores()
    assert measure("accuracy", z, t) == pytest.approx(sklearn.accuracy_score(t, z.argmax(1)))
    assert measure("accuracy", np.zeros((6, 3)), np.array([0, 1, 2, 0, 1, 2])) == pytest.approx(1/3)


def test_f1_is_the_mean_over_the_classes_that_occur():
    z, t = scores()
    want = sklearn.f1_score(t, z.argmax(1), average="macro")
    assert measure("f1", z, t) == pytest.approx(want)
    z[:, 3], t = -1, np.minimum(t, 2)  # the last class is neither there nor predicted
    assert measure("f1", z, t) == pytest.approx(
        sklearn.f1_score(t, z.argmax(1), average="macro"))


def test_perplexity_of_scores_that_would_overflow():
    z, t = scores()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    want = np.exp(-np.log(p[np.arange(len(t)), t]).mean())
    assert measure("perplexity", z, t) == pytest.approx(want)
    assert measure("perplexity", z + 1e4, t) == pytest.approx(want)


def test_sequences_count_every_place():
    z, t = scores(60)
    assert measure("accuracy", z.reshape(6, 10, 4), t.reshape(6, 10)) == measure("accuracy", z, t)


def test_r2_of_one_and_of_several_outputs():
    rng = np.random.default_rng(1)
    y, t = rng.normal(size=(50, 1)), rng.normal(size=(50, 1))
    assert measure("r2", y, t) == pytest.approx(sklearn.r2_score(t, y))
    assert measure("r2", y[:, 0], t[:, 0]) == pytest.approx(sklearn.r2_score(t, y))
    y, t = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    left, spread = ((y - t) ** 2).sum(), ((t - t.mean(0)) ** 2).sum()
    assert measure("r2", y, t) == pytest.approx(1 - left / spread)


def test_binary_accuracy_of_logits():
    rng = np.random.default_rng(2)
    z, t = rng.normal(size=50), rng.integers(0, 2, 50).astype(float)
    assert measure("binary_accuracy", z, t) == pytest.approx(((z > 0) == (t > 0.5)).mean())


def test_every_metric_prints_as_equations():
    for name in REGISTRY:
        labels = name in ("accuracy", "f1", "perplexity")
        assert "value = " in str(metric_program(name, (3,), labels))
