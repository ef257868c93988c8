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
from codegen.fetched import along_sum
from codegen.launches import Launch
from codegen.loops import Let, Matrix, Product, Statement, Store, Window
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
    Warps,
    threaded,
)
from derive.nodes import Access, Index

#: functions of the math library as a module calls them: `math` on a device, numpy where it is
#: simulated, because Python's own raise where IEEE 754 has an infinity
LIBRARY = {name: f"math_{name.partition('.')[2]}"
           for name in sorted({*FUNCTIONS.values(), "np.sqrt"}) if "." in name}
SIZES = ("", "_small")  # of tiles, by the names of their kernels
_START = {"+=": "0", "*=": "1", "max": "-np.inf", "min": "np.inf"}
_MERGE = {"+=": "sum", "*=": "prod", "max": "max", "min": "min"}


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
        shapes = {**shapes, **{name + KEPT: padded(shape) for name, shape in launch.kept},
                  **dict(launch.tiles)}
        places |= {n + KEPT: (f"t{k}_kept" if plain else f"{tensors[n]}_kept", "0")
                   for k, (n, _) in enumerate(launch.kept)}
        places |= {n: (f"t{k}_tile" if plain else f"{tensors[n]}_tile", "0")
                   for k, (n, _) in enumerate(launch.tiles)}
        taken = {*self.buffers, *(place for place, _ in places.values()), *starts.values(),
                 "x", "setting", "row", "column", "columns", "depth", "more", "left", "right"}
        names: dict[object, str] = {}
        body = (*launch.body, *launch.behind)
        copies = [i for kept in launch.kept for i in copied(kept)[0]]
        counted = [i for f in launch.windows for i in (*f.down, *f.across)]
        for number, index in enumerate([*launch.over, *indices_of(body), *copies, *counted]):
            if index not in names:
                names[index] = f"i{number}" if plain else identifier(index.name, taken)
        for size in launch.sizes:
            names[size] = identifier(str(size), taken)
        self.arguments = [*(names[s] for s in launch.sizes), *self.buffers,
                          *(starts[t] for t in self.starts), *(["scales"] if scaled else []),
                          *(["partial"] if launch.kind == "product" else [])]
        self.flat = FlatScalars(names, places, shapes, half, scaled)
        super().__init__(names, self.flat)
        self.places, self.count, self.along = places, 0, list[bool]()

    def key(self) -> str:
        return "\n".join([", ".join(self.arguments), *self.elements(""), *self.print("")])

    def text(self) -> str:
        name = self.launch.name
        if self.launch.kind != "product":
            return "\n".join([*self.head(name), *self.print("")])
        sizes = ", ".join(f"tiles_{name}{size}" for size in SIZES)
        functions = self.elements(name)
        factory = f"tiled(behind_{name})"
        if self.launch.windows:
            factory = (f"windowed(behind_{name}, factor_a_{name}, factor_b_{name}, "
                       f"{', '.join(map(str, self.along))})")
        return "\n\n\n".join([
            *functions, f"{sizes} = {factory}",
            *("\n".join([*self.head(name + size), *self.print(f"tiles_{name}{size}")])
              for size in SIZES)])

    def head(self, name: str) -> list[str]:
        return ["@launch_tiles" if self.launch.tiles else "@launch",
                f"def {name}({', '.join(self.arguments)}):"]

    def elements(self, name: str) -> list[str]:
        """The functions of a product's elements: what is done with one, and, where a factor is
        no matrix in memory, what fetches four of each factor."""
        if self.launch.kind != "product":
            return []
        product = self.launch.product
        texts = [self.function(f"behind_{name}(row, column, {VALUE.name}, more)", product.rows,
                               product.columns, self.launch.behind)]
        if self.launch.windows:
            texts += self.factor(f"factor_a_{name}", product.left, False)
            texts += self.factor(f"factor_b_{name}", product.right, True)
        read = {*re.findall(r"\w+", "\n".join(texts))}
        known = (*self.arguments, *(self.names[i] for i in self.launch.over), "up", "down")
        self.more = "".join(f"{own}, " for own in known if own in read).rstrip()
        return [text.replace("MORE", self.more or "_") for text in texts]

    def function(self, head: str, rows: Sequence[Index], columns: Sequence[Index],
                 body: Sequence[Statement], last: str = "") -> str:
        """A function of the element at a row and a column."""
        self.lines = []
        self.decode("row", rows, 1)
        self.decode("column", columns, 1)
        self.block(body, 1)
        return "\n".join(["@inlined", f"def {head}:", "    MORE = more", *self.lines,
                          *([last] if last else [])])

    def factor(self, name: str, factor: Matrix | Window, turned: bool) -> list[str]:
        """The functions that fetch four elements of a factor, by row (a column of the product,
        where it is ``turned``) and place along the sum; notes which of these the four follow."""
        follow = along_sum(factor, turned, self.flat.shapes)
        self.along.append(follow)
        if isinstance(factor, Window):
            down, across = ((factor.across, factor.down) if turned
                            else (factor.down, factor.across))
            value = self.scalars.value(factor.value)
            return [self.function(f"one_{name}(row, column, more)", down, across, (),
                                  f"    return {value}"),
                    f"{name} = four(one_{name}, {follow})"]
        buffer, start, row, column = self._matrix(factor).split(", ")
        row, column = (column, row) if turned else (row, column)
        whole = [f"({text}) % 4 == 0" for text in (start, row, column) if text not in ("0", "1")]
        return [self.function(
            f"{name}(rows, columns, first, depth, row, column, more)", (), (), (),
            f"    return fetch({buffer}, {start}, {row}, {column}, rows, columns, first, depth, "
            f"row, column,\n                 {' and '.join(whole) or True})")]

    def print(self, tiles: str) -> list[str]:
        """The lines of the kernel; ``tiles`` is the function that computes a product in tiles."""
        self.lines, self.count, self.tiles = [], 0, tiles
        if self.launch.tiles:  # one place for pieces of all products, each compiled for its sizes
            for factor in ("left", "right"):
                self.line(1, f"{factor} = cuda.shared.array({factor.upper()}_LENGTH, F, ALIGNED)")
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
        matrices = [m for m in (node.left, node.right) if isinstance(m, Matrix)]
        alpha += "*down"*sum(m.name in self.flat.scaled for m in matrices)
        alpha += "*up"*(stored and node.target.name in self.flat.scaled)
        places = "" if len(matrices) < 2 else f", {', '.join(map(self._matrix, matrices))}"
        return f"{rows}, {columns}, {inner}, {alpha}{places}"

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
        aligned = ", ALIGNED" if self.launch.tiles else ""  # they are loaded by fours
        self.line(depth, f"{self.places[node.name][0]} = cuda.shared.array({size}, F{aligned})")

    @step.register
    def _spread(self, node: Spread, depth: int) -> None:
        first, step = (("cuda.threadIdx.x", "cuda.blockDim.x") if node.of == "block" else
                       ("cuda.threadIdx.x % WARP", "WARP"))
        if node.span is None:
            self.spread(node.over, first, step, depth)
        else:
            self.shared_loop(node.over[0], node.span, first, step, depth)
        self.block(node.body, depth + 1)

    def shared_loop(self, index: Index, span: tuple[Expr, Expr], first: str, step: str,
                    depth: int) -> None:
        """The head of a loop over one index whose turns are shared."""
        start, stop = map(self.scalars.index, span)
        first = first if start == "0" else f"{start} + {first}"
        self.line(depth, f"for {self.names[index]} in range({first}, {stop}, {step}):")

    @step.register
    def _warps(self, node: Warps, depth: int) -> None:
        self.shared_loop(node.index, node.span, "cuda.threadIdx.x//WARP", "cuda.blockDim.x//WARP",
                         depth)
        self.steps(node.body, depth + 1)

    @step.register
    def _one(self, node: One, depth: int) -> None:
        thread = "cuda.threadIdx.x" if node.of == "block" else "cuda.threadIdx.x % WARP"
        self.line(depth, f"if {thread} == 0:")
        self.block(node.body, depth + 1)

    @step.register
    def _barrier(self, node: Barrier, depth: int) -> None:
        self.line(depth, "cuda.syncthreads()" if node.of == "block" else "wait_for_warp()")

    @step.register
    def _own(self, node: Own, depth: int) -> None:
        self.line(depth, f"{node.symbol.name} = F({_START[node.op]})")

    @step.register
    def _merge(self, node: Merge, depth: int) -> None:
        merged = f"{node.of}_{_MERGE[node.op]}({node.own.name})"
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
        function, last = ("tile_product", ", left, right") if self.launch.tiles else (
            "gemm_block", "")
        self.line(depth, f"{function}({self._factors(product, True)}, {product.beta}, "
                         f"{self._matrix(product.target)}{last})")

    @step.register
    def _tiles(self, node: Tiles, depth: int) -> None:
        number = "_n" if self.launch.over else "0"
        self.line(depth, f"{self.tiles}({self._factors(node.product)}, partial, {number}, "
                         f"{self.scalars.index(elements_of(self.launch))}, ({self.more}))")


def elements_of(launch: Launch) -> Expr:
    """How many values the loops over the grid have in all."""
    return Mul(Integer(1), *(i.size for i in launch.over))
