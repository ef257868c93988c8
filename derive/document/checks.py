"""Numbers in a document: the table of numeric checks, and a small network worked with values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from derive.document.forms import Maker
from derive.document.tree import (
    Block,
    Code,
    Coloured,
    Paragraph,
    Section,
    Spans,
    Strong,
    Table,
    listed,
)
from derive.errors import DataError

_MOST = 24  # values that a blackboard has room for, in one tensor


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


def numbers_section(maker: Maker, values: Mapping[str, Any]) -> Section:
    """Every tensor's value at a point, and the gradient that flows back through it.

    Raises:
        DataError: a tensor has too many values to be worked by hand.
    """
    from derive.reference import evaluate

    program, words = maker.program, maker.words
    found = {**{k: np.asarray(v) for k, v in values.items()}, **evaluate(program, values)}
    rows = []
    shown = [*(t.name for t in program.given), *(eq.name for eq in maker.forward)]
    for name in shown:
        value = found[name]
        if value.size > _MOST:
            raise DataError(
                f"{name!r} has {value.size} values: too many to work with numbers",
                expected=f"at most {_MOST} values in each tensor",
            )
        adjoint = program.gradients.get(name, f"_d_{name.lstrip('_')}")
        back: Spans = (Coloured(_values(found[adjoint]), "backward"),) if adjoint in found else ()
        number: Spans = (maker.ref(name),) if name in maker.numbers else ()
        rows.append((number, (maker.symbol(name),), (Coloured(_values(value), "forward"),), back))
    head = ((), words("numbers.name"), words("numbers.value"), words("numbers.gradient"))
    table = Table(head, tuple(rows), "clll")
    blocks: list[Block] = [Paragraph(words("numbers.intro")), table]
    return Section(words("section.numbers"), "numbers", 1, tuple(blocks))


def _values(array: np.ndarray) -> str:
    """Values as they would be written on a board: five digits."""
    if array.ndim == 0:
        return _number(float(array))
    if array.ndim == 1:
        return "(" + ", ".join(_number(float(v)) for v in array) + ")"
    return "; ".join(_values(part) for part in array)


def _number(value: float) -> str:
    text = f"{value:.5g}"
    return text.replace("-", "−")


__all__ = ["check_section", "listed", "numbers_section"]
