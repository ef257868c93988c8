"""Small matrix products: loops with constant bounds in the place of a call of the general product.

A call of the general product costs some 60 ns before it computes anything, and its vectors are as
wide as the machine's, however few columns there are. Where the sizes are known at emission,

    z[b, j] = sum over i of ( x[b, i] * W[i, j] )      with i:3, j:3 and any number of rows

is a function of its own: a tile of some rows times all columns stays in registers, in vectors that
are as wide as the columns, and the summed index is written out (`templates/cpu_small.py.jinja`).
The number of rows, or that of summed elements (a weight's gradient), may be known at run time only.

A module has the general product or these, not both: each is compiled on its own, and beside large
products nothing is gained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from math import gcd

from sympy import Add, Expr, expand

from codegen.loops import Kernel, Matrix, Product, statements

# Elements of what is constant, a weight or its gradient (benchmarks/products.py --small): calls
# take 70 % less for 3×3, 5 % less for 64×64 and 3 % less for this many
SMALL = 128 * 128


@dataclass(frozen=True)
class Small:
    """A product with constant columns: what `_small` of the template is told. ``inner`` is None
    where the number of summed elements is known at run time only, ``height`` where that of rows
    is; rows come in multiples of ``multiple``; strides of left and right are those of their rows
    and their columns."""

    columns: int
    inner: int | None
    height: int | None
    multiple: int
    row: int
    left: tuple[int, int]
    right: tuple[int, int]
    adds: int

    @property
    def elements(self) -> int | None:
        """How many the constant sides have: of the right factor, or else of the target."""
        other = self.inner or self.height
        return other and self.columns*other

    @property
    def told(self) -> str:
        return ", ".join(map(str, astuple(self)))


def only_small(kernels: Iterable[Kernel]) -> bool:
    """Whether the products of all kernels are small, and so none of them needs the general one."""
    products = [node for kernel in kernels for node in statements(kernel.body)
                if isinstance(node, Product) and node.nest is None]
    return all(small(node) is not None for node in products)


def turned(node: Product) -> tuple[Matrix, Matrix, Matrix]:
    """Target, left and right factor with the target in rows: a target in columns is the product of
    the transposed factors."""
    target, left, right = node.target, node.left, node.right
    assert isinstance(left, Matrix) and isinstance(right, Matrix)
    if target.column == 1:
        return target, left, right
    return _transposed(target), _transposed(right), _transposed(left)


def _transposed(m: Matrix) -> Matrix:
    return Matrix(m.name, m.start, m.columns, m.rows, m.column, m.row)


def small(node: Product) -> Small | None:
    """The product as loops with constant bounds, or None where it is not small, or where a size
    that has to be constant is not."""
    target, left, right = turned(node)
    columns, row, one, two = (_constants(target.columns), _constants(target.row),
                              _constants(left.row, left.column),
                              _constants(right.row, right.column))
    if columns is None or row is None or one is None or two is None or target.column != 1:
        return None
    inner = _constants(left.columns)
    down = node.rows if target is node.target else node.columns
    height = _constants(*(i.size for i in down))
    total = 1
    for size in height or ():
        total *= size
    if columns[0] == 1:
        two = two[0], 1  # of one column no step leads to the next
    if two[1] != 1 and (inner is None or two[0] != 1):
        return None
    parts = Add.make_args(expand(target.rows))
    multiple = gcd(*(int(e.as_coeff_Mul()[0]) for e in parts))
    made = Small(columns[0], inner[0] if inner else None, total if height else None, multiple,
                 row[0], (one[0], one[1]), (two[0], two[1]), node.beta)
    return made if made.elements is not None and made.elements <= SMALL else None


def _constants(*sizes: Expr) -> tuple[int, ...] | None:
    return tuple(map(int, sizes)) if all(e.is_Integer for e in sizes) else None
