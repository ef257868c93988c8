"""LaTeX → PDF through a TeX found on this machine, shut off from the shell and from other files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from derive.document.tex import tex_text
from derive.document.tree import Document
from derive.errors import ChainruleError, MissingError

_SECONDS = 240
# pdfTeX stops at a letter that no font has; XeTeX leaves it out
_UNKNOWN = re.compile(r"Unicode character (.) \(U\+|Missing character: There is no (.)")
_PACKAGES = "texlive-latex-recommended texlive-latex-extra texlive-pictures lmodern"


def pdf_bytes(document: Document) -> bytes:
    """The document as PDF.

    Raises:
        MissingError: no TeX, or a package of it, is on this machine.
        ChainruleError: a letter of a name is in none of TeX's fonts.
    """
    source = tex_text(document)
    chinese = r"{ctexart}" in source
    engine = _engine(chinese)
    with tempfile.TemporaryDirectory(prefix="chainrule-tex-") as folder:
        file = Path(folder) / "document.tex"
        file.write_text(source, encoding="utf-8")
        _run(engine, file)
        for _ in range(4):  # until references and the widths of tables stand still
            if "Rerun" not in _run(engine, file):
                break
        return file.with_suffix(".pdf").read_bytes()


def _engine(chinese: bool) -> str:
    """xelatex for Chinese, else pdflatex."""
    wanted = ("xelatex",) if chinese else ("pdflatex", "lualatex", "xelatex")
    found = next((path for name in wanted if (path := shutil.which(name))), None)
    more = " texlive-xetex texlive-lang-chinese" if chinese else ""
    if found is None:
        raise MissingError(
            f"there is no {wanted[0]} on this machine, so no PDF can be made",
            expected="a TeX distribution",
            mend=f"apt-get install {_PACKAGES}{more}; or write .html or .tex instead",
        )
    return found


def _run(engine: str, file: Path) -> str:
    """One run, and what it said; TeX may neither call a program nor reach outside its folder."""
    # TeX keeps its fonts in the home folder of who runs it, which it must still find
    keep = {k: os.environ[k] for k in ("PATH", "HOME", "LANG", "TEXMFHOME", "TEXMFVAR")
            if k in os.environ}
    done = subprocess.run(
        [engine, "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=file.parent, capture_output=True, timeout=_SECONDS, check=False,
        env={**keep, "openin_any": "p", "openout_any": "p", "max_print_line": "1000"},
    )
    log = done.stdout.decode(errors="replace")
    unknown = _UNKNOWN.search(log)
    if unknown:
        letter = unknown[1] or unknown[2]
        raise ChainruleError(
            f"TeX's fonts have no {letter!r}", expected="Latin, Greek or Chinese letters in a PDF",
            got=f"U+{ord(letter):04X}",
            mend='dr.Style(names={"…": "w"}) prints a name in other letters; .html, .md and .ipynb '
                 "show every script")
    if done.returncode == 0:
        return log
    lines = [line for line in log.splitlines() if line.startswith("!")] or [log[-400:]]
    if "not found" in lines[0]:
        raise MissingError(
            f"TeX lacks a package: {lines[0].lstrip('! ')}",
            mend=f"apt-get install {_PACKAGES} texlive-lang-chinese; or write .html instead",
        )
    raise ChainruleError("TeX could not set the document", got=lines[0].lstrip("! "),
                         mend="please report this; .html and .md do not need TeX")
