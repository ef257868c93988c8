"""A text → its statements, as trees: nothing of what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from derive.tex import tree as t
from derive.tex.grammar import parse
from derive.tex.lines import formulas
from derive.tex.names import Names, node_key
from derive.tex.sliding import is_sliding
from derive.tex.source import Source


@dataclass
class Statement:
    """One line: its left side, and what it is said to be, step by step."""

    left: t.Node
    right: tuple[t.Node, ...]
    state: str = "waiting"


def statements(source: Source) -> list[Statement]:
    """The statements of a text.

    Raises:
        LatexError: a formula is none, or no equation.
    """
    found = []
    for formula in formulas(source):
        node = parse(source, formula.spans)
        parts = node.parts if isinstance(node, t.Listed) else (node,)
        for part in parts:
            inner = part.body if isinstance(part, t.Group) and part.kind == "{" else part
            inner = _without_space(inner)
            if not isinstance(inner, t.Relation) or any(
                    op not in ("=", "equiv") for op in inner.ops):
                source.fail(part.at, "this is no equation", "left = right")
            found.append(Statement(inner.parts[0], inner.parts[1:]))
    if not found:
        source.fail(0, "there is no formula", r"for example \frac{\partial L}{\partial W} = …")
    return found


def _without_space(node: t.Node) -> t.Node:
    r"""An equation without the space that its sides are said to lie in: ``\in \mathbb{R}^{q}``."""
    if not isinstance(node, t.Relation) or len(node.ops) < 2 or node.ops[-1] != "in":
        return node
    space = node.parts[-1].base if isinstance(node.parts[-1], t.Scripted) else node.parts[-1]
    real = isinstance(space, t.Sym) and (space.letter, space.font) in (("R", "mathbb"), ("ℝ", ""))
    return t.Relation(node.parts[:-1], node.ops[:-1], node.at) if real else node


def first_index(found: Sequence[Statement], source: Source) -> int:
    """The number that indices begin with, as the bounds of sums say: 0 or 1."""
    firsts: dict[str, int] = {}
    for statement in found:
        for node in statement.right:
            for sub in _sums(node):
                for part in (sub.parts if isinstance(sub, t.Listed) else (sub,)):
                    if isinstance(part, t.Relation) and part.ops == ("=",) \
                            and isinstance(part.parts[1], t.Num):
                        firsts.setdefault(part.parts[1].text, part.at)
    if "0" in firsts and "1" in firsts:
        source.fail(firsts["1"], "one sum begins at 1, another at 0", "one of them throughout",
                    "first=0 or first=1")
    return 1 if "1" in firsts else 0


def _sums(node: object) -> Iterator[t.Node]:
    """What stands below sums."""
    for inner in _inside(node):
        if isinstance(inner, t.Scripted) and isinstance(inner.base, t.Mark) \
                and inner.base.kind == "BIG":
            yield from inner.subs


def upper_letters(node: t.Node, names: Names) -> set[str]:
    """Letters that stand as upper bounds and are not declared."""
    out = set()
    for inner in _inside(node):
        if isinstance(inner, t.Scripted) and isinstance(inner.base, t.Mark) \
                and inner.base.kind == "BIG" and inner.sups:
            key = node_key(inner.sups[0])
            if key is not None and not key.isdigit() and key not in names.sizes \
                    and key not in names.entries:
                out.add(key)
    return out


def slides(node: t.Node) -> bool:
    """Whether ∗ or ⋆ stands in a formula."""
    return any(isinstance(inner, t.Op) and is_sliding(inner.text) for inner in _inside(node))


def _inside(node: object) -> Iterator[object]:
    yield node
    if isinstance(node, tuple):
        children: tuple[object, ...] = node
    else:
        children = tuple(getattr(node, f) for f in getattr(node, "__dataclass_fields__", ()))
    for child in children:
        if isinstance(child, tuple) or hasattr(child, "__dataclass_fields__"):
            yield from _inside(child)

