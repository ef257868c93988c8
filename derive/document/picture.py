"""The picture of the computation, from the forward equations of a program."""

from __future__ import annotations

from collections.abc import Callable

from derive.document.forms import Maker
from derive.document.tree import Figure, Section
from derive.graph import Node, Picture, draw


def graph_section(maker: Maker) -> Section:
    """The picture of the computation, with its caption."""
    caption = maker.words("graph.caption")
    picture = graph_picture(maker)
    if any(node.count > 1 for node in picture.nodes):
        caption = (*caption, " ", *maker.words("graph.folded"))
    if {eq.name for eq in maker.forward} - _shown(maker):
        caption = (*caption, " ", *maker.words("graph.beside"))
    return Section(maker.words("section.graph"), "graph", 1, (Figure(picture, caption),))


def _shown(maker: Maker) -> set[str]:
    """All that the network computes with, without the statistics that are only kept beside it."""
    program = maker.program
    group = {eq.name: k for k, group in enumerate(program.groups) for eq in group.equations}
    read = {name for eq in maker.forward for name in eq.reads if group.get(name) != group[eq.name]}
    ends = {eq.name for eq in maker.forward} - read - set(program.updates.values())
    return {name for eq in program.only(*ends).equations for name in (eq.name, *eq.reads)}


def graph_picture(maker: Maker, value: Callable[[str], str] = lambda name: "") -> Picture:
    """The graph of the forward equations; ``value`` gives what is written under a symbol."""
    program = maker.program
    nodes: list[Node] = []
    keys: dict[str, str] = {}
    needed = _shown(maker)
    order = [t for t in program.tensors if t in needed and t not in program.defined]
    order += [eq.name for eq in program.equations if eq.name in needed]
    for name in order:
        if maker.folding.places.get(name) and maker.hidden(name):
            partner = maker.folding.partner(name, maker.folding.places[name].fold.shown)
            keys[name] = partner or name
            continue
        keys[name] = name
        maker.fold = maker.fold_of(name)
        count = maker.fold.count if maker.fold and name in program.defined else 1
        tensor = program.tensors[name]
        kind = "loss" if name in program.losses else tensor.role
        adjoint = _adjoint_name(maker, name)
        label = maker.label(adjoint) if adjoint else None
        nodes.append(Node(name, maker.label(name), label, kind, maker.number_of(name), count,
                          value(name), value(adjoint) if adjoint else ""))
        maker.fold = None
    arrows = [(keys[r], keys[eq.name])
              for eq in maker.forward if eq.name in keys for r in eq.reads if r in keys]
    for name in order:  # a gradient that the network reads
        of = program.tensors[name].origin or ("", "")
        if of[0] == "adjoint":
            arrows += [(keys[a], name) for a in (maker.plain.scalars.get(name), of[1]) if a in keys]
    position = {node.key: k for k, node in enumerate(nodes)}
    together = {eq.name: group for group in program.groups if group.recurrent
                for eq in group.equations}  # a recurrence has arrows that lead back
    arrows = [
        (a, b) for a, b in dict.fromkeys(arrows)
        if a != b and (position[a] < position[b] or (
            a in together and together[a] is together.get(b)))
    ]
    return draw(nodes, arrows)


def _adjoint_name(maker: Maker, name: str) -> str | None:
    made = maker.program.gradients.get(name, f"_d_{name.lstrip('_')}")
    return made if made in maker.program.tensors else None
