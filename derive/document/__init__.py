"""Documents: the derivation of a program as HTML, LaTeX, PDF, Markdown or a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from derive.document.build import build_document
from derive.document.tree import Document
from derive.errors import DataError, DeclarationError, nearest
from derive.files import write_atomically
from derive.program import Program, as_program
from derive.symbols import Style

MARK = "chainrule"  # stands inside every file that is written, so that it may be overwritten


def write_document(
    program: Program,
    path: str | os.PathLike[str],
    *,
    lang: str = "en",
    detail: str = "standard",
    check: object = False,
    kernel: str | None = None,
    optimizer: object = None,
    values: Mapping[str, Any] | None = None,
    flow: object = False,
    style: Style | None = None,
    force: bool = False,
) -> Path:
    """Write the derivation of a program; the ending of ``path`` says in which form.

    Args:
        program: a derived program (or a network, which is derived first).
        path: a name in .html, .tex, .pdf, .md or .ipynb.
        lang: "en" or "zh".
        detail: "summary" (the results and the recursion), "standard", or "full" (every step of
            algebra that was recorded).
        check: True to check the gradients numerically now, or a `derive.check.Report`.
        kernel: the text of an emitted kernel, printed as it is.
        optimizer: a `derive.optimizers.Optimizer`, whose step is printed.
        values: arrays for everything that is given, to work a small network with numbers.
        flow: True to forecast how signals and gradients flow at the start of training (see
            `derive.diagnose`), or a diagnosis.
        style: the reader's own notation: names, accents, layout.
        force: overwrite a file that was not written by this tool.

    Returns:
        The path written.

    Raises:
        DeclarationError: an unknown ending, language or level of detail.
        DataError: the file exists and was not written by this tool, or the values do not fit.
        MissingError: a PDF is wanted and there is no TeX on this machine.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _WRITERS:
        guess = nearest(ending, _WRITERS)
        raise DeclarationError(
            f"{str(path)!r} ends in {ending or 'nothing'!r}",
            expected="a name in " + ", ".join(_WRITERS),
            mend=f"did you mean {path.with_suffix(guess)}?" if guess else None,
        )
    may_write(path, force)
    program = as_program(program)
    if not program.gradients and program.losses:
        from derive.differentiate import derive

        program = derive(program)
    document = build_document(program, lang=lang, detail=detail, check=check, kernel=kernel,
                              optimizer=optimizer, values=values, flow=flow,
                              style=style)
    write_atomically(path, _WRITERS[ending](document, program))
    return path


def equation_numbers(program: Program) -> dict[str, int]:
    """The number that each equation has in the document, by the name of its target, so that the
    comments of a kernel can cite it; layers alike share their numbers."""
    from derive.document.backward import backward_section
    from derive.document.forms import Maker
    from derive.document.sections import forward_section
    from derive.document.tree import Words

    maker = Maker(program, Words("en"), "summary", Style())
    forward_section(maker)
    backward_section(maker)
    found = {eq.name: maker.number_of(eq.name) for eq in program.equations}
    return {name: number for name, number in found.items() if number is not None}


def may_write(path: Path, force: bool) -> None:
    """Refuse to overwrite a file that this tool did not write."""
    if force or not path.exists():
        return
    content = path.read_bytes() if path.is_file() else b""
    if MARK.encode() not in content[:4096] and MARK.encode() not in content[-4096:]:
        raise DataError(
            f"{str(path)!r} exists and was not written by chainrule",
            expected="a new name, or a file that was", mend="another name, or force=True "
            "(--force)",
        )


def _html(document: Document, program: Program) -> bytes:
    from derive.document.html import html_text

    return html_text(document).encode()


def _tex(document: Document, program: Program) -> bytes:
    from derive.document.tex import tex_text

    return tex_text(document).encode()


def _pdf(document: Document, program: Program) -> bytes:
    from derive.document.pdf import pdf_bytes

    return pdf_bytes(document)


def _markdown(document: Document, program: Program) -> bytes:
    from derive.document.markdown import markdown_text

    return markdown_text(document).encode()


def _notebook(document: Document, program: Program) -> bytes:
    from derive.document.notebook import notebook_text

    return notebook_text(document, program).encode()


_WRITERS: dict[str, Callable[[Document, Program], bytes]] = {
    ".html": _html, ".tex": _tex, ".pdf": _pdf, ".md": _markdown, ".ipynb": _notebook,
}  # fmt: skip
