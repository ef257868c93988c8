"""Launches → Python text for Numba's CUDA target: the one printer of that target.

Tensors are places in flat buffers: a kernel gets the buffers, and for each tensor where it begins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import singledispatchmethod

from sympy import Expr, Integer, Mul, Symbol

from codegen.block_weights import KEPT, copied, padded
from codegen.contraction import Shapes, strides
from codegen.epilogue import VALUE
from codegen.launches import Launch
from codegen.loops import Let, Matrix, Product, Statement, Store
from codegen.memory import HALF
from codegen.print_statements import StatementPrinter, identifier, indices_of
from codegen.scalars import FUNCTIONS, ScalarPrinter
from codegen.threads import (
    Barrier,
    Branch,
    Grid,
    Merge,
    One,
    Own,
    Serial,
    Share,
    Spread,
    Step,
    Tiles,
    Together,
    threaded,
)
from derive.nodes import Access, Index

#: functions of the math library as a module calls them: `math` on a device, numpy where it is
#: simulated, because Python's own raise where IEEE 754 has an infinity
LIBRARY = {name: f"math_{name.partition('.')[2]}"
           for name in sorted({*FUNCTIONS.values(), "np.sqrt"}) if "." in name}
SIZES = ("", "_small")  # of tiles, by the names of their kernels
_START = {"+=": "0", "*=": "1", "max": "-np.inf", "min": "np.inf"}
_MERGE = {"+=": "block_sum", "*=": "block_prod", "max": "block_max", "min": "block_min"}


class FlatScalars(ScalarPrinter):
    """Scalars whose tensors lie in flat buffers; those in ``half`` are stored in 16 bits, and
    those in ``scaled`` times a scale."""

    def __init__(self, names: dict[object, str], places: Mapping[str, tuple[str, str]],
                 shapes: Shapes, half: Collection[str] = (), scaled: Collection[str] = ()
                 ) -> None:
        super().__init__(names, library=LIBRARY)
        self.places, self.shapes, self.half, self.scaled = places, shapes, half, scaled

    def access(self, access: Access) -> str:
        buffer, place = self.place(access)
        if access.name not in self.half:
            return f"{buffer}[{place}]"
        taken = f"take({buffer}, {place})"
        return f"({taken}*down)" if access.name in self.scaled else taken

    def place(self, access: Access) -> tuple[str, str]:
        """The buffer, and the number of an element in it."""
        buffer, at = self.places[access.name]
        terms = [] if at == "0" else [at]
        for place, step in zip(access.where, strides(self.shapes[access.name]), strict=True):
            if place != 0:
                terms.append(self._term(place, step))
        return buffer, " + ".join(terms) or "0"

    def _term(self, place: Expr, step: Expr) -> str:
        text = self.index(place)
        if step == 1:
            return text if isinstance(place, Index | Access) else f"({text})"
        return f"{text if isinstance(place, Index | Access) else f'({text})'}*{self._factor(step)}"


class LaunchPrinter(StatementPrinter):
    """Prints one launch: a kernel, or where it is a product in tiles what is done with each element
    (``behind_…``), and a kernel for each size of tiles.

    Args:
        buffers: the buffer that each tensor lies in.
        offsets: for a tensor that always begins its buffer "0"; others get an argument.
        adjoints: tensors that are stored times a scale where they are stored in 16 bits.
        plain: number all names: kernels that differ in names only have the same text then.
    """

    def __init__(self, launch: Launch, tensors: Mapping[str, str], buffers: Mapping[str, str],
                 shapes: Shapes, adjoints: Collection[str] = (), plain: bool = False) -> None:
        self.launch = launch
        half = {t for t in launch.tensors if buffers[t] == HALF}
        scaled = half & set(adjoints)
        own = list(dict.fromkeys(buffers[t] for t in launch.tensors))
        short = {b: f"{'h' if b == HALF else 'b'}{n}" if plain else b for n, b in enumerate(own)}
        starts = {t: (f"t{n}_at" if plain else f"{tensors[t]}_at")
                  for n, t in enumerate(launch.tensors)}
        self.buffers = [short[b] for b in own]
        self.starts = [t for t in launch.tensors if not buffers[t].endswith("_flat")]
        places = {t: (short[buffers[t]], starts[t] if t in self.starts else "0")
                  for t in launch.tensors}
        shapes = {**shapes, **{name + KEPT: padded(shape) for name, shape in launch.kept}}
        places |= {n + KEPT: (f"t{k}_kept" if plain else f"{tensors[n]}_kept", "0")
                   for k, (n, _) in enumerate(launch.kept)}
        taken = {*self.buffers, *(place for place, _ in places.values()), *starts.values(),
                 "x", "setting", "row", "column", "more"}
        names: dict[object, str] = {}
        body = (*launch.body, *launch.behind)
        copies = [i for kept in launch.kept for i in copied(kept)[0]]
        for number, index in enumerate([*launch.over, *indices_of(body), *copies]):
            if index not in names:
                names[index] = f"i{number}" if plain else identifier(index.name, taken)
        for size in launch.sizes:
            names[size] = identifier(str(size), taken)
        self.arguments = [*(names[s] for s in launch.sizes), *self.buffers,
                          *(starts[t] for t in self.starts), *(["scales"] if scaled else []),
                          *(["partial"] if launch.kind == "product" else [])]
        self.flat = FlatScalars(names, places, shapes, half, scaled)
        super().__init__(names, self.flat)
        self.places, self.count = places, 0

    def key(self) -> str:
        return "\n".join([", ".join(self.arguments), *self.element(), *self.print("")])

    def text(self) -> str:
        name = self.launch.name
        if self.launch.kind != "product":
            return "\n".join([*self.head(name), *self.print("")])
        sizes = ", ".join(f"tiles_{name}{size}" for size in SIZES)
        return "\n\n\n".join([
            "\n".join(["@inlined", f"def behind_{name}(row, column, {VALUE.name}, more):",
                       *self.element()]),
            f"{sizes} = tiled(behind_{name})",
            *("\n".join([*self.head(name + size), *self.print(f"tiles_{name}{size}")])
              for size in SIZES)])

    def head(self, name: str) -> list[str]:
        return ["@launch", f"def {name}({', '.join(self.arguments)}):"]

    def element(self) -> list[str]:
        """The lines that have an element of a product, its row and its column."""
        if self.launch.kind != "product":
            return []
        self.lines = []
        for number, over in (("row", self.launch.product.rows),
                             ("column", self.launch.product.columns)):
            self.decode(number, over, 1)
        self.block(self.launch.behind, 1)
        read = {*re.findall(r"\w+", "\n".join(self.lines))}
        known = (*self.arguments, *(self.names[i] for i in self.launch.over), "up", "down")
        self.more = "".join(f"{name}, " for name in known if name in read).rstrip()
        return [f"    {self.more} = more", *self.lines]

    def print(self, tiles: str) -> list[str]:
        """The lines of the kernel; ``tiles`` is the function that computes a product in tiles."""
        self.lines, self.count, self.tiles = [], 0, tiles
        if self.flat.scaled:
            self.line(1, "up = scales[SCALE]")
            self.line(1, "down = F(1)/up")
        for step in threaded(self.launch):
            self.step(step, 1)
        return self.lines

    def spread(self, over: Sequence[Index], first: str, step: str, depth: int) -> None:
        """The head of a loop over all values of some indices, counted through as one number."""
        sizes = [i.size for i in over]
        number = f"_n{self.count}" if self.count else "_n"
        self.count += 1
        self.line(depth, f"for {number} in range({first}, {self.scalars.index(Mul(*sizes))}, "
                         f"{step}):")
        self.decode(number, over, depth + 1)

    def decode(self, number: str, over: Sequence[Index], depth: int) -> None:
        """The values of some indices that were counted through as one number."""
        for place, index in enumerate(over):
            below = Mul(*(i.size for i in over[place + 1:]))
            text = number if below == 1 else f"{number}//{self._tight(below)}"
            if place:
                text += f" % {self._tight(index.size)}"
            self.line(depth, f"{self.names[index]} = {text}")

    def _tight(self, size: Expr) -> str:
        text = self.scalars.index(size)
        return text if size.is_Integer or size.is_Symbol else f"({text})"

    def store(self, node: Store, target: str, value: str, depth: int) -> None:
        name = node.target.name
        if name not in self.flat.half:
            return super().store(node, target, value, depth)
        if node.op != "=":
            value = f"{target} {node.op[0]} ({value})"
        value = f"({value})*up" if name in self.flat.scaled else value
        self.line(depth, f"put({', '.join(self.flat.place(node.target))}, F({value}))")

    def _factors(self, node: Product, stored: bool = False) -> str:
        rows, inner, columns = (self.scalars.index(e) for e in (
            node.target.rows, node.left.columns, node.target.columns))
        alpha = self.scalars.value(node.alpha)
        alpha += "*down"*sum(m.name in self.flat.scaled for m in (node.left, node.right))
        alpha += "*up"*(stored and node.target.name in self.flat.scaled)
        return (f"{rows}, {columns}, {inner}, {alpha}, {self._matrix(node.left)}, "
                f"{self._matrix(node.right)}")

    def _matrix(self, matrix: Matrix) -> str:
        buffer, at = self.places[matrix.name]
        start = self.scalars.index(matrix.start)
        start = at if start == "0" else start if at == "0" else f"{at} + {start}"
        row, column = map(self.scalars.index, (matrix.row, matrix.column))
        return f"{buffer}, {start}, {row}, {column}"

    # -- who does what --------------------------------------------------------------------------
    def steps(self, body: Sequence[Step], depth: int) -> None:
        for step in body:
            self.step(step, depth)

    @singledispatchmethod
    def step(self, node: Statement, depth: int) -> None:
        self.statement(node, depth)

    @step.register
    def _grid(self, node: Grid, depth: int) -> None:
        first, step = (("cuda.grid(1)", "cuda.gridsize(1)") if node.by == "thread" else
                       (f"cuda.blockIdx.{node.by}", f"cuda.gridDim.{node.by}"))
        self.spread(node.over, first, step, depth)
        self.steps(node.body, depth + 1)

    @step.register
    def _share(self, node: Share, depth: int) -> None:
        size = self.scalars.index(Mul(*node.shape))
        self.line(depth, f"{self.places[node.name][0]} = cuda.shared.array({size}, F)")

    @step.register
    def _spread(self, node: Spread, depth: int) -> None:
        if node.span is None:
            self.spread(node.over, "cuda.threadIdx.x", "cuda.blockDim.x", depth)
        else:
            start, stop = map(self.scalars.index, node.span)
            self.line(depth, f"for {self.names[node.over[0]]} in range({start} + cuda.threadIdx.x, "
                             f"{stop}, cuda.blockDim.x):")
        self.block(node.body, depth + 1)

    @step.register
    def _one(self, node: One, depth: int) -> None:
        self.line(depth, "if cuda.threadIdx.x == 0:")
        self.block(node.body, depth + 1)

    @step.register
    def _barrier(self, node: Barrier, depth: int) -> None:
        self.line(depth, "cuda.syncthreads()")

    @step.register
    def _own(self, node: Own, depth: int) -> None:
        self.line(depth, f"{node.symbol.name} = F({_START[node.op]})")

    @step.register
    def _merge(self, node: Merge, depth: int) -> None:
        merged = f"{_MERGE[node.op]}({node.own.name})"
        self.statement(Let(node.symbol, Symbol(merged, extended_real=True), node.op), depth)

    @step.register
    def _serial(self, node: Serial, depth: int) -> None:
        start, stop = self.limits(node.loop)
        turns = (f"range({stop} - 1, {start} - 1, -1)" if node.loop.down
                 else f"range({start}, {stop})")
        self.line(depth, f"for {self.names[node.loop.index]} in {turns}:")
        self.steps(node.body, depth + 1)

    @step.register
    def _branch(self, node: Branch, depth: int) -> None:
        self.line(depth, f"if {self.scalars.condition(node.condition)}:")
        self.steps(node.yes, depth + 1)
        if node.no:
            self.line(depth, "else:")
            self.steps(node.no, depth + 1)

    @step.register
    def _together(self, node: Together, depth: int) -> None:
        product = node.product
        self.line(depth, f"gemm_block({self._factors(product, True)}, {product.beta}, "
                         f"{self._matrix(product.target)})")

    @step.register
    def _tiles(self, node: Tiles, depth: int) -> None:
        number = "_n" if self.launch.over else "0"
        self.line(depth, f"{self.tiles}({self._factors(node.product)}, partial, {number}, "
                         f"{self.scalars.index(elements_of(self.launch))}, ({self.more}))")


def elements_of(launch: Launch) -> Expr:
    """How many values the loops over the grid have in all."""
    return Mul(Integer(1), *(i.size for i in launch.over))
