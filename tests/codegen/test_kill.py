"""A small share of benchmarks/kill_runs.py: real processes killed, real writes without room."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.codegen.support import interpreted

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_runs.py"


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; the processes that it starts run kernels as plain Python."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("kill_runs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_killed_run_loses_nothing_and_ends_with_the_same_bits(campaign: ModuleType,
                                                                tmp_path: Path):
    folder = campaign.place(tmp_path / "run", epochs=2, steps=1)
    counts = campaign.kills(folder, 2, seed=1)
    assert counts["kills"] == 2 and counts["finished bit-identical"] >= 1


def test_a_full_disk_at_any_byte_leaves_the_checkpoint_before(campaign: ModuleType,
                                                              tmp_path: Path):
    folder = campaign.place(tmp_path / "run", epochs=4, steps=1)
    with interpreted():
        counts = campaign.full(folder, 25, 0, None)
    assert counts["full disks"] == 25 and counts["fitted"]
