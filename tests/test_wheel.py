"""The wheel is whole: built, installed into an empty place, and run from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "chainrule"
    ignore = shutil.ignore_patterns(".git", "*.egg-info", "__pycache__", ".*cache", "build")
    shutil.copytree(ROOT, source, ignore=ignore)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return next(out.glob("chainrule-*.whl"))


def test_wheel_holds_every_module_and_template_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ("derive", "codegen"):
        for path in (ROOT / room).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names
    for path in (ROOT / "templates").iterdir():
        if path.is_file():
            assert f"codegen/templates/{path.name}" in names
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"derive", "codegen"}


def test_installed_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path):
    """Unpacked where nothing else of the checkout is on the path (dependencies are shared)."""
    place, empty = tmp_path / "place", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(place)
    environment = {**os.environ, "PYTHONPATH": str(place)}
    code = (
        "import codegen, derive as dr\n"
        f"assert codegen.__file__.startswith({str(place)!r}), codegen.__file__\n"
        "net = dr.Network('n'); x = net.input('x', 'B', 3); y = net.input('y', 'B', 2)\n"
        "net.loss(dr.squared_error(dr.dense(x, 2, dr.tanh), y)); d = dr.derive(net)\n"
        "d.document('d.html', check=False); codegen.emit(d, 'k.py')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, check=True)
    assert (empty / "d.html").stat().st_size > 1000
    assert (empty / "k.py").stat().st_size > 1000
