"""What is measured on a machine: kept, read, used, and refused where it is not what was written."""

from __future__ import annotations

import json
import re
from dataclasses import astuple
from pathlib import Path

import pytest

import codegen
import derive as dr
from codegen import tune
from codegen.memory import Storage
from codegen.module import render
from codegen.pack import Packing
from codegen.pipeline import compile_program
from codegen.rates import RATES, Kept, Rates, kept_file, read_kept, write_kept
from codegen.taps import single_taps
from codegen.winograd import CALL
from derive.errors import DataError, DeclarationError
from derive.optimizers import sgd
from derive.program import Program

SLOW_PACKING, SLOW_NESTS = Rates(patch=50.0, partial=50.0), Rates(direct=5.0, border=50.0)


@pytest.fixture
def program() -> Program:
    net = dr.Network("c")
    y = dr.conv2d(net.input("x", "B", 4, 6, 6), 8, 3, padding=1)
    net.loss(dr.mean(y.tensor.access**2, *y.indices))
    return dr.derive(net)


def emitted(program: Program, folder: Path, **options: object) -> str:
    path = folder / "kernels.py"
    codegen.emit(program, path, force=True, **options)
    return path.read_text()


def test_rates_decide_and_the_module_says_so(program: Program):
    for rates, way in ((SLOW_PACKING, "direct"), (SLOW_NESTS, "product")):
        made = compile_program(program, sgd(), storage=Storage(rates=rates))
        assert dict(made.windows) == {"y1": way, "_d_K1": way}
        head = " ".join(render(made).partition('"""')[2].partition('"""')[0].split())
        assert f"y1 {way}" in head and f"_d_K1 {way}" in head


def test_the_same_file_gives_the_same_text_and_none_the_stated_rates(
        program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    stated = emitted(program, tmp_path)
    assert not (tmp_path / "cache").exists(), "emission alone measures and keeps nothing"
    assert stated == emitted(program, tmp_path, storage=Storage(rates=RATES))
    (tmp_path / "cache").mkdir()
    write_kept(tmp_path / "cache", Kept(SLOW_NESTS))
    texts = [emitted(program, tmp_path) for _ in range(2)]
    assert texts[0] == texts[1] and "y1 product" in texts[0]


def test_what_is_kept_is_read_again(tmp_path: Path):
    assert read_kept(tmp_path) == Kept()
    kept = Kept(SLOW_PACKING, {"a": "direct"})
    path = write_kept(tmp_path, kept)
    assert read_kept(tmp_path) == kept and path == kept_file(tmp_path)
    assert "numba" in json.loads(path.read_text())["machine"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rates": {"product": 1.0}, "ways": {}}',
                                  '{"rates": null, "ways": {"y": "fastest"}}',
                                  '{"rates": null, "ways": 3}', "\x00"])
def test_a_bad_file_is_told_and_how_to_mend_it(text: str, tmp_path: Path):
    kept_file(tmp_path).write_text(text)
    with pytest.raises(DataError, match="delete it and measure again"):
        read_kept(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="CHAINRULE_CACHE"):
        write_kept(tmp_path / "file", Kept())


def measured(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> list[tuple[str, str]]:
    """Stands in for the stopwatch: the product is faster; collects what was asked."""
    asked: list[tuple[str, str]] = []
    clock = iter(range(0, 10**6))

    def stopwatch(program, eq, way, dtype, folder):
        asked.append((eq.name, way))
        return 1e-6 if way == "product" else 2e-6

    monkeypatch.setattr(tune, "seconds", stopwatch)
    monkeypatch.setattr(tune, "measured_rates", lambda folder: SLOW_PACKING)
    monkeypatch.setattr(tune.time, "perf_counter", lambda: seconds*next(clock))
    return asked


def test_tuning_takes_the_fastest_and_measures_once(program: Program, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch):
    asked = measured(monkeypatch)
    for _ in range(2):
        found = tune.tuned(program, Storage(), directory=tmp_path)
        assert dict(found.windows) == {"y1": "product", "_d_K1": "product"}
    assert len(asked) == 5
    assert read_kept(tmp_path).rates == SLOW_PACKING


def test_without_time_left_the_prediction_stands(program: Program, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch):
    asked, told = measured(monkeypatch, seconds=1.0), []
    found = tune.tuned(program, Storage(), directory=tmp_path, budget=0.5, report=told.append)
    assert not asked and found.windows == "auto" and found.rates == SLOW_PACKING
    assert len(told) == 2 and all(re.search("not measured, 0.5 s are over", t) for t in told)


def test_a_stopwatch_runs_each_way(program: Program, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch):
    """One equation, one way, really compiled and timed."""
    monkeypatch.setattr(tune, "REPEATS", 1)
    packing = Packing(single_taps(program))
    packing.run()
    assert packing.possible["y1"] == {"product", "direct", "winograd"}
    took = tune.seconds(packing.program, packing.program["y1"], "direct", "float32", tmp_path)
    assert 0 < took < 1


def test_rates_are_taken_from_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By a stopwatch that tells times as the model predicts them, the rates come out again; by one
    for which tiles cost nothing, the stated proportion stands."""
    tiles, stated = 49*16, Rates(0.02, 0.03, 0.5, 0.5, 0.2, 0.1)
    beside = tiles*16*32*0.02 + 0.2*(16*16*16 + 14*14*32) + CALL*16
    took = {("z1", "product"): 512**2*0.02, ("y1", "direct"): 14**2*16*32*9*0.03,
            ("y1", "product"): 14**2*16*9*(32*0.02 + 0.5), ("y", "auto"): 64*128*0.2,
            ("y1", "winograd"): beside + tiles*48*0.1}
    monkeypatch.setattr(tune, "seconds", lambda program, eq, way, dtype, folder:
                        took[eq.name, way]*1e-9)
    found = tune.measured_rates(tmp_path)
    assert all(abs(a - b) < 1e-9 for a, b in zip(astuple(found), astuple(stated), strict=True))
    took["y1", "winograd"] = beside
    assert abs(tune.measured_rates(tmp_path).transform*RATES.product
               - RATES.transform*0.02) < 1e-9


@pytest.mark.parametrize("wrong", ["yes", 0, -1.0, float("nan")])
def test_tune_is_a_number_of_seconds(program: Program, wrong: object, tmp_path: Path):
    with pytest.raises(DeclarationError, match="tune is no number of seconds"):
        codegen.emit(program, tmp_path / "k.py", tune=wrong)


def test_an_unknown_way_is_refused_with_the_nearest(program: Program, tmp_path: Path):
    with pytest.raises(DeclarationError, match="did you mean 'direct'"):
        codegen.emit(program, tmp_path / "k.py", storage=Storage(windows="dirct"))
