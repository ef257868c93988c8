"""Stability: what is computed in a safe form, which derivative is taken at kinks, and how the
gradient's size changes from layer to layer.
"""

from __future__ import annotations

import math
from typing import Any

from derive.conventions import Kink, ledger
from derive.document.forms import Maker
from derive.document.softmax import worked_softmax
from derive.document.tree import Block, Code, Paragraph, Section, Spans, Strong, Table, listed
from derive.functions import REGISTRY, Elementary
from derive.nodes import LogSumExpOver, bound_indices


def stability_section(maker: Maker) -> Section:
    """Safe forms, and the ledger of kinks."""
    words = maker.words
    bodies = [eq.body for eq in maker.program.equations]
    blocks: list[Block] = []
    if any(b.has(LogSumExpOver) for b in bodies):
        blocks.append(Paragraph(words("stability.logsumexp")))
    used = {type(f) for b in bodies for f in b.atoms(Elementary)}
    for cls in REGISTRY.values():
        if cls in used and "stable" in vars(cls) and cls.__name__ != "relu":
            blocks.append(Paragraph(words("stability.safe", function=Code(cls.__name__))))
    forward = {eq.name for eq in maker.forward}
    kinks = [
        (kink, shown) for kink in ledger(maker.program)
        if (shown := [n for n in kink.equations if n in forward and not maker.hidden(n)])
    ]
    if kinks:
        blocks += [Paragraph(words("stability.ledger")), _ledger(maker, kinks),
                   Paragraph(words("stability.kinks"), quiet=True)]
    if not blocks:
        blocks.append(Paragraph(words("stability.none")))
    first = maker.equal_scores
    if first is not None:
        scores, count, loss = first
        blocks.append(Paragraph(words(
            "stability.first", scores=maker.symbol(scores), loss=maker.symbol(loss),
            count=str(count), value=f"{math.log(count):.4f}")))
        blocks += worked_softmax(maker)
    return Section(words("section.stability"), "stability", 1, tuple(blocks))


def _ledger(maker: Maker, kinks: list[tuple[Kink, list[str]]]) -> Table:
    words = maker.words
    rows: list[tuple[Spans, ...]] = []
    for kink, names in kinks:
        at = words("stability.tie") if kink.at == "ties" else (Code(kink.at),)
        taken = words("stability.shared") if kink.at == "ties" else (Code(kink.taken),)
        if kink.function == "selection":
            at, taken = words("stability.border"), words("stability.branch")
        rows.append(((Code(kink.function),), at, taken, maker.refs(names[:6])))
    heads = ("function", "at", "taken", "equations")
    return Table(tuple(words(f"stability.{h}") for h in heads), tuple(rows), "llll")


def flow_section(maker: Maker, flow: Any) -> Section:
    """How signals and gradients flow; ``flow`` is a `derive.flow.diagnose.Diagnosis`, or True to
    make one now."""
    if flow is True:
        from derive.flow.diagnose import diagnose

        flow = diagnose(maker.program.forward)
    words = maker.words
    verdict = words.text(f"flow.{flow.verdict.split()[0]}")
    known = [row for row in flow.rows if math.isfinite(row.signal) and math.isfinite(row.adjoint)]
    told: Spans = (Strong(verdict), *words("stop"), " ")
    for recurrent in flow.recurrences:
        names = listed([(maker.symbol(n),) for n in recurrent.names if n in maker.program.tensors])
        told = (*told, *words("flow.recurrent", names=names, factor=f"{recurrent.factor:.3g}",
                              steps=str(recurrent.steps)), " ")
    blocks: list[Block] = [
        Paragraph(words("flow.intro")),
        Paragraph((*told, *words("flow.factor", factor=f"{flow.factor:.3g}",
                                 total=f"{flow.total:.3g}", count=str(len(flow.rows))))),
    ]
    shown = known if len(known) <= 24 else known[:8] + known[-8:]
    rows = [
        ((maker.symbol(row.layer),) if row.layer in maker.program.tensors else (row.layer,),
         (_size(row.signal),), (_size(row.adjoint),), (_size(row.factor),))
        for row in shown
    ]
    if rows:
        heads = tuple(words(f"flow.{h}") for h in ("layer", "signal", "adjoint", "step"))
        blocks.append(Table(heads, tuple(rows), "lrrr"))
    blocks += _jacobians(maker)
    # what was found and what would mend it, in the words of the diagnosis
    blocks += [Paragraph((str(cause),)) for cause in flow.causes]
    blocks += [Paragraph((f"{'+' if r.works else '−'} {r}",)) for r in flow.remedies]
    return Section(words("section.flow"), "flow", 1, tuple(blocks))


def _jacobians(maker: Maker) -> list[Block]:
    """An element of each layer's Jacobian, and the bound on its spectral norm."""
    from derive.flow.jacobian import layer_jacobians

    found = layer_jacobians(maker.program.forward)
    if not found:
        return []
    made = maker.program.defined
    rows = tuple(
        (("∂", maker.symbol(j.of), "/∂", maker.symbol(j.wrt)),
         (maker.expr(j.expression, (*made[j.of].indices, *bound_indices(made[j.of].body))),),
         (Code(f"{j.slope_bound:g} ‖W‖"),))
        for j in found[:24])
    heads = tuple(maker.words(f"flow.{h}") for h in ("jacobian", "element", "bound"))
    return [Table(heads, rows, "lll")]


def _size(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
