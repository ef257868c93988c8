"""What each equation costs, and all of them."""

from __future__ import annotations

from derive.cost import Cost, equation_cost, pretty_count, stored_bytes, total_cost
from derive.document.forms import Maker
from derive.document.tree import Paragraph, Section, Spans, Table


def cost_section(maker: Maker) -> Section:
    words = maker.words
    rows: list[tuple[Spans, ...]] = []
    forward = {eq.name for eq in maker.forward}
    totals: dict[bool, list[Cost]] = {True: [], False: []}
    for eq in maker.program.equations:
        if maker.hidden(eq.name):
            continue
        maker.fold = maker.fold_of(eq.name)
        cost = equation_cost(eq, maker.program)
        count = 1
        if maker.fold is not None:
            first, last = maker.folding.range_of(eq.name)
            count = last - first + 1
        totals[eq.name in forward].append(cost.times(count))
        if maker.number_of(eq.name):
            times: Spans = (f" × {count}",) if count > 1 else ()
            rows.append(((maker.ref(eq.name), " ", maker.symbol(eq.name), *times),
                         *_counts(cost)))
        maker.fold = None
    rows.append((words("cost.forward"), *_counts(total_cost(totals[True]))))
    rows.append((words("cost.backward"), *_counts(total_cost(totals[False]))))
    heads = ("equation", "operations", "functions", "bytes")
    table = Table(tuple(words(f"cost.{h}") for h in heads), tuple(rows), "lrrr", True)
    stored = Paragraph(words("cost.stored", bytes=pretty_count(stored_bytes(maker.program))))
    return Section(words("section.cost"), "cost", 1,
                   (Paragraph(words("cost.intro")), table, stored))


def _counts(cost: Cost) -> tuple[Spans, Spans, Spans]:
    return ((pretty_count(cost.operations),), (pretty_count(cost.functions),),
            (pretty_count(cost.bytes),))
