"""A prediction of what a step costs on a GPU: operations and bytes of each launch, against the
figures of two data sheets.

It is a roofline, nothing measured: a launch takes as long as its operations at the card's peak, or
its bytes at the memory's peak, whichever is more, and never less than a launch itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from codegen.contraction import Shapes
from codegen.launches import Launch, split
from codegen.loops import If, Let, Loop, Product, Statement, Store, expressions
from codegen.parts import LONG, long_sum, turns
from codegen.pipeline import Compiled
from codegen.tiling import SIDE, Machine, chosen

LAUNCH = 3e-6  # seconds from one launch in a stream to the next, assumed
BATCH = 256


@dataclass(frozen=True)
class Card:
    """Peak figures of a data sheet: single-precision operations and bytes per second."""

    name: str
    operations: float
    bytes: float
    machine: Machine


CARDS = (Card("A100 40GB (data sheet: 19.5 TFLOP/s, 1555 GB/s)", 19.5e12, 1555e9,
              Machine(108, 64)),
         Card("H100 SXM (data sheet: 67 TFLOP/s, 3350 GB/s)", 67e12, 3350e9, Machine(132, 128)))


@dataclass(frozen=True)
class Cost:
    """One launch: operations, and bytes that pass memory once. A product has the rows, columns,
    summands and number of its matrices, too. ``cut``: the sum may be in parts."""

    launch: str
    kind: str
    operations: int
    once: int
    itemsize: int
    product: tuple[int, int, int, int] | None = None
    cut: bool = False
    factors: tuple[int, int] = (0, 0)  # elements in memory of each factor of one product

    def tiles(self, card: Card) -> tuple[int, int]:
        """The side of a product's tiles on a card, and the parts of its sum."""
        assert self.product is not None
        each, parts = chosen(self.product, self.cut, card.machine)
        return SIDE*each, parts

    def bytes(self, card: Card) -> int:
        """Bytes between memory and the multiprocessors of a card."""
        if self.product is None:
            return self.once
        (rows, columns, _, times), (side, parts) = self.product, self.tiles(card)
        read = self.factors[0]*-(-columns//side) + self.factors[1]*-(-rows//side)
        again = 2*parts*rows*columns if parts > 1 else 0
        return self.once + times*(read + again)*self.itemsize

    def seconds(self, card: Card) -> float:
        parted = self.cut if self.product is None else self.tiles(card)[1] > 1
        launches = 2 if parted else 1
        return max(self.operations/card.operations, self.bytes(card)/card.bytes, launches*LAUNCH)


def costs(compiled: Compiled, sizes: Mapping[str, int], itemsize: int = 4) -> tuple[Cost, ...]:
    """The launches of a gradient, in order, for some run-time sizes (others are `BATCH`)."""
    entry = compiled.entries["gradient"]
    shapes = {n: t.shape for n, t in compiled.packed.tensors.items()}
    values = {s: sizes.get(str(s), BATCH) for s in compiled.program.sizes}

    def number(expr: Expr) -> int:
        found = expr.subs(values)
        left = found.free_symbols  # an index in the bounds of a loop inside another one
        return max(0, int(found.subs(dict.fromkeys(left, 0))))

    return tuple(_cost(launch, shapes, number, itemsize) for kernels in entry.phases
                 for kernel in kernels for launch in split(kernel, shapes))


def _cost(launch: Launch, shapes: Shapes, number: object, itemsize: int) -> Cost:
    assert callable(number)
    times = number(Mul(Integer(1), *(i.size for i in launch.over)))
    operations = times*sum(_operations(node, number) for node in launch.body)
    once = {t: number(Mul(Integer(1), *shapes[t])) for t in launch.tensors}
    if launch.kind != "product":
        found = long_sum(launch.over, launch.body) if launch.parts is not None else None
        return Cost(launch.name, launch.kind, operations, sum(once.values())*itemsize, itemsize,
                    cut=found is not None and number(turns(found[1:])) >= LONG)
    product = launch.product
    m, n, k = (number(e) for e in (product.left.rows, product.right.columns, product.left.columns))
    behind = m*n*times*sum(_operations(node, number) for node in launch.behind)
    rest = sum(size for name, size in once.items()
               if name not in (product.left.name, product.right.name))
    return Cost(launch.name, launch.kind, operations + behind,
                (rest + times*m*n*product.beta)*itemsize, itemsize, (m, n, k, times),
                launch.total is not None,
                (min(m*k, once[product.left.name]), min(k*n, once[product.right.name])))


def _operations(node: Statement, number: object) -> int:
    assert callable(number)
    if isinstance(node, Loop):
        return number(node.stop - node.start)*sum(_operations(n, number) for n in node.body)
    if isinstance(node, Product):
        return 2*number(node.left.rows)*number(node.left.columns)*number(node.right.columns)
    if isinstance(node, If):
        return max(sum(_operations(n, number) for n in side) for side in (node.yes, node.no))
    assert isinstance(node, Let | Store)
    return sum(int(e.count_ops()) for e in expressions(node)) + (node.op != "=")


def cost_text(compiled: Compiled, sizes: Mapping[str, int] | None = None) -> str:
    """The table of launches, the sum for each card, and what was assumed."""
    rows = costs(compiled, sizes or {})
    width = max(len(r.launch) for r in rows)
    lines = [f"{'launch':{width}}  {'kind':8}  {'MFLOP':>10}  "
             + "  ".join(f"{c.name.split()[0]:>9} {'MB':>10}  {'tiles':9}" for c in CARDS)]
    for row in rows:
        found = "  ".join(f"{1e6*row.seconds(card):6.1f} µs {row.bytes(card)/1e6:10.3f}  "
                          f"{_tiles(row, card):9}" for card in CARDS)
        lines.append(f"{row.launch:{width}}  {row.kind:8}  {row.operations/1e6:10.3f}  "
                     f"{found}".rstrip())
    totals = [f"predicted for {card.name}: {1e6*sum(r.seconds(card) for r in rows):.0f} µs for "
              "loss and gradients" for card in CARDS]
    given = ", ".join(f"{s} = {(sizes or {}).get(str(s), BATCH)}" for s in compiled.program.sizes)
    return "\n".join([
        *lines, "", *totals, "",
        "A prediction, nothing measured. Assumed: " + (f"{given}; " if given else "")
        + "single precision; peak rates; every tensor passes memory once a launch (what blocks of "
        "attention read again is in a cache), the factors of "
        "a matrix product once for each row or column of tiles; a sum in parts (x) passes memory "
        f"twice more and takes two launches; a launch takes at least {1e6*LAUNCH:.0f} µs. Kernels "
        "reach less than peak rates."])


def _tiles(row: Cost, card: Card) -> str:
    if row.product is None:
        return ""
    side, parts = row.tiles(card)
    return f"{side}" + (f" x {parts}" if parts > 1 else "")
