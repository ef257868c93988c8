"""The notation tree: what a formula looks like to people, before any printer.

`derive.notate` makes it from SymPy bodies; `derive.text` prints it on one line, `derive.layout`
sets it in boxes, which `derive.latex` and `derive.mathml` print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass


@dataclass(frozen=True)
class Number:
    """A number as it is written: digits, perhaps with a decimal point; or π.

    ``way``: "forward" for a value put in, "backward" for that of a gradient.
    """

    text: str
    way: str = ""


@dataclass(frozen=True)
class Name:
    """A tensor, an index or a size by the name that it has in the program."""

    code: str
    kind: str = "tensor"  # or "index", "size"


@dataclass(frozen=True)
class Element:
    """An element of a tensor; without indices a scalar."""

    name: Name
    where: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Sum:
    """Terms with their signs: True is a minus."""

    terms: tuple[tuple[bool, Node], ...]


@dataclass(frozen=True)
class Product:
    factors: tuple[Node, ...]


@dataclass(frozen=True)
class Fraction:
    above: Node
    below: Node


@dataclass(frozen=True)
class Power:
    base: Node
    exponent: Node


@dataclass(frozen=True)
class Root:
    body: Node


@dataclass(frozen=True)
class Call:
    """A function: ``function`` is its name in code; ``symbol`` its LaTeX name where it has one."""

    function: str
    args: tuple[Node, ...]
    symbol: str = ""


@dataclass(frozen=True)
class Big:
    """A reduction; ``condition`` restricts the values of the bound indices. ``limits``: the size of
    each index that stands alone at no tensor, so that nothing else tells its range."""

    op: str
    bound: tuple[Name, ...]
    body: Node
    condition: Node | None = None
    limits: tuple[Node | None, ...] = ()


@dataclass(frozen=True)
class Choice:
    """``yes`` where the condition holds, else ``no``."""

    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True)
class Bracket:
    """Iverson's bracket: 1 where the condition holds, else 0."""

    condition: Node


@dataclass(frozen=True)
class Relation:
    """``parts[0] ops[0] parts[1] ops[1] …`` with ops of ``= != < <= > >=``."""

    parts: tuple[Node, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Congruent:
    """``body`` leaves the remainder ``rest`` when divided by ``modulus``."""

    body: Node
    rest: Node
    modulus: Node


@dataclass(frozen=True)
class Junction:
    """Conditions joined by "and" or "or"."""

    op: str
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Negation:
    body: Node


# -- whole arrays (`derive.matrix`) ---------------------------------------------------------------
@dataclass(frozen=True)
class Whole:
    """A whole vector or matrix (in print: bold), a slice of a tensor, or a scalar; ``at`` has an
    index for each dim that is cut, and None for each that is left."""

    name: Name
    at: tuple[Node | None, ...] = ()


@dataclass(frozen=True)
class Transposed:
    body: Node


@dataclass(frozen=True)
class Chain:
    """A product of matrices and vectors."""

    factors: tuple[Node, ...]


@dataclass(frozen=True)
class Hadamard:
    """A product of entries."""

    factors: tuple[Node, ...]


@dataclass(frozen=True)
class Ones:
    """The column of ones of a length, a size."""

    size: Node


@dataclass(frozen=True)
class Convolved:
    """A cross-correlation ⋆ or a convolution ∗ of two arrays: the sum over ``bound`` of ``left`` at
    ``places`` times ``right`` at ``bound``, for each value of ``free``; 0 outside ``left``."""

    op: str
    left: Whole
    right: Whole
    places: tuple[Node, ...]
    bound: tuple[Name, ...]
    free: tuple[Name, ...]


Node = (
    Number | Name | Element | Sum | Product | Fraction | Power | Root | Call | Big | Choice
    | Bracket | Relation | Congruent | Junction | Negation | Whole | Transposed | Chain
    | Hadamard | Ones | Convolved
)

ZERO, ONE = Number("0"), Number("1")


@dataclass(frozen=True)
class Statement:
    """``left = right``: an equation in notation."""

    left: Element | Whole
    right: Node


def walk(node: object) -> Iterator[object]:
    """A node and all nodes inside it."""
    yield node
    parts = node if isinstance(node, tuple) else (
        [getattr(node, f.name) for f in fields(node)] if is_dataclass(node) else ())
    for part in parts:
        yield from walk(part)


def product(factors: Iterable[Node]) -> Node:
    """A product; of one factor that factor, of none the number one."""
    listed = tuple(factors)
    return listed[0] if len(listed) == 1 else Product(listed) if listed else ONE
