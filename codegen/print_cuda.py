"""Launches → Python text for Numba's CUDA target: the one printer of that target.

Tensors are places in flat buffers: a kernel gets the buffers, and for each tensor where it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatchmethod

from sympy import Expr, Integer, Mul, S, Symbol

from codegen.contraction import Shapes, strides
from codegen.fuse import renamed
from codegen.launches import Launch, parallel, reduction
from codegen.loops import If, Let, Loop, Matrix, Product, Statement, Store, statements
from codegen.print_statements import StatementPrinter, identifier, indices_of
from codegen.scalars import FUNCTIONS, ScalarPrinter
from derive.nodes import Access, Index

#: functions of the math library as a module calls them: `math` on a device, numpy where it is
#: simulated, because Python's own raise where IEEE 754 has an infinity
LIBRARY = {name: f"math_{name.partition('.')[2]}"
           for name in sorted({*FUNCTIONS.values(), "np.sqrt"}) if "." in name}
FEW = 32  # turns of a loop below which its inner loops are spread over the threads instead
_START = {"+=": "0", "*=": "1", "max": "-np.inf", "min": "np.inf"}
_MERGE = {"+=": "block_sum", "*=": "block_prod", "max": "block_max", "min": "block_min"}


class FlatScalars(ScalarPrinter):
    """Scalars whose tensors lie in flat buffers."""

    def __init__(self, names: dict[object, str], places: Mapping[str, tuple[str, str]],
                 shapes: Shapes) -> None:
        super().__init__(names, library=LIBRARY)
        self.places, self.shapes = places, shapes

    def access(self, access: Access) -> str:
        buffer, at = self.places[access.name]
        terms = [] if at == "0" else [at]
        for place, step in zip(access.where, strides(self.shapes[access.name]), strict=True):
            if place != 0:
                terms.append(self._term(place, step))
        return f"{buffer}[{' + '.join(terms) or '0'}]"

    def _term(self, place: Expr, step: Expr) -> str:
        text = self.index(place)
        if step == 1:
            return text if isinstance(place, Index | Access) else f"({text})"
        return f"{text if isinstance(place, Index | Access) else f'({text})'}*{self._factor(step)}"


class LaunchPrinter(StatementPrinter):
    """Prints one launch.

    Args:
        buffers: the buffer that each tensor lies in.
        offsets: for a tensor that always begins its buffer "0"; others get an argument.
        plain: number all names: kernels that differ in names only have the same text then.
    """

    def __init__(self, launch: Launch, tensors: Mapping[str, str], buffers: Mapping[str, str],
                 shapes: Shapes, plain: bool = False) -> None:
        self.launch = launch
        own = list(dict.fromkeys(buffers[t] for t in launch.tensors))
        short = {b: f"b{n}" if plain else b for n, b in enumerate(own)}
        starts = {t: (f"t{n}_at" if plain else f"{tensors[t]}_at")
                  for n, t in enumerate(launch.tensors)}
        self.buffers = [short[b] for b in own]
        self.starts = [t for t in launch.tensors if not buffers[t].endswith("_flat")]
        places = {t: (short[buffers[t]], starts[t] if t in self.starts else "0")
                  for t in launch.tensors}
        taken = {*self.buffers, *starts.values(), "x", "setting"}
        names: dict[object, str] = {}
        for number, index in enumerate([*launch.over, *indices_of(launch.body)]):
            if index not in names:
                names[index] = f"i{number}" if plain else identifier(index.name, taken)
        for size in launch.sizes:
            names[size] = identifier(str(size), taken)
        self.arguments = [*(names[s] for s in launch.sizes), *self.buffers,
                          *(starts[t] for t in self.starts)]
        super().__init__(names, FlatScalars(names, places, shapes))
        self.places, self.dirty, self.count = places, False, 0

    def key(self) -> str:
        self.print()
        return "\n".join([", ".join(self.arguments), *self.lines])

    def text(self) -> str:
        self.print()
        return "\n".join(["@launch", f"def {self.launch.name}({', '.join(self.arguments)}):",
                          *self.lines])

    def print(self) -> None:
        over, body = self.launch.over, self.launch.body
        if self.launch.kind == "elements":
            self.spread(over, "cuda.grid(1)", "cuda.gridsize(1)", 1)
            self.block(body, 2)
            return
        depth = 1
        if over:
            axis = "y" if self.launch.kind == "product" else "x"
            self.spread(over, f"cuda.blockIdx.{axis}", f"cuda.gridDim.{axis}", 1)
            depth = 2
        if self.launch.kind == "product":
            self.block(body, depth)
        else:
            self.together(body, depth)

    def spread(self, over: Sequence[Index], first: str, step: str, depth: int) -> None:
        """The head of a loop over all values of some indices, counted through as one number."""
        sizes = [i.size for i in over]
        number = f"_n{self.count}" if self.count else "_n"
        self.count += 1
        self.line(depth, f"for {number} in range({first}, {self.scalars.index(Mul(*sizes))}, "
                         f"{step}):")
        for place, index in enumerate(over):
            below = Mul(*sizes[place + 1:])
            text = number if below == 1 else f"{number}//{self._tight(below)}"
            if place:
                text += f" % {self._tight(index.size)}"
            self.line(depth + 1, f"{self.names[index]} = {text}")

    def _tight(self, size: Expr) -> str:
        text = self.scalars.index(size)
        return text if size.is_Integer or size.is_Symbol else f"({text})"

    # -- what one thread does -----------------------------------------------------------------
    def product(self, node: Product, depth: int) -> None:
        self.line(depth, f"gemm_tiles({self._product_arguments(node)})")

    def _product_arguments(self, node: Product) -> str:
        rows, inner, columns = (self.scalars.index(e) for e in (
            node.target.rows, node.left.columns, node.target.columns))
        alpha = self.scalars.value(node.alpha)
        matrices = [self._matrix(m) for m in (node.left, node.right, node.target)]
        return (f"{rows}, {columns}, {inner}, {alpha}, {matrices[0]}, {matrices[1]}, "
                f"{node.beta}, {matrices[2]}")

    def _matrix(self, matrix: Matrix) -> str:
        buffer, at = self.places[matrix.name]
        start = self.scalars.index(matrix.start)
        start = at if start == "0" else start if at == "0" else f"{at} + {start}"
        row, column = map(self.scalars.index, (matrix.row, matrix.column))
        return f"{buffer}, {start}, {row}, {column}"

    # -- what the threads of a block do together ------------------------------------------------
    def together(self, body: Sequence[Statement], depth: int) -> None:
        """Statements that all threads of a block reach at once."""
        for node in body:
            if self.dirty:
                self.line(depth, "cuda.syncthreads()")
                self.dirty = False
            self.statement_together(node, depth)

    @singledispatchmethod
    def statement_together(self, node: Statement, depth: int) -> None:
        self.statement(node, depth)

    @statement_together.register
    def _store_together(self, node: Store, depth: int) -> None:
        self.line(depth, "if cuda.threadIdx.x == 0:")
        self.statement(node, depth + 1)
        self.dirty = True

    @statement_together.register
    def _if_together(self, node: If, depth: int) -> None:
        self.line(depth, f"if {self.scalars.condition(node.condition)}:")
        self.together(node.yes, depth + 1)
        left, self.dirty = self.dirty, False
        if node.no:
            self.line(depth, "else:")
            self.together(node.no, depth + 1)
        self.dirty = self.dirty or left

    @statement_together.register
    def _product_together(self, node: Product, depth: int) -> None:
        self.line(depth, f"gemm_block({self._product_arguments(node)})")
        self.dirty = True

    @statement_together.register
    def _loop_together(self, node: Loop, depth: int) -> None:
        sums = reduction(node)
        if sums:
            self._reduce(node, sums, depth)
        elif parallel(node) and node.start == 0 and not _few(node):
            over, body = _perfect(node)
            self.spread(over, "cuda.threadIdx.x", "cuda.blockDim.x", depth)
            self.block(body, depth + 1)
            self.dirty = True
        else:
            start, stop = self.limits(node)
            turns = (f"range({stop} - 1, {start} - 1, -1)" if node.down
                     else f"range({start}, {stop})")
            self.line(depth, f"for {self.names[node.index]} in {turns}:")
            self.together(node.body, depth + 1)
            if self.dirty:  # what the next turn reads
                self.line(depth + 1, "cuda.syncthreads()")
                self.dirty = False

    def _reduce(self, node: Loop, sums: Sequence[Let], depth: int) -> None:
        """Each thread accumulates its turns, then the threads' results are put together."""
        own: dict[Symbol, Symbol] = {}
        body: Statement = node
        for let in sums:
            own[let.symbol] = Symbol(f"{let.symbol.name}_own", extended_real=True)
            self.line(depth, f"{own[let.symbol].name} = F({_START[let.op]})")
            body = renamed(body, let.symbol, own[let.symbol])
        assert isinstance(body, Loop)
        over, inner = _flat_sum(body)
        if over:
            self.spread(over, "cuda.threadIdx.x", "cuda.blockDim.x", depth)
        else:
            start, stop = self.limits(body)
            self.line(depth, f"for {self.names[body.index]} in range({start} + cuda.threadIdx.x, "
                             f"{stop}, cuda.blockDim.x):")
            inner = body.body
        self.block(inner, depth + 1)
        for let in sums:
            merged = f"{_MERGE[let.op]}({own[let.symbol].name})"
            self.statement(Let(let.symbol, Symbol(merged, extended_real=True), let.op), depth)
        self.dirty = False  # there is a barrier at the end of each


def _whole(node: Loop) -> bool:
    return not node.down and node.start == 0 and node.stop == node.index.size


def _perfect(node: Loop) -> tuple[list[Index], tuple[Statement, ...]]:
    """Nested loops whose turns are all independent, and what stands inside."""
    over, body = [node.index], node.body
    assert _whole(node)
    while len(body) == 1 and isinstance(body[0], Loop) and _whole(body[0]) and parallel(body[0]):
        over.append(body[0].index)
        body = body[0].body
    return over, body


def _flat_sum(node: Loop) -> tuple[list[Index], tuple[Statement, ...]]:
    """Nested loops that do nothing but accumulate; none where a range is narrowed."""
    over: list[Index] = []
    body: tuple[Statement, ...] = (node,)
    while len(body) == 1 and isinstance(body[0], Loop) and _whole(body[0]):
        over.append(body[0].index)
        body = body[0].body
    return over, body


def _few(node: Loop) -> bool:
    """Whether the threads have more to do in the loops inside than in the turns of this one."""
    if not _whole(node):
        return True
    over, body = _perfect(node)
    turns = Mul(*(i.size for i in over))
    return bool(turns.is_Integer and turns < FEW
                and any(isinstance(n, Loop) for n in statements(body)))


def threads_of(launch: Launch) -> Expr:
    """How many turns the threads of a block share, at most: the longest of its spread loops."""
    longest: Expr = S.One
    for node in statements(launch.body):
        if isinstance(node, Loop) and _whole(node):
            longest = _longer(longest, Mul(*(i.size for i in _flat_sum(node)[0])))
        if isinstance(node, Product):
            longest = _longer(longest, node.target.rows*node.target.columns)
    return longest


def _longer(one: Expr, other: Expr) -> Expr:
    if one.is_Integer and other.is_Integer:
        return max(one, other)
    return other if one.is_Integer else one


def elements_of(launch: Launch) -> Expr:
    """How many values the loops over the grid have in all."""
    return Mul(Integer(1), *(i.size for i in launch.over))
