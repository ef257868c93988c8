"""The table of numeric checks."""

from __future__ import annotations

from typing import Any

from derive.document.forms import Maker
from derive.document.tree import (
    Code,
    Paragraph,
    Section,
    Spans,
    Strong,
    Table,
)


def check_section(maker: Maker, check: Any) -> Section:
    """``check`` is a `derive.check.Report`, or True to make one now."""
    from derive.check import check as run

    report = run(maker.program) if check is True else check
    words = maker.words
    rows: list[tuple[Spans, ...]] = []
    for row in report.rows:
        verdict: Spans = (Strong(words.text(f"check.{row.verdict}")),)
        known = row.name in maker.program.tensors
        rows.append((
            (maker.symbol(row.name),) if known else (Code(row.name),),
            (str(row.method),), (str(row.checked),), (_tiny(row.error),),
            (_tiny(row.tolerance),), (Code(str(row.worst)),), verdict,
        ))
    heads = ("parameter", "method", "directions", "error", "bar", "worst", "verdict")
    table = Table(tuple(words(f"check.{h}") for h in heads), tuple(rows), "llrrrll")
    sizes = ", ".join(f"{name} = {value}" for name, value in report.sizes.items())
    seed = words("check.seed", seed=str(report.seed))
    tail: Spans = (*seed, " ", *words("check.sizes", sizes=sizes)) if sizes else seed
    return Section(words("section.check"), "check", 1,
                   (Paragraph(words("check.intro")), table, Paragraph(tail, quiet=True)))


def _tiny(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
