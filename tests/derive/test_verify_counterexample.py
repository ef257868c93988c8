"""Counterexamples: a program of a few lines that shows a wrong entry and the right one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import derive as dr
from codegen.loading import run_file
from derive.verify import VerifyReport, verify
from tests.derive.test_verify import by_hand, network

_PRINTED = re.compile(r"(\w+)((?:\[[\d, ]+\])?): yours (\S+) right (\S+)")


def output_of(program: str, folder: Path) -> list[tuple[str, float, float]]:
    """What the program prints in a process of its own: entry, yours, right."""
    (folder / "paste.py").write_text(program)
    done = subprocess.run([sys.executable, "paste.py"], cwd=folder, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, f"{program}\n{done.stderr}"
    return [(name + at, float(yours), float(right))
            for name, at, yours, right in _PRINTED.findall(done.stdout)]


def values_in(program: str) -> dict[str, Any]:
    """The arrays that the program makes."""
    head = re.split(r"^(?:found|values) = ", program, flags=re.MULTILINE)[0]
    lines = [x for x in head.splitlines() if not x.startswith("from ")]
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    return {n: v for n, v in made.items() if isinstance(v, np.ndarray)}


def confirmed(net: dr.Network, report: VerifyReport, folder: Path) -> dict[str, Any]:
    """Runs the program of a report: its numbers are the findings', the right ones those of the
    derivation; the arrays in it."""
    shown = output_of(report.snippet, folder)
    assert [s[0].split("[")[0] for s in shown] == [f.parameter for f in report.findings]
    derived, point = dr.derive(net), values_in(report.snippet)
    found = dr.evaluate(derived, point, tuple(derived.gradients.values()))
    for (entry, yours, right), finding in zip(shown, report.findings, strict=True):
        assert f"yours {yours:.12g}, right {right:.12g}" in finding.counterexample
        exact = eval(entry, {n: found[g] for n, g in derived.gradients.items()})
        assert right == pytest.approx(exact, rel=1e-12) and yours != pytest.approx(right, rel=1e-9)
    return point


HAND = """\
import numpy as np

def backward(x, t, W1, c1, W2, c2):
    h = np.tanh(x @ W1 + c1)
    dz = np.exp(h @ W2 + c2)
    dz = dz / dz.sum(axis=1, keepdims=True)
    dz[np.arange(len(t)), t] -= 1
    da = (dz @ W2.T) * (1 - h**2)
    return {"W1": x.T @ da, "c1": da.sum(axis=0), "W2": h.T @ dz, "c2": dz.sum(axis=0)}
"""


def test_a_function_of_a_file_is_shown_wrong_at_the_smallest_batch_with_short_numbers(tmp_path):
    """The mean over the batch is forgotten: with one row, the gradient would be right."""
    (tmp_path / "hand.py").write_text(HAND)
    report = verify(network(), run_file(tmp_path / "hand.py")["backward"])
    assert "from hand import backward" in report.snippet
    point = confirmed(network(), report, tmp_path)
    assert len(point["x"]) == 2
    assert all(np.array_equal(a, np.round(a, 1)) for a in point.values())
    assert report.snippet in str(report) + "\n"
    assert report.to_dict()["counterexample"] == report.snippet


def test_one_row_is_enough_where_it_shows_the_mistake(tmp_path):
    source = HAND.replace("-= 1\n", "-= 1\n    dz /= len(t)\n").replace("1 - h**2", "1 - h")
    (tmp_path / "hand.py").write_text(source)
    report = verify(network(), run_file(tmp_path / "hand.py")["backward"])
    assert len(confirmed(network(), report, tmp_path)["x"]) == 1


def test_a_function_that_cannot_be_imported_is_named_for_the_reader():
    snippet = verify(network(), by_hand(sign=True)).snippet
    assert "# backward: your function, as it is defined" in snippet
    made: dict[str, Any] = {"backward": by_hand(sign=True)}
    exec(snippet, made)


@pytest.mark.parametrize("written", [
    r"\frac{\partial L}{\partial W_1} = \frac{2}{B} x^\top (x W_1 - t)",
    "d_z[b, j] = z1[b, j] - t[b, j]\nd_W1[i, j] = sum[b](x[b, i]*d_z[b, j])",
])
def test_a_written_derivation_is_evaluated_as_it_was_read(written, tmp_path):
    net = dr.Network("line")
    x, t = net.input("x", "B", 2), net.input("t", "B", 1)
    net.loss(dr.squared_error(dr.dense(x, 1, bias=False), t))
    confirmed(net, verify(net, written), tmp_path)


def test_a_point_on_a_kink_is_no_counterexample(tmp_path):
    """Whole numbers lie on kinks of relu readily; there, no gradient is wrong beyond doubt."""
    (tmp_path / "hand.py").write_text("""\
import numpy as np

def backward(parameters, inputs):
    x, t, W1, c1 = inputs["x"], inputs["t"], parameters["W1"], parameters["c1"]
    z = x @ W1 + c1
    dz = (np.maximum(z, 0) - t) * (z >= 0) / len(x)
    return -x.T @ dz, dz.sum(axis=0)
""")
    net = dr.Network("relu")
    x, t = net.input("x", "B", 3), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(x, 2, dr.relu), t))
    point = confirmed(net, verify(net, run_file(tmp_path / "hand.py")["backward"]), tmp_path)
    assert np.all(point["x"] @ point["W1"] + point["c1"] != 0)


def test_a_large_network_is_drawn_by_a_line_that_gives_the_same_numbers_again(tmp_path):
    (tmp_path / "hand.py").write_text("""\
import numpy as np

def backward(x, t, W1, c1):
    z = x @ W1 + c1
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    return x.T @ (p - t) / len(x), (p - t).mean(axis=0) / 2
""")
    net = dr.Network("wide")
    x, t = net.input("x", "B", 40), net.input("t", "B", 30, distribution=True)
    net.loss(dr.kl_divergence(dr.dense(x, 30), t))
    report = verify(net, run_file(tmp_path / "hand.py")["backward"])
    point = confirmed(net, report, tmp_path)
    assert "RandomState" in report.snippet and len(report.snippet) < 3000
    assert np.allclose(point["t"].sum(axis=-1), 1)


def test_what_the_network_computes_can_be_an_argument(tmp_path):
    (tmp_path / "hand.py").write_text("""\
def backward(x, t, z1, W1):
    return {"W1": x.T @ (z1 - t)}
""")
    net = dr.Network("line")
    x, t = net.input("x", "B", 2), net.input("t", "B", 2)
    net.loss(dr.squared_error(dr.dense(x, 2, bias=False), t))
    confirmed(net, verify(net, run_file(tmp_path / "hand.py")["backward"]), tmp_path)


def test_a_mistake_at_large_sizes_alone_is_shown_at_one_of_these():
    def backward(x, t, W1, c1, W2, c2):
        given = by_hand()(x, t, W1, c1, W2, c2)
        return {n: g * (2 if len(t) > 40 else 1) for n, g in given.items()}

    report = verify(network(), backward)
    assert report.verdict == "wrong"
    assert len(values_in(report.snippet)["t"]) > 40
