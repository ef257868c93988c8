"""The house itself: lint, types, arrows between rooms, lazy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"derive": {"derive"}, "codegen": {"derive", "codegen"}, "templates": set()}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_lint():
    done = run(sys.executable, "-m", "ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout


def test_types():
    done = run(sys.executable, "-m", "mypy")
    assert done.returncode == 0, done.stdout


def modules() -> list[Path]:
    return [p for room in MAY_IMPORT for p in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path):
    room = path.relative_to(ROOT).parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            assert top not in MAY_IMPORT or top in MAY_IMPORT[room], f"{path}: imports {name}"


@pytest.mark.parametrize("package", ["derive", "codegen"])
def test_import_brings_neither_sympy_nor_numba(package: str):
    code = f"import {package}, sys; print([m for m in ('sympy', 'numba') if m in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_emission_does_without_numba(tmp_path: Path):
    code = ("import sys, codegen, derive as dr; net = dr.Network('n'); x = net.input('x', 'B', 3); "
            "net.loss(dr.cross_entropy(dr.dense(x, 2), net.input('t', 'B', dtype=int))); "
            "codegen.emit(dr.derive(net), sys.argv[1]); print('numba' in sys.modules)")
    done = run(sys.executable, "-c", code, str(tmp_path / "kernels.py"))
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_every_public_name_exists():
    import derive

    for name in derive.__all__:
        assert getattr(derive, name) is not None


def test_a_mistyped_public_name_suggests_the_nearest():
    import derive

    with pytest.raises(AttributeError, match="did you mean 'cross_entropy'"):
        derive.cross_entropi  # noqa: B018
