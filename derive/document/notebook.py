"""The document as a Jupyter notebook (nbformat 4.5) that rebuilds the network and checks itself.

The network stands in the first code cell as text, so that the notebook needs nothing but
chainrule; formulas stand between dollar signs, as Jupyter draws them.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from derive.document import tree as t
from derive.document.markdown import _block, plain
from derive.naming import printable
from derive.netwrite import write_network
from derive.nodes import Access
from derive.program import Program

_INLINE = re.compile(r"\$`(.+?)`\$")
_DISPLAY = re.compile(r"^(> )?```math\n(.*?)\n(?:> )?```$", re.DOTALL | re.MULTILINE)


def notebook_text(document: t.Document, program: Program) -> str:
    """The text of an .ipynb file."""
    words = document.words
    cells = [_markdown(f"# {plain(document.title)}")]
    named = _nameable(program.forward)
    network = write_network(replace(named, name=printable(named.name)))
    cells += [_markdown(words.text("notebook.setup")), _code(
        "import derive as dr\n"
        "from derive.check import check\n"
        "from derive.netfile import parse_network\n\n"
        f"network = parse_network({_literal(network)})\n"
        "d = dr.derive(network)\n"
        "print(d)"
    )]
    for section in document.sections:
        cells += _section(section)
    cells += [_markdown(words.text("notebook.check")), _code(
        "report = check(d)\n"
        "print(report)\n"
        "assert report.ok"
    )]
    cells.append(_markdown(f"*{plain(document.made)}*"))
    return json.dumps({
        "cells": [{"id": f"cell-{k}", **cell} for k, cell in enumerate(cells)],
        "metadata": {
            "chainrule": "written by chainrule",
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4, "nbformat_minor": 5,
    }, ensure_ascii=False, indent=1) + "\n"


def _section(section: t.Section) -> list[dict[str, Any]]:
    """A cell for a section, and one for each of its subsections."""
    own = tuple(b for b in section.blocks if not isinstance(b, t.Section))
    cells = [_markdown(_drawn(_block(replace(section, blocks=own))))]
    for block in section.blocks:
        if isinstance(block, t.Section):
            cells.append(_markdown(_drawn(_block(block))))
    return cells


def _drawn(markdown: str) -> str:
    """Formulas as Jupyter reads them, in place of GitHub's way."""
    shown = _DISPLAY.sub(
        lambda m: f"{m[1] or ''}$$\n{m[2]}\n{m[1] or ''}$$", markdown)  # framed: quoted
    return _INLINE.sub(lambda m: f"${m[1]}$", shown)


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
            "source": text.splitlines(keepends=True)}


def _literal(text: str) -> str:
    """A string literal of several lines; what could end it is escaped."""
    body = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\n{body}"""'


def _nameable(program: Program) -> Program:
    """The program with generated tensors under names that a user may declare."""
    taken = set(program.tensors)
    names: dict[str, str] = {}
    for name in program.tensors:
        if name.startswith("_"):
            new = name.lstrip("_")
            while new in taken:
                new += "_"
            taken.add(new)
            names[name] = new
    if not names:
        return program

    def renamed(expr: Any) -> Any:
        return expr.replace(
            lambda e: isinstance(e, Access) and e.name in names,
            lambda e: type(e)(names[e.name], *e.where),
        )

    tensors = {
        names.get(n, n): replace(t_, name=names.get(n, n), origin=None)
        for n, t_ in program.tensors.items()
    }
    equations = tuple(
        replace(eq, tensor=tensors[names.get(eq.name, eq.name)], body=renamed(eq.body))
        for eq in program.equations
    )
    return replace(program, tensors=tensors, equations=equations, declared=())
