"""What stands in README and docs beside Python is true too: command lines, settings, output."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from codegen.cli import parser
from codegen.configuration import read_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"),
                *(ROOT / "docs" / "howto").glob("*.md")])
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
#: how a fenced block may begin: what the tests know how to run or to read
KINDS = {"", "python", "toml", "{toctree}"}


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the inside."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


COMMANDS = [(page, line) for page, text in TEXTS.items() for _, body in blocks(text)
            for line in body.splitlines() if re.match(r"chainrule \w", line)]
SETTINGS = [(page, body) for page, text in TEXTS.items() for kind, body in blocks(text)
            if kind == "toml"]


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_has_no_block_of_a_kind_that_no_test_reads(page):
    assert {kind for kind, _ in blocks(TEXTS[page])} <= KINDS


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_line_is_one(page, line):
    words = shlex.split(line.replace("rows/", "rows"), comments=True)
    parser().parse_args(words[1:])  # leaves with an error where it knows no such verb or option


@pytest.mark.parametrize(("page", "text"), SETTINGS)
def test_settings_are_read(tmp_path, page, text):
    file = tmp_path / "run.toml"
    file.write_text("" if "model =" in text else 'model = "net.py"\n', encoding="utf-8")
    with file.open("a", encoding="utf-8") as out:
        out.write(text if "source =" in text else text + '\n[data]\nsource = "digits"\n')
    read_config(file)
