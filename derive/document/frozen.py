"""The section on freezing: what the backward pass leaves out, and what that saves."""

from __future__ import annotations

from derive.cost import pretty_count
from derive.document.forms import Maker
from derive.document.tree import Block, Paragraph, Section, Spans, Table, listed
from derive.freezing import Savings, savings
from derive.program import Program

_ROWS = ("equations", "operations", "functions", "adjoints", "kept", "gradients")
_MOST = 24  # names in a sentence


def frozen_section(maker: Maker) -> Section | None:
    """What vanished beside the gradient of every parameter, or None where nothing is frozen."""
    program, words = maker.program, maker.words
    if not _some_frozen(program):
        return None
    saved = savings(program)
    rows = tuple(
        (words(f"frozen.{row}"), (pretty_count(getattr(saved.now, row)),),
         (pretty_count(getattr(saved.full, row)),))
        for row in _ROWS)
    heads = (words("frozen.load"), words("frozen.now"), words("frozen.all"))
    blocks: list[Block] = [
        Paragraph(words("frozen.intro", names=_symbols(maker, saved.frozen))),
        Paragraph(words("frozen.vanished", names=_symbols(maker, _of(program, saved)))),
        Table(heads, rows, "lrr", True),
    ]
    return Section(words("section.frozen"), "frozen", 1, tuple(blocks))


def _some_frozen(program: Program) -> bool:
    if len(program.losses) != 1 or not program.gradients:
        return False
    reached = program.only(program.losses[0]).parameters
    names = {t.name for t in reached}
    return set(program.gradients) < names


def _of(program: Program, saved: Savings) -> tuple[str, ...]:
    """The tensors whose adjoints vanished."""
    found = dict.fromkeys(n.removeprefix("_d_") for n in saved.vanished)
    return tuple(n for n in found if n in program.tensors)


def _symbols(maker: Maker, names: tuple[str, ...]) -> Spans:
    shown = listed([(maker.symbol(n),) for n in names[:_MOST]])
    if len(names) <= _MOST:
        return shown
    return (*shown, *maker.words("frozen.more", count=str(len(names) - _MOST)))
