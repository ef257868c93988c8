"""What a formula says before anything is known of its names: the tree that the grammar makes.

``at`` is the place in the text at which a node begins. Nothing here knows tensors; what a node
means is decided by `derive.tex.terms`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Num:
    text: str
    at: int


@dataclass(frozen=True)
class Sym:
    """One letter; ``accents`` from the inside outwards, ``font`` as it was written."""

    letter: str
    at: int
    accents: tuple[str, ...] = ()
    font: str = ""


@dataclass(frozen=True)
class Word:
    """Several letters that belong together; ``accents`` as of a letter."""

    text: str
    at: int
    accents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A sign without parts: ``kind`` is FUNC, BIG, TOP, PARTIAL, NABLA, ONE, INFTY, DOTS or ALL
    (the colon of a whole dim), ``text`` which of these."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Op:
    """An operator between factors: cdot, times, *, odot, circ, oslash, /, star, ast,
    otimes; ``ast:full`` where the extent of a convolution is said."""

    text: str
    at: int


@dataclass(frozen=True)
class Scripted:
    base: Node
    subs: tuple[Node, ...]
    sups: tuple[Node, ...]
    primes: int
    at: int


@dataclass(frozen=True)
class Frac:
    above: Node
    below: Node
    at: int


@dataclass(frozen=True)
class Root:
    body: Node
    degree: Node | None
    at: int


@dataclass(frozen=True)
class Group:
    """``kind``: ( [ { \\{ | ‖ ⌊, the sign that opens it."""

    kind: str
    body: Node
    at: int


@dataclass(frozen=True)
class Accent:
    """An accent over more than a letter."""

    kind: str
    body: Node
    at: int


@dataclass(frozen=True)
class Seq:
    """Factors side by side, with the operators that stand between them."""

    pieces: tuple[Node | Op, ...]
    at: int


@dataclass(frozen=True)
class Sum:
    """Terms with their signs: True is a minus."""

    terms: tuple[tuple[bool, Node], ...]
    at: int


@dataclass(frozen=True)
class Relation:
    parts: tuple[Node, ...]
    ops: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Junction:
    """Conditions joined by "or" or "and"."""

    op: str
    parts: tuple[Node, ...]
    at: int


@dataclass(frozen=True)
class Negation:
    body: Node
    at: int


@dataclass(frozen=True)
class Listed:
    """Things between commas; ``signs`` has the separators."""

    parts: tuple[Node, ...]
    signs: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Cases:
    rows: tuple[tuple[Node, Node | None], ...]
    at: int


@dataclass(frozen=True)
class Stack:
    """Lines below a big sign."""

    rows: tuple[Node, ...]
    at: int


Node = (
    Num | Sym | Word | Mark | Scripted | Frac | Root | Group | Accent | Seq | Sum | Relation
    | Junction | Negation | Listed | Cases | Stack
)
