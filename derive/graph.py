"""The picture of a computation: tensors in layers from inputs to the loss, as SVG and as TikZ.

Layered drawing (Sugiyama, Tagawa and Toda 1981): each node one layer below the last one that it
reads, crossings lessened by sorting each layer by the mean place of its neighbours, given tensors
pulled down to just above where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from derive.boxes import Accent, Box, Fence, Frac, Row, Script, Space, Token, width
from derive.latex import box_latex

_HEIGHT, _ROW, _GAP = 46.0, 84.0, 22.0  # of a node, between layers, between nodes (in px)
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "dot": "\u0307", "vec": "\u20d7"}


@dataclass(frozen=True)
class Node:
    """A tensor: its symbol, its adjoint's symbol below, the equation that it links to; with a
    value under either where the network is worked with numbers."""

    key: str
    label: Box
    adjoint: Box | None = None
    kind: str = "intermediate"  # or "input", "parameter", "loss", …
    number: int | None = None
    count: int = 1  # layers that it stands for
    value: str = ""
    gradient: str = ""


@dataclass(frozen=True)
class Picture:
    """A laid out graph: nodes with their centres, arrows from what is read to what reads it, and
    the points that a long arrow bends around other nodes."""

    nodes: tuple[Node, ...]
    places: Mapping[str, tuple[float, float]]
    widths: Mapping[str, float]
    arrows: tuple[tuple[str, str], ...]
    bends: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]
    size: tuple[float, float]
    height: float = _HEIGHT  # of each node


def draw(nodes: Sequence[Node], arrows: Sequence[tuple[str, str]]) -> Picture:
    """Lay out a graph; arrows of recurrences (to an earlier node) are drawn but not ranked."""
    order = {node.key: k for k, node in enumerate(nodes)}
    forward = [(a, b) for a, b in dict.fromkeys(arrows) if order[a] < order[b]]
    rank = _ranks([n.key for n in nodes], forward)
    rows: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for node in nodes:
        rows[rank[node.key]].append(node.key)
    widths = {n.key: max(54.0, 22.0 + 11.0 * width(_flat(n.label)),
                         22.0 + 9.0 * width(_flat(n.adjoint)),
                         20.0 + 6.6 * max(len(n.value), len(n.gradient)))
              + (6.0 if n.kind == "parameter" else 0.0) for n in nodes}
    valued = any(n.value or n.gradient for n in nodes)
    height = _HEIGHT + (32.0 if valued else 0.0)
    bends = {
        (a, b): [f"~{a}~{b}~{r}" for r in range(rank[a] + 1, rank[b])]
        for a, b in forward if rank[b] > rank[a] + 1
    }
    short = [arrow for arrow in forward if arrow not in bends]
    for (a, b), way in bends.items():
        short += list(pairwise([a, *way, b]))
        for r, key in enumerate(way, rank[a] + 1):
            rows[r].append(key)
            widths[key] = 2.0
    places = _places(rows, short, widths, height + _ROW - _HEIGHT)
    left = min((places[k][0] - widths[k] / 2 for k in places), default=0.0)
    places = {k: (x - left + 16, y) for k, (x, y) in places.items()}
    right = max((places[k][0] + widths[k] / 2 for k in places), default=0.0)
    size = (right + 16, len(rows) * (height + _ROW - _HEIGHT) + 4)
    turns = {arrow: tuple(places[key] for key in way) for arrow, way in bends.items()}
    return Picture(tuple(nodes), places, widths, tuple(dict.fromkeys(arrows)), turns, size, height)


def _ranks(keys: list[str], arrows: list[tuple[str, str]]) -> dict[str, int]:
    before: dict[str, list[str]] = {k: [] for k in keys}
    after: dict[str, list[str]] = {k: [] for k in keys}
    for a, b in arrows:
        before[b].append(a)
        after[a].append(b)
    rank: dict[str, int] = {}
    for key in keys:
        rank[key] = max((rank[p] + 1 for p in before[key]), default=0)
    for key in reversed(keys):
        if not before[key] and after[key]:  # given: just above its first reader
            rank[key] = min(rank[a] for a in after[key]) - 1
    lowest = min(rank.values(), default=0)
    return {k: r - lowest for k, r in rank.items()}


def _places(rows: list[list[str]], arrows: list[tuple[str, str]], widths: Mapping[str, float],
            step: float) -> dict[str, tuple[float, float]]:
    """Centres of all nodes: in sweeps over the rows each node is drawn to the weighted mean of its
    neighbours. Long arrows weigh most, so that they are straight (Gansner, Koutsofios, North and
    Vo 1993), given tensors least, so that what is computed runs down in a line."""
    computed = {b for _, b in arrows}  # the bends of long arrows among them: their keys have a ~
    near: dict[str, list[tuple[str, float]]] = {}
    for a, b in arrows:
        pull = (1.0, 2.0, 8.0)[(a[0] + b[0]).count("~")] if a in computed else 0.1
        near.setdefault(a, []).append((b, pull))
        near.setdefault(b, []).append((a, pull))
    firm = {k: 1.0 if k in computed else 0.1 for line in rows for k in line}
    x: dict[str, float] = {}
    for line in rows:
        _spread(line, {k: 90.0 * i for i, k in enumerate(line)}, firm, widths, x)
    for sweep in range(24):
        for line in rows if sweep % 2 == 0 else rows[::-1]:
            wish = {
                k: sum(w * x[m] for m, w in near[k]) / sum(w for _, w in near[k])
                if near.get(k) else x[k] for k in line
            }
            _spread(sorted(line, key=lambda k: wish[k]), wish, firm, widths, x)
    return {k: (x[k], r * step + step / 2) for r, line in enumerate(rows) for k in line}


def _spread(line: list[str], wish: Mapping[str, float], firm: Mapping[str, float],
            widths: Mapping[str, float], x: dict[str, float]) -> None:
    """Put a row's nodes as near to where they wish as their widths allow, in the least squares:
    nodes that would overlap move together to the mean of their wishes (isotonic regression)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, nodes; without their offsets
    offsets: list[float] = []
    edge = 0.0
    for key in line:
        offsets.append(edge + widths[key] / 2)
        edge += widths[key] + _GAP
        mean, weight, count = wish[key] - offsets[-1], firm[key], 1
        while blocks and blocks[-1][0] >= mean:
            other, more, nodes = blocks.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, count = weight + more, count + nodes
        blocks.append((mean, weight, count))
    starts = [mean for mean, _, count in blocks for _ in range(count)]
    for key, start, offset in zip(line, starts, offsets, strict=True):
        x[key] = start + offset


def _flat(box: Box | None) -> Box:
    """A label as it stands in a picture: on one line, a fraction with its slash."""
    if isinstance(box, Frac):
        return Row((_flat(box.above), Token("/", "punct"), _flat(box.below)))
    if isinstance(box, Row):
        return Row(tuple(map(_flat, box.items)))
    return Row(()) if box is None else box


# -- SVG --------------------------------------------------------------------------------------
def picture_svg(picture: Picture, title: str) -> str:
    """The picture as an ``<svg>`` element without script or outside reference; colours come from
    the classes of the page's style."""
    across, height = picture.size
    parts = [
        f'<svg viewBox="0 0 {across:.0f} {height:.0f}" width="{across:.0f}" height="{height:.0f}" '
        f'role="img" class="graph" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}'
        '</title><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.8 L7.5 4 L0 7.2 z" class="tip"/></marker>'
        "</defs>"
    ]
    for a, b in picture.arrows:
        parts.append(f'<path class="arrow" marker-end="url(#tip)" d="{_curve(picture, a, b)}"/>')
    for node in picture.nodes:
        parts.append(_node_svg(picture, node))
    return "".join(parts) + "</svg>"


def _curve(picture: Picture, a: str, b: str) -> str:
    (x1, y1), (x2, y2) = picture.places[a], picture.places[b]
    if y2 <= y1:  # a recurrence: around the side
        side = max(x1 + picture.widths[a] / 2, x2 + picture.widths[b] / 2)
        start, end = x1 + picture.widths[a] / 2, x2 + picture.widths[b] / 2
        bend = side + 26
        return f"M{start:.1f} {y1:.1f} C{bend:.1f} {y1:.1f} {bend:.1f} {y2:.1f} {end:.1f} {y2:.1f}"
    half = picture.height / 2  # between rows an arrow bends, beside nodes it runs straight down
    stops = [(x1, y1), *picture.bends.get((a, b), ()), (x2, y2 - 1)]
    path = f"M{x1:.1f} {y1 + half:.1f}"
    for (u1, v1), (u2, v2) in pairwise(stops):
        above, below = v1 + half, v2 - half
        bend = (below - above) * 0.6
        path += (f" C{u1:.1f} {above + bend:.1f} {u2:.1f} {below - bend:.1f} {u2:.1f} {below:.1f}"
                 + (f" V{v2 + half:.1f}" if (u2, v2) != stops[-1] else ""))
    return path


def _node_svg(picture: Picture, node: Node) -> str:
    (x, y), w = picture.places[node.key], picture.widths[node.key]
    height = picture.height
    round_ = _HEIGHT / 2 if node.kind == "parameter" else 5
    shape = (f'<rect x="{x - w / 2:.1f}" y="{y - height / 2:.1f}" width="{w:.1f}" '
             f'height="{height:.0f}" rx="{round_:.0f}"/>')
    if node.kind == "loss":
        shape += (f'<rect x="{x - w / 2 + 3:.1f}" y="{y - height / 2 + 3:.1f}" '
                  f'width="{w - 6:.1f}" height="{height - 6:.0f}" rx="3"/>')
    lines = [("symbol", svg_text(node.label))]
    lines += [("value", escape(node.value))] if node.value else []
    lines += [("adjoint", svg_text(node.adjoint))] if node.adjoint else []
    lines += [("gradient", escape(node.gradient))] if node.gradient else []
    first = y + (5 if len(lines) == 1 else 4.5 - 9.5 * (len(lines) - 1))
    text = "".join(
        f'<text class="{kind}" x="{x:.1f}" y="{first + 19 * k:.1f}">{line}</text>'
        for k, (kind, line) in enumerate(lines))
    if node.count > 1:
        text += (f'<text class="count" x="{x + w / 2:.1f}" y="{y - height / 2 - 4:.1f}">'
                 f"×{node.count}</text>")
    drawn = f'<g class="node {node.kind}">{shape}{text}</g>'
    return f'<a href="#eq-{node.number}">{drawn}</a>' if node.number else drawn


def svg_text(box: Box) -> str:
    """A small formula as SVG text: letters, accents, subscripts, a slash for a fraction."""
    if isinstance(box, Token):
        style = ' font-style="italic"' if box.kind in ("var", "bold") else ""
        return f"<tspan{style}>{escape(box.text)}</tspan>"
    if isinstance(box, Row):
        return "".join(map(svg_text, box.items))
    if isinstance(box, Accent):
        inner = box.body
        while isinstance(inner, Accent):
            inner = inner.body
        letter = inner.text if isinstance(inner, Token) else "?"
        # a combining macron would cross the stem of an h; marks do not span several letters
        line = len(letter) > 1 or (box.kind == "bar" and (letter.isupper() or letter in "bdfhklt"))
        over = ' text-decoration="overline"' if line else ""
        mark = "" if line else _ACCENTS[box.kind]
        return f'<tspan font-style="italic"{over}>{escape(letter)}{mark}</tspan>'
    if isinstance(box, Script):
        out = svg_text(box.base)
        if isinstance(box.sup, Token) and set(box.sup.text) == {"′"}:
            return out + svg_text(box.sup) + svg_text(Script(Row(()), box.sub))
        for part, move in ((box.sub, 4), (box.sup, -6)):
            if part is not None:
                out += (f'<tspan dy="{move}" font-size="0.72em">{svg_text(part)}</tspan>'
                        f'<tspan dy="{-move}" font-size="0.1em">\u200b</tspan>')
        return out
    if isinstance(box, Frac):
        return svg_text(_flat(box))
    if isinstance(box, Fence):
        return f"<tspan>{escape(box.left)}</tspan>{svg_text(box.body)}<tspan>{box.right}</tspan>"
    return "" if isinstance(box, Space) else "<tspan>…</tspan>"


# -- TikZ and Mermaid ----------------------------------------------------------------------------
def picture_tikz(picture: Picture) -> str:
    """The picture as a ``tikzpicture``."""
    ids = {node.key: f"n{k}" for k, node in enumerate(picture.nodes)}
    lines = [r"\begin{tikzpicture}[x=0.75pt,y=-0.75pt]"]
    for node in picture.nodes:
        x, y = picture.places[node.key]
        label = f"${box_latex(node.label)}$"
        if node.value:
            label += rf"\\\footnotesize\color{{forward}}${_digits(node.value)}$"
        if node.adjoint:
            label += rf"\\\small\color{{backward}}${box_latex(node.adjoint)}$"
        if node.gradient:
            label += rf"\\\footnotesize\color{{backward}}${_digits(node.gradient)}$"
        lines.append(
            rf"\node[crnode,cr{node.kind},minimum width={picture.widths[node.key] * 0.75:.0f}pt,"
            rf"minimum height={picture.height * 0.74:.0f}pt] "
            rf"({ids[node.key]}) at ({x:.1f},{y:.1f}) {{{label}}};"
        )
        if node.count > 1:
            lines.append(rf"\node[anchor=south west,font=\scriptsize] at ({ids[node.key]}.north "
                         rf"east) {{$\times{node.count}$}};")
    for a, b in picture.arrows:
        back = picture.places[b][1] <= picture.places[a][1]
        if back:
            lines.append(rf"\draw[crarrow] ({ids[a]}.east) to[out=0,in=0,looseness=1.6] "
                         rf"({ids[b]}.east);")
        else:
            half = picture.height / 2
            way = "".join(
                rf" to[out=-90,in=90,looseness=0.6] ({x:.1f},{y - half:.1f})"
                rf" -- ({x:.1f},{y + half:.1f})" for x, y in picture.bends.get((a, b), ()))
            lines.append(rf"\draw[crarrow] ({ids[a]}.south){way} "
                         rf"to[out=-90,in=90,looseness=0.6] ({ids[b]}.north);")
    return "\n".join([*lines, r"\end{tikzpicture}"])


def _digits(text: str) -> str:
    """Numbers in math mode."""
    return text.replace("−", "-").replace(", ", r",\,")


def picture_mermaid(picture: Picture) -> str:
    """The picture as a Mermaid flow chart, which GitHub draws; labels are plain names."""
    ids = {node.key: f"n{k}" for k, node in enumerate(picture.nodes)}
    lines = ["flowchart TD"]
    for node in picture.nodes:
        name = node.key.lstrip("_") + (f" ×{node.count}" if node.count > 1 else "")
        name += f"<br/>{node.value}" if node.value else ""
        name += f"<br/>gradient {node.gradient}" if node.gradient else ""
        opening, closing = ("([", "])") if node.kind == "parameter" else ("[", "]")
        lines.append(f'  {ids[node.key]}{opening}"{name}"{closing}')
    lines += [f"  {ids[a]} --> {ids[b]}" for a, b in picture.arrows]
    return "\n".join(lines)
