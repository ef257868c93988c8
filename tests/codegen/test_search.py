"""Search: what is tried, what is refused, going on where it was, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codegen.cli import main
from codegen.search import _finished, _study, read_search, search, work
from derive.errors import ChainruleError
from tests.codegen.support import interpreted

pytest.importorskip("optuna")

NET = '''
import derive as dr

def network(units=3):
    net = dr.Network("small")
    x, t = net.input("x", "B", 4), net.input("t", "B", dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.dense(x, units, dr.tanh), 3), t))
    return net
'''
CONFIG = '''
model = "net.py"
[train]
epochs = 4
batch = 16
[data]
source = "data.npz"
validation_share = 0.2
[optimizer]
rule = "sgd"
[search]
trials = 6
[search.space]
"optimizer.lr" = {low = 1e-4, high = 1.0, log = true}
"model.units" = {low = 2, high = 4}
"train.batch" = [16, 32]
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "search.toml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    np.savez("data.npz", x=rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[labels], t=labels)
    with interpreted():
        yield tmp_path


def test_a_search_finds_goes_on_and_reports(place: Path, capsys):
    assert main(["search", "search.toml", "--out", "s", "--trials", "3", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert sum(first["trials"].values()) == 3
    assert set(first["best"]) == {"optimizer.lr", "model.units", "train.batch"}
    assert main(["search", "search.toml", "--out", "s", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert sum(second["trials"].values()) == 6 and second["score"] <= first["score"]
    page = Path("s/search.html").read_text()
    assert "<svg" in page and "optimizer.lr" in page and "<script" not in page
    stored = json.loads(Path("s/search.json").read_text())["trials"]
    assert len(stored) == 6 and min(r["value"] for r in stored if r["value"]) == second["score"]


def test_a_trial_that_runs_elsewhere_counts_and_one_that_was_killed_does_not(place: Path):
    wanted, folder = read_search(Path("search.toml")), Path("s")
    folder.mkdir()
    study = _study(folder, wanted)
    study.ask()  # killed in an earlier search
    study.ask()  # another process is at it
    work(replace(wanted, trials=3), folder, first=1)
    assert _finished(study) == 2
    work(replace(wanted, trials=3), folder, first=1)
    assert _finished(study) == 2


@pytest.mark.parametrize(("old", "new", "message"), [
    ("[search.space]", "[search.other]", "'other' is not declared"),
    ('"optimizer.lr" = {low', '"rates.lr" = {low', "nothing that a search can change"),
    ("low = 1e-4, high = 1.0", "low = 2.0, high = 1.0", "has no range"),
    ("low = 1e-4, high = 1.0", "low = 0.0, high = 1.0", "has no range"),
    ("trials = 6", "trails = 6", "did you mean 'trials'"),
    ('"model.units"', '"model.unit"', "did you mean 'units'"),
    ('"train.batch"', '"train.batches"', "did you mean 'batch'"),
    ("trials = 6", 'trials = 6\nmonitor = "val"', "'val' is not measured"),
])
def test_what_makes_no_sense_is_refused(place: Path, old: str, new: str, message: str):
    text = CONFIG.replace(old, new)
    if "other" in new:
        text = text.replace("[search.other]", "[search]\nother = 1\n[search.space]").replace(
            "[search]\ntrials = 6\n", "", 1)
    (place / "search.toml").write_text(text)
    with pytest.raises(ChainruleError) as error:
        search(place / "search.toml", place / "s", trials=1)
    assert message in str(error.value)


def test_a_rate_inside_a_schedule_is_what_is_meant(place: Path):
    from codegen.search import _changed

    text = CONFIG.replace('rule = "sgd"',
                          'rule = "sgd"\nlr = {kind = "cosine", lr = 0.1, steps = 20}')
    (place / "search.toml").write_text(text)
    config, arguments = _changed(read_search(place / "search.toml").config,
                                 {"optimizer.lr": 0.5, "model.units": 4, "train.batch": 32})
    assert config.optimizer["lr"] == {"kind": "cosine", "lr": 0.5, "steps": 20}
    assert arguments == {"units": 4} and config.plan.batch == 32
