"""Program → document tree: the order in which a derivation is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import derive
from derive.document.backward import backward_section
from derive.document.blackboard import numbers_section
from derive.document.checks import check_section
from derive.document.costs import cost_section
from derive.document.forms import Maker
from derive.document.frozen import frozen_section
from derive.document.picture import graph_section
from derive.document.sections import (
    conventions_section,
    forward_section,
    kernel_section,
    notation_section,
    optimizer_section,
    result_section,
    rules_section,
)
from derive.document.stability import flow_section, stability_section
from derive.document.tree import Block, Document, Equation, Section, Words
from derive.errors import DeclarationError
from derive.messages import catalogue
from derive.naming import printable
from derive.program import Program
from derive.symbols import Style

DETAILS = ("summary", "standard", "full")


def build_document(
    program: Program,
    *,
    lang: str = "en",
    detail: str = "standard",
    check: object = False,
    kernel: str | None = None,
    optimizer: object = None,
    values: Mapping[str, Any] | None = None,
    flow: object = False,
    style: Style | None = None,
) -> Document:
    """The document of a derived program; see `derive.document.write_document`."""
    catalogue(lang)
    if detail not in DETAILS:
        raise DeclarationError(
            f"there is no level of detail {detail!r}", expected=" or ".join(DETAILS)
        )
    style = style or Style()
    words = Words(lang, style.adjoint)
    maker = Maker(program, words, detail, style)
    forward = forward_section(maker)
    backward = backward_section(maker)
    after = dict(zip(_in_order(maker), _equations(backward), strict=False))
    sections: list[Section] = [result_section(maker, after)] if program.gradients else []
    if detail != "summary":
        sections += [notation_section(maker), conventions_section(maker)]
    sections += [graph_section(maker), forward]
    if maker.story:
        sections.append(backward)
    if values is not None:
        sections.append(numbers_section(maker, values))
    if check is not False and check is not None:
        sections.append(check_section(maker, check))
    if detail != "summary":
        sections.append(stability_section(maker))
    if flow is not False and flow is not None:
        sections.append(flow_section(maker, flow))
    if detail != "summary":
        if optimizer is not None:
            sections.append(optimizer_section(maker, optimizer))
        sections.append(cost_section(maker))
        frozen = frozen_section(maker)
        sections += [frozen] if frozen is not None else []
    if kernel is not None:
        sections.append(kernel_section(maker, kernel))
    if detail != "summary" and maker.rules:
        sections.append(rules_section(maker))
    made = words.text("made", version=derive.__version__, hash=program.hash)
    title = words.text("title", name=printable(program.name))
    return Document(title, lang, made, tuple(sections), words)


def _in_order(maker: Maker) -> list[str]:
    forward = {eq.name for eq in maker.forward}
    return [name for name in maker.numbers if name not in forward]


def _equations(section: Section) -> list[Equation]:
    found: list[Equation] = []

    def walk(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            if isinstance(block, Equation):
                found.append(block)
            elif isinstance(block, Section):
                walk(block.blocks)

    walk(section.blocks)
    return found
