"""A diagnosis as text, and the plain data of the section in a derivation document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from derive.flow.propagate import propagate
from derive.program import Program, as_program

if TYPE_CHECKING:
    from derive.flow.diagnose import Diagnosis
    from derive.flow.layerwise import Row

_ASSUMED = (
    "Forecast for wide layers with independent weights of mean 0 at the start of training; "
    "the adjoint that arrives is taken as independent of the weights before it."
)


def diagnosis_text(d: Diagnosis) -> str:
    """The report: verdict, causes, a table of layers, remedies, what is not known."""
    lines = [f"{d.name}: {_headline(d)}", ""]
    lines += [f"  why   {c}" for c in d.causes]
    if d.causes:
        lines.append("")
    lines += _table(d.rows)
    if d.recurrences:
        lines.append("")
    for r in d.recurrences:
        lines.append(f"  recurrence {', '.join(r.names)}: factor {r.factor:.4g} per step, "
                     f"{r.total:.3g} over {r.steps} steps")
    if d.remedies:
        lines += ["", "  what would mend it, derived again:"]
        lines += [f"  {'+' if r.works else '-'} {r}" for r in d.remedies]
    lines += ["", *(f"  not known: {n}: {w}" for n, w in list(d.unknown.items())[:5])]
    sizes = ", ".join(f"{k} = {v}" for k, v in d.sizes.items())
    lines.append(f"  {_ASSUMED}" + (f" Sizes: {sizes}." if sizes else ""))
    return "\n".join(lines)


def _headline(d: Diagnosis) -> str:
    text = d.verdict
    if math.isfinite(d.total) and len(d.rows) > 1:
        text += (f"; the adjoint's rms changes by {d.factor:.4g} per layer, {d.total:.3g} "
                 f"over {len(d.rows)} layers")
    if d.factor < 1 and math.isfinite(d.depth_limit) and d.verdict.startswith("vanishing"):
        text += f"; below float32 after {d.depth_limit:.0f} layers"
    return text


def _table(rows: tuple[Row, ...]) -> list[str]:
    measured = any(r.measured_adjoint is not None for r in rows)
    head = f"  {'layer':<12}{'signal':>11}{'adjoint':>11}{'factor':>9}" + "E[f'^2]".rjust(10)
    if measured:
        head += f"{'measured: signal':>18}{'adjoint':>11}{'ratio':>8}"
    lines = [head]
    shown = rows if len(rows) <= 24 else (*rows[:8], None, *rows[-8:])
    for row in shown:
        lines.append("  …" if row is None else _line(row, measured))
    return lines


def _line(r: Row, measured: bool) -> str:
    text = f"  {r.layer:<12}{r.signal:>11.3e}{r.adjoint:>11.3e}{_cell(r.factor, 9)}"
    text += _cell(r.slope, 10)
    if measured:
        ratio = r.measured_adjoint / r.adjoint if r.measured_adjoint and r.adjoint else None
        text += (_cell(r.measured_signal, 18, ".3e") + _cell(r.measured_adjoint, 11, ".3e")
                 + _cell(ratio, 8))
    return text


def _cell(value: float | None, width: int, form: str = ".4g") -> str:
    return f"{'' if value is None else format(value, form):>{width}}"


def flow_section(program: Program, **options: Any) -> dict[str, Any]:
    """The document's section on how signals and gradients flow, as plain data.

    Args:
        program: a derived program (relations of adjoints too) or a network.
        options: as for `diagnose` (``inputs``, ``weights``, ``sizes``, ``measured``).

    Returns:
        ``title``; ``text`` (paragraphs); ``columns`` and ``rows`` (tensor, kind, second moment,
        mean, reason); ``relations`` the same with SymPy expressions; ``diagnosis`` as plain
        data; ``picture`` an SVG.
    """
    from derive.differentiate import derive
    from derive.flow.diagnose import diagnose

    program = as_program(program)
    derived = program if program.gradients else derive(program)
    flow = propagate(derived)
    relations = [r for r in flow.relations.values() if r.kind not in ("given",)]
    verdict = diagnose(program.forward if program.gradients else program, **options)
    return {
        "title": "How signals and gradients flow",
        "text": [_ASSUMED, f"{verdict.name}: {_headline(verdict)}", *verdict.causes,
                 *map(str, verdict.remedies)],
        "columns": ["tensor", "kind", "second moment", "mean", "why"],
        "rows": [[r.name, r.kind, str(r.second), str(r.mean), r.why] for r in relations],
        "relations": relations,
        "diagnosis": verdict.to_dict(),
        "picture": verdict.picture(),
    }
