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
from codegen.pipeline import Compiled

TILE = 64  # rows and columns of a product's tile, as in templates/cuda_device.py.jinja
LAUNCH = 3e-6  # seconds from one launch in a stream to the next, assumed
BATCH = 256


@dataclass(frozen=True)
class Card:
    """Peak figures of a data sheet: single-precision operations and bytes per second."""

    name: str
    operations: float
    bytes: float


CARDS = (Card("A100 40GB (data sheet: 19.5 TFLOP/s, 1555 GB/s)", 19.5e12, 1555e9),
         Card("H100 SXM (data sheet: 67 TFLOP/s, 3350 GB/s)", 67e12, 3350e9))


@dataclass(frozen=True)
class Cost:
    """One launch: operations, and bytes between memory and the multiprocessors."""

    launch: str
    kind: str
    operations: int
    bytes: int

    def seconds(self, card: Card) -> float:
        return max(self.operations/card.operations, self.bytes/card.bytes, LAUNCH)


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
    if launch.kind == "product":
        product = launch.product
        m, k, n = (number(e) for e in (product.left.rows, product.left.columns,
                                       product.right.columns))
        moved = times*(m*k*-(-n//TILE) + k*n*-(-m//TILE) + m*n*(1 + product.beta))
    else:
        moved = sum(number(Mul(Integer(1), *shapes[t])) for t in launch.tensors)
    return Cost(launch.name, launch.kind, operations, moved*itemsize)


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
    lines = [f"{'launch':{width}}  {'kind':8}  {'MFLOP':>10}  {'MB':>10}  "
             + "  ".join(f"{c.name.split()[0]:>9}" for c in CARDS)]
    for row in rows:
        times = "  ".join(f"{1e6*row.seconds(card):6.1f} µs" for card in CARDS)
        lines.append(f"{row.launch:{width}}  {row.kind:8}  {row.operations/1e6:10.3f}  "
                     f"{row.bytes/1e6:10.3f}  {times}")
    totals = [f"predicted for {card.name}: {1e6*sum(r.seconds(card) for r in rows):.0f} µs for "
              "loss and gradients" for card in CARDS]
    given = ", ".join(f"{s} = {(sizes or {}).get(str(s), BATCH)}" for s in compiled.program.sizes)
    return "\n".join([
        *lines, "", *totals, "",
        "A prediction, nothing measured. Assumed: " + (f"{given}; " if given else "")
        + f"single precision; peak rates; every tensor passes memory once a launch, those of a "
        f"matrix product once for each row or column of tiles of {TILE}; a launch takes at least "
        f"{1e6*LAUNCH:.0f} µs. Kernels reach less than peak rates."])
