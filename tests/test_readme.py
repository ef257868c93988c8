"""The README holds: its Python runs from top to bottom, its pictures and links exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def without_number(line: str) -> str:
    """A printed line, but for the number of a line in a file, of which the page is a part."""
    return re.sub(r"line \d+:", "line", line).strip()


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 4
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True,
                          text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "too large by the factor B" in done.stdout
    told = re.findall(r"^```\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    report, program = (next(b for b in told if b.startswith(x)) for x in ("W1: it is", "x = np."))
    printed = [without_number(line) for line in done.stdout.splitlines()]
    assert not [line for line in (report + program).splitlines()
                if without_number(line) not in printed]
    assert (tmp_path / "two_layers.html").exists() and (tmp_path / "kernels.py").exists()


def test_pictures_and_links_exist():
    found = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(found) >= 4
    for target in found:
        assert (ROOT / target).exists(), target


def test_the_command_line_of_the_readme_is_known():
    from codegen.cli import parser

    verbs = set(re.findall(r"^chainrule (\w+)", TEXT, re.MULTILINE))
    text = parser().format_help()
    assert verbs and all(f"    {verb}" in text for verb in verbs)
