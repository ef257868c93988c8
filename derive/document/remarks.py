"""Remarks behind forward equations: what normalisation, gates and the loss are for, with what
follows from their equations.

What they claim is found by `derive.document.purposes` in the equations, or evaluated.
"""

from __future__ import annotations

import math

import sympy
from sympy import Expr, Mul, S

from derive.document.forms import Maker, batch_size
from derive.document.purposes import Carried, Normalised, carried, normalised
from derive.document.tree import Block, Display, Paragraph, Span, Spans, listed
from derive.nodes import Access, SumOver
from derive.program import Equation
from derive.randomness import uniform

_START = 0.5  # σ(0)


def remarks(maker: Maker, eq: Equation) -> list[Block]:
    """What is said behind a forward equation; nothing in a summary."""
    if maker.detail == "summary":
        return []
    found = normalised(maker.program, eq)
    if found is not None:
        return _quiet(_of_normalisation(maker, eq, found))
    state = carried(maker.program, maker.recurrent.get(eq.name), eq)
    if state is not None:
        return _of_gates(maker, eq, state)
    return _quiet(_of_noise(maker, eq) + _of_scale(maker, eq) + _of_loss(maker, eq))


def gate_meanings(maker: Maker) -> dict[str, Spans]:
    """For the notation: of each gate what it lets through."""
    words = maker.words
    out: dict[str, Spans] = {}
    for eq in maker.forward:
        state = carried(maker.program, maker.recurrent.get(eq.name), eq)
        if state is None:
            continue
        of = maker.symbol(eq.name)
        gates = [(state.keep, "keep", of)]
        gates += [(gate, "write", maker.expr(what, eq.indices)) for what, gate in state.written]
        gates += [(gate, "show", of) for _, _, gate in state.shown]
        gates += [(gate, "reset", of) for gate in state.reset]
        for gate, key, what in gates:
            if isinstance(gate, Access):
                out.setdefault(gate.name, words(f"meaning.gate.{key}", of=what))
        for what, _ in state.written:
            if isinstance(what, Access):
                out.setdefault(what.name, words("meaning.gate.new", of=of))
    return out


def _quiet(found: list[Spans]) -> list[Block]:
    return [Paragraph(spans, quiet=True) for spans in found]


# -- normalisation ------------------------------------------------------------------------------
def _of_normalisation(maker: Maker, eq: Equation, found: Normalised) -> list[Spans]:
    words = maker.words
    symbols: dict[str, Span | Spans] = {
        "of": maker.symbol(found.of), "here": maker.symbol(eq.name),
        "mean": maker.symbol(found.mean), "variance": maker.symbol(found.variance)}
    if not found.over:
        return [words("remark.norm.prediction", **symbols)]
    over = listed([(maker.index(i.name),) for i in found.over])
    symbols |= {"over": over, "count": maker.expr(found.count)}
    kind = _batch_key(maker, found)
    first = maker.told_norms.setdefault((kind, found.eps, found.count), (eq.name, found.of))
    if first[0] != eq.name:  # what is true of both is said once
        said = [words("remark.norm.again", of=symbols["of"], number=maker.ref(first[0]),
                      first=maker.symbol(first[1]))]
    else:
        said = [words("remark.norm.what", **symbols)]
        if found.eps != 0:
            said.append(words("remark.norm.eps", eps=maker.expr(found.eps), **symbols))
        said.append(words("remark.norm.scale", **symbols))
        said.append(words(kind, **_one_sample(maker, found), **symbols))
    if found.kept:
        numbers = maker.refs(maker.program.updates[s] for s in found.kept)
        said.append(words("remark.norm.kept", numbers=numbers, **symbols,
                          states=listed([(maker.symbol(s),) for s in found.kept])))
    if found.cancelled:
        names = listed([(maker.symbol(n),) for n in found.cancelled])
        said.append(words("remark.norm.cancelled", names=names, **symbols))
    if maker.detail == "full" and first[0] == eq.name:
        said.append(words("remark.norm.why"))
    return said


def _batch_key(maker: Maker, found: Normalised) -> str:
    """Which of three cases it is: within a sample, over samples alone, over samples and places."""
    batch = batch_size(maker.program)
    if batch is None or batch not in [i.size for i in found.over]:
        return "remark.norm.sample"
    return "remark.norm.one" if found.count.xreplace({batch: S.One}) == 1 else "remark.norm.places"


def _one_sample(maker: Maker, found: Normalised) -> dict[str, Spans]:
    batch = batch_size(maker.program)
    left = found.count if batch is None else found.count.xreplace({batch: S.One})
    return {"left": (maker.expr(left),)}


# -- gates ----------------------------------------------------------------------------------------
def _of_gates(maker: Maker, eq: Equation, state: Carried) -> list[Block]:
    words, own = maker.words, eq.indices
    of = maker.symbol(eq.name)

    def shown(expr: Expr) -> Spans:
        return (maker.expr(expr, own),)

    said = [words("remark.gate.keep", gate=shown(state.keep), of=of)]
    said += [words("remark.gate.write", gate=shown(gate), what=shown(what), of=of)
             for what, gate in state.written]
    said += [words("remark.gate.reset", gate=shown(gate), of=of) for gate in state.reset]
    said += [words("remark.gate.show", gate=shown(gate), what=shown(what), of=of,
                   shown=maker.symbol(name)) for name, what, gate in state.shown]
    blocks = _quiet(said)
    blocks.append(Paragraph(words("remark.gate.way", of=of), quiet=True))
    blocks.append(Display((((), maker.derivative(eq.target, state.last, state.keep, own)),)))
    return [*blocks, Paragraph(_along(maker, state), quiet=True)]


def _along(maker: Maker, state: Carried) -> Spans:
    """How much of an adjoint passes the gates, from the last step to the first."""
    if not state.steps.is_Integer or state.steps < 2:
        return maker.words("remark.gate.any")
    count = int(state.steps) - 1
    needed = 0.5 ** (1 / count)
    argument = math.log(needed / (1 - needed)) if needed < 1 else math.inf
    return maker.words(
        "remark.gate.along", steps=str(count + 1), count=str(count), start=f"{_START:g}",
        half=f"{_START ** count:.2g}", needed=f"{needed:.3g}", argument=f"{argument:.2g}")


# -- noise, dot products that are scaled, the loss ------------------------------------------------
def _of_noise(maker: Maker, eq: Equation) -> list[Spans]:
    """Of an equation that draws: that what is drawn is read like data; and what a normal is."""
    if not eq.body.has(uniform):
        return []
    read = [(maker.symbol(n),) for n in eq.reads
            if maker.program.tensors[n].role in ("intermediate", "parameter")]
    said = [maker.words("remark.noise", here=maker.symbol(eq.name), read=listed(read))] \
        if read else []
    normal = any(c.args[0].has(uniform) for c in eq.body.atoms(sympy.cos)) and any(
        c.args[0].has(uniform) for c in eq.body.atoms(sympy.log))
    return said + ([maker.words("remark.normal")] if normal else [])


def _of_scale(maker: Maker, eq: Equation) -> list[Spans]:
    """Of a sum of products over n, divided by the root of n, as attention has it."""
    number, rest = eq.body.as_coeff_Mul()
    root, total = rest.as_independent(SumOver, as_Add=False)
    if not isinstance(total, SumOver):
        return []
    count = Mul(*(i.size for i in total.bound))
    factors = [f for f in Mul.make_args(total.body) if isinstance(f, Access)]
    if len(factors) != 2 or total.body != Mul(*factors) or (number * root) ** 2 * count != 1 \
            or count == 1 or any(maker.program.tensors[f.name].role == "parameter"
                                 for f in factors):
        return []
    return [maker.words("remark.scale", count=maker.expr(count), here=maker.symbol(eq.name),
                        over=listed([(maker.index(i.name),) for i in total.bound]))]


def _of_loss(maker: Maker, eq: Equation) -> list[Spans]:
    if eq.name not in maker.program.losses:
        return []
    first = maker.equal_scores
    if first is None or first[2] != eq.name or not maker.log_loss:
        return []
    scores, count, loss = first
    return [maker.words(
        "remark.loss", loss=maker.symbol(loss), scores=maker.symbol(scores), count=str(count),
        value=f"{math.log(count):.4f}")]
